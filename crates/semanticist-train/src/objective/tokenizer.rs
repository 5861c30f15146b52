//! The training of a tokenizer: the diffusion loss of images decoded from some of their tokens.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist::autoencoder::Autoencoder;
use semanticist::diffusion::{Losses, Process};
use semanticist::image::{RgbImage, to_pixels};
use semanticist::tokenizer::Networks;
use semanticist::weights::Precision;
use semanticist::{Error, Latents, Noise, Pixels, Purpose, Result, Seed, Tokenizer, TokenizerConfig, Tokens};
use semanticist_data::{Position, Source};
use semanticist_eval::{reconstruction, sheet};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::frozen;
use super::images::ImageBatches;
use super::nested::NestedGuidance;
use super::readout::{LinearReadout, ReadoutConfig};
use super::{Batches, Loss, Objective, Stage, Trainable, Validation};
use crate::config::{ImageData, Kind, RunConfig};
use crate::memory;

/// A tokenizer's training run, as its file has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenizerRun;

/// What is minimised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerLoss {
    /// How many tokens of each example the decoder is shown.
    pub nested_guidance: NestedGuidance,
    /// A linear map from the tokens to the latents as a second loss, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linear_readout: Option<ReadoutConfig>,
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
        config.objective.linear_readout.map_or(Ok(()), |readout| readout.validate())?;
        let all = config.model.tokens;
        match config.validation.tokens.iter().find(|&&count| count > all) {
            None => Ok(()),
            Some(count) => {
                Err(Error::Config(format!("validation.tokens has {count}, but the model has {all} tokens")))
            }
        }
    }
}

/// The networks of a run: the readout is of no use afterwards.
#[derive(Module, Debug)]
pub struct LearningNetworks {
    /// What users get.
    pub tokenizer: Networks,
    /// If `objective.linear_readout` asks for one.
    pub readout: Option<LinearReadout>,
}

/// A tokenizer while it learns.
#[derive(Debug, Clone)]
pub struct LearningTokenizer {
    /// Of the tokenizer.
    pub config: TokenizerConfig,
    /// What learns.
    pub networks: LearningNetworks,
    /// What does not.
    pub autoencoder: Autoencoder,
}

impl LearningTokenizer {
    fn init(
        config: &TokenizerConfig,
        readout: Option<ReadoutConfig>,
        autoencoder: Autoencoder,
        noise: &mut Noise,
        device: &Device,
    ) -> Result<Self> {
        let tokenizer = Networks::init(config, noise, device)?;
        let readout = readout.map(|_| LinearReadout::init(config, noise, device)).transpose()?;
        Ok(Self { config: config.clone(), networks: LearningNetworks { tokenizer, readout }, autoencoder })
    }

    /// The tokenizer at this step, as users get it; it shares the weights.
    pub fn tokenizer(&self) -> Tokenizer {
        let Self { config, networks, autoencoder } = self.clone();
        Tokenizer { config, networks: networks.tokenizer, autoencoder }
    }
}

/// What does not learn, beside the autoencoder's weights.
#[derive(Serialize, Deserialize)]
struct Frozen {
    model: TokenizerConfig,
    /// Whether there is a readout; its weight may change.
    readout: Option<ReadoutConfig>,
}

impl Trainable for LearningTokenizer {
    type Parameters = LearningNetworks;

    fn parameters(&self) -> &LearningNetworks {
        &self.networks
    }

    fn parameters_mut(&mut self) -> &mut LearningNetworks {
        &mut self.networks
    }

    fn frozen_bytes(&self) -> u64 {
        let shapes = self.config.autoencoder.shapes(&Device::flex());
        shapes.values().map(|shape| (shape.iter().product::<usize>() * size_of::<f32>()) as u64).sum()
    }

