//! The listener: connections in limited number, with limited patience, and an orderly end.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;
use crate::routes::{Desk, Served, router};
use crate::worker::{Models, Worker};
use crate::{Limits, Studio, about};

/// For the head of a request to arrive, and between requests of a connection.
const HEAD_TIME: Duration = Duration::from_secs(15);

/// Images that are decoded at once.
const IMAGES: usize = 2;

/// Where and for whom.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Port 0 takes a free one.
    pub address: SocketAddr,
    /// Needed to ask for anything; must be set unless the address is this machine's own.
    pub token: Option<String>,
    /// What is refused.
    pub limits: Limits,
}

/// A server that has its address, and whose models wait for work.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    desk: Arc<Desk>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Takes the address.
    ///
    /// # Errors
    /// If it is taken, or not this machine's own and there is no token; or if there is no tokenizer, or two of one name.
    pub fn bind(studio: Studio, settings: Settings) -> io::Result<Self> {
        let Settings { address, token, limits } = settings;
        if token.is_none() && !address.ip().is_loopback() {
            let ip = address.ip();
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{ip} can be reached from other machines, so a token is needed; or use 127.0.0.1"),
            ));
        }
        check_names(&studio)?;
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let models = about::describe(&studio, &limits).to_string();
        let metrics = Arc::new(Metrics::default());
        let Studio { device, tokenizers, generator, samples, study } = studio;
        let served = tokenizers.iter().map(|(model, notes)| Served::of(&notes.name, model)).collect();
        let tokenizers = tokenizers.into_iter().map(|(model, _)| model).collect();
        let generator = generator.map(|(model, _)| model);
        let generator_config = generator.as_ref().map(|model| model.generator.config.clone());
        let models_of_worker = Models { device, tokenizers, generator };
        let counted = Arc::clone(&metrics);
        let (worker, thread) = Worker::start(models_of_worker, limits.queue, limits.job_time, counted)?;
        let desk = Desk {
            worker,
            metrics,
            limits,
            token,
            samples,
            models,
            tokenizers: served,
            generator: generator_config,
            encode_batches: Arc::default(),
            decode_batches: Arc::default(),
            decoding: Semaphore::new(IMAGES),
            study: study.map(Arc::new),
        };
        Ok(Self { listener, address, desk: Arc::new(desk), thread })
    }

    /// Where it can be reached.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is ready; then takes no more requests, and gives those that are being answered
    /// [`Limits::stop_time`].
    ///
    /// # Errors
    /// If the system gives no event loop.
    pub fn run(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let Self { listener, desk, thread, .. } = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(serve(listener, Arc::clone(&desk), stop))?;
        desk.worker.stop();
        // What is left of connections goes with the runtime, and with it all that holds the queue.
        runtime.shutdown_timeout(Duration::from_secs(1));
        drop(desk);
        if thread.join().is_err() {
            tracing::error!("the thread of the models panicked");
        }
        Ok(())
    }
}

/// There is a tokenizer, and each can be asked for by its name.
fn check_names(studio: &Studio) -> io::Result<()> {
    let mut seen = HashSet::new();
    let twice = studio.tokenizers.iter().map(|(_, notes)| &notes.name).find(|name| !seen.insert(*name));
    let problem = match twice {
        Some(name) => format!("two tokenizers are called \"{name}\"; name them differently"),
        None if seen.is_empty() => "there is no tokenizer to serve".into(),
        None => return Ok(()),
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

async fn serve(listener: TcpListener, desk: Arc<Desk>, stop: impl Future<Output = ()>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(desk.limits.connections));
    let graceful = GracefulShutdown::new();
    let service = TowerToHyperService::new(router(Arc::clone(&desk)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Too many open files, or a client that has gone: neither is a reason to end.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Small events should not wait for larger ones.
        let _ = stream.set_nodelay(true);
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke off");
            }
            drop(slot);
        });
    }
    drop(listener);
    tracing::info!("stopping");
    if tokio::time::timeout(desk.limits.stop_time, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were not done in time");
    }
    Ok(())
}

/// Ready at the first Ctrl-C, or when the system asks to end. `listening` is called once both are noticed, so that whoever is
/// told by it that the server is there may end it; it may end it itself.
pub async fn interrupted(listening: impl FnOnce() -> ControlFlow<()>) {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            // Then only Ctrl-C ends it.
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending();
    let mut either = std::pin::pin!(async {
        tokio::select! {
            _ = interrupt => (),
            () = terminate => (),
        }
    });
    // Signals are noticed from the first look at them on.
    let first = std::future::poll_fn(|context| Poll::Ready(either.as_mut().poll(context))).await;
    if first.is_pending() && listening().is_continue() {
        either.await;
    }
}
