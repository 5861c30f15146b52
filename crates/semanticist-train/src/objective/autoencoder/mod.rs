//! The training of a KL autoencoder: reconstructions close to their images from latents close to normal ones
//! (Rombach et al., 2022, appendix G; `ldm/modules/losses/contperceptual.py` of CompVis/latent-diffusion).

mod discriminator;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist::autoencoder::{Autoencoder, AutoencoderConfig, KlAutoencoder, KlConfig};
use semanticist::image::{RgbImage, from_pixels, to_pixels};
use semanticist::model::save_autoencoder;
use semanticist::weights::Weights;
use semanticist::{Error, Noise, Pixels, Precision, Purpose, Result, Seed};
use semanticist_data::{self as data, BatchOptions, Position, Share, Source};
use semanticist_eval::perceptual::Lpips;
use semanticist_eval::sheet::{self, Cell};
use semanticist_eval::{quality, reconstruction};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::frozen;
use super::images::{self, ImageBatches, ImageExample};
use super::{Batches, Loss, Objective, Stage, Trainable, Validation};
use crate::config::{ImageData, Kind, RunConfig};

pub use discriminator::{Discriminator, DiscriminatorConfig};

/// A KL autoencoder's training run, as its file has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AutoencoderRun;

/// What learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderModel {
    /// Side of the square images, in pixels.
    pub image_size: usize,
    /// The autoencoder; its scale is estimated at the end, and before on the validation images.
    pub autoencoder: AutoencoderConfig,
    /// Someone who judges its reconstructions, if anyone.
    #[serde(default)]
    pub discriminator: Option<DiscriminatorConfig>,
}

impl AutoencoderModel {
    fn kl(&self) -> Result<&KlConfig> {
        match &self.autoencoder {
            AutoencoderConfig::Kl(config) => Ok(config),
            other => Err(Error::Config(format!(
                "model.autoencoder is {}, which does not learn by gradients; expected kind = \"kl\"",
                serde_json::to_string(other).unwrap_or_default()
            ))),
        }
    }
}

/// How far a reconstruction is from its image, pixel by pixel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// The mean absolute difference of pixels in `[-1, 1]`.
    #[default]
    L1,
    /// The mean squared difference.
    L2,
}

/// What is minimised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AutoencoderLoss {
    /// Between a photo and its reconstruction.
    pub distance: Distance,
    /// Weight of the divergence of latents from normal ones, in nats, beside the sum of distances over
    /// pixels and colours.
    pub kl_weight: f64,
    /// LPIPS, if its weights are given.
    pub perceptual: Option<PerceptualConfig>,
}

impl Default for AutoencoderLoss {
    fn default() -> Self {
        Self { distance: Distance::L1, kl_weight: 1e-6, perceptual: None }
    }
}

/// LPIPS in the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerceptualConfig {
    /// Beside the mean distance of pixels.
    pub weight: f64,
    /// The weights of torchvision's VGG-16 and of LPIPS, in one file or two.
    pub files: Vec<PathBuf>,
}

/// On what the averaged weights are measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AutoencoderValidation {
    /// Images in PSNR and SSIM.
    pub images: usize,
    /// Images on the sheet of samples.
    pub samples: usize,
}

impl Default for AutoencoderValidation {
    fn default() -> Self {
        Self { images: 256, samples: 6 }
    }
}

impl Kind for AutoencoderRun {
    type Model = AutoencoderModel;
    type Data = ImageData;
    type Objective = AutoencoderLoss;
    type Validation = AutoencoderValidation;