    fn save_frozen(&self, path: &Path) -> Result<()> {
        let readout = self.networks.readout.as_ref().map(|_| ReadoutConfig { weight: 1.0 });
        let frozen = Frozen { model: self.config.clone(), readout };
        frozen::save(path, &frozen, &self.autoencoder.to_weights())
    }

    fn load_frozen(path: &Path, device: &Device) -> Result<Self> {
        let (Frozen { model, readout }, mut stored) = frozen::load(path)?;
        let plain = device.clone().without_autodiff();
        let autoencoder = Autoencoder::from_weights(&model.autoencoder, &mut stored, &plain)?;
        stored.finish(path)?;
        Self::init(&model, readout, autoencoder, &mut Noise::seeded(0), device)
    }
}

/// A tokenizer to train, with random networks on the device of training.
///
/// # Errors
/// If the configuration is impossible.
pub fn untrained(
    config: &RunConfig<TokenizerRun>,
    autoencoder: Autoencoder,
    device: &Device,
) -> Result<LearningTokenizer> {
    let mut noise = Seed::new(config.seed).of(Purpose::Weights).noise();
    let readout = config.objective.linear_readout;
    LearningTokenizer::init(&config.model, readout, autoencoder, &mut noise, &device.clone().autodiff())
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
    type Model = LearningTokenizer;
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

    fn loss(&self, model: &LearningTokenizer, images: &[RgbImage], step: u64, noise: &mut Noise) -> Loss {
        let device = &self.device;
        let TokenizerLoss { nested_guidance, linear_readout } = self.config.objective;
        let LearningNetworks { tokenizer: networks, readout } = &model.networks;
        let pixels = to_pixels(images, device);
        let latents = model.autoencoder.sample(&pixels, noise).0;
        let (count, tokens) = (images.len(), model.config.tokens);
        let draws = Draws {
            keep: nested_guidance.draw(count, tokens, step, noise),
            times: self.process.draw_times(count, noise),
            noise: Tensor::from_inner(noise.normal(latents.dims(), device)),
        };
        let (pixels, latents) = (Pixels(Tensor::from_inner(pixels.0)), Latents(Tensor::from_inner(latents)));
        let tokens = networks.encoder.forward(&pixels, tokens, Some(noise)).tokens;
        let losses = loss(networks, &self.process, &tokens, &latents, &draws);
        let number = |tensor: Tensor<1>| f64::from(tensor.into_scalar::<f32>());
        let (mut total, mut parts) = (losses.total.mean(), vec![("mse", number(losses.mse.mean()))]);
        if let (Some(readout), Some(ReadoutConfig { weight })) = (readout, linear_readout) {
            let missed = readout.loss(tokens, &draws.keep, &latents);
            parts.push(("readout", number(missed.clone())));
            total = total + missed * weight;
        }
        Loss { total, parts }
    }

    fn activations(&self) -> Option<u64> {
        memory::tokenizer_activations(&self.config.model).ok()
    }

    fn validate(&self, average: &LearningTokenizer, sheet: &Path) -> Result<Validation> {
        let average = &average.tokenizer();
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

    fn publish(
        &self,
        average: &LearningTokenizer,
        path: &Path,
        history: &serde_json::Value,
        _: Stage,
    ) -> Result<()> {
        average.tokenizer().save(path, Some(history), Precision::F16)
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
    /// The time of each sample.
    pub times: Vec<f32>,
    /// Gaussian, of the latents' shape.
    pub noise: Tensor<4>,
}

/// The diffusion loss of a batch whose tokens are these.
///
/// # Shapes
/// `tokens` `[B, K, D]` and `latents` `[B, C, h, w]` on the networks' device.
pub fn loss(
    networks: &Networks,
    process: &Process,
    tokens: &Tokens,
    latents: &Latents,
    draws: &Draws,
) -> Losses {
    let example = process.corrupt(latents.0.clone(), draws.noise.clone(), &draws.times);
    let output = networks.decoder.forward(example.noisy.clone(), &draws.times, tokens, &draws.keep);
    process.loss(output, &example)
}
