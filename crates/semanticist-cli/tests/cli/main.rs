//! The real binary in a fresh folder: every command with good input and bad.
//!
//! Bad input must give its exit code, a message that says what to do, no panic, and leave nothing
//! half-written.

mod bench;
mod cache_features;
mod cache_tokens;
mod classify;
mod datasets;
mod decode;
mod encode;
mod evaluate;
mod features;
mod generate;
mod hub;
mod models;
mod quantised;
mod reconstruct;
mod serve;
mod sizes;
mod stores;
mod study;
mod zero_shot;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use burn::tensor::Device;
use semanticist::autoencoder::Autoencoder;
use semanticist::diffusion::DiffusionConfig;
use semanticist::image::{RgbImage, save_png};
use semanticist::tokenizer::Networks;
use semanticist::weights::{self, HostTensor, Precision};
use semanticist::{Noise, Tokenizer, TokenizerConfig};

const CONFIG: &str = r#"{
    "image_size": 16, "tokens": 4, "token_dim": 4,
    "encoder": {"patch_size": 4, "blocks": {"width": 32, "depth": 1, "heads": 2}},
    "decoder": {"patch_size": 4, "blocks": {"width": 32, "depth": 1, "heads": 2}},
    "autoencoder": {"kind": "pixel"}
}"#;

/// A folder to run in, with a small model of random weights called `model.safetensors`.
struct Folder(tempfile::TempDir);

/// What a run of the binary gave.
struct Run {
    arguments: String,
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.model("model.safetensors", 1);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn model(&self, name: &str, seed: u64) {
        self.model_of(DiffusionConfig::default(), name, seed);
    }

    /// Every parameter is drawn: an initialised decoder would decode the same whatever the tokens.
    fn model_of(&self, diffusion: DiffusionConfig, name: &str, seed: u64) {
        let (device, mut noise) = (Device::flex(), Noise::seeded(seed));
        let config: TokenizerConfig = serde_json::from_str(CONFIG).unwrap();
        let config = TokenizerConfig { diffusion, ..config };
        let networks = Networks::init(&config, &mut noise, &device).unwrap();
        let mut drawn = weights::Weights::new();
        for (name, tensor) in weights::collect(&networks, "").iter() {
            let values: Vec<f32> = noise.uniform(tensor.shape().iter().product());
            let values: Vec<f32> = values.into_iter().map(|value| (value - 0.5) * 0.4).collect();
            drawn.insert(name, HostTensor::from_f32(tensor.shape(), &values));
        }
        let networks = weights::apply(networks, "", &mut drawn);
        let tokenizer = Tokenizer { config, networks, autoencoder: Autoencoder::Pixel };
        let history = serde_json::json!({"steps": 7});
        tokenizer.save(&self.path(name), Some(&history), Precision::F32).unwrap();
    }

    fn photo(&self, name: &str, seed: u8) {
        let picture = RgbImage::from_fn(20, 17, |x, y| {
            image::Rgb([x as u8 * 12, (y as u8 * 15).wrapping_add(seed), seed.wrapping_mul(37)])
        });
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        save_png(&picture, &self.path(name)).unwrap();
    }

    /// Different images.
    fn photos(&self, names: &[&str]) {
        names.iter().zip(1..).for_each(|(name, seed)| self.photo(name, seed * 40));
    }

    fn file(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).unwrap();
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_semanticist"));
        command.args(arguments.split_whitespace()).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &str) -> Run {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(!stderr.contains("panicked"), "{arguments}: {stderr}");
        Run { arguments: arguments.into(), code: output.status.code(), stdout, stderr }
    }

    /// Runs what must fail with `code`, say `part`, and change no file.
    fn fails(&self, arguments: &str, code: i32, part: &str) {
        let before = self.content();
        let run = self.run(arguments);
        assert_eq!(run.code, Some(code), "{arguments}: {}", run.stderr);
        // Where bfloat16 is emulated, that is said before.
        let emulated =
            |line: &&str| line.starts_with("this processor has no instructions for products in bfloat16");
        let first = run.stderr.lines().find(|line| !emulated(line)).unwrap_or_default();
        assert!(first.starts_with("error: ") && run.stderr.contains(part), "{arguments}: {}", run.stderr);
        let told = run.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(told, 1, "{arguments}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{arguments}");
        assert!(self.content() == before, "{arguments} has changed {:?}", self.names());
    }

    /// Every file below the folder with its bytes, hidden ones too.
    fn content(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.0.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match fs::symlink_metadata(&path).unwrap() {
                    found if found.is_dir() => folders.push(path),
                    found if found.is_file() => drop(files.insert(path.clone(), fs::read(&path).unwrap())),
                    _ => drop(files.insert(path, Vec::new())),
                }
            }
        }
        files
    }

    fn names(&self) -> Vec<String> {
        let relative =
            |path: &PathBuf| path.strip_prefix(self.0.path()).unwrap().to_str().unwrap().to_owned();
        self.content().keys().map(relative).collect()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }
}

impl Run {
    /// The run, which went well.
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}: {}", self.arguments, self.stderr);
        self
    }

    fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok().stdout).unwrap()
    }
}

/// A JPEG that stops in the middle.
fn truncated_jpeg() -> Vec<u8> {
    let mut bytes = Vec::new();
    let picture = RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * y) as u8, x as u8, y as u8]));
    picture.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Jpeg).unwrap();
    bytes.truncate(bytes.len() / 2);
    bytes
}

/// Whether two images differ by rounding at most.
fn near(a: &Path, b: &Path) -> bool {
    let [a, b] = [a, b].map(|path| semanticist::image::open(path).unwrap());
    a.dimensions() == b.dimensions() && a.iter().zip(b.iter()).all(|(a, b)| a.abs_diff(*b) <= 1)
}

/// How wide and high an image is.
fn size(path: &Path) -> (u32, u32) {
    semanticist::image::open(path).unwrap().dimensions()
}

#[test]
fn help_has_examples_and_nonsense_is_usage() {
    let folder = Folder::new();
    for arguments in [
        "--help",
        "reconstruct --help",
        "encode --help",
        "decode --help",
        "cache-tokens --help",
        "cache-features --help",
        "generate --help",
        "classify --help",
        "train classifier --help",
        "serve --help",
        "train generator --help",
        "models info --help",
        "models fit-sampler --help",
        "verify --help",
        "evaluate frechet --help",
        "evaluate generation --help",
        "evaluate zero-shot --help",
    ] {
        let run = folder.run(arguments).ok();
        assert!(run.stdout.contains("Examples:\n  semanticist "), "{arguments}: {}", run.stdout);
        assert_eq!(run.stderr, "");
    }
    assert_eq!(folder.run("").code, Some(2));
    folder.fails("paint photo.png", 2, "unrecognized subcommand");
    folder.fails("reconstruct --tonkens 1", 2, "--tokens");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_stdout_is_an_error_and_a_closed_one_is_not() {
    let folder = Folder::new();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = folder.command("models info model.safetensors").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("cannot write to stdout: No space left"), "{text}");

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = folder.command("models info model.safetensors").stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn the_processor_is_a_device_everywhere() {
    let folder = Folder::new();
    let report = folder.run("devices --json").json();
    assert_eq!(report["devices"][0]["device"], "cpu");
    assert!(report["devices"][0]["threads"].as_u64().unwrap() > 0);
    assert!(folder.run("devices").ok().stdout.starts_with("cpu "));
}