    fn validate(config: &RunConfig<Self>) -> Result<()> {
        let AutoencoderModel { image_size, autoencoder, discriminator } = &config.model;
        config.model.kl()?;
        if config.precision != Precision::Float32 {
            return Err(Error::Config(format!(
                "precision = \"{}\": an autoencoder is made of convolutions, which are computed in float32 only; \
                 expected precision = \"float32\"",
                config.precision
            )));
        }
        autoencoder.validate()?;
        autoencoder.latent_size(*image_size)?;
        let AutoencoderLoss { kl_weight, perceptual, .. } = &config.objective;
        let weights = [
            ("objective.kl_weight", Some(*kl_weight)),
            ("objective.perceptual.weight", perceptual.as_ref().map(|p| p.weight)),
            ("model.discriminator.weight", discriminator.map(|d| d.weight)),
        ];
        let bad = weights.iter().find(|(_, weight)| weight.is_some_and(|w| !(w >= 0.0 && w.is_finite())));
        let problem = if let Some((name, Some(weight))) = bad {
            format!("{name} = {weight} is not a number from 0")
        } else if let Some(DiscriminatorConfig { width, layers, .. }) =
            discriminator.filter(|d| d.width == 0 || d.width % 8 != 0 || !(1..=8).contains(&d.layers))
        {
            format!("a discriminator of width {width} and {layers} layers; use a multiple of 8, and 1 to 8")
        } else if let Some(d) = discriminator.filter(|d| !image_size.is_multiple_of(1 << d.layers)) {
            format!("image size {image_size} cannot be halved {} times for the discriminator", d.layers)
        } else if config.checkpoint_blocks {
            "checkpoint_blocks: an autoencoder is made of convolutions and has no transformer blocks; leave it out".into()
        } else if perceptual.is_some() && !image_size.is_multiple_of(16) {
            format!("image size {image_size} cannot be halved 4 times for LPIPS")
        } else {
            return Ok(());
        };
        Err(Error::Config(problem))
    }
}

/// The networks of a run: only the autoencoder is of use afterwards.
#[derive(Module, Debug)]
pub struct AutoencoderNetworks {
    /// What the run is about.
    pub autoencoder: KlAutoencoder,
    /// Tells photos from reconstructions; `None` without an adversarial loss.
    pub discriminator: Option<Discriminator>,
}

/// An autoencoder while it learns.
#[derive(Debug, Clone)]
pub struct LearningAutoencoder {
    /// Sizes, as the run has them.
    pub config: AutoencoderModel,
    /// All that has weights.
    pub networks: AutoencoderNetworks,
}

impl LearningAutoencoder {
    /// Random weights.
    ///
    /// # Errors
    /// If the configuration is not of a KL autoencoder.
    pub fn init(config: &AutoencoderModel, noise: &mut Noise, device: &Device) -> Result<Self> {
        // Whatever the scale, the networks do not see it.
        let autoencoder = KlAutoencoder::init(config.kl()?, noise, device).with_scale(1.0);
        let discriminator = config.discriminator.map(|config| Discriminator::init(&config, noise, device));
        Ok(Self { config: config.clone(), networks: AutoencoderNetworks { autoencoder, discriminator } })
    }
}

impl Trainable for LearningAutoencoder {
    type Parameters = AutoencoderNetworks;

    fn parameters(&self) -> &AutoencoderNetworks {
        &self.networks
    }

    fn parameters_mut(&mut self) -> &mut AutoencoderNetworks {
        &mut self.networks
    }

    fn optimized_apart() -> &'static [&'static str] {
        &["autoencoder.", "discriminator."]
    }

    fn save_frozen(&self, path: &Path) -> Result<()> {
        frozen::save(path, &self.config, &Weights::new())
    }

    fn load_frozen(path: &Path, device: &Device) -> Result<Self> {
        let (config, _) = frozen::load(path)?;
        Self::init(&config, &mut Noise::seeded(0), device)
    }
}

/// An autoencoder to train, with random networks on the device of training.
///
/// # Errors
/// If the configuration is impossible.
pub fn untrained(config: &RunConfig<AutoencoderRun>, device: &Device) -> Result<LearningAutoencoder> {
    let mut noise = Seed::new(config.seed).of(Purpose::Weights).noise();
    LearningAutoencoder::init(&config.model, &mut noise, &device.clone().autodiff())
}

/// The losses of [`AutoencoderLoss`] on images of a source.
pub struct AutoencoderObjective {
    source: Arc<Source>,
    config: RunConfig<AutoencoderRun>,
    perceptual: Option<Lpips>,
    validation_images: Vec<RgbImage>,
    device: Device,
}

