//! The linear layer and its initial values.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use semanticist_ops as ops;

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
        Self::with_weight(uniform(glorot(inputs, outputs), [outputs, inputs], noise, device), device)
    }

    /// Normal weights of standard deviation 0.02, no bias.
    pub fn init_small(inputs: usize, outputs: usize, noise: &mut Noise, device: &Device) -> Self {
        Self::with_weight(noise.normal([outputs, inputs], device) * 0.02, device)
    }

    /// A layer that answers 0 to everything, so that its block starts as the identity.
    pub fn init_zero(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self::with_weight(Tensor::zeros([outputs, inputs], device), device)
    }

    fn with_weight(weight: Tensor<2>, device: &Device) -> Self {
        let outputs = weight.dims()[0];
        Self {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(Tensor::zeros([outputs], device)),
        }
    }

    /// # Shapes
    /// `[.., inputs]` -> `[.., outputs]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(x, self.weight.val(), self.bias.val())
    }
}

/// The bound of Glorot's uniform distribution.
pub(super) fn glorot(inputs: usize, outputs: usize) -> f64 {
    (6.0 / (inputs + outputs) as f64).sqrt()
}

/// Numbers uniform in `[-bound, bound)`.
pub(super) fn uniform<const D: usize>(
    bound: f64,
    shape: [usize; D],
    noise: &mut Noise,
    device: &Device,
) -> Tensor<D> {
    let values = noise.uniform(shape.iter().product());
    let values = values.into_iter().map(|v| (2.0 * v - 1.0) * bound as f32).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(values, shape), device)
}
