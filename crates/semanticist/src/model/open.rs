//! A model file that was looked at: what it holds is known, its weights are still on the disk.

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::{Identity, KIND, Memory, Model, Published, Source, TOKENIZER, TRAINING};
use super::{config_of, entry, json, load_autoencoder};
use crate::autoencoder::{Autoencoder, AutoencoderConfig};
use crate::error::{Error, Result};
use crate::noise::Noise;
use crate::tokenizer::{Networks, Tokenizer, TokenizerConfig};
use crate::weights::{self, HostTensor, Metadata, Weights, published};

/// A file on its way to become a [`Model`].
#[derive(Debug, Clone)]
pub struct ModelFile {
    /// What errors call it.
    source: PathBuf,
    /// Whether `source` is the path of a file.
    on_disk: bool,
    content: Content,
    /// As the file was trained.
    config: TokenizerConfig,
    /// The side of the images that it will be used for.
    image_size: usize,
}

#[derive(Debug, Clone)]
enum Content {
    Ours { weights: Weights, metadata: Metadata },
    Published { autoencoder: Option<PathBuf> },
}

impl ModelFile {
    /// Looks at one of our files, or takes down what `published` says of a checkpoint.
    ///
    /// # Errors
    /// If the file is not a model, or one of ours that is said to be published.
    pub fn open(path: &Path, published: Option<Published>) -> Result<Self> {
        let Some(Published { config, autoencoder }) = published else {
            let (weights, metadata) = weights::load(path).map_err(|error| explain(path, error))?;
            return Ok(Self { on_disk: true, ..Self::ours(path, weights, metadata)? });
        };
        refuse_ours(path)?;
        config.validate()?;
        let autoencoder = autoencoder.map(Path::to_path_buf);
        Ok(Self {
            source: path.to_path_buf(),
            on_disk: true,
            content: Content::Published { autoencoder },
            config: config.clone(),
            image_size: config.image_size,
        })
    }

    /// Looks at a file that is compiled into the program; `name` is what errors call it.
    ///
    /// # Errors
    /// If the bytes are not a model.
    pub fn from_bytes(name: &str, bytes: &'static [u8]) -> Result<Self> {
        let (weights, metadata) = weights::from_bytes(name, bytes)?;
        Self::ours(Path::new(name), weights, metadata)
    }

    fn ours(path: &Path, weights: Weights, metadata: Metadata) -> Result<Self> {
        let config: TokenizerConfig = config_of(path, &metadata, TOKENIZER)?;
        config.validate().map_err(|error| Error::file(path, error.to_string()))?;
        let image_size = config.image_size;
        let content = Content::Ours { weights, metadata };
        Ok(Self { source: path.to_path_buf(), on_disk: false, content, config, image_size })
    }

    /// The file, unless it is compiled into the program.
    pub fn path(&self) -> Option<&Path> {
        self.on_disk.then_some(&self.source)
    }

    /// The configuration that the model was trained with.
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    /// How it was trained, if it is one of our files and says so.
    ///
    /// # Errors
    /// If what it says is damaged.
    pub fn training(&self) -> Result<Option<serde_json::Value>> {
        match &self.content {
            Content::Ours { metadata, .. } => entry(&self.source, metadata, TRAINING),
            Content::Published { .. } => Ok(None),
        }
    }

    /// Uses the model for images of another size than it was trained for.
    ///
    /// # Errors
    /// If the patches of encoder or decoder, or the autoencoder's stride, do not divide it.
    pub fn resize(&mut self, image_size: usize) -> Result<()> {
        TokenizerConfig { image_size, ..self.config.clone() }.validate()?;
        self.image_size = image_size;
        Ok(())
    }

    /// What loading and using the model takes of memory.
    ///
    /// # Errors
    /// If the configuration is impossible.
    pub fn memory(&self) -> Result<Memory> {
        let config = TokenizerConfig { image_size: self.image_size, ..self.config.clone() };
        Memory::of(&config)
    }

    /// Places the weights on `device`.
    ///
    /// # Errors
    /// If missing, unused or misshapen weights are found.
    pub fn load(self, device: &Device) -> Result<Model> {
        let image_size = self.image_size;
        let mut model = match self.content {
            Content::Ours { weights, metadata } => {
                load_ours(&self.source, self.config, weights, metadata, device)?
            }
            Content::Published { autoencoder } => {
                load_published(&self.source, self.config, autoencoder.as_deref(), device)?
            }
        };
        if image_size != model.tokenizer.config.image_size {
            model.tokenizer = model.tokenizer.resized(image_size)?;
        }
        Ok(model)
    }
}

fn load_ours(
    source: &Path,
    config: TokenizerConfig,
    mut weights: Weights,
    metadata: Metadata,
    device: &Device,
) -> Result<Model> {
    let training = entry(source, &metadata, TRAINING)?;
    let identity = Identity::new(source, Source::Ours { weights: weights.clone(), metadata });
    let autoencoder = Autoencoder::from_weights(&config.autoencoder, &mut weights, device)
        .map_err(|error| Error::file(source, error.to_string()))?;
    let networks = placed(source, &config, weights, device)?;
    Ok(Model { tokenizer: Tokenizer { config, networks, autoencoder }, training, identity })
}

fn load_published(
    path: &Path,
    mut config: TokenizerConfig,
    autoencoder: Option<&Path>,
    device: &Device,
) -> Result<Model> {
    let autoencoder = match autoencoder {
        Some(file) => {
            let (found, autoencoder) = load_autoencoder(file, &config.autoencoder, device)?;
            config.autoencoder = found;
            autoencoder
        }
        None if config.autoencoder == (AutoencoderConfig::Pixel {}) => Autoencoder::Pixel,
        None => {
            return Err(Error::Config(
                "a published checkpoint holds no autoencoder; give its file with --autoencoder, or \
                 set autoencoder.kind = \"pixel\" in --config"
                    .into(),
            ));
        }
    };
    let checkpoint = published::load(path)?;
    let networks = placed(path, &config, checkpoint.weights, device)?;
    if let Some(positions) = checkpoint.positions {
        compare_positions(path, &networks, &positions)?;
    }
    let identity = Identity::new(path, Source::Published { config: json(&config) });
    Ok(Model { tokenizer: Tokenizer { config, networks, autoencoder }, training: None, identity })
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