impl AutoencoderObjective {
    /// Trains on `training`, validates on images spread over `validation`.
    ///
    /// # Errors
    /// If no validation image or no weights of LPIPS can be read.
    pub fn new(
        config: &RunConfig<AutoencoderRun>,
        training: Arc<Source>,
        validation: &Source,
        device: &Device,
    ) -> Result<Self> {
        let perceptual = config.objective.perceptual.as_ref();
        let perceptual = perceptual.map(|config| Lpips::load(&config.files, &device.clone().autodiff()));
        let AutoencoderValidation { images, samples } = config.validation;
        let count = images.max(samples).max(1);
        Ok(Self {
            source: training,
            config: config.clone(),
            perceptual: perceptual.transpose()?,
            validation_images: reconstruction::validation_images(validation, count, config.model.image_size)?,
            device: device.clone(),
        })
    }

    /// One over the deviation of latents, so that theirs becomes 1: of the images to fit if the run is complete,
    /// else of those to validate, which are at hand.
    fn scale(&self, autoencoder: &KlAutoencoder, stage: Stage) -> Result<f64> {
        const BATCH: usize = 16;
        let seed = Seed::new(self.config.seed);
        let mut moments = Moments::default();
        let mut add = |number: usize, images: &[RgbImage]| {
            let mut noise = seed.of(Purpose::LatentScale).at(number as u64).noise();
            moments.add(autoencoder.posterior(&to_pixels(images, &self.device)).sample(&mut noise));
        };
        match stage {
            Stage::Underway => {
                self.validation_images
                    .chunks(BATCH)
                    .enumerate()
                    .for_each(|(number, images)| add(number, images));
            }
            Stage::Complete => {
                let ImageData { workers, fit_images, crop, .. } = self.config.data;
                let (size, crop, share) = (self.config.model.image_size, crop.into(), Share::WHOLE);
                let options = BatchOptions { size, batch: BATCH, share, seed, workers, crop, flip: 0.0 };
                let batches = data::Batches::new(self.source.clone(), options, Position::default());
                let count = fit_images.min(self.source.len()).div_ceil(BATCH);
                for (number, batch) in batches.take(count).enumerate() {
                    add(number, &batch?.images);
                }
            }
        }
        let variance = moments.variance();
        if variance.is_finite() && variance > 0.0 {
            return Ok(variance.sqrt().recip());
        }
        Err(Error::Training(format!(
            "the variance of the latents is {variance}; train with a lower kl_weight"
        )))
    }
}

/// Sums over many numbers.
#[derive(Default)]
struct Moments {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, values: Tensor<4>) {
        for value in values.into_data().iter::<f64>() {
            self.count += 1.0;
            self.sum += value;
            self.squares += value * value;
        }
    }

    /// Unbiased.
    fn variance(&self) -> f64 {
        (self.squares - self.sum * self.sum / self.count) / (self.count - 1.0)
    }
}

impl Objective for AutoencoderObjective {
    type Kind = AutoencoderRun;
    type Model = LearningAutoencoder;
    type Example = ImageExample;

    fn examples(&self) -> usize {
        self.source.len()
    }

    fn fingerprint(&self) -> Result<String> {
        self.source.fingerprint()
    }

    fn batches(&self, start: Position, share: Share) -> Box<dyn Batches<Example = ImageExample>> {
        let size = self.config.model.image_size;
        Box::new(ImageBatches::new(self.source.clone(), &self.config, size, start, share))
    }

