//! What programs ask for, one file per verb: settings in, the library's work on the models' thread, results out.

mod decode;
mod encode;
mod explain;
mod generate;
mod reconstruct;
pub mod study;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use burn::tensor::Device;
use semanticist::Tokens;
use semanticist::diffusion::{DecodeOptions, Guidance, Process, Sampler};
use semanticist::image::{RgbImage, png};

use crate::limits::Limits;
use crate::problem::{Problem, Result};
use crate::routes::{Desk, Served};

pub use decode::decode;
pub use encode::encode;
pub use explain::explain;
pub use generate::{GenerateRequest, generate};
pub use reconstruct::{ReconstructSettings, reconstruct};

/// How images are decoded, checked for these limits; `usual` is what is not asked for.
fn decode_options(
    steps: Option<usize>,
    sampler: Option<Sampler>,
    guidance: Option<f64>,
    usual: &DecodeOptions,
    tokenizer: usize,
    desk: &Desk,
) -> Result<DecodeOptions> {
    let Served { diffusion, .. } = &desk.tokenizers[tokenizer];
    let steps = steps.unwrap_or(usual.steps);
    check_steps(steps, &desk.limits)?;
    let guidance = guidance.map_or(usual.guidance, Guidance::constant);
    let options = DecodeOptions { steps, sampler: sampler.or(usual.sampler), guidance };
    options.plan(&Process::new(diffusion)?)?;
    Ok(options)
}

fn check_steps(steps: usize, limits: &Limits) -> Result<()> {
    if steps <= limits.steps {
        return Ok(());
    }
    Err(Problem::bad(format!("{steps} steps are asked for; this server does at most {}", limits.steps)))
}

/// A PNG file in base64, as JSON holds it.
fn picture(image: &RgbImage) -> String {
    STANDARD.encode(png(image))
}

/// The tokens of images, each a list of lists of numbers.
pub fn nested(tokens: &Tokens) -> Vec<Vec<Vec<f32>>> {
    let [_, count, dim] = tokens.0.dims();
    let values = tokens.to_vec();
    values.chunks(count * dim).map(|image| image.chunks(dim).map(<[f32]>::to_vec).collect()).collect()
}

/// Tokens from such lists.
///
/// # Errors
/// As [`flat`].
fn from_nested(images: &[Vec<Vec<f32>>], device: &Device) -> Result<Tokens> {
    let (shape, values) = flat(images)?;
    Ok(Tokens::from_vec(values, shape, device)?)
}

/// Their shape `[n, k, D]`, and all numbers in a row.
///
/// # Errors
/// If the images have different numbers of tokens, or the tokens of numbers, or there is none, or a number is not finite.
fn flat(images: &[Vec<Vec<f32>>]) -> Result<([usize; 3], Vec<f32>)> {
    let (count, dim) = match images.first().and_then(|image| Some((image.len(), image.first()?.len()))) {
        Some(shape) => shape,
        None => return Err(Problem::bad("\"tokens\" holds no token; expected a list of tokens per image")),
    };
    if images.iter().any(|image| image.len() != count || image.iter().any(|token| token.len() != dim)) {
        return Err(Problem::bad(format!(
            "\"tokens\" holds lists of different lengths; the first image has {count} tokens of {dim} numbers, and \
             all must have"
        )));
    }
    let values = images.concat().concat();
    if values.iter().any(|value| !value.is_finite()) {
        return Err(Problem::bad("\"tokens\" holds a number that is not finite"));
    }
    Ok(([images.len(), count, dim], values))
}
