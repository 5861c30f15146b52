//! One model, one file: weights, with configuration and history in the metadata.
//!
//! [`ModelFile::open`] looks at a file, which says itself what it holds; weights are read when it is loaded.

pub mod autoencoder;
pub mod classifier;
mod defaults;
pub mod generator;
mod memory;
#[cfg(feature = "hub")]
mod pretrained;
pub mod tokenizer;

use std::fmt;
use std::path::Path;

use burn::module::Module;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::precision::Precision;
use crate::weights::{self, Metadata, Weights, names};

pub use autoencoder::{AutoencoderFile, load_autoencoder, save_autoencoder};
pub use classifier::{ClassifierFile, ClassifierModel};
pub use generator::{GeneratorFile, GeneratorModel};
pub use memory::{Memory, Work, shapes};
pub use tokenizer::{PublishedTokenizer, SharedTokens, TokenizerFile, TokenizerModel, tokenizer_metadata};

/// The metadata entry that says what kind of model a file holds.
const KIND: &str = "semanticist.kind";
const CONFIG: &str = "config";
const TRAINING: &str = "training";
const CLASSES: &str = "classes";

/// What a model file can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// Encoder, decoder and autoencoder.
    Tokenizer,
    /// ϵLlamaGen.
    Generator,
    /// An autoencoder alone.
    Autoencoder,
    /// Images to classes.
    Classifier,
}

impl ModelKind {
    /// As files say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::Generator => "generator",
            Self::Autoencoder => "autoencoder",
            Self::Classifier => "classifier",
        }
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One of our files that was looked at: what it holds is known, its weights are still on the disk.
#[derive(Debug, Clone)]
pub enum ModelFile {
    /// Encoder, decoder and autoencoder.
    Tokenizer(Box<TokenizerFile>),
    /// A generator, whose tokens a tokenizer decodes.
    Generator(GeneratorFile),
    /// An autoencoder alone.
    Autoencoder(AutoencoderFile),
    /// A classifier, which is also a space to compare images in.
    Classifier(ClassifierFile),
}

impl ModelFile {
    /// Looks at a file.
    ///
    /// # Errors
    /// If it is not one of ours, or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let (weights, metadata) = weights::load(path).map_err(|error| explain(path, error))?;
        Self::of(Origin { path: path.to_path_buf(), on_disk: true, weights, metadata })
    }

    /// Looks at a file that is compiled into the program; `name` is what errors call it.
    ///
    /// # Errors
    /// If the bytes are not a model.
    pub fn from_bytes(name: &str, bytes: &'static [u8]) -> Result<Self> {
        let (weights, metadata) = weights::from_bytes(name, bytes)?;
        Self::of(Origin { path: name.into(), on_disk: false, weights, metadata })
    }

    fn of(origin: Origin) -> Result<Self> {
        match origin.metadata.get(KIND).map(String::as_str) {
            Some("tokenizer") => Ok(Self::Tokenizer(Box::new(TokenizerFile::of(origin)?))),
            Some("generator") => GeneratorFile::of(origin).map(Self::Generator),
            Some("autoencoder") => AutoencoderFile::of(origin).map(Self::Autoencoder),
            Some("classifier") => ClassifierFile::of(origin).map(Self::Classifier),
            Some(kind) => Err(origin.error(format!(
                "holds one {kind}, which this version does not know; expected a tokenizer, a generator, an \
                 autoencoder or a classifier"
            ))),
            None => Err(Error::Undescribed { path: origin.path }),
        }
    }

    /// What it holds.
    pub fn kind(&self) -> ModelKind {
        match self {
            Self::Tokenizer(_) => ModelKind::Tokenizer,
            Self::Generator(_) => ModelKind::Generator,
            Self::Autoencoder(_) => ModelKind::Autoencoder,
            Self::Classifier(_) => ModelKind::Classifier,
        }
    }

    /// The file of a tokenizer.
    ///
    /// # Errors
    /// If it is another kind of model.
    pub fn into_tokenizer(self) -> Result<TokenizerFile> {
        match self {
            Self::Tokenizer(file) => Ok(*file),
            other => Err(other.origin().another_kind(other.kind(), ModelKind::Tokenizer)),
        }
    }

    /// The file of a generator.
    ///
    /// # Errors
    /// If it is another kind of model.
    pub fn into_generator(self) -> Result<GeneratorFile> {
        match self {
            Self::Generator(file) => Ok(file),
            other => Err(other.origin().another_kind(other.kind(), ModelKind::Generator)),
        }
    }

    /// The file of an autoencoder alone.
    ///
    /// # Errors
    /// If it is another kind of model.
    pub fn into_autoencoder(self) -> Result<AutoencoderFile> {
        match self {
            Self::Autoencoder(file) => Ok(file),
            other => Err(other.origin().another_kind(other.kind(), ModelKind::Autoencoder)),
        }
    }

    /// The file of a classifier.
    ///
    /// # Errors
    /// If it is another kind of model.
    pub fn into_classifier(self) -> Result<ClassifierFile> {
        match self {
            Self::Classifier(file) => Ok(file),
            other => Err(other.origin().another_kind(other.kind(), ModelKind::Classifier)),
        }
    }

    fn origin(&self) -> &Origin {
        match self {
            Self::Tokenizer(file) => file.origin(),
            Self::Generator(file) => file.origin(),
            Self::Autoencoder(file) => file.origin(),
            Self::Classifier(file) => file.origin(),
        }
    }
}

