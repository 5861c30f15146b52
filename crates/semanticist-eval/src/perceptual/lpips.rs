//! LPIPS (Zhang et al., 2018): the weighted squared distance of unit features.
//!
//! As `lpips` 0.1.4 (PyPI) computes it with `lpips=True`, on VGG-16 or AlexNet.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use semanticist::Result;
use semanticist::weights::Weights;

use super::trunk::{Architecture, Trunk, colours, placed, take};

/// The mean and deviation of ImageNet's photographs, for pixels in `[-1, 1]`.
const MEAN: [f32; 3] = [-0.030, -0.088, -0.188];
const DEVIATION: [f32; 3] = [0.458, 0.448, 0.450];

/// Added to the length of a feature.
const EPSILON: f64 = 1e-10;

/// The measure; it does not learn.
#[derive(Debug, Clone)]
pub struct Lpips {
    trunk: Trunk,
    /// How much each feature counts, per depth: `[1, 1, 1, C]`.
    importance: Vec<Tensor<4>>,
    network: &'static str,
}

impl Lpips {
    /// Reads the weights of VGG-16 or AlexNet (`features.0.weight` …, classifiers are left alone) and of LPIPS
    /// (`lin0.model.1.weight` …), each from one file or both from one.
    ///
    /// # Errors
    /// If a file cannot be read, or a weight is missing or misshapen.
    pub fn load(files: &[PathBuf], device: &Device) -> Result<Self> {
        let known = |name: &str| name.starts_with("features.") || name.starts_with("lin");
        let (mut weights, source) = super::read(files, "LPIPS", known)?;
        Self::take(&mut weights, &source, device)
    }

    /// The same from weights that were read from `source`.
    ///
    /// # Errors
    /// If a weight is missing or misshapen.
    pub fn take(weights: &mut Weights, source: &Path, device: &Device) -> Result<Self> {
        // The first kernel of AlexNet has 11×11 pixels, that of VGG 3×3.
        let first = weights.get("features.0.weight");
        let (architecture, network) = match first.and_then(|weight| weight.shape().get(2).copied()) {
            Some(11) => (Architecture::AlexNet, "alexnet"),
            _ => (Architecture::Vgg16, "vgg16"),
        };
        let trunk = Trunk::take(architecture, weights, source, device)?;
        let importance = trunk.widths().into_iter().enumerate().map(|(depth, width)| {
            let name = format!("lin{depth}.model.1.weight");
            let tensor = take(weights, &name, network, source)?;
            let importance: Tensor<4> = placed(&tensor, [1, width, 1, 1], &name, source, device)?;
            Ok(importance.permute([0, 2, 3, 1]))
        });
        Ok(Self { importance: importance.collect::<Result<_>>()?, trunk, network })
    }

    /// `vgg16` or `alexnet`: distances of one say nothing beside those of the other.
    pub fn network(&self) -> &'static str {
        self.network
    }

    /// Of images, in pixels.
    pub fn smallest_side(&self) -> usize {
        match self.network {
            "alexnet" => 31,
            _ => 16,
        }
    }

    /// The distance of every reconstruction from its original: 0 if they are equal.
    ///
    /// # Shapes
    /// `originals`, `reconstructions`: `[B, 3, H, W]` in `[0, 1]`, sides of at least [`Self::smallest_side`] → `[B]`
    pub fn distances(&self, originals: Tensor<4>, reconstructions: Tensor<4>) -> Tensor<1> {
        let batch = originals.dims()[0];
        let mut total: Option<Tensor<1>> = None;
        let both = standardised(Tensor::cat(vec![originals, reconstructions], 0));
        self.trunk.features(both, |depth, x| {
            let length = x.clone().square().sum_dim(3).sqrt() + EPSILON;
            let unit = x.clone() / length;
            let difference = unit.clone().narrow(0, 0, batch) - unit.narrow(0, batch, batch);
            let [_, h, w, _] = x.dims();
            let weighted = (difference.square() * self.importance[depth].clone()).sum_dim(3);
            let distance = weighted.reshape([batch, h * w]).mean_dim(1).reshape([batch]);
            total = Some(match total.take() {
                Some(total) => total + distance,
                None => distance,
            });
        });
        total.expect("there are five depths")
    }
}

/// Pixels in `[0, 1]` as the network expects them: `[B, 3, H, W]` → `[B, H, W, 3]`.
fn standardised(pixels: Tensor<4>) -> Tensor<4> {
    let device = pixels.device();
    (pixels.permute([0, 2, 3, 1]) * 2.0 - 1.0 - colours(MEAN, &device)) / colours(DEVIATION, &device)
}
