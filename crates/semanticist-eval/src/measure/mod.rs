//! The measurements of `evaluate`: each takes a [`Subject`] and gives tables, figures and sentences.
//!
//! All of them see the same images in the same batches, with the same seeds. What a batch gave is kept by [`Finished`], so
//! that interrupted work goes on.

pub mod ablation;
mod baseline;
mod closeness;
mod codec;
pub mod frechet;
mod pairs;
mod photos;
pub mod probe;
pub mod quantised;
pub mod reconstruction;
pub mod spectrum;
pub mod variance;
pub mod zero_shot;

use burn::tensor::{Device, Tensor};
use semanticist::diffusion::{DecodeOptions, Process, SamplingPlan};
use semanticist::image::{RgbImage, from_pixels, to_pixels};
use semanticist::{Error, Latents, Noise, Pixels, Purpose, Result, Seed, Tokenizer, Tokens};
use semanticist_data::Source;

use crate::findings::Table;
use crate::perceptual::PerceptualMeasures;
use crate::plot::Figure;
pub use crate::reconstruction::BATCH;
pub use crate::resume::Finished;
pub use baseline::Components;
use closeness::Metric;
pub use photos::Batch;
use photos::Photos;

/// How images become squares, in words.
pub const CROP: &str = "the square in the middle, reduced as Pillow does (BOX, then BICUBIC)";

/// What is measured, on what.
pub struct Subject<'a> {
    /// The model.
    pub tokenizer: &'a Tokenizer,
    /// Images that it was not trained on.
    pub source: &'a Source,
    /// How many of them, spread evenly.
    pub images: usize,
    /// Images to fit principal components to, and to train probes on: those that the model was trained on, or such.
    pub training: &'a Source,
    /// From how many tokens, ascending; 0 is from none.
    pub counts: Vec<usize>,
    /// Steps, sampler and guidance of the decoder.
    pub sampling: DecodeOptions,
    /// Of all draws.
    pub seed: u64,
    /// Images by other tokenizers, by name.
    pub series: Vec<(String, &'a Source)>,
    /// Measures of closeness that need weights.
    pub perceptual: PerceptualMeasures,
    /// Where it is computed.
    pub device: &'a Device,
}

/// What a measurement found.
#[derive(Debug, Default)]
pub struct Measured {
    /// How many images were measured.
    pub images: usize,
    /// What the numbers mean.
    pub protocol: Vec<String>,
    /// What they say.
    pub sentences: Vec<String>,
    /// The numbers.
    pub tables: Vec<Table>,
    /// The same as plots.
    pub figures: Vec<Figure>,
}

/// Told how many images went through one pass.
pub type Observer<'a> = &'a mut dyn FnMut(usize);

