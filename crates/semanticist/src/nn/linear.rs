//! The linear layer and its initial values.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use semanticist_ops::{self as ops, Activation, Answer};

use super::{Initial, constant};
use crate::noise::Noise;

/// `x weightᵀ + bias`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[outputs, inputs]`
    pub weight: Param<Tensor<2>>,
    /// `[outputs]`
    pub bias: Param<Tensor<1>>,
}

impl Linear {
    /// Uniform weights of variance 2 / (inputs + outputs) (Glorot and Bengio, 2010), no bias.
    pub fn init(inputs: usize, outputs: usize, noise: &mut Noise, device: &Device) -> Self {
        Self::with_weight(Initial::glorot(inputs, outputs).parameter([outputs, inputs], noise, device))
    }

    /// Normal weights of standard deviation 0.02, no bias.
    pub fn init_small(inputs: usize, outputs: usize, noise: &mut Noise, device: &Device) -> Self {
        Self::with_weight(Initial::Normal(0.02).parameter([outputs, inputs], noise, device))
    }

    /// A layer that answers 0 to everything, so that its block starts as the identity.
    pub fn init_zero(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self::with_weight(constant(0.0, [outputs, inputs], device))
    }

    fn with_weight(weight: Param<Tensor<2>>) -> Self {
        let bias = constant(0.0, [weight.lazy_shape()[0]], &weight.lazy_device());
        Self { weight, bias }
    }

    /// # Shapes
    /// `[.., inputs]` -> `[.., outputs]`, in float32
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(x, self.weight.val(), Some(self.bias.val()), Answer::Float32)
    }

    /// [`Linear::forward`], stored as the weight is: for what only a product reads.
    pub fn forward_as_weight<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(x, self.weight.val(), Some(self.bias.val()), Answer::AsWeight)
    }

    /// `x` as the product with the weight reads it: for what is given to several layers, which would each round it.
    pub fn rounded_for<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if self.weight.val().dtype() == DType::BF16 { ops::to_bfloat16(x) } else { x }
    }

    /// Two layers with an activation between them.
    ///
    /// # Shapes
    /// `[.., inputs]` -> `[.., outputs of down]`
    pub fn mlp<const D: usize>(up: &Self, down: &Self, x: Tensor<D>, activation: Activation) -> Tensor<D> {
        let [up, down] = [up, down].map(|layer| (layer.weight.val(), layer.bias.val()));
        ops::mlp(x, up, down, activation)
    }
}
