//! One model, one file: a tokenizer's weights with its configuration and history in the metadata.

pub mod generator;
mod memory;
mod open;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::module::Module;
use burn::tensor::Device;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::autoencoder::{Autoencoder, AutoencoderConfig, KlConfig};
use crate::error::{Error, Result};
use crate::tokenizer::{Tokenizer, TokenizerConfig};
use crate::weights::{self, HostTensor, Metadata, Precision, Weights, names, published};

pub use memory::{Memory, Work, shapes};
pub use open::ModelFile;

/// The metadata entry that says what kind of model a file holds.
const KIND: &str = "semanticist.kind";
/// The kind of a tokenizer's file.
pub const TOKENIZER: &str = "tokenizer";
const AUTOENCODER_ALONE: &str = "autoencoder";
const CONFIG: &str = "config";
const TRAINING: &str = "training";

/// What a published checkpoint does not say of itself.
#[derive(Debug, Clone, Copy)]
pub struct Published<'a> {
    /// What it holds.
    pub config: &'a TokenizerConfig,
    /// The file with the autoencoder of that configuration, unless that is pixels: one of ours or a
    /// published one.
    pub autoencoder: Option<&'a Path>,
}

/// A tokenizer with its identity and history.
#[derive(Debug, Clone)]
pub struct Model {
    pub tokenizer: Tokenizer,
    /// How it was trained, if the file says so.
    pub training: Option<serde_json::Value>,
    identity: Identity,
}

impl Model {
    /// Loads one of our files, or a published checkpoint if `published` says what it holds.
    ///
    /// # Errors
    /// If the file is not a model, or missing, unused or misshapen weights are found.
    pub fn load(path: &Path, published: Option<Published>, device: &Device) -> Result<Self> {
        ModelFile::open(path, published)?.load(device)
    }

    /// Loads a file that is compiled into the program; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_bytes(name: &str, bytes: &'static [u8], device: &Device) -> Result<Self> {
        ModelFile::from_bytes(name, bytes)?.load(device)
    }

    /// SHA-256 of configuration and weights, in hexadecimal; computed when it is first asked for,
    /// because it reads every weight.
    ///
    /// # Errors
    /// If a published checkpoint cannot be read again.
    pub fn hash(&self) -> Result<&str> {
        if let Some(hash) = self.identity.hash.get() {
            return Ok(hash);
        }
        let unread = |error| Error::io(&self.identity.path, "read", error);
        let computed = match &self.identity.source {
            Source::Ours { weights, metadata } => weights::hash(weights, metadata).map_err(unread)?,
            Source::Published { config } => {
                let mut all = published::load(&self.identity.path)?.weights;
                all.extend(self.tokenizer.autoencoder.to_weights());
                weights::hash(&all, &Metadata::from([(CONFIG.into(), config.clone())])).map_err(unread)?
            }
        };
        Ok(self.identity.hash.get_or_init(|| computed))
    }
}

/// Where the hash of a model comes from.
#[derive(Debug, Clone)]
struct Identity {
    /// What errors call the file.
    path: PathBuf,
    source: Source,
    hash: OnceLock<String>,
}

#[derive(Debug, Clone)]
enum Source {
    /// One of our files, whose tensors are read from the disk again.
    Ours { weights: Weights, metadata: Metadata },
    /// A published checkpoint, which is read again, with this configuration in JSON.
    Published { config: String },
}

impl Identity {
    fn new(path: &Path, source: Source) -> Self {
        Self { path: path.to_path_buf(), source, hash: OnceLock::new() }
    }
}

impl Tokenizer {
    /// Writes the model file; `training` is kept as its history.
    ///
    /// # Errors
    /// If the file cannot be written; nothing is left under its name then.
    pub fn save(
        &self,
        path: &Path,
        training: Option<&serde_json::Value>,
        precision: Precision,
    ) -> Result<()> {
        let mut weights = weights::deferred(&self.networks, "");
        weights.extend(self.autoencoder.to_weights());
        let mut metadata = tokenizer_metadata(&self.config);
        if let Some(training) = training {
            metadata.insert(TRAINING.to_string(), json(training));
        }
        weights::save(path, &weights, &metadata, precision)
    }
}

