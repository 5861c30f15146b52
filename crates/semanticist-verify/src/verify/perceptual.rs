//! LPIPS on VGG-16 and AlexNet, and DISTS: two images to their distance.

use burn::tensor::Tensor;
use semanticist::Result;
use semanticist::weights::Weights;
use semanticist_eval::perceptual::{Dists, Lpips};
use serde::Deserialize;

use super::comparison::Comparison;
use super::recording::Recording;
use super::tolerance::Kind;

pub(super) const LPIPS_FILE: &str = "lpips.safetensors";
pub(super) const DISTS_FILE: &str = "dists.safetensors";

#[derive(Debug, Deserialize)]
struct Config {
    /// The names of the networks beneath.
    networks: Vec<String>,
}

pub(super) fn run_lpips(comparison: &mut Comparison) -> Result<()> {
    let mut recording = comparison.open(LPIPS_FILE)?;
    let Config { networks } = recording.config()?;
    let mut all = recording.raw_parameters()?;
    let [photos, pictures] = images(comparison, &mut recording)?;
    for network in networks {
        let mut weights: Weights = all.split_prefix(&format!("{network}."));
        let measure = Lpips::take(&mut weights, recording.path(), comparison.device)?;
        let distances = measure.distances(photos.clone(), pictures.clone());
        let name = format!("{network}.distances");
        comparison.compare(&mut recording, &name, distances.into(), Kind::Unrounded);
    }
    comparison.close(&recording);
    Ok(())
}

pub(super) fn run_dists(comparison: &mut Comparison) -> Result<()> {
    let mut recording = comparison.open(DISTS_FILE)?;
    let mut weights = recording.raw_parameters()?;
    let [photos, pictures] = images(comparison, &mut recording)?;
    let measure = Dists::take(&mut weights, recording.path(), comparison.device)?;
    let distances = measure.distances(photos, pictures);
    comparison.compare(&mut recording, "distances", distances.into(), Kind::Unrounded);
    comparison.close(&recording);
    Ok(())
}

fn images(comparison: &Comparison, recording: &mut Recording) -> Result<[Tensor<4>; 2]> {
    let [batch, _, height, width] = recording.dims::<4>("photos")?;
    let mut tensor = |name: &str| recording.tensor(name, [batch, 3, height, width], comparison.device);
    Ok([tensor("photos")?, tensor("pictures")?])
}
