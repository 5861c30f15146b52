//! The server on a free port, with a small model of random weights, and clients that behave and that do not.

mod document;
mod faults;
mod results;
mod study;
mod together;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use semanticist::autoencoder::Autoencoder;
use semanticist::generator::{Generator, GeneratorConfig, GeneratorNetworks};
use semanticist::image::{RgbImage, png};
use semanticist::model::{GeneratorModel, TokenizerModel};
use semanticist::tokenizer::Networks;
use semanticist::weights::Precision;
use semanticist::{Device, ModelFile, Noise, Tokenizer, TokenizerConfig};
use semanticist_serve::{Limits, ModelNotes, OpenStudy, Server, Settings, Studio};
use serde_json::Value;

const TOKENIZER: &str = r#"{
    "image_size": 16, "tokens": 4, "token_dim": 4,
    "encoder": {"patch_size": 4, "blocks": {"width": 32, "depth": 1, "heads": 2}},
    "decoder": {"patch_size": 4, "blocks": {"width": 32, "depth": 1, "heads": 2}},
    "autoencoder": {"kind": "pixel"}
}"#;

const GENERATOR: &str = r#"{
    "tokens": 4, "token_dim": 4, "classes": 3, "width": 32, "depth": 1, "heads": 2,
    "head": {"width": 32, "depth": 1}
}"#;

/// A running server, which ends with the test.
struct Running {
    address: std::net::SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// An answer.
struct Answer {
    status: u16,
    retry_after: Option<String>,
    kind: String,
    body: Vec<u8>,
}

fn tokenizer(
    change: impl FnOnce(&mut TokenizerConfig),
    noise: &mut Noise,
    device: &Device,
) -> TokenizerModel {
    let mut config: TokenizerConfig = serde_json::from_str(TOKENIZER).unwrap();
    change(&mut config);
    let networks = shaken(Networks::init(&config, noise, device).unwrap());
    let tokenizer = Tokenizer { config, networks, autoencoder: Autoencoder::Pixel };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    tokenizer.save(&path, None, Precision::F32).unwrap();
    ModelFile::open(&path).unwrap().into_tokenizer().unwrap().load(device).unwrap()
}

/// Weights everywhere, so that tokens change pictures.
fn shaken(networks: Networks) -> Networks {
    struct Shake(Noise);
    impl ModuleMapper for Shake {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let noise = self.0.normal(param.dims(), &Device::flex());
            param.map(|value| value + noise * 0.1)
        }
    }
    networks.map(&mut Shake(Noise::seeded(9)))
}

fn studio() -> Studio {
    let (device, mut noise) = (Device::flex(), Noise::seeded(1));
    let small = tokenizer(|_| (), &mut noise, &device);
    let other = tokenizer(|config| (config.image_size, config.tokens) = (8, 3), &mut noise, &device);
    let config: GeneratorConfig = serde_json::from_str(GENERATOR).unwrap();
    let networks = GeneratorNetworks::init(&config, &mut noise, &device).unwrap();
    let generator = GeneratorModel {
        generator: Generator { config, networks },
        classes: ["goldfish", "tabby, cat", "dam"].map(String::from).to_vec(),
        tokenizer: None,
        training: None,
    };
    let notes = |name: &str| ModelNotes { name: name.into(), argument: None, card: None };
    let generator = Some((generator, notes("drawer")));
    let tokenizers = vec![(small, notes("small")), (other, notes("other"))];
    Studio { device, tokenizers, generator, samples: &[("photo.png", b"not looked at")], study: None }
}

fn start(limits: Limits, token: Option<&str>) -> Running {
    start_with(limits, token, None)
}

fn start_with(limits: Limits, token: Option<&str>, study: Option<OpenStudy>) -> Running {
    serve(Studio { study, ..studio() }, limits, token)
}

fn serve(studio: Studio, limits: Limits, token: Option<&str>) -> Running {
    let settings = Settings {
        address: "127.0.0.1:0".parse().unwrap(),
        token: token.map(String::from),
        limits: Limits { stop_time: Duration::from_millis(200), ..limits },
    };
    let server = Server::bind(studio, settings).unwrap();
    let address = server.address();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let thread = std::thread::spawn(move || server.run(async { drop(stopped.await) }).unwrap());
    Running { address, stop: Some(stop), thread: Some(thread) }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Running {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> Answer {
        let request = ureq::get(self.url(path)).config().http_status_as_error(false).build();
        Answer::of(request.call().unwrap())
    }

    fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        let request = ureq::post(self.url(path)).config().http_status_as_error(false).build();
        Answer::of(request.send(body.as_ref()).unwrap())
    }

    /// Sends bytes as they are, and keeps the connection.
    fn raw(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    }

    /// Begins a job that takes long, and waits until its first event has come.
    fn long_job(&self) -> TcpStream {
        let mut stream = self.raw(&request("/api/reconstruct?steps=1000&tokens=1,2,3,4", &photo()));
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("event: begun") {
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend(&bytes[..count]);
        }
        stream
    }

    /// Waits for a line of the metrics.
    fn wait_for(&self, line: &str) {
        let begun = Instant::now();
        while !self.get("/metrics").text().lines().any(|found| found == line) {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "no {line} in\n{}",
                self.get("/metrics").text()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Answer {
    fn of(mut response: ureq::http::Response<ureq::Body>) -> Self {
        let header = |name: &str| Some(response.headers().get(name)?.to_str().unwrap().to_string());
        let (retry_after, kind) = (header("retry-after"), header("content-type").unwrap_or_default());
        let status = response.status().as_u16();
        Self { status, retry_after, kind, body: response.body_mut().read_to_vec().unwrap() }
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The answer of a request that was understood.
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The message of a request that was refused with this status.
    #[track_caller]
    fn refused(self, status: u16) -> String {
        let text = self.text();
        assert_eq!(self.status, status, "{text}");
        self.json()["error"].as_str().unwrap().to_string()
    }

    /// Names and data of events.
    #[track_caller]
    fn events(&self) -> Vec<(String, Value)> {
        assert_eq!(self.kind, "text/event-stream", "{}", self.text());
        let text = self.text();
        let events = text.split_terminator("\n\n").map(|event| {
            let (name, data) = event.split_once("\ndata: ").unwrap();
            (name.strip_prefix("event: ").unwrap().to_string(), serde_json::from_str(data).unwrap())
        });
        events.collect()
    }
}

fn request(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn photo() -> Vec<u8> {
    png(&RgbImage::from_fn(20, 17, |x, y| image::Rgb([x as u8 * 12, y as u8 * 15, 90])))
}
