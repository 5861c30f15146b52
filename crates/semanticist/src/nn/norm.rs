//! Layer normalisation, with parameters of its own or modulated from outside.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use semanticist_ops as ops;

use super::constant;

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
    pub fn init(width: usize, device: &Device) -> Self {
        Self { weight: constant(1.0, [width], device), bias: constant(0.0, [width], device) }
    }

    /// # Shapes
    /// `[B, N, width]` -> the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ops::layer_norm(x, self.weight.val().unsqueeze(), self.bias.val().unsqueeze(), NORM_EPSILON)
    }
}
