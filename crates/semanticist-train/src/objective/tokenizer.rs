//! The training of a tokenizer: what it is, and what is minimised.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist::autoencoder::Autoencoder;
use semanticist::diffusion::{DiffusionConfig, Process};
use semanticist::image::{RgbImage, to_pixels};
use semanticist::model::SharedTokens;
use semanticist::weights::Precision;
use semanticist::{Error, Latents, Noise, Pixels, Purpose, Result, Seed, TokenizerConfig, Tokens};
use semanticist_data::{Position, Share, Source};
use semanticist_eval::{reconstruction, sheet};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::diffusion::{Draws, loss, projected_loss};
use super::distillation::Distillation;
use super::images::{self, ImageBatches, ImageExample};
pub use super::learning::{LearningNetworks, LearningTokenizer};
use super::mean_flow::MeanFlow;
use super::nested::NestedGuidance;
use super::readout::ReadoutConfig;
use super::repa::{self, Repa, TeacherFeatures};
use super::{Batches, Loss, Objective, Stage, Validation, grown};
use crate::config::{ImageData, Kind, RunConfig};
use crate::principal;

/// A tokenizer's training run, as its file has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenizerRun;

/// What is minimised.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerLoss {
    /// How many tokens of each example the decoder is shown.
    pub nested_guidance: NestedGuidance,
    /// A linear map from the tokens to the latents as a second loss, if any: the decoder's own estimate if
    /// it has one, else one that is thrown away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linear_readout: Option<ReadoutConfig>,
    /// With whose features the decoder is aligned, if its model says that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repa: Option<Repa>,
    /// How average velocities are learned, where the model gives them, and only there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_flow: Option<MeanFlow>,
    /// Instead of the diffusion loss, the decoder learns to do in few steps what a trained one does in many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
    /// Whether the encoder stays as it is, so that tokens mean what they meant: only for a run that begins with a trained
    /// tokenizer ([`super::continued`]).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub frozen_encoder: bool,
    /// How many tokens, from the first on, stay as they are, so that only what belongs to those behind them learns in the
    /// encoder: only for a run that begins with a trained tokenizer ([`super::grown`]).
    #[serde(skip_serializing_if = "is_zero")]
    pub frozen_tokens: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl TokenizerLoss {
    /// Checks the numbers, and that they fit each other and the model.
    fn validate(&self, model: &TokenizerConfig, data: &ImageData) -> Result<()> {
        self.nested_guidance.validate()?;
        self.linear_readout.map_or(Ok(()), |readout| readout.validate())?;
        self.repa.as_ref().map_or(Ok(()), |repa| repa.validate(model.decoder.repa, data))?;
        if !model.fitted_samplers.is_empty() {
            return Err(Error::Config(
                "model.fitted_samplers were fitted to a decoder that had learnt; leave them out, and fit them to what comes of \
                 this run"
                    .into(),
            ));
        }
        let average = match model.diffusion {
            DiffusionConfig::Flow(flow) if model.diffusion.tells_span() => Some(flow),
            _ => None,
        };
        if self.frozen_tokens > 0 && (self.frozen_encoder || self.distillation.is_some()) {
            return Err(Error::Config(
                "objective.frozen_tokens is for an encoder that learns; leave it out, or set objective.frozen_encoder = false \
                 and no objective.distillation"
                    .into(),
            ));
        }
        if self.frozen_tokens >= model.tokens {
            return Err(Error::Config(format!(
                "objective.frozen_tokens = {} leaves none of the {} tokens to learn; use objective.frozen_encoder for that",
                self.frozen_tokens, model.tokens
            )));
        }
        let problem = match (average, self.mean_flow, &self.distillation) {
            (Some(_), Some(_), None) if self.repa.is_some() => {
                "objective.repa is not built for average velocities; leave it out, and set model.decoder.repa = \"off\""
            }
            (Some(flow), Some(mean_flow), None) => return mean_flow.validate(flow.time_scale),
            (Some(_), None, _) => {
                "model.diffusion.prediction = \"average-velocity\" is learned by [objective.mean_flow], which is not \
                 given; add that table, empty for its defaults"
            }
            (None, Some(_), _) => {
                "objective.mean_flow needs a model that gives average velocities; set model.diffusion to { kind = \
                 \"flow\", prediction = \"average-velocity\" }, or leave it out"
            }
            (Some(_), _, Some(_)) => {
                "objective.distillation: a model of average velocities needs few steps as it is; leave it out"
            }
            (None, _, Some(_)) if self.linear_readout.is_some() => {
                "objective.linear_readout teaches the encoder, which does not learn in a distillation; leave it out"
            }
            (None, _, Some(_)) if model.decoding.is_some() => {
                "model.decoding is what a distillation is about: objective.distillation.student_steps says it; leave it \
                 out"
            }
            (None, None, Some(_)) if self.frozen_encoder => {
                "objective.frozen_encoder: in a distillation the encoder stays as it is anyway; leave it out"
            }
            (None, None, Some(_)) if self.repa.is_some() => {
                "objective.repa: in a distillation the decoder has another teacher; leave it out"
            }
            (None, None, Some(distillation)) => return distillation.validate(model),
            (None, None, None) => return Ok(()),
        };
        Err(Error::Config(problem.into()))
    }
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
        principal::validate(&config.model)?;
        config.objective.validate(&config.model, &config.data)?;
        if config.objective.frozen_tokens > 0 && config.optimizer.weight_decay > 0.0 {
            return Err(Error::Config(
                "objective.frozen_tokens: optimizer.weight_decay would change what is to stay; set it to 0"
                    .into(),
            ));
        }
        let all = config.model.tokens;
        match config.validation.tokens.iter().find(|&&count| count > all) {
            None => Ok(()),
            Some(count) => {
                Err(Error::Config(format!("validation.tokens has {count}, but the model has {all} tokens")))
            }
        }
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
    /// What the decoder is aligned with.
    repa_features: Option<TeacherFeatures>,
    validation_images: Vec<RgbImage>,
    device: Device,
}

