//! CLIP: images and texts through every block of both towers, to the common space and to logits; what images are prepared to.

use semanticist::image::{RgbImage, to_pixels};
use semanticist::{Pixels, Result};
use semanticist_eval::Clip;
use semanticist_eval::clip::ClipActivation;
use serde::Deserialize;

use super::comparison::Comparison;
use super::tolerance::Kind;

pub(super) const FILE: &str = "clip.safetensors";

#[derive(Debug, Deserialize)]
struct Config {
    /// The names of the activations that the same weights were used with.
    activations: Vec<String>,
}

pub(super) fn run(comparison: &mut Comparison) -> Result<()> {
    let mut recording = comparison.open(FILE)?;
    let Config { activations } = recording.config()?;
    let weights = recording.raw_parameters()?;
    let dims = recording.dims::<4>("images")?;
    let images = Pixels(recording.tensor("images", dims, comparison.device)?);
    let [texts, length] = recording.dims("tokens")?;
    let mut tokens = None;
    for name in activations {
        let activation: ClipActivation = name
            .parse()
            .map_err(|error: String| recording.error(format!("config in the metadata: {error}")))?;
        let network = Clip::from_weights(weights.clone(), recording.path(), activation, comparison.device)?;
        if tokens.is_none() {
            let [_, _, height, width] = dims;
            if dims[1] != 3 || height != network.image_size() || width != height || length > network.context()
            {
                let problem =
                    format!("images of {dims:?} or texts of {length} pieces do not fit its network");
                return Err(recording.error(problem));
            }
            let pieces = recording.integers("tokens", &[texts, length], network.vocabulary() - 1)?;
            let row = |row: &[usize]| row.iter().map(|piece| *piece as u32).collect::<Vec<_>>();
            tokens = Some(pieces.chunks(length).map(row).collect::<Vec<_>>());
            prepared(&network, comparison, &mut recording)?;
        }
        let rows = tokens.as_ref().expect("they were just read");
        let mut layers = Vec::new();
        let of_images = network.image_features_observed(&images, &mut |x| layers.push(("image", x.clone())));
        let in_image = layers.len();
        let of_texts = network.text_features_observed(rows, &mut |x| layers.push(("text", x.clone())));
        for (at, (tower, x)) in layers.into_iter().enumerate() {
            let number = if at < in_image { at } else { at - in_image };
            let name = format!("{name}.{tower}.layer_{number}");
            comparison.compare(&mut recording, &name, x.into(), Kind::Unrounded);
        }
        let logits = network.logits(of_images.clone(), of_texts.clone());
        for (what, found) in
            [("image.embedding", of_images), ("text.embedding", of_texts), ("logits", logits)]
        {
            comparison.compare(&mut recording, &format!("{name}.{what}"), found.into(), Kind::Unrounded);
        }
    }
    comparison.close(&recording);
    Ok(())
}

/// A photo that is not square, cut and resized to what the network sees.
fn prepared(
    network: &Clip,
    comparison: &mut Comparison,
    recording: &mut super::recording::Recording,
) -> Result<()> {
    let [height, width, channels] = recording.dims("photo")?;
    let bytes = recording.floats("photo", &[height, width, channels])?.into_iter().map(|value| value as u8);
    let photo = RgbImage::from_raw(width as u32, height as u32, bytes.collect());
    let photo = photo.filter(|_| channels == 3);
    let photo = photo.ok_or_else(|| recording.error("photo is not of three channels"))?;
    let found: Pixels = to_pixels(&[network.prepared(&photo)], comparison.device);
    comparison.compare(recording, "prepared", found.0.squeeze_dim::<3>(0).into(), Kind::Unrounded);
    Ok(())
}
