//! The training of a tokenizer: the diffusion loss of images painted from some of their tokens.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use semanticist::autoencoder::Autoencoder;
use semanticist::diffusion::{Losses, Process};
use semanticist::image::{RgbImage, to_pixels};
use semanticist::tokenizer::Networks;
use semanticist::weights::{self, Metadata, Precision};
use semanticist::{Error, Latents, Noise, Pixels, Purpose, Result, Seed, Tokenizer, TokenizerConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::images::ImageBatches;
use super::nested::NestedGuidance;
use super::{Batches, Loss, Objective, Stage, Trainable, Validation};
use crate::config::{ImageData, Kind, RunConfig};
use semanticist_data::{Position, Source};
use semanticist_eval::{reconstruction, sheet};

/// A tokenizer's training run, as its file has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenizerRun;

/// What is minimised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerLoss {
    /// How many tokens of each example the decoder is shown.
    pub nested_guidance: NestedGuidance,
}

/// On what the averaged weights are measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerValidation {
    /// Images in the validation loss.
    pub images: usize,
    /// Token counts of the validation loss and of the samples.
    pub tokens: Vec<usize>,
    /// Images on the sheet of samples.
    pub samples: usize,
}

impl Default for TokenizerValidation {
    fn default() -> Self {
        Self { images: 256, tokens: vec![1, 2, 4, 8, 16, 32], samples: 6 }
    }
}

impl Kind for TokenizerRun {
    type Model = TokenizerConfig;
    type Data = ImageData;
    type Objective = TokenizerLoss;
    type Validation = TokenizerValidation;

    fn validate(config: &RunConfig<Self>) -> Result<()> {
        config.model.validate()?;
        config.objective.nested_guidance.validate()?;
        let all = config.model.tokens;
        match config.validation.tokens.iter().find(|&&count| count > all) {
            None => Ok(()),
            Some(count) => {
                Err(Error::Config(format!("validation.tokens has {count}, but the model has {all} tokens")))
            }
        }
    }
}

impl Trainable for Tokenizer {
    type Parameters = Networks;

    fn parameters(&self) -> &Networks {
        &self.networks
    }

    fn parameters_mut(&mut self) -> &mut Networks {
        &mut self.networks
    }

    fn save_frozen(&self, path: &Path) -> Result<()> {
        let metadata = Metadata::from([(CONFIG.to_string(), json!(self.config).to_string())]);
        weights::save(path, &self.autoencoder.to_weights(), &metadata, Precision::F32)
    }

    fn load_frozen(path: &Path, device: &Device) -> Result<Self> {
        let (mut stored, metadata) = weights::load(path)?;
        let config: TokenizerConfig = frozen_config(path, &metadata)?;
        let plain = device.clone().without_autodiff();
        let autoencoder = Autoencoder::from_weights(&config.autoencoder, &mut stored, &plain)?;
        stored.finish(path)?;
        let networks = Networks::init(&config, &mut Noise::seeded(0), device)?;
        Ok(Self { config, networks, autoencoder })
    }
}

/// The entry of a file of frozen weights that says what they belong to.
pub(super) const CONFIG: &str = "config";

/// What such a file says.
pub(super) fn frozen_config<C: DeserializeOwned>(path: &Path, metadata: &Metadata) -> Result<C> {
    let text = metadata.get(CONFIG).map_or("", String::as_str);
    serde_json::from_str(text)
        .map_err(|error| Error::file(path, format!("is not what a run of this version began with: {error}")))
}

/// A tokenizer to train, with random networks on the device of training.
///
/// # Errors
/// If the configuration is impossible.
pub fn untrained(
    config: &RunConfig<TokenizerRun>,
    autoencoder: Autoencoder,
    device: &Device,
) -> Result<Tokenizer> {
    let mut noise = Seed::new(config.seed).of(Purpose::Weights).noise();
    let networks = Networks::init(&config.model, &mut noise, &device.clone().autodiff())?;
    Ok(Tokenizer { config: config.model.clone(), networks, autoencoder })
}

/// The loss of [`loss`] on images of a source.
pub struct TokenizerObjective {
    source: Arc<Source>,
    config: RunConfig<TokenizerRun>,
    process: Process,
    validation_images: Vec<RgbImage>,
    device: Device,
}

impl TokenizerObjective {
    /// Trains on `training`, validates on images spread over `validation`.
    ///
    /// # Errors
    /// If no validation image can be read, or the configuration asks for what there is not.
    pub fn new(
        config: &RunConfig<TokenizerRun>,
        training: Arc<Source>,
        validation: &Source,
        device: &Device,
    ) -> Result<Self> {
        refuse_alignment(&config.model)?;
        let process = Process::new(&config.model.diffusion)?;
        let count = config.validation.images.max(config.validation.samples).max(1);
        let validation_images =
            reconstruction::validation_images(validation, count, config.model.image_size)?;
        Ok(Self {
            source: training,
            config: config.clone(),
            process,
            validation_images,
            device: device.clone(),
        })
    }
}