impl Tokenizer {
    /// Writes the networks under their published names, the frozen positions included, for PyTorch to
    /// load; the autoencoder is not part of published checkpoints.
    ///
    /// # Errors
    /// As [`Tokenizer::save`].
    pub fn export_published(&self, path: &Path, precision: Precision) -> Result<()> {
        let mut weights = published_weights(&self.networks);
        let positions = self.networks.decoder.positions();
        let shape = positions.dims();
        let values = positions.into_data().iter::<f32>().collect::<Vec<_>>();
        weights.insert(names::FROZEN_POSITIONS, HostTensor::from_f32(&shape, &values));
        let metadata = Metadata::from([(CONFIG.to_string(), json(&self.config))]);
        weights::save(path, &weights, &metadata, precision)
    }
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

/// What the metadata of a tokenizer's file must hold.
pub fn tokenizer_metadata(config: &TokenizerConfig) -> Metadata {
    Metadata::from([(KIND.to_string(), TOKENIZER.to_string()), (CONFIG.to_string(), json(config))])
}

/// Writes an autoencoder alone, for training runs that share it; `training` is kept as its history.
///
/// # Errors
/// If the file cannot be written; nothing is left under its name then.
pub fn save_autoencoder(
    path: &Path,
    config: &AutoencoderConfig,
    autoencoder: &Autoencoder,
    training: Option<&serde_json::Value>,
) -> Result<()> {
    let mut metadata = Metadata::from([
        (KIND.to_string(), AUTOENCODER_ALONE.to_string()),
        (CONFIG.to_string(), json(config)),
    ]);
    metadata.extend(training.map(|training| (TRAINING.to_string(), json(training))));
    weights::save(path, &autoencoder.to_weights(), &metadata, Precision::F32)
}

/// Reads what [`save_autoencoder`] wrote, which must be of this configuration; or, if that is of a KL
/// autoencoder, a published file of its weights. Returns the configuration as well: one of our files
/// knows the scale and shift of its latents best.
///
/// # Errors
/// If the file is something else, damaged, or of another configuration.
pub fn load_autoencoder(
    path: &Path,
    config: &AutoencoderConfig,
    device: &Device,
) -> Result<(AutoencoderConfig, Autoencoder)> {
    let mut config = config.clone();
    let mut weights = match (weights::load(path), &config) {
        (Ok((weights, metadata)), _) if metadata.contains_key(KIND) => {
            let found: AutoencoderConfig = config_of(path, &metadata, AUTOENCODER_ALONE)?;
            if !same_networks(&found, &config) {
                let (found, expected) = (json(&found), json(&config));
                let problem =
                    format!("holds the autoencoder {found}, but the configuration asks for {expected}");
                return Err(Error::file(path, problem));
            }
            config = found;
            weights
        }
        // What is not ours, safetensors or not, may be published.
        (_, AutoencoderConfig::Kl(config)) => weights::autoencoder::load(path, config.levels())?,
        (Ok(_), _) => return Err(Error::file(path, "holds weights but does not say of what; fit it anew")),
        (Err(error), _) => return Err(error),
    };
    let autoencoder = Autoencoder::from_weights(&config, &mut weights, device)
        .map_err(|error| Error::file(path, error.to_string()))?;
    weights.finish(path)?;
    Ok((config, autoencoder))
}

/// Whether two configurations differ in the scale and shift of KL latents at most.
fn same_networks(a: &AutoencoderConfig, b: &AutoencoderConfig) -> bool {
    match (a, b) {
        (AutoencoderConfig::Kl(a), AutoencoderConfig::Kl(b)) => {
            *a == KlConfig { scale: a.scale, shift: a.shift, ..b.clone() }
        }
        _ => a == b,
    }
}

/// The configuration in a file that must hold a model of kind `expected`.
fn config_of<T: DeserializeOwned>(source: &Path, metadata: &Metadata, expected: &str) -> Result<T> {
    match metadata.get(KIND).map(String::as_str) {
        Some(kind) if kind == expected => {}
        Some(kind) => return Err(Error::file(source, format!("holds one {kind}, expected one {expected}"))),
        None => {
            return Err(Error::file(
                source,
                "holds weights but does not say of what; a published checkpoint needs --config FILE.toml",
            ));
        }
    }
    entry(source, metadata, CONFIG)?
        .ok_or_else(|| Error::file(source, "has no \"config\" entry in its metadata; it is damaged"))
}

fn entry<T: DeserializeOwned>(source: &Path, metadata: &Metadata, name: &str) -> Result<Option<T>> {
    let Some(text) = metadata.get(name) else {
        return Ok(None);
    };
    let read = serde_json::from_str(text);
    read.map(Some).map_err(|error| Error::file(source, format!("the metadata entry \"{name}\": {error}")))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("configurations are plain data")
}
