//! The layers of convolutional networks. Channels are innermost throughout: `[B, H, W, C]`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use semanticist_ops::{self as ops, Stride};

use super::{Initial, NORM_EPSILON, constant};
use crate::noise::Noise;

/// A convolution with kernels of 3×3 positions.
#[derive(Module, Debug)]
pub struct Convolution {
    /// `[outputs, inputs, 3, 3]`
    pub weight: Param<Tensor<4>>,
    /// `[outputs]`
    pub bias: Param<Tensor<1>>,
}

impl Convolution {
    /// A layer that answers 0 until it is given weights.
    pub fn blank(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self {
            weight: constant(0.0, [outputs, inputs, 3, 3], device),
            bias: constant(0.0, [outputs], device),
        }
    }

    /// Normal weights of standard deviation 0.02, no bias.
    pub fn init(inputs: usize, outputs: usize, noise: &mut Noise, device: &Device) -> Self {
        let weight = Initial::Normal(0.02).parameter([outputs, inputs, 3, 3], noise, device);
        Self { weight, bias: constant(0.0, [outputs], device) }
    }

    /// # Shapes
    /// `[B, H, W, inputs]` -> `[B, H / s, W / s, outputs]` with stride s
    pub fn forward(&self, x: Tensor<4>, stride: Stride) -> Tensor<4> {
        ops::convolve(x, self.weight.val(), Some(self.bias.val()), stride)
    }
}

/// Normalises groups of channels over all positions (Wu and He, 2018), then scales and shifts each
/// channel.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[width]`
    pub weight: Param<Tensor<1>>,
    /// `[width]`
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
}

impl GroupNorm {
    /// Scale 1, shift 0.
    pub fn init(width: usize, groups: usize, device: &Device) -> Self {
        Self { weight: constant(1.0, [width], device), bias: constant(0.0, [width], device), groups }
    }

    /// # Shapes
    /// `[B, H, W, width]` -> the same
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, h, w, width] = x.dims();
        let (groups, each) = (self.groups, width / self.groups);
        let x = x.reshape([b, h * w, groups, each]);
        let x = x.clone() - x.mean_dim(1).mean_dim(3);
        let variance = x.clone().square().mean_dim(1).mean_dim(3); // [B, 1, G, 1]
        let factor =
            (variance + NORM_EPSILON).sqrt().recip() * self.weight.val().reshape([1, 1, groups, each]);
        (x * factor + self.bias.val().reshape([1, 1, groups, each])).reshape([b, h, w, width])
    }
}

/// Every position four times, in rows and columns twice as many.
///
/// # Shapes
/// `[B, H, W, C]` -> `[B, 2 H, 2 W, C]`
pub fn doubled(x: Tensor<4>) -> Tensor<4> {
    let [b, h, w, c] = x.dims();
    x.reshape([b, h, 1, w, 1, c]).expand([b, h, 2, w, 2, c]).reshape([b, 2 * h, 2 * w, c])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_repeats_rows_and_columns() {
        let x = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0], &Device::flex()).reshape([1, 2, 2, 1]);
        let rows = [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 3.0, 3.0, 4.0, 4.0];
        assert_eq!(doubled(x).into_data().try_to_vec::<f32>().unwrap(), rows);
    }

    #[test]
    fn groups_come_out_with_mean_zero_and_variance_one() {
        let device = Device::flex();
        let x = Noise::seeded(1).normal([2, 3, 5, 6], &device) * 3.0 + 7.0;
        let y = GroupNorm::init(6, 2, &device).forward(x.clone()).reshape([2, 15, 2, 3]);
        let mean = y.clone().mean_dim(1).mean_dim(3);
        let variance = y.square().mean_dim(1).mean_dim(3);
        assert!(mean.abs().max().into_scalar::<f32>() < 1e-5);
        assert!((variance - 1.0).abs().max().into_scalar::<f32>() < 1e-4);
        // Neither the scale nor the place of a group's values is seen behind it.
        let shifted = GroupNorm::init(6, 2, &device).forward(x.clone() * 2.0 - 5.0);
        let difference = (shifted - GroupNorm::init(6, 2, &device).forward(x)).abs().max();
        assert!(difference.into_scalar::<f32>() < 1e-4);
    }
}