impl Objective for TokenizerObjective {
    type Kind = TokenizerRun;
    type Model = Tokenizer;
    type Example = RgbImage;

    fn examples(&self) -> usize {
        self.source.len()
    }

    fn fingerprint(&self) -> Result<String> {
        self.source.fingerprint()
    }

    fn batches(&self, start: Position) -> Box<dyn Batches<Example = RgbImage>> {
        let size = self.config.model.image_size;
        Box::new(ImageBatches::new(self.source.clone(), &self.config, size, start))
    }

    fn loss(&self, model: &Tokenizer, images: &[RgbImage], step: u64, noise: &mut Noise) -> Loss {
        let device = &self.device;
        let pixels = to_pixels(images, device);
        let latents = model.autoencoder.sample(&pixels, noise).0;
        let (count, tokens) = (images.len(), model.config.tokens);
        let draws = Draws {
            keep: self.config.objective.nested_guidance.draw(count, tokens, step, noise),
            timesteps: noise.below(count, self.process.steps()),
            noise: Tensor::from_inner(noise.normal(latents.dims(), device)),
        };
        let batch = (&Pixels(Tensor::from_inner(pixels.0)), Latents(Tensor::from_inner(latents)));
        let losses = loss(&model.networks, &self.process, batch, draws, Some(noise));
        let mse = f64::from(losses.mse.mean().into_scalar::<f32>());
        Loss { total: losses.total, parts: vec![("mse", mse)] }
    }

    fn validate(&self, average: &Tokenizer, sheet: &Path) -> Result<Validation> {
        let TokenizerValidation { images, tokens, samples: shown } = &self.config.validation;
        let measured = &self.validation_images[..(*images).min(self.validation_images.len())];
        let losses = reconstruction::losses(average, measured, tokens, &self.device)?;
        let shown = &self.validation_images[..(*shown).min(self.validation_images.len())];
        if !shown.is_empty() {
            let rows = reconstruction::samples(average, shown, tokens, &self.device)?;
            semanticist::image::save_png(&sheet::rows(&rows, tokens), sheet)?;
        }
        let listed: Vec<String> =
            tokens.iter().zip(&losses).map(|(count, loss)| format!("{count}: {loss:.4}")).collect();
        let measures = json!({ "validation_mse": losses, "tokens": tokens, "images": measured.len() });
        Ok(Validation {
            measures: measures.as_object().expect("it is one").clone(),
            summary: format!("validation loss by tokens  {}", listed.join("  ")),
        })
    }

    fn publish(&self, average: &Tokenizer, path: &Path, history: &serde_json::Value, _: Stage) -> Result<()> {
        Tokenizer::save(average, path, Some(history), Precision::F16)
    }
}

/// A run must not promise what it does not do: there is no teacher to align with yet.
fn refuse_alignment(config: &TokenizerConfig) -> Result<()> {
    match config.decoder.repa {
        None => Ok(()),
        Some(_) => Err(Error::Config(
            "model.decoder.repa asks for alignment with a teacher's features, but no teacher can be given in this \
             version; to train without, set model.decoder.repa = \"off\""
                .into(),
        )),
    }
}

/// Everything drawn for one batch.
#[derive(Debug, Clone)]
pub struct Draws {
    /// How many tokens each sample keeps.
    pub keep: Vec<usize>,
    /// The timestep of each sample.
    pub timesteps: Vec<usize>,
    /// Gaussian, of the latents' shape.
    pub noise: Tensor<4>,
}

/// The diffusion loss of a batch.
///
/// `drop_path` is the source of the encoder's dropped branches; `None` drops none.
///
/// # Shapes
/// `images` `[B, 3, H, W]` and `latents` `[B, C, h, w]` on the networks' device.
pub fn loss(
    networks: &Networks,
    process: &Process,
    (images, latents): (&Pixels, Latents),
    draws: Draws,
    drop_path: Option<&mut Noise>,
) -> Losses {
    let count = networks.encoder.concept_tokens.dims()[1];
    let tokens = networks.encoder.forward(images, count, drop_path).tokens;
    let example = process.add_noise(latents.0, draws.noise, &draws.timesteps);
    let output = networks.decoder.forward(example.noisy.clone(), &draws.timesteps, &tokens, &draws.keep);
    process.training_loss(output, &example)
}
