//! DINOv2 without registers, with them and with a gated MLP, under both kinds of published names: images of several sizes to the
//! features of patches and of the class token.

use semanticist::{Pixels, Result};
use semanticist_eval::DinoV2;
use serde::Deserialize;

use super::comparison::Comparison;
use super::tolerance::Kind;

pub(super) const FILE: &str = "dinov2.safetensors";

#[derive(Debug, Deserialize)]
struct Config {
    /// The names of the networks.
    networks: Vec<String>,
    /// Sides of the images, in pixels.
    sides: Vec<usize>,
}

pub(super) fn run(comparison: &mut Comparison) -> Result<()> {
    let mut recording = comparison.open(FILE)?;
    let Config { networks, sides } = recording.config()?;
    let mut all = recording.raw_parameters()?;
    let mut images = Vec::new();
    for side in &sides {
        let name = format!("images_{side}");
        let [batch, ..] = recording.dims::<4>(&name)?;
        images.push(Pixels(recording.tensor(&name, [batch, 3, *side, *side], comparison.device)?));
    }
    for name in networks {
        let weights = all.split_prefix(&format!("{name}."));
        let network = DinoV2::from_weights(weights, recording.path(), comparison.device)?;
        for (side, images) in sides.iter().zip(&images) {
            if side % network.patch_size() != 0 {
                let patch = network.patch_size();
                return Err(recording.error(format!("images of {side} pixels for patches of {patch}")));
            }
            let patches = network.patch_features(images);
            comparison.compare(
                &mut recording,
                &format!("{name}.patches_{side}"),
                patches.into(),
                Kind::Unrounded,
            );
            let class = network.features(images).unsqueeze_dim::<3>(1);
            comparison.compare(
                &mut recording,
                &format!("{name}.class_{side}"),
                class.into(),
                Kind::Unrounded,
            );
        }
    }
    comparison.close(&recording);
    Ok(())
}