impl TokenizerObjective {
    /// Trains on `training`, validates on images spread over `validation`; `repa_features` is what [`Repa::load_teacher`]
    /// gives for the configuration.
    ///
    /// # Errors
    /// If no validation image can be read, or features that are cached are not of what training shows.
    pub fn new(
        config: &RunConfig<TokenizerRun>,
        training: Arc<Source>,
        validation: &Source,
        repa_features: Option<TeacherFeatures>,
        device: &Device,
    ) -> Result<Self> {
        let process = Process::new(&config.model.diffusion)?;
        repa_features.as_ref().map_or(Ok(()), |features| features.check(config, &training))?;
        let count = config.validation.images.max(config.validation.samples).max(1);
        let validation_images =
            reconstruction::validation_images(validation, count, config.model.image_size)?;
        Ok(Self {
            source: training,
            config: config.clone(),
            process,
            repa_features,
            validation_images,
            device: device.clone(),
        })
    }
}

impl Objective for TokenizerObjective {
    type Kind = TokenizerRun;
    type Model = LearningTokenizer;
    type Example = ImageExample;

    fn examples(&self) -> usize {
        self.source.len()
    }

    fn fingerprint(&self) -> Result<String> {
        let source = self.source.fingerprint()?;
        Ok(self.repa_features.iter().fold(source, |of, features| of + &features.fingerprint()))
    }

    fn batches(&self, start: Position, share: Share) -> Box<dyn Batches<Example = ImageExample>> {
        let size = self.config.model.image_size;
        Box::new(ImageBatches::new(self.source.clone(), &self.config, size, start, share))
    }

