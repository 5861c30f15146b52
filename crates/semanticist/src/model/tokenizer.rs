//! A tokenizer's file: the weights of all its parts, its configuration and its history.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{CONFIG, KIND, Memory, ModelFile, ModelKind, Origin, TRAINING};
use super::{json, load_autoencoder, metadata, published_weights, refuse_rounded};
use crate::autoencoder::{Autoencoder, AutoencoderConfig};
use crate::error::{Error, Result};
use crate::noise::Noise;
use crate::tokenizer::{Networks, Tokenizer, TokenizerConfig};
use crate::weights::{self, HostTensor, Metadata, Precision, Weights, names, published};

/// What a published checkpoint does not say of itself.
#[derive(Debug, Clone, Copy)]
pub struct PublishedTokenizer<'a> {
    /// What it holds.
    pub config: &'a TokenizerConfig,
    /// The file with the autoencoder of that configuration, unless that is pixels: one of ours or a
    /// published one.
    pub autoencoder: Option<&'a Path>,
}

/// A tokenizer with its identity and history.
#[derive(Debug, Clone)]
pub struct TokenizerModel {
    /// Networks and configuration, ready to encode and decode.
    pub tokenizer: Tokenizer,
    /// How it was trained, if the file says so.
    pub training: Option<serde_json::Value>,
    identity: Identity,
}

impl TokenizerModel {
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

/// A tokenizer whose first tokens another one gives, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedTokens {
    /// Its [`TokenizerModel::hash`].
    pub model: String,
    /// How many tokens, from the first on.
    pub tokens: usize,
}

impl SharedTokens {
    /// The entry of a tokenizer's history that lists those that it shares tokens with.
    pub const ENTRY: &str = "shared_tokens";
}

impl TokenizerModel {
    /// With whom it shares tokens, as its history has it.
    ///
    /// # Errors
    /// If the history is damaged.
    pub fn shared_tokens(&self) -> Result<Vec<SharedTokens>> {
        let Some(listed) = self.training.as_ref().and_then(|history| history.get(SharedTokens::ENTRY)) else {
            return Ok(Vec::new());
        };
        serde_json::from_value(listed.clone()).map_err(|error| {
            Error::file(&self.identity.path, format!("training.{}: {error}", SharedTokens::ENTRY))
        })
    }

    /// Whether the first `tokens` tokens of the tokenizer with this hash are its own as well.
    ///
    /// # Errors
    /// As [`Self::hash`] and [`Self::shared_tokens`].
    pub fn gives_tokens_of(&self, hash: &str, tokens: usize) -> Result<bool> {
        let shared = self.shared_tokens()?;
        Ok(shared.iter().any(|other| other.model == hash && tokens <= other.tokens) || self.hash()? == hash)
    }
}

/// Where the hash of a tokenizer comes from.
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
    /// If the file cannot be written, or the tokenizer is in bfloat16; nothing is left under its name then.
    pub fn save(
        &self,
        path: &Path,
        training: Option<&serde_json::Value>,
        precision: Precision,
    ) -> Result<()> {
        refuse_rounded(&self.networks)?;
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
    /// As [`Tokenizer::save`], and if there is no published form of such a decoder.
    pub fn export_published(&self, path: &Path, precision: Precision) -> Result<()> {
        let decoder = &self.config.decoder;
        let inner = decoder.linear_estimate || decoder.overlap || decoder.refinement.is_some();
        if inner || self.config.encoder.linear_projection {
            return Err(Error::Config(
                "linear_projection, linear_estimate, overlap and refinement have no published names; only models without \
                 them can be exported"
                    .into(),
            ));
        }
        refuse_rounded(&self.networks)?;
        if self.config.diffusion.tells_span() {
            return Err(Error::Config(
                "the decoder gives average velocities, for which the published code has no weights; only \
                 models without model.diffusion.prediction = \"average-velocity\" can be exported"
                    .into(),
            ));
        }
        let mut weights = published_weights(&self.networks);
        let positions = self.networks.decoder.positions();
        let shape = positions.dims();
        let values = positions.into_data().iter::<f32>().collect::<Vec<_>>();
        weights.insert(names::FROZEN_POSITIONS, HostTensor::from_f32(&shape, &values));
        let metadata = Metadata::from([(CONFIG.to_string(), json(&self.config))]);
        weights::save(path, &weights, &metadata, precision)
    }
}

impl TokenizerModel {
    /// [`Tokenizer::with_precision`]; the hash stays that of the file.
    pub fn with_precision(self, precision: crate::precision::Precision) -> Self {
        Self { tokenizer: self.tokenizer.with_precision(precision), ..self }
    }
}

impl Tokenizer {
    /// Loads a tokenizer's file.
    ///
    /// ```no_run
    /// use semanticist::{Device, Tokenizer};
    /// let tokenizer = Tokenizer::open("model.safetensors", &Device::flex())?;
    /// # Ok::<(), semanticist::Error>(())
    /// ```
    ///
    /// # Errors
    /// If it is not one of ours, or missing, unused or misshapen weights are found.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        Ok(ModelFile::open(path.as_ref())?.into_tokenizer()?.load(device)?.tokenizer)
    }
}

