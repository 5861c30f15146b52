//! How good the averaged weights are, on images that training does not see.

use burn::tensor::{Device, Tensor};
use semanticist::diffusion::{Process, SampleOptions};
use semanticist::image::{RgbImage, to_pixels};
use semanticist::noise::derive_seed;
use semanticist::{Error, Noise, Result, Tokenizer};
use serde::Serialize;

use crate::generation::Painting;
use crate::quality::{self, Quality};
use semanticist_data::{Source, transform};

/// Images that go through the network together.
pub const BATCH: usize = 64;

/// The first `count` images of a source, cropped to `size`; broken ones are left out.
///
/// # Errors
/// If the source cannot be read, or all are broken.
pub fn images(source: &Source, count: usize, size: usize) -> Result<Vec<RgbImage>> {
    let mut images = Vec::with_capacity(count);
    for record in source.records() {
        let decoded = record.and_then(|record| semanticist::image::decode(&record.name, &record.bytes));
        match decoded {
            Ok(image) => images.push(transform::evaluation(&image, size)),
            Err(Error::Image { .. }) => continue,
            Err(error) => return Err(error),
        }
        if images.len() >= count {
            break;
        }
    }
    if images.is_empty() {
        return Err(Error::Data("no validation image could be decoded".into()));
    }
    Ok(images)
}

/// The mean squared error of the prediction, of a flow the velocity, when the decoder sees 1, 2, … tokens: one number per
/// entry of `counts`. The same noise and times serve every count and every call.
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
    for (index, images) in images.chunks(BATCH).enumerate() {
        let pixels = to_pixels(images, device);
        let latents = tokenizer.autoencoder.encode(&pixels);
        let tokens = tokenizer.encode(&pixels, tokenizer.config.tokens);
        let mut noise = Noise::seeded(derive_seed(1, &[index as u64]));
        // Spread evenly over the process, so that few images measure all of it.
        let time = |i: usize| process.time_of_place((i * 619 + index * 97) % process.places());
        let times: Vec<f32> = (0..images.len()).map(time).collect();
        let drawn = noise.normal(latents.0.dims(), device);
        let example = process.corrupt(latents.0, drawn, &times);
        for (total, &count) in totals.iter_mut().zip(counts) {
            let keep = vec![count; images.len()];
            let output = tokenizer.networks.decoder.forward(example.noisy.clone(), &times, &tokens, &keep);
            let mse: Tensor<1> = process.loss(output, &example).mse;
            *total += f64::from(mse.sum().into_scalar::<f32>());
        }
    }
    Ok(totals.into_iter().map(|total| total / images.len() as f64).collect())
}

/// One row per image: the original, then what the decoder paints from 1, 2, … tokens.
///
/// # Errors
/// If the sampler cannot run.
pub fn samples(
    tokenizer: &Tokenizer,
    images: &[RgbImage],
    counts: &[usize],
    device: &Device,
) -> Result<Vec<Vec<RgbImage>>> {
    let tokens = tokenizer.encode(&to_pixels(images, device), tokenizer.config.tokens);
    let mut rows: Vec<Vec<RgbImage>> = images.iter().map(|image| vec![image.clone()]).collect();
    // The same noise for every count, so that a row shows what the tokens add.
    let seeds = (0..images.len() as u64).collect();
    let painting = Painting { options: SampleOptions::default(), seeds };
    for &count in counts {
        for (row, picture) in rows.iter_mut().zip(painting.paint(tokenizer, &tokens, count, |_| ())?) {
            row.push(picture);
        }
    }
    Ok(rows)
}

/// What a tokenizer achieves with a number of tokens, averaged over images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Achievement {
    pub tokens: usize,
    /// Mean over images, in dB.
    pub psnr: f64,
    /// Mean over images; none if they are smaller than the window.
    pub ssim: Option<f64>,
    /// Mean squared error of the prediction, as [`losses`] measures it.
    pub diffusion_loss: f64,
}

/// Paints every image from its first 1, 2, … tokens and compares; one result per entry of `counts`.
///
/// Image i starts from the noise of seed `seed + i`, whatever the count. `after_step` is called for
/// every picture in every sampling step, with the number of pictures.
///
/// # Errors
/// If the sampler cannot run.
pub fn achievements(
    tokenizer: &Tokenizer,
    images: &[RgbImage],
    counts: &[usize],
    (options, seed): (&SampleOptions, u64),
    device: &Device,
    mut after_step: impl FnMut(usize),
) -> Result<Vec<Achievement>> {
    let losses = losses(tokenizer, images, counts, device)?;
    let mut qualities: Vec<Vec<Quality>> = vec![Vec::new(); counts.len()];
    for (index, images) in images.chunks(BATCH).enumerate() {
        let pixels = to_pixels(images, device);
        let tokens = tokenizer.encode(&pixels, tokenizer.config.tokens);
        let seeds: Vec<u64> = (0..images.len()).map(|i| seed + (index * BATCH + i) as u64).collect();
        for (found, &count) in qualities.iter_mut().zip(counts) {
            let mut noise = Noise::per_sample(&seeds);
            let keep = vec![count; images.len()];
            let prefix = tokens.prefix(count);
            let progress = || after_step(images.len());
            let painted = tokenizer.decode_observed(&prefix, &keep, options, &mut noise, progress)?;
            found.extend(quality::compare(&pixels, &painted));
        }
    }
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    Ok(counts
        .iter()
        .zip(qualities)
        .zip(losses)
        .map(|((&tokens, qualities), diffusion_loss)| Achievement {
            tokens,
            psnr: mean(qualities.iter().map(|q| q.psnr).collect()),
            ssim: qualities.iter().map(|q| q.ssim).collect::<Option<Vec<_>>>().map(mean),
            diffusion_loss,
        })
        .collect())
}
