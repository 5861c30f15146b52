//! The discriminator of an autoencoder's reconstructions: which patches look real?

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};
use semanticist::Noise;
use semanticist::nn::{Convolution, GroupNorm};
use semanticist_ops::Stride;
use serde::{Deserialize, Serialize};

/// Slope of the activation below zero.
const SLOPE: f64 = 0.2;

/// How many channels each group of a norm has.
const GROUP: usize = 8;

/// The critic and its part in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscriminatorConfig {
    /// Channels of the first layer, a multiple of 8; they double with each layer, eight times at most.
    pub width: usize,
    /// How often the side is halved.
    pub layers: usize,
    /// Weight of its judgement beside the mean absolute or squared error.
    pub weight: f64,
    /// After this many steps it learns and is listened to. Steps are counted from 1, so step
    /// `from_step + 1` is the first with it, and with 0 every step is.
    #[serde(default)]
    pub from_step: u64,
}

/// A network that judges patches (Isola et al., 2017), with kernels of 3×3 pixels and norms over groups,
/// which do not mix the images of a batch.
#[derive(Module, Debug)]
pub struct Discriminator {
    input: Convolution,
    layers: Vec<Convolution>,
    norms: Vec<GroupNorm>,
    output: Convolution,
}

impl Discriminator {
    /// Random weights.
    pub fn init(config: &DiscriminatorConfig, noise: &mut Noise, device: &Device) -> Self {
        let width = |layer: usize| config.width << layer.min(3);
        Self {
            input: Convolution::init(3, width(0), noise, device),
            layers: (1..config.layers)
                .map(|layer| Convolution::init(width(layer - 1), width(layer), noise, device))
                .collect(),
            norms: (1..config.layers)
                .map(|layer| GroupNorm::init(width(layer), width(layer) / GROUP, device))
                .collect(),
            output: Convolution::init(width(config.layers - 1), 1, noise, device),
        }
    }

    /// How real each patch looks; above 0 it is taken for real.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` in `[0, 1]` → `[B, H / 2^layers, W / 2^layers, 1]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let activate = |x| activation::leaky_relu(x, SLOPE);
        let mut x = activate(self.input.forward(images.permute([0, 2, 3, 1]) * 2.0 - 1.0, Stride::Two));
        for (layer, norm) in self.layers.iter().zip(&self.norms) {
            x = activate(norm.forward(layer.forward(x, Stride::Two)));
        }
        self.output.forward(x, Stride::One)
    }
}

/// The hinge loss of a discriminator: what it says of originals should be above 1, of reconstructions below -1.
pub fn hinge(originals: Tensor<4>, reconstructions: Tensor<4>) -> Tensor<1> {
    ((-originals + 1.0).clamp_min(0.0).mean() + (reconstructions + 1.0).clamp_min(0.0).mean()) * 0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_gets_one_number() {
        let device = Device::flex();
        let config = DiscriminatorConfig { width: 8, layers: 3, weight: 1.0, from_step: 0 };
        let critic = Discriminator::init(&config, &mut Noise::seeded(0), &device);
        let images = Noise::seeded(1).normal([2, 3, 16, 32], &device);
        assert_eq!(critic.forward(images).dims(), [2, 2, 4, 1]);
    }

    #[test]
    fn the_hinge_is_zero_once_both_sides_are_clear() {
        let of = |value: f64| Tensor::<4>::ones([1, 2, 2, 1], &Device::flex()) * value;
        let loss =
            |originals, reconstructions| hinge(of(originals), of(reconstructions)).into_scalar::<f32>();
        assert_eq!(loss(1.5, -1.0), 0.0);
        assert_eq!(loss(0.0, 0.0), 1.0);
        assert_eq!(loss(-1.0, 1.0), 2.0);
    }
}
