//! DISTS (Ding et al., 2020): how alike the means and the correlations of features are.
//!
//! As `DISTS_pytorch` 0.1 (PyPI) computes it.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use semanticist::Result;
use semanticist::weights::Weights;

use super::trunk::{Architecture, Trunk, colours, placed, take};

/// The mean and deviation of ImageNet's photographs.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// Keeps the fractions finite where features are flat.
const C: f64 = 1e-6;

/// The measure.
#[derive(Debug, Clone)]
pub struct Dists {
    trunk: Trunk,
    /// How much the means of each channel count, and the correlations, per depth, the pixels first: `[1, C]` each. All sum to 1.
    importance: Vec<[Tensor<2>; 2]>,
}

impl Dists {
    /// Reads the weights of VGG-16 (`features.0.weight` …) and of DISTS (`alpha`, `beta`), each from one file or both from one.
    ///
    /// # Errors
    /// If a file cannot be read, or a weight is missing or misshapen.
    pub fn load(files: &[PathBuf], device: &Device) -> Result<Self> {
        let known = |name: &str| name.starts_with("features.") || matches!(name, "alpha" | "beta");
        let (mut weights, source) = super::read(files, "DISTS", known)?;
        Self::take(&mut weights, &source, device)
    }

    /// The same from weights that were read from `source`.
    ///
    /// # Errors
    /// If a weight is missing or misshapen.
    pub fn take(weights: &mut Weights, source: &Path, device: &Device) -> Result<Self> {
        let trunk = Trunk::take(Architecture::SmoothVgg16, weights, source, device)?;
        let widths: Vec<usize> = [3].into_iter().chain(trunk.widths()).collect();
        let all: usize = widths.iter().sum();
        let mut parts = |name: &str| {
            let tensor = take(weights, name, "vgg16", source)?;
            let tensor: Tensor<4> = placed(&tensor, [1, all, 1, 1], name, source, device)?;
            Ok::<_, semanticist::Error>(tensor.reshape([1, all]))
        };
        let (alpha, beta) = (parts("alpha")?, parts("beta")?);
        let sum = (alpha.clone().sum() + beta.clone().sum()).reshape([1, 1]);
        let (alpha, beta) = (alpha / sum.clone(), beta / sum);
        let mut first = 0;
        let importance = widths.into_iter().map(|width| {
            let of_depth = |x: &Tensor<2>| x.clone().narrow(1, first, width);
            let pair = [of_depth(&alpha), of_depth(&beta)];
            first += width;
            pair
        });
        Ok(Self { importance: importance.collect(), trunk })
    }

    /// The distance of every reconstruction from its original: 0 if they are equal.
    ///
    /// # Shapes
    /// `originals`, `reconstructions`: `[B, 3, H, W]` in `[0, 1]` → `[B]`
    pub fn distances(&self, originals: Tensor<4>, reconstructions: Tensor<4>) -> Tensor<1> {
        let batch = originals.dims()[0];
        let both = Tensor::cat(vec![originals, reconstructions], 0).permute([0, 2, 3, 1]);
        let device = both.device();
        let mut alike = self.alike(0, &both, batch);
        let standardised = (both - colours(MEAN, &device)) / colours(DEVIATION, &device);
        self.trunk.features(standardised, |depth, x| {
            alike = alike.clone() + self.alike(depth + 1, x, batch);
        });
        alike * -1.0 + 1.0
    }

    /// What a depth adds: `[2 B, H, W, C]` → `[B]`.
    fn alike(&self, depth: usize, features: &Tensor<4>, batch: usize) -> Tensor<1> {
        let [_, h, w, c] = features.dims();
        let features = features.clone().reshape([2 * batch, h * w, c]);
        let mean = features.clone().mean_dim(1);
        let centred = features - mean.clone();
        let variance = centred.clone().square().mean_dim(1);
        // The published code takes the product of means from the mean of products, which loses small covariances in rounding.
        let [x, y] = [0, batch].map(|first| centred.clone().narrow(0, first, batch));
        let covariance = (x * y).mean_dim(1).reshape([batch, c]);
        let halves = |both: &Tensor<3>| {
            [0, batch].map(|first| both.clone().narrow(0, first, batch).reshape([batch, c]))
        };
        let ([mean_x, mean_y], [variance_x, variance_y]) = (halves(&mean), halves(&variance));
        let of_means = (mean_x.clone() * mean_y.clone() * 2.0 + C) / (mean_x.square() + mean_y.square() + C);
        let of_structure = (covariance * 2.0 + C) / (variance_x + variance_y + C);
        let [alpha, beta] = self.importance[depth].clone();
        (alpha * of_means + beta * of_structure).sum_dim(1).reshape([batch])
    }
}
