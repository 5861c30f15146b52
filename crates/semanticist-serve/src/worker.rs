//! The one thread that owns the models, the queue before it, and how a job learns that nobody waits any more.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::response::Response;
use semanticist::model::{GeneratorModel, TokenizerModel};
use semanticist::{Device, Tokenizer};
use tokio::sync::oneshot;

use crate::batch::{Batched, Batches};
use crate::events::{Events, event_response};
use crate::metrics::{Metrics, Outcome};
use crate::problem::{Problem, Result};

/// What jobs compute with.
#[derive(Debug)]
pub struct Models {
    pub device: Device,
    /// The main one first.
    pub tokenizers: Vec<TokenizerModel>,
    pub generator: Option<GeneratorModel>,
}

impl Models {
    /// One of the tokenizers.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn tokenizer(&self, number: usize) -> &Tokenizer {
        &self.tokenizers[number].tokenizer
    }
}

/// What a job looks at to know whether to go on.
#[derive(Debug, Clone)]
pub struct Ticket {
    abandoned: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
    queued: Instant,
    allowed: Duration,
}

impl Ticket {
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) || self.stopping.load(Ordering::Relaxed)
    }

    fn is_late(&self) -> bool {
        self.queued.elapsed() > self.allowed
    }

    /// For the observers of the library.
    pub fn go_on(&self) -> ControlFlow<()> {
        if self.is_abandoned() || self.is_late() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// What the library said, where a job that was ended is told apart from one that failed.
    pub fn explain(&self, error: &semanticist::Error) -> Problem {
        match error {
            semanticist::Error::Cancelled if self.is_late() => Problem::late(self.allowed.as_secs()),
            other => other.into(),
        }
    }
}

/// Held by whoever waits for a job; when it is dropped, nobody does.
#[derive(Debug)]
pub struct Waiting(Option<Arc<AtomicBool>>);

impl Waiting {
    /// The result is there before the job's turn has come; the job is not abandoned.
    fn served(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(abandoned) = &self.0 {
            abandoned.store(true, Ordering::Relaxed);
        }
    }
}

type Work = Box<dyn FnOnce(&Models, &Ticket) -> Outcome + Send>;

struct Job {
    kind: &'static str,
    ticket: Ticket,
    work: Work,
}

/// The queue of the thread that computes.
#[derive(Debug)]
pub struct Worker {
    queue: SyncSender<Job>,
    metrics: Arc<Metrics>,
    stopping: Arc<AtomicBool>,
    allowed: Duration,
}

impl Worker {
    /// Starts the thread, which ends when all that hold the queue are gone.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        models: Models,
        length: usize,
        allowed: Duration,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        // A place for the job that the thread is about to take.
        let (queue, jobs) = sync_channel(length);
        let stopping = Arc::new(AtomicBool::new(false));
        let counted = Arc::clone(&metrics);
        let thread = std::thread::Builder::new()
            .name("models".into())
            .spawn(move || compute(&models, &jobs, &counted))?;
        Ok((Self { queue, metrics, stopping, allowed }, thread))
    }

    /// Ends what is being computed and what waits.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Queues a job and waits for its result. Who drops the future ends the job.
    ///
    /// # Errors
    /// If the queue is full, or as the job says.
    pub async fn ask<T: Send + 'static>(
        &self,
        kind: &'static str,
        work: impl FnOnce(&Models, &Ticket) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let (ticket, _waiting) = self.ticket();
        self.queue(kind, ticket, move |models, ticket| {
            let result = work(models, ticket);
            let outcome = Outcome::of(&result, ticket.is_abandoned());
            // Who asked may have gone.
            let _ = sender.send(result);
            outcome
        })?;
        receiver.await.unwrap_or_else(|_| Err(Problem::lost()))
    }

    /// Queues a request that is computed in one batch with those that wait in `batches` and are like it, when the first of them
    /// is due, and waits for its result. Who drops the future gives it up.
    ///
    /// # Errors
    /// If the queue is full, or as the computation says.
    pub async fn ask_together<B: Batched>(&self, batches: &Arc<Batches<B>>, wanted: B) -> Result<B::Output> {
        let (ticket, waiting) = self.ticket();
        let (entry, receiver) = batches.add(wanted, ticket.clone());
        let metrics = Arc::clone(&self.metrics);
        self.queue(B::KIND, ticket, move |models, _| entry.compute(models, &metrics))?;
        let result = receiver.await;
        waiting.served();
        result.unwrap_or_else(|_| Err(Problem::lost()))
    }

    /// Queues a job whose results are events. Who drops the response ends the job.
    ///
    /// # Errors
    /// If the queue is full; what goes wrong later is an event.
    pub fn stream(
        &self,
        kind: &'static str,
        work: impl FnOnce(&Models, &Ticket, &Events) -> Result<()> + Send + 'static,
    ) -> Result<Response> {
        let (events, stream) = Events::channel();
        let (ticket, waiting) = self.ticket();
        self.queue(kind, ticket, move |models, ticket| {
            let result = work(models, ticket, &events);
            if let Err(problem) = &result {
                events.send("error", &serde_json::json!({ "error": problem.message }));
            }
            Outcome::of(&result, ticket.is_abandoned())
        })?;
        Ok(event_response(stream, waiting))
    }

    /// For a job that is queued now.
    fn ticket(&self) -> (Ticket, Waiting) {
        let abandoned = Arc::new(AtomicBool::new(false));
        let ticket = Ticket {
            abandoned: Arc::clone(&abandoned),
            stopping: Arc::clone(&self.stopping),
            queued: Instant::now(),
            allowed: self.allowed,
        };
        (ticket, Waiting(Some(abandoned)))
    }

    fn queue(
        &self,
        kind: &'static str,
        ticket: Ticket,
        work: impl FnOnce(&Models, &Ticket) -> Outcome + Send + 'static,
    ) -> Result<()> {
        self.metrics.queued();
        match self.queue.try_send(Job { kind, ticket, work: Box::new(work) }) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.metrics.not_queued();
                match error {
                    TrySendError::Full(_) => {
                        let waiting = self.metrics.waiting();
                        Err(Problem::busy(waiting, self.metrics.seconds_until_room()))
                    }
                    TrySendError::Disconnected(_) => Err(Problem::lost()),
                }
            }
        }
    }
}

fn compute(models: &Models, jobs: &Receiver<Job>, metrics: &Metrics) {
    while let Ok(Job { kind, ticket, work }) = jobs.recv() {
        metrics.taken();
        let waited = ticket.queued.elapsed();
        if ticket.is_abandoned() {
            metrics.finished(kind, Outcome::Abandoned, waited, Duration::ZERO);
            continue;
        }
        let begun = Instant::now();
        // On a thread of the pool: from outside, every operator would wait for one.
        let result = catch_unwind(AssertUnwindSafe(|| rayon::scope(|_| work(models, &ticket))));
        let outcome = result.unwrap_or(Outcome::Failed);
        let worked = begun.elapsed();
        metrics.finished(kind, outcome, waited, worked);
        tracing::info!(
            kind,
            outcome = outcome.name(),
            waited_ms = waited.as_millis() as u64,
            worked_ms = worked.as_millis() as u64,
            "computed"
        );
    }
}