/// What was read of a file, and where from.
#[derive(Debug, Clone)]
struct Origin {
    /// What errors call it.
    path: std::path::PathBuf,
    /// Whether `path` is that of a file.
    on_disk: bool,
    weights: Weights,
    metadata: Metadata,
}

impl Origin {
    /// The file, unless it is compiled into the program.
    fn path_on_disk(&self) -> Option<&Path> {
        self.on_disk.then_some(&self.path)
    }

    fn error(&self, problem: impl Into<String>) -> Error {
        Error::file(&self.path, problem)
    }

    fn another_kind(&self, found: ModelKind, expected: ModelKind) -> Error {
        self.error(format!("holds one {found}, expected one {expected}"))
    }

    /// The configuration, which every model has.
    fn config<T: DeserializeOwned>(&self) -> Result<T> {
        self.entry(CONFIG)?
            .ok_or_else(|| self.error("has no \"config\" entry in its metadata; it is damaged"))
    }

    /// The names of the classes, of which there are `expected`, or nothing.
    fn classes(&self, expected: usize) -> Result<Vec<String>> {
        let classes: Vec<String> = self.entry(CLASSES)?.unwrap_or_default();
        if classes.is_empty() || classes.len() == expected {
            return Ok(classes);
        }
        let found = classes.len();
        Err(self.error(format!("names {found} classes, expected {expected} or none")))
    }

    fn entry<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.metadata.get(name) else {
            return Ok(None);
        };
        let read = serde_json::from_str(text);
        read.map(Some).map_err(|error| self.error(format!("the metadata entry \"{name}\": {error}")))
    }
}

/// Fails if networks were rounded to be used: in a file they would pass for what they were made of.
fn refuse_rounded(networks: &impl Module) -> Result<()> {
    match Precision::stored(networks) {
        Precision::Float32 => Ok(()),
        rounded => Err(Error::Config(format!(
            "the weights were rounded to {rounded} to be used, expected those in float32; save the model as it \
             was loaded, before with_precision"
        ))),
    }
}

/// The metadata that every model has.
fn metadata(kind: ModelKind, config: &impl Serialize) -> Metadata {
    Metadata::from([(KIND.to_string(), kind.to_string()), (CONFIG.to_string(), json(config))])
}

/// A file that is no safetensors file may be a published pickle: say what it needs.
fn explain(path: &Path, error: Error) -> Error {
    let pickle = ["pkl", "pt", "pth", "bin"].map(Some);
    if pickle.contains(&path.extension().and_then(|e| e.to_str())) && path.is_file() {
        return Error::Undescribed { path: path.to_path_buf() };
    }
    error
}

/// The parameters of networks under their published names, each read when it is written.
fn published_weights(networks: &impl Module) -> Weights {
    let mut weights = Weights::new();
    for (name, tensor) in weights::deferred(networks, "").iter() {
        let published = names::to_published(name).expect("the table has every parameter");
        weights.insert(published, tensor.clone());
    }
    weights
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("configurations are plain data")
}
