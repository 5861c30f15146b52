//! Layer normalisation, with parameters of its own or modulated from outside.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use semanticist_ops as ops;

use super::Initial;
use crate::noise::Noise;

/// What is added to the variance, everywhere.
pub const NORM_EPSILON: f64 = 1e-6;

/// Layer normalisation with learned scale and shift.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`
    pub weight: Param<Tensor<1>>,
    /// `[width]`
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm {
    /// Scale 1, shift 0.
    pub fn init(width: usize, noise: &mut Noise, device: &Device) -> Self {
        Self {
            weight: Initial::Constant(1.0).parameter([width], noise, device),
            bias: Initial::Constant(0.0).parameter([width], noise, device),
        }
    }

    /// # Shapes
    /// `[B, N, width]` -> the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ops::layer_norm(x, self.weight.val().unsqueeze(), self.bias.val().unsqueeze(), NORM_EPSILON)
    }
}