impl Subject<'_> {
    /// Side of the measured squares, in pixels.
    pub fn size(&self) -> usize {
        self.tokenizer.config.image_size
    }

    /// How many images there will be, if none is broken.
    pub fn expected(&self) -> usize {
        self.photos().expected()
    }

    fn photos(&self) -> Photos<'_> {
        let Self { source, images, series, .. } = self;
        Photos { source, images: *images, size: self.size(), series }
    }

    /// What can be told of how close images of this size come.
    fn metrics(&self) -> Vec<Metric> {
        Metric::of(self.size(), &self.perceptual)
    }

    /// How closeness is measured, in sentences.
    fn metrics_protocol(&self) -> Vec<String> {
        self.metrics().into_iter().map(|metric| metric.protocol(&self.perceptual)).collect()
    }

    /// The numbers that an image's first tokens are.
    fn numbers(&self, count: usize) -> usize {
        count * self.tokenizer.config.token_dim
    }

    /// What `of_batch` makes of each batch, or made of it in an earlier attempt.
    fn batches<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        finished: &mut Finished,
        name: &str,
        of_batch: impl FnMut(&Batch) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.photos().batches(finished, name, of_batch)
    }

    /// Shows each batch to `of_batch`; nothing is kept, and other tokenizers' pictures are not read.
    fn each(&self, of_batch: impl FnMut(&Batch) -> Result<()>) -> Result<()> {
        self.photos().each(of_batch)
    }

    /// A sheet of the first `count` of the images that are measured, each beside its samples from every number of tokens.
    ///
    /// # Errors
    /// If they cannot be read or decoded.
    pub fn sheet(&self, count: usize) -> Result<RgbImage> {
        let few = Subject {
            images: count,
            counts: self.counts.clone(),
            sampling: self.sampling.clone(),
            series: vec![],
            perceptual: PerceptualMeasures::default(),
            ..*self
        };
        let mut rows = Vec::new();
        few.each(|batch| {
            let tokens = self
                .tokenizer
                .encode(&to_pixels(&batch.images, self.device), self.tokenizer.config.tokens)?;
            let mut of_images: Vec<Vec<RgbImage>> =
                batch.images.iter().map(|image| vec![image.clone()]).collect();
            for &count in &self.counts {
                let pictures = from_pixels(&self.sample(batch, &tokens, count, &mut |_| ())?);
                of_images.iter_mut().zip(pictures).for_each(|(row, picture)| row.push(picture));
            }
            rows.extend(of_images);
            Ok(())
        })?;
        Ok(crate::sheet::rows(&rows, &self.counts))
    }

    /// Checks that the pictures of other tokenizers are of the images.
    ///
    /// # Errors
    /// Says of the first series that does not fit why.
    pub fn check_series(&self) -> Result<()> {
        self.photos().check_series()
    }

    /// The noise that images are decoded from: that of an image depends on its number alone.
    fn latent_noise(&self, batch: &Batch) -> Noise {
        let seeds = (0..batch.images.len()).map(|i| Seed::new(self.seed + (batch.first + i) as u64));
        Noise::per_sample(seeds.map(|seed| seed.of(Purpose::Latents)))
    }

    /// Images decoded from their first `count` tokens.
    fn sample(&self, batch: &Batch, tokens: &Tokens, count: usize, observe: Observer) -> Result<Pixels> {
        let images = batch.images.len();
        let mut after_step = |_| {
            observe(images);
            std::ops::ControlFlow::Continue(())
        };
        let keep = vec![count; images];
        let mut noise = self.latent_noise(batch);
        finite(self.tokenizer.decode_observed(tokens, &keep, &self.sampling, &mut noise, &mut after_step)?)
    }

    /// What the decoder takes images to be before it has seen anything of them but their first `count` tokens: the mean of
    /// all that they may be, in one step from noise and without guidance.
    fn one_step_mean(
        &self,
        process: &Process,
        batch: &Batch,
        tokens: &Tokens,
        count: usize,
    ) -> Result<Pixels> {
        let shape = self.tokenizer.config.latent_shape()?;
        let images = batch.images.len();
        let start =
            self.latent_noise(batch).normal([images, shape.channels, shape.side, shape.side], self.device);
        let time = first_time(process)?;
        let keep = vec![count; images];
        let decoder = &self.tokenizer.networks.decoder;
        let output = decoder.step(start.clone(), time, 0.0, &decoder.condition(tokens, &keep));
        let prediction = process.prediction(output, shape.channels);
        let clean: Tensor<4> = process.denoised(start, prediction, &vec![time; images]).clean;
        finite(self.tokenizer.autoencoder.decode(&Latents(clean)))
    }
}

/// Pictures that are numbers, of which alone something can be said.
fn finite(pictures: Pixels) -> Result<Pixels> {
    let sum: f32 = pictures.0.clone().sum().into_scalar();
    if sum.is_finite() {
        return Ok(pictures);
    }
    Err(Error::Data(
        "the decoder gave pictures that are not finite numbers; its weights are damaged, or guidance is too strong".into(),
    ))
}

/// The time at which there is nothing but noise.
fn first_time(process: &Process) -> Result<f32> {
    let options = DecodeOptions {
        steps: 1,
        sampler: Some(process.few_step_sampler()),
        guidance: semanticist::diffusion::Guidance::NONE,
    };
    let plan: SamplingPlan = options.plan(process)?;
    Ok(plan.times()[0])
}

/// `1 token`, `8 tokens`: what rows and series are called.
pub fn tokens_text(count: usize) -> String {
    if count == 1 { "1 token".into() } else { format!("{count} tokens") }
}