    fn loss(
        &self,
        model: &LearningAutoencoder,
        examples: &[ImageExample],
        step: u64,
        noise: &mut Noise,
    ) -> Loss {
        let AutoencoderLoss { distance, kl_weight, perceptual, .. } = &self.config.objective;
        let AutoencoderNetworks { autoencoder, discriminator } = &model.networks;
        let originals = Pixels(Tensor::from_inner(to_pixels(&images::apart(examples).0, &self.device).0));
        let values = originals.0.dims()[1..].iter().product::<usize>() as f64;
        let posterior = autoencoder.posterior(&originals);
        let reconstructions = autoencoder.decode(&autoencoder.scaled(posterior.sample(noise))).0;

        // Pixels in [-1, 1] have twice the difference of those in [0, 1].
        let difference = (reconstructions.clone() - originals.0.clone()) * 2.0;
        let pixels = match distance {
            Distance::L1 => difference.abs().mean(),
            Distance::L2 => difference.square().mean(),
        };
        let divergence = posterior.divergence().mean();
        let number = |tensor: &Tensor<1>| f64::from(tensor.clone().into_scalar::<f32>());
        let mut parts = vec![("pixels", number(&pixels)), ("divergence", number(&divergence))];
        let mut total = pixels + divergence * (kl_weight / values);
        if let (Some(measure), Some(config)) = (&self.perceptual, perceptual) {
            let seen = measure.distances(originals.0.clone(), reconstructions.clone()).mean();
            parts.push(("perceptual", number(&seen)));
            total = total + seen * config.weight;
        }
        let critic = discriminator.as_ref().zip(model.config.discriminator);
        if let Some((critic, config)) = critic.filter(|(_, config)| step > config.from_step) {
            // The autoencoder learns from a critic that stands still, the critic from finished reconstructions;
            // so one backward pass gives each its own gradients. The critic goes first, because a frozen
            // copy of parameters that are not drawn yet would freeze the original with it.
            let of_originals = critic.forward(originals.0);
            let critic_loss =
                discriminator::hinge(of_originals, critic.forward(reconstructions.clone().detach()));
            let judgement = -critic.clone().no_grad().forward(reconstructions).mean();
            parts.push(("judgement", number(&judgement)));
            parts.push(("discriminator", number(&critic_loss)));
            total = total + judgement * config.weight + critic_loss;
        }
        Loss { total, parts }
    }

    fn validate(&self, average: &LearningAutoencoder, sheet: &Path) -> Result<Validation> {
        const BATCH: usize = 16;
        let autoencoder = &average.networks.autoencoder;
        let AutoencoderValidation { images, samples: shown } = self.config.validation;
        let measured = &self.validation_images[..images.min(self.validation_images.len())];
        let (mut psnr, mut ssim) = (0.0, Some(0.0));
        for images in measured.chunks(BATCH) {
            let pixels = to_pixels(images, &self.device);
            let reconstructions = autoencoder.decode(&autoencoder.encode(&pixels));
            for quality in quality::compare(&pixels, &reconstructions) {
                psnr += quality.psnr / measured.len() as f64;
                ssim = ssim.zip(quality.ssim).map(|(sum, found)| sum + found / measured.len() as f64);
            }
        }
        let shown = &self.validation_images[..shown.min(self.validation_images.len())];
        if !shown.is_empty() {
            let pixels = to_pixels(shown, &self.device);
            let reconstructions = from_pixels(&autoencoder.decode(&autoencoder.encode(&pixels)));
            let row = |(photo, picture): (&RgbImage, RgbImage)| {
                vec![Cell::original(photo.clone()), Cell::captioned(picture, "decoded")]
            };
            let rows: Vec<_> = shown.iter().zip(reconstructions).map(row).collect();
            semanticist::image::save_png(&sheet::draw(&rows), sheet)?;
        }
        let measures = json!({ "psnr": psnr, "ssim": ssim, "images": measured.len() });
        let ssim = ssim.map(|ssim| format!("  SSIM {ssim:.3}")).unwrap_or_default();
        Ok(Validation {
            measures: measures.as_object().expect("it is one").clone(),
            summary: format!("PSNR {psnr:.2} dB{ssim}"),
        })
    }

    fn publish(
        &self,
        average: &LearningAutoencoder,
        path: &Path,
        history: &serde_json::Value,
        stage: Stage,
    ) -> Result<()> {
        let scale = self.scale(&average.networks.autoencoder, stage)?;
        let config = AutoencoderConfig::Kl(KlConfig { scale, shift: 0.0, ..average.config.kl()?.clone() });
        let autoencoder = average.networks.autoencoder.clone().with_scale(scale);
        save_autoencoder(path, &config, &Autoencoder::Kl(Box::new(autoencoder)), Some(history))
    }
}

#[cfg(test)]
mod tests;