    fn loss(
        &self,
        model: &LearningTokenizer,
        examples: &[ImageExample],
        step: u64,
        noise: &mut Noise,
    ) -> Loss {
        let (images, shown) = images::apart(examples);
        let device = &self.device;
        let TokenizerLoss {
            nested_guidance,
            linear_readout,
            repa,
            mean_flow,
            distillation,
            frozen_encoder,
            frozen_tokens,
        } = &self.config.objective;
        let LearningNetworks { tokenizer: networks, readout } = &model.networks;
        let number = |tensor: Tensor<1>| f64::from(tensor.into_scalar::<f32>());
        let pixels = to_pixels(&images, device);
        if let Some(distillation) = distillation {
            let all = model.config.tokens;
            let tokens = networks.encoder.valid().forward(&pixels, all, None).tokens;
            let keep = nested_guidance.draw(images.len(), all, step, noise);
            let total = distillation.loss(model, &self.process, (&tokens, &keep), noise);
            return Loss { total, parts: vec![] };
        }
        let latents = model.autoencoder.sample(&pixels, noise).0;
        let (count, tokens) = (images.len(), model.config.tokens);
        let keep = nested_guidance.draw(count, tokens, step, noise);
        let (times, spans) = match mean_flow {
            Some(mean_flow) => mean_flow.draw(&self.process, count, noise),
            None => (self.process.draw_times(count, noise), Vec::new()),
        };
        let draws = Draws { keep, times, noise: Tensor::from_inner(noise.normal(latents.dims(), device)) };
        let (plain, latents) = (pixels, Latents(Tensor::from_inner(latents)));
        let pixels = Pixels(Tensor::from_inner(plain.0.clone()));
        let tokens = match frozen_encoder {
            true => {
                let tokens = networks.encoder.valid().forward(&plain, tokens, None).tokens;
                Tokens(Tensor::from_inner(tokens.0))
            }
            false if *frozen_tokens > 0 => {
                grown::with_still_tokens(&networks.encoder, *frozen_tokens)
                    .forward(&pixels, tokens, Some(noise))
                    .tokens
            }
            false => networks.encoder.forward(&pixels, tokens, Some(noise)).tokens,
        };
        let (losses, projection) = match (mean_flow, repa) {
            (Some(mean_flow), _) => {
                (mean_flow.loss(networks, &self.process, (&tokens, &latents), &draws, &spans), None)
            }
            (None, Some(_)) => {
                let (losses, projection) = projected_loss(networks, &self.process, &tokens, &latents, &draws);
                (losses, Some(projection))
            }
            (None, None) => (loss(networks, &self.process, &tokens, &latents, &draws), None),
        };
        let (mut total, mut parts) = (losses.total.mean(), vec![("mse", number(losses.mse.mean()))]);
        if let (Some(projection), Some(repa), Some(features)) = (projection, repa, &self.repa_features) {
            let misaligned = repa::loss(features, projection, &plain, &shown);
            parts.push(("repa", number(misaligned.clone())));
            total = total + misaligned * repa.weight;
        }
        if let Some(ReadoutConfig { weight }) = linear_readout {
            let missed = match (networks.decoder.estimate(&tokens, &draws.keep), readout) {
                (Some(estimate), _) => (estimate - latents.0.clone()).square().mean(),
                (None, Some(readout)) => readout.loss(tokens, &draws.keep, &latents),
                (None, None) => unreachable!("init() makes one of the two"),
            };
            parts.push(("readout", number(missed.clone())));
            total = total + missed * *weight;
        }
        Loss { total, parts }
    }

    fn activations(&self) -> Option<u64> {
        self.config.how_computed().tokenizer(&self.config.model).ok()
    }

    fn teacher_bytes(&self) -> u64 {
        self.repa_features.as_ref().map_or(0, |features| (features.parameters() * size_of::<f32>()) as u64)
    }

    fn validate(&self, average: &LearningTokenizer, sheet: &Path) -> Result<Validation> {
        let tokenizer = &average.tokenizer();
        let TokenizerValidation { images, tokens, samples: shown } = &self.config.validation;
        let measured = &self.validation_images[..(*images).min(self.validation_images.len())];
        let shown = &self.validation_images[..(*shown).min(self.validation_images.len())];
        if !shown.is_empty() {
            let rows = reconstruction::samples(tokenizer, shown, tokens, &self.device)?;
            semanticist::image::save_png(&sheet::rows(&rows, tokens), sheet)?;
        }
        let (title, counts, numbers, measures) = match &self.config.objective.distillation {
            Some(distillation) => {
                let (steps, found) =
                    (&distillation.student_steps, distillation.distances(average, measured, &self.device)?);
                let measures = json!({ "distance": found, "steps": steps, "images": measured.len() });
                ("distance to the teacher by steps", steps, found, measures)
            }
            None => {
                let found = reconstruction::losses(tokenizer, measured, tokens, &self.device)?;
                let measures = json!({ "validation_mse": found, "tokens": tokens, "images": measured.len() });
                ("validation loss by tokens", tokens, found, measures)
            }
        };
        let listed: Vec<String> =
            counts.iter().zip(&numbers).map(|(count, number)| format!("{count}: {number:.4}")).collect();
        Ok(Validation {
            measures: measures.as_object().expect("it is one").clone(),
            summary: format!("{title}  {}", listed.join("  ")),
        })
    }

    fn publish(
        &self,
        average: &LearningTokenizer,
        path: &Path,
        history: &serde_json::Value,
        _: Stage,
    ) -> Result<()> {
        let mut history = history.clone();
        if !average.shared.is_empty() {
            history[SharedTokens::ENTRY] = json!(average.shared);
        }
        average.tokenizer().save(path, Some(&history), Precision::F16)
    }
}
