//! How well a tokenizer reconstructs images that it was not trained on, from several numbers of tokens.

use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor};
use semanticist::diffusion::{DecodeOptions, Process};
use semanticist::image::{RgbImage, to_pixels};
use semanticist::{Error, Noise, Purpose, Result, Seed, Tokenizer, Tokens};
use semanticist_data::{Source, transform};
use serde::Serialize;

use crate::generation::ImageDecoding;
use crate::quality::{self, Quality};

/// Images that go through the network together.
pub const BATCH: usize = 64;

/// The seed of the draws of every diffusion loss, so that losses can be compared between calls.
const LOSS_SEED: u64 = 1;

/// Up to `count` images spread evenly over a source, cropped to `size`; broken ones are left out. They are
/// decoded as they are asked for.
pub fn images(source: &Source, count: usize, size: usize) -> impl Iterator<Item = Result<RgbImage>> + '_ {
    source.spread_records(count).filter_map(move |record| {
        let decoded = record.and_then(|record| semanticist::image::decode(&record.name, &record.bytes));
        match decoded {
            Ok(image) => Some(Ok(transform::evaluation(&image, size))),
            Err(Error::Image { .. }) => None,
            Err(error) => Some(Err(error)),
        }
    })
}

/// [`images`], all in memory.
///
/// # Errors
/// If the source cannot be read, or all are broken.
pub fn validation_images(source: &Source, count: usize, size: usize) -> Result<Vec<RgbImage>> {
    let images = images(source, count, size).collect::<Result<Vec<_>>>()?;
    if images.is_empty() {
        return Err(no_image());
    }
    Ok(images)
}

fn no_image() -> Error {
    Error::Data("no image to evaluate on could be decoded".into())
}

/// The mean squared error of the prediction, of a flow the velocity, when the decoder sees so many tokens: one number per entry of
/// `counts`. The same noise and times serve every count and every call.
///
/// # Errors
/// If the diffusion process cannot be built.
pub fn losses(
    tokenizer: &Tokenizer,
    images: &[RgbImage],
    counts: &[usize],
    device: &Device,
) -> Result<Vec<f64>> {
    let process = Process::new(&tokenizer.config.diffusion)?;
    let mut totals = vec![0.0; counts.len()];
    for (number, batch) in images.chunks(BATCH).enumerate() {
        let batch = Batch::new(tokenizer, batch, number * BATCH, device)?;
        for (total, found) in totals.iter_mut().zip(batch.losses(tokenizer, &process, counts)) {
            *total += found;
        }
    }
    Ok(totals.into_iter().map(|total| total / images.len() as f64).collect())
}

/// Images on the device, with their tokens.
struct Batch {
    /// The number of the first image among all.
    first: usize,
    pixels: semanticist::Pixels,
    tokens: Tokens,
}

impl Batch {
    fn new(tokenizer: &Tokenizer, images: &[RgbImage], first: usize, device: &Device) -> Result<Self> {
        let pixels = to_pixels(images, device);
        let tokens = tokenizer.encode(&pixels, tokenizer.config.tokens)?;
        Ok(Self { first, pixels, tokens })
    }

    /// The sum of the images' losses for each count.
    fn losses(&self, tokenizer: &Tokenizer, process: &Process, counts: &[usize]) -> Vec<f64> {
        let numbers = self.first..self.first + self.tokens.batch();
        let latents = tokenizer.autoencoder.encode(&self.pixels).0;
        let seed = Seed::new(LOSS_SEED).of(Purpose::Validation);
        let mut noise = Noise::per_sample(numbers.clone().map(|number| seed.at(number as u64)));
        // Spread evenly over the process, so that few images measure all of it.
        let time = |number: usize| process.time_of_place(number * 619 % process.places());
        let times: Vec<f32> = numbers.map(time).collect();
        let drawn = noise.normal(latents.dims(), &latents.device());
        let example = process.corrupt(latents, drawn, &times);
        let loss = |&count: &usize| {
            let keep = vec![count; self.tokens.batch()];
            let decoder = &tokenizer.networks.decoder;
            let output = decoder.forward(example.noisy.clone(), &times, &self.tokens, &keep);
            let mse: Tensor<1> = process.loss(output, &example).mse;
            f64::from(mse.sum().into_scalar::<f32>())
        };
        counts.iter().map(loss).collect()
    }
}

/// One row per image: the original, then its reconstruction from so many tokens.
///
/// # Errors
/// If the sampler cannot run.
pub fn samples(
    tokenizer: &Tokenizer,
    images: &[RgbImage],
    counts: &[usize],
    device: &Device,
) -> Result<Vec<Vec<RgbImage>>> {
    let tokens = tokenizer.encode(&to_pixels(images, device), tokenizer.config.tokens)?;
    let mut rows: Vec<Vec<RgbImage>> = images.iter().map(|image| vec![image.clone()]).collect();
    // The same noise for every count, so that a row shows what the tokens add.
    let seeds = (0..images.len() as u64).collect();
    let decoding = ImageDecoding { options: tokenizer.config.decode_options(), seeds };
    for &count in counts {
        for (row, picture) in rows.iter_mut().zip(decoding.decode(tokenizer, &tokens, count, |_| ())?) {
            row.push(picture);
        }
    }
    Ok(rows)
}

