//! One model, one file: a tokenizer's weights with its configuration and history in the metadata.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::tensor::Device;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::autoencoder::{Autoencoder, AutoencoderConfig};
use crate::error::{Error, Result};
use crate::noise::Noise;
use crate::tokenizer::{Networks, Tokenizer, TokenizerConfig};
use crate::weights::{self, HostTensor, Metadata, Precision, Weights, names, published};

/// The metadata entry that says what kind of model a file holds.
const KIND: &str = "semanticist.kind";
const TOKENIZER: &str = "tokenizer";
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

/// Where the hash of a model comes from: it reads every weight, which most commands can do without.
#[derive(Debug, Clone)]
struct Identity {
    source: Source,
    hash: OnceLock<String>,
}

#[derive(Debug, Clone)]
enum Source {
    /// One of our files, whose tensors are read from the disk again.
    Ours { weights: Weights, metadata: Metadata },
    /// A published checkpoint, which may be a pickle and is read again as a whole.
    Published(PathBuf),
}

impl Model {
    /// Loads one of our files, or a published checkpoint if `published` says what it holds.
    ///
    /// # Errors
    /// If the file is not a model, or missing, unused or misshapen weights are found.
    pub fn load(path: &Path, published: Option<Published>, device: &Device) -> Result<Self> {
        match published {
            Some(published) => {
                refuse_ours(path)?;
                Self::load_published(path, published, device)
            }
            None => {
                let (weights, metadata) = weights::load(path).map_err(|error| explain(path, error))?;
                Self::build(path, weights, &metadata, device)
            }
        }
    }

    /// Loads a file that is compiled into the program; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_bytes(name: &str, bytes: &'static [u8], device: &Device) -> Result<Self> {
        let (weights, metadata) = weights::from_bytes(name, bytes)?;
        Self::build(Path::new(name), weights, &metadata, device)
    }

    /// SHA-256 of configuration and weights, in hexadecimal; computed when it is first asked for.
    ///
    /// # Errors
    /// If a published checkpoint cannot be read again.
    pub fn hash(&self) -> Result<&str> {
        if let Some(hash) = self.identity.hash.get() {
            return Ok(hash);
        }
        let computed = match &self.identity.source {
            Source::Ours { weights, metadata } => weights::hash(weights, metadata),
            Source::Published(path) => {
                let mut all = published::load(path)?.weights;
                all.extend(self.tokenizer.autoencoder.to_weights());
                let config = json(&self.tokenizer.config);
                weights::hash(&all, &Metadata::from([(CONFIG.into(), config)]))
            }
        };
        Ok(self.identity.hash.get_or_init(|| computed))
    }

    fn build(source: &Path, mut weights: Weights, metadata: &Metadata, device: &Device) -> Result<Self> {
        let config: TokenizerConfig = config_of(source, metadata, TOKENIZER)?;
        let identity = Identity::new(Source::Ours { weights: weights.clone(), metadata: metadata.clone() });
        let autoencoder = Autoencoder::from_weights(&config.autoencoder, &mut weights, device)
            .map_err(|error| Error::file(source, error.to_string()))?;
        let networks = placed(source, &config, weights, device)?;
        let training = entry(source, metadata, TRAINING)?;
        Ok(Self { tokenizer: Tokenizer { config, networks, autoencoder }, training, identity })
    }

    fn load_published(path: &Path, published: Published, device: &Device) -> Result<Self> {
        let Published { config, autoencoder } = published;
        let checkpoint = published::load(path)?;
        let autoencoder = match autoencoder {
            Some(file) => load_autoencoder(file, &config.autoencoder, device)?,
            None if config.autoencoder == (AutoencoderConfig::Pixel {}) => Autoencoder::Pixel,
            None => {
                return Err(Error::Config(
                    "a published checkpoint holds no autoencoder; give its file with --autoencoder, or \
                     set autoencoder.kind = \"pixel\" in --config"
                        .into(),
                ));
            }
        };
        let networks = placed(path, config, checkpoint.weights, device)?;
        if let Some(positions) = checkpoint.positions {
            compare_positions(path, &networks, &positions)?;
        }
        Ok(Self {
            tokenizer: Tokenizer { config: config.clone(), networks, autoencoder },
            training: None,
            identity: Identity::new(Source::Published(path.to_path_buf())),
        })
    }
}

