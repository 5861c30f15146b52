//! How well a tokenizer reconstructs images that it was not trained on, from several numbers of tokens.

use burn::tensor::{Device, Tensor};
use semanticist::diffusion::Process;
use semanticist::image::{RgbImage, to_pixels};
use semanticist::{Error, Noise, Pixels, Purpose, Result, Seed, Tokenizer, Tokens};
use semanticist_data::{Source, transform};

use crate::generation::ImageDecoding;

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
        let pixels = to_pixels(batch, device);
        let tokens = tokenizer.encode(&pixels, tokenizer.config.tokens)?;
        let found = batch_losses(tokenizer, &process, (&pixels, &tokens), number * BATCH, counts);
        totals.iter_mut().zip(found).for_each(|(total, found)| *total += found);
    }
    Ok(totals.into_iter().map(|total| total / images.len() as f64).collect())
}

/// The sum of the losses of some images, of which the first is number `first` of all, for each count.
pub(crate) fn batch_losses(
    tokenizer: &Tokenizer,
    process: &Process,
    (pixels, tokens): (&Pixels, &Tokens),
    first: usize,
    counts: &[usize],
) -> Vec<f64> {
    let numbers = first..first + tokens.batch();
    let latents = tokenizer.autoencoder.encode(pixels).0;
    let seed = Seed::new(LOSS_SEED).of(Purpose::Validation);
    let mut noise = Noise::per_sample(numbers.clone().map(|number| seed.at(number as u64)));
    // Spread evenly over the process, so that few images measure all of it.
    let time = |number: usize| process.time_of_place(number * 619 % process.places());
    let times: Vec<f32> = numbers.map(time).collect();
    let drawn = noise.normal(latents.dims(), &latents.device());
    let example = process.corrupt(latents, drawn, &times);
    let loss = |&count: &usize| {
        let keep = vec![count; tokens.batch()];
        let output = tokenizer.networks.decoder.forward(example.noisy.clone(), &times, tokens, &keep);
        let mse: Tensor<1> = process.loss(output, &example).mse;
        f64::from(mse.sum().into_scalar::<f32>())
    };
    counts.iter().map(loss).collect()
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
