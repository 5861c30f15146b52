//! How different two images look to networks trained on photographs: LPIPS and DISTS.

mod dists;
mod lpips;
mod trunk;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use semanticist::weights::{Weights, published};
use semanticist::{Error, Pixels, Result};

pub use dists::Dists;
pub use lpips::Lpips;

/// Images that are compared together: the first features of VGG-16 take 17 MB for one of 256×256 pixels.
const TOGETHER: usize = 4;

/// Those measures whose weights are there.
#[derive(Debug, Clone, Default)]
pub struct PerceptualMeasures {
    /// LPIPS.
    pub lpips: Option<Lpips>,
    /// DISTS.
    pub dists: Option<Dists>,
}

/// What the measures say of an image, each if its weights are there.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PerceptualDistance {
    /// LPIPS, from 0 for equal images.
    pub lpips: Option<f64>,
    /// DISTS, from 0 for equal images to 1.
    pub dists: Option<f64>,
}

impl PerceptualMeasures {
    /// # Errors
    /// If squares of `size` pixels are too small for a network.
    pub fn check_size(&self, size: usize) -> Result<()> {
        let smallest = self.lpips.as_ref().map_or(1, Lpips::smallest_side);
        if size >= smallest {
            return Ok(());
        }
        Err(Error::Config(format!(
            "images of {size}×{size} pixels are too small for LPIPS, whose network takes {smallest} or more"
        )))
    }

    /// Compares each image with the original at the same place of its batch.
    ///
    /// # Shapes
    /// Both `[B, 3, H, W]` → B.
    ///
    /// # Panics
    /// If the shapes differ, or sides are smaller than [`PerceptualMeasures::check_size`] allows.
    pub fn compare(&self, originals: &Pixels, others: &Pixels) -> Vec<PerceptualDistance> {
        let images = originals.0.dims()[0];
        let mut found = Vec::with_capacity(images);
        for first in (0..images).step_by(TOGETHER) {
            let count = TOGETHER.min(images - first);
            let part = |pixels: &Pixels| pixels.0.clone().narrow(0, first, count).clamp(0.0, 1.0);
            let values = |distances: Tensor<1>| -> Vec<f64> {
                let data = distances.into_data().convert::<f32>();
                data.as_slice::<f32>()
                    .expect("the data was just converted to f32")
                    .iter()
                    .map(|&v| v.into())
                    .collect()
            };
            let lpips = self.lpips.as_ref().map(|it| values(it.distances(part(originals), part(others))));
            let dists = self.dists.as_ref().map(|it| values(it.distances(part(originals), part(others))));
            let at = |list: &Option<Vec<f64>>, image: usize| list.as_ref().map(|list| list[image]);
            found.extend(
                (0..count).map(|i| PerceptualDistance { lpips: at(&lpips, i), dists: at(&dists, i) }),
            );
        }
        found
    }
}

/// The weights of `files` that a measure knows.
fn read(files: &[PathBuf], measure: &str, known: impl Fn(&str) -> bool) -> Result<(Weights, PathBuf)> {
    let mut weights = Weights::new();
    for file in files {
        weights.extend(published::read(file, &known)?.0);
    }
    Ok((weights, files.first().map_or(Path::new(measure), PathBuf::as_path).to_path_buf()))
}