/// How well images are reconstructed from a number of tokens, averaged over the images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ReconstructionMetrics {
    /// How many tokens; 0 is what the model gives without any.
    pub tokens: usize,
    /// Mean over images, in dB.
    pub psnr: f64,
    /// Mean over images; none if they are smaller than the window.
    pub ssim: Option<f64>,
    /// Mean squared error of the prediction, as [`losses`] measures it.
    pub diffusion_loss: f64,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationOptions {
    /// From how many tokens images are reconstructed; 0 is from none.
    pub counts: Vec<usize>,
    /// Steps, sampler and guidance of the decoder.
    pub sampling: DecodeOptions,
    /// Image i starts from the noise of seed `seed + i`, whatever the count.
    pub seed: u64,
}

/// A measurement while images go through it, in memory for one batch of them.
pub struct Evaluation<'a> {
    tokenizer: &'a Tokenizer,
    process: Process,
    options: &'a EvaluationOptions,
    images: usize,
    sums: Vec<Sum>,
}

#[derive(Default)]
struct Sum {
    psnr: f64,
    /// None once an image had none.
    ssim: Option<f64>,
    diffusion_loss: f64,
}

impl<'a> Evaluation<'a> {
    /// Of no image yet.
    ///
    /// # Errors
    /// If the diffusion process cannot be built.
    pub fn new(tokenizer: &'a Tokenizer, options: &'a EvaluationOptions) -> Result<Self> {
        let process = Process::new(&tokenizer.config.diffusion)?;
        let sums = options.counts.iter().map(|_| Sum { ssim: Some(0.0), ..Sum::default() }).collect();
        Ok(Self { tokenizer, process, options, images: 0, sums })
    }

    /// Measures some more images, of which one batch at a time is in memory. `after_step` is called for every batch
    /// of reconstructions in every sampling step, with the number of images in it.
    ///
    /// # Errors
    /// If an image cannot be had, or the sampler cannot run.
    pub fn add(
        &mut self,
        mut images: impl Iterator<Item = Result<RgbImage>>,
        device: &Device,
        mut after_step: impl FnMut(usize),
    ) -> Result<()> {
        loop {
            let images = images.by_ref().take(BATCH).collect::<Result<Vec<_>>>()?;
            if images.is_empty() {
                return Ok(());
            }
            let batch = Batch::new(self.tokenizer, &images, self.images, device)?;
            let losses = batch.losses(self.tokenizer, &self.process, &self.options.counts);
            for (at, loss) in losses.into_iter().enumerate() {
                let qualities = self.qualities(&batch, self.options.counts[at], &mut after_step)?;
                self.sums[at].add(&qualities, loss);
            }
            self.images += images.len();
        }
    }

    fn qualities(
        &self,
        batch: &Batch,
        count: usize,
        mut after_step: impl FnMut(usize),
    ) -> Result<Vec<Quality>> {
        let images = batch.tokens.batch();
        let seeds = (0..images).map(|i| Seed::new(self.options.seed + (batch.first + i) as u64));
        let mut noise = Noise::per_sample(seeds.map(|seed| seed.of(Purpose::Latents)));
        let mut observe = |_| {
            after_step(images);
            ControlFlow::Continue(())
        };
        let (keep, sampling) = (vec![count; images], &self.options.sampling);
        let decoded =
            self.tokenizer.decode_observed(&batch.tokens, &keep, sampling, &mut noise, &mut observe)?;
        Ok(quality::compare(&batch.pixels, &decoded))
    }

    /// The means, one result per count.
    ///
    /// # Errors
    /// If there was no image.
    pub fn finish(self) -> Result<Vec<ReconstructionMetrics>> {
        if self.images == 0 {
            return Err(no_image());
        }
        let images = self.images as f64;
        let mean = |(&tokens, sum): (&usize, Sum)| ReconstructionMetrics {
            tokens,
            psnr: sum.psnr / images,
            ssim: sum.ssim.map(|ssim| ssim / images),
            diffusion_loss: sum.diffusion_loss / images,
        };
        Ok(self.options.counts.iter().zip(self.sums).map(mean).collect())
    }

    /// How many images went through.
    pub fn images(&self) -> usize {
        self.images
    }
}

impl Sum {
    fn add(&mut self, qualities: &[Quality], losses: f64) {
        for quality in qualities {
            self.psnr += quality.psnr;
            self.ssim = self.ssim.zip(quality.ssim).map(|(sum, ssim)| sum + ssim);
        }
        self.diffusion_loss += losses;
    }
}