/// What the metadata of a tokenizer's file must hold.
pub fn tokenizer_metadata(config: &TokenizerConfig) -> Metadata {
    metadata(ModelKind::Tokenizer, config)
}

/// A file on its way to become a [`TokenizerModel`].
#[derive(Debug, Clone)]
pub struct TokenizerFile {
    content: Content,
    /// As the file was trained.
    config: TokenizerConfig,
    /// The side of the images that it will be used for.
    image_size: usize,
}

#[derive(Debug, Clone)]
enum Content {
    Ours(Origin),
    /// Our weights and metadata are empty: a checkpoint is read when it is loaded.
    Published {
        checkpoint: Origin,
        autoencoder: Option<PathBuf>,
    },
}

impl TokenizerFile {
    pub(super) fn of(origin: Origin) -> Result<Self> {
        let config: TokenizerConfig = origin.config()?;
        config.validate().map_err(|error| origin.error(error.to_string()))?;
        let image_size = config.image_size;
        Ok(Self { content: Content::Ours(origin), config, image_size })
    }

    pub(super) fn origin(&self) -> &Origin {
        match &self.content {
            Content::Ours(origin) | Content::Published { checkpoint: origin, .. } => origin,
        }
    }

    /// Takes down what `published` says of a checkpoint.
    ///
    /// # Errors
    /// If the file is one of ours, or the configuration is impossible.
    pub fn published(path: &Path, published: PublishedTokenizer) -> Result<Self> {
        let PublishedTokenizer { config, autoencoder } = published;
        refuse_ours(path)?;
        config.validate()?;
        let checkpoint = Origin {
            path: path.to_path_buf(),
            on_disk: true,
            weights: Weights::new(),
            metadata: Metadata::new(),
        };
        let content = Content::Published { checkpoint, autoencoder: autoencoder.map(Path::to_path_buf) };
        Ok(Self { content, config: config.clone(), image_size: config.image_size })
    }

    /// The file, unless it is compiled into the program.
    pub fn path(&self) -> Option<&Path> {
        let origin = self.origin();
        origin.path_on_disk()
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
            Content::Ours(origin) => origin.entry(TRAINING),
            Content::Published { .. } => Ok(None),
        }
    }

    /// Uses the model for images of another size than it was trained for.
    ///
    /// # Errors
    /// If the patches of encoder or decoder, or the autoencoder's stride, do not divide it.
    pub fn resize(&mut self, image_size: usize) -> Result<()> {
        self.config.resized(image_size)?;
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
    pub fn load(self, device: &Device) -> Result<TokenizerModel> {
        let image_size = self.image_size;
        let mut model = match self.content {
            Content::Ours(origin) => load_ours(origin, self.config, device)?,
            Content::Published { checkpoint, autoencoder } => {
                load_published(&checkpoint.path, self.config, autoencoder.as_deref(), device)?
            }
        };
        if image_size != model.tokenizer.config.image_size {
            model.tokenizer = model.tokenizer.resized(image_size)?;
        }
        Ok(model)
    }
}

fn load_ours(origin: Origin, config: TokenizerConfig, device: &Device) -> Result<TokenizerModel> {
    let training = origin.entry(TRAINING)?;
    let Origin { path, mut weights, metadata, .. } = origin;
    let identity = Identity::new(&path, Source::Ours { weights: weights.clone(), metadata });
    let autoencoder = Autoencoder::from_weights(&config.autoencoder, &mut weights, device)
        .map_err(|error| Error::file(&path, error.to_string()))?;
    let networks = placed(&path, &config, weights, device)?;
    Ok(TokenizerModel { tokenizer: Tokenizer { config, networks, autoencoder }, training, identity })
}

fn load_published(
    path: &Path,
    mut config: TokenizerConfig,
    autoencoder: Option<&Path>,
    device: &Device,
) -> Result<TokenizerModel> {
    let autoencoder = match autoencoder {
        Some(file) => {
            let (found, autoencoder) = load_autoencoder(file, &config.autoencoder, device)?;
            config.autoencoder = found;
            autoencoder
        }
        None if config.autoencoder == (AutoencoderConfig::Pixel {}) => Autoencoder::Pixel,
        None => {
            return Err(Error::AutoencoderNeeded { reason: "a published checkpoint holds no autoencoder" });
        }
    };
    let checkpoint = published::load(path)?;
    let networks = placed(path, &config, checkpoint.weights, device)?;
    if let Some(positions) = checkpoint.positions {
        compare_positions(path, &networks, &positions)?;
    }
    let identity = Identity::new(path, Source::Published { config: json(&config) });
    Ok(TokenizerModel { tokenizer: Tokenizer { config, networks, autoencoder }, training: None, identity })
}

/// Fails if a file that is said to be a published checkpoint is one of ours.
fn refuse_ours(path: &Path) -> Result<()> {
    match weights::load(path) {
        Ok((_, metadata)) if metadata.contains_key(KIND) => {
            Err(Error::Described { path: path.to_path_buf() })
        }
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
