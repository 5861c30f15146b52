//! Inception-v3 of FID: images to the features of its four blocks, those of sFID and logits.

use semanticist::{Pixels, Result};
use semanticist_eval::inception::{Inception, InputResize};
use serde::Deserialize;

use super::comparison::Comparison;
use super::tolerance::Kind;

pub(super) const FILE: &str = "inception.safetensors";

#[derive(Debug, Deserialize)]
struct Config {
    /// The names of sets of images.
    images: Vec<String>,
}

pub(super) fn run(comparison: &mut Comparison) -> Result<()> {
    let mut recording = comparison.open(FILE)?;
    let Config { images } = recording.config()?;
    let weights = recording.raw_parameters()?;
    let network = Inception::from_weights(weights, recording.path(), comparison.device)?;
    for kind in images {
        let name = format!("{kind}.images");
        let [batch, _, height, width] = recording.dims::<4>(&name)?;
        let pixels = recording.tensor(&name, [batch, 3, height, width], comparison.device)?;
        let found = network.forward(&Pixels(pixels), InputResize::PytorchFid);
        let logits = network.logits(found.features[3].clone());
        for (number, features) in found.features.into_iter().enumerate() {
            let name = format!("{kind}.features_{number}");
            comparison.compare(&mut recording, &name, features.into(), Kind::Unrounded);
        }
        let name = format!("{kind}.spatial");
        comparison.compare(&mut recording, &name, found.spatial.into(), Kind::Unrounded);
        if let Some(logits) = logits {
            comparison.compare(&mut recording, &format!("{kind}.logits"), logits.into(), Kind::Unrounded);
        }
    }
    comparison.close(&recording);
    Ok(())
}