impl Identity {
    fn new(source: Source) -> Self {
        Self { source, hash: OnceLock::new() }
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
        let mut weights = weights::collect(&self.networks, "");
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
        let mut weights = Weights::new();
        for (name, tensor) in weights::collect(&self.networks, "").iter() {
            let published = names::to_published(name).expect("the table has every parameter");
            weights.insert(published, tensor.clone());
        }
        let positions = self.networks.decoder.positions();
        let shape = positions.dims();
        let values = positions.into_data().iter::<f32>().collect::<Vec<_>>();
        weights.insert(names::FROZEN_POSITIONS, HostTensor::from_f32(&shape, &values));
        let metadata = Metadata::from([(CONFIG.to_string(), json(&self.config))]);
        weights::save(path, &weights, &metadata, precision)
    }
}

/// What the metadata of a tokenizer's file must hold.
pub fn tokenizer_metadata(config: &TokenizerConfig) -> Metadata {
    Metadata::from([(KIND.to_string(), TOKENIZER.to_string()), (CONFIG.to_string(), json(config))])
}

/// Writes an autoencoder alone, for training runs that share it.
///
/// # Errors
/// If the file cannot be written; nothing is left under its name then.
pub fn save_autoencoder(path: &Path, config: &AutoencoderConfig, autoencoder: &Autoencoder) -> Result<()> {
    let metadata = Metadata::from([
        (KIND.to_string(), AUTOENCODER_ALONE.to_string()),
        (CONFIG.to_string(), json(config)),
    ]);
    weights::save(path, &autoencoder.to_weights(), &metadata, Precision::F32)
}

/// Reads what [`save_autoencoder`] wrote, which must be of this configuration; or, if that is of a KL
/// autoencoder, a published file of its weights.
///
/// # Errors
/// If the file is something else, damaged, or of another configuration.
pub fn load_autoencoder(path: &Path, config: &AutoencoderConfig, device: &Device) -> Result<Autoencoder> {
    let mut weights = match (weights::load(path), config) {
        (Ok((weights, metadata)), _) if metadata.contains_key(KIND) => {
            let found: AutoencoderConfig = config_of(path, &metadata, AUTOENCODER_ALONE)?;
            if found != *config {
                let (found, expected) = (json(&found), json(config));
                let problem =
                    format!("holds the autoencoder {found}, but the configuration asks for {expected}");
                return Err(Error::file(path, problem));
            }
            weights
        }
        // What is not ours, safetensors or not, may be published.
        (_, AutoencoderConfig::Kl(config)) => weights::autoencoder::load(path, config.levels())?,
        (Ok(_), _) => return Err(Error::file(path, "holds weights but does not say of what; fit it anew")),
        (Err(error), _) => return Err(error),
    };
    let autoencoder = Autoencoder::from_weights(config, &mut weights, device)
        .map_err(|error| Error::file(path, error.to_string()))?;
    weights.finish(path)?;
    Ok(autoencoder)
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

/// Fails if a file that is said to be a published checkpoint is one of ours.
fn refuse_ours(path: &Path) -> Result<()> {
    match weights::load(path) {
        Ok((_, metadata)) if metadata.contains_key(KIND) => Err(Error::file(
            path,
            "is a model file of this program, which says itself what it holds and needs neither --config \
             nor --preset nor --autoencoder; leave them out",
        )),
        // Whatever else it is, who reads published checkpoints says so.
        _ => Ok(()),
    }
}

/// Networks of this configuration with these weights, all of them and nothing else.
fn placed(
    source: &Path,
    config: &TokenizerConfig,
    mut weights: Weights,
    device: &Device,
) -> Result<Networks> {
    let blank = Networks::init(config, &mut Noise::seeded(0), device)?;
    let networks = weights::apply(blank, "", &mut weights);
    weights.finish(source)?;
    Ok(networks)
}

/// A published file may hold the fixed positions; they must be those that we compute.
fn compare_positions(path: &Path, networks: &Networks, found: &HostTensor) -> Result<()> {
    let ours = networks.decoder.positions().into_data().try_to_vec::<f32>().unwrap_or_default();
    let theirs = found.to_f32().unwrap_or_default();
    let equal = ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-4);
    if equal {
        return Ok(());
    }
    Err(Error::file(
        path,
        "dit.pos_embed is not the sine-cosine table of this configuration; check its sizes",
    ))
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

/// A file that is no safetensors file may be a published pickle: say what it needs.
fn explain(path: &Path, error: Error) -> Error {
    let pickle = ["pkl", "pt", "pth", "bin"].map(Some);
    if pickle.contains(&path.extension().and_then(|e| e.to_str())) && path.is_file() {
        return Error::file(
            path,
            "a PyTorch checkpoint does not say what it holds; give its configuration with --config FILE.toml",
        );
    }
    error
}
