//! What matrix products are computed in.

use std::fmt;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, Reparameterization, Reparameterizer};
use burn::tensor::{DType, Tensor};
use semanticist_ops as ops;
use serde::{Deserialize, Serialize};

use crate::weights::Place;

/// What the products of linear layers and attention are computed in. All else is float32: sums, biases,
/// norms, softmax, residuals, sampling, losses and the autoencoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The published numbers to rounding.
    #[default]
    Float32,
    /// Factors of 8 significant bits, summed in float32: twice as fast on processors with AVX512-BF16 or
    /// AMX, half the memory for weights, answers within about 1 %.
    Bfloat16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
        })
    }
}

impl Precision {
    /// `networks` with the weights of their linear layers stored for these products, one after the other, so
    /// that both are never in memory as a whole. What is rounded stays rounded: for use, not for training,
    /// and not to be saved.
    pub fn store<M: Module>(self, networks: M) -> M {
        match self {
            Self::Float32 => networks,
            Self::Bfloat16 => networks.materialize().map(&mut Rounder(Place::new(""))),
        }
    }

    /// What the weights of `networks` are stored in. Those that [`Precision::train`] rounds when they are
    /// used are stored in float32.
    pub fn stored<M: Module>(networks: &M) -> Self {
        let mut finder = Finder(Self::Float32);
        networks.visit(&mut finder);
        finder.0
    }

    /// Whether this processor has instructions for these products. If not, they are emulated: the answers
    /// are the same, but take longer than in float32.
    pub fn is_native(self) -> bool {
        self == Self::Float32 || Self::bfloat16_instructions().is_some()
    }

    /// What this processor's instructions for products in bfloat16 are called, if it has any.
    pub fn bfloat16_instructions() -> Option<&'static str> {
        ops::bfloat16_instructions()
    }

    /// `networks` that keep their weights in float32 and round them each time they are used, so that an
    /// optimiser's small steps add up (Micikevicius et al., 2018, "master weights").
    pub fn train<M: Module>(self, networks: M) -> M {
        match self {
            Self::Float32 => networks,
            Self::Bfloat16 => networks.apply_reparameterization(RoundLinear),
        }
    }
}

/// Whether a parameter is the weight of a linear layer: the only matrices by that name.
pub(crate) fn is_linear(name: &str, rank: usize) -> bool {
    rank == 2 && (name == "weight" || name.ends_with(".weight"))
}

struct Finder(Precision);

impl ModuleVisitor for Finder {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_initialized() && param.base().dtype() == DType::BF16 {
            self.0 = Precision::Bfloat16;
        }
    }
}

struct Rounder(Place);

impl ModuleMapper for Rounder {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.0.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.0.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if is_linear(&self.0.name(), D) { param.map(ops::to_bfloat16) } else { param }
    }
}

struct RoundLinear;

impl Reparameterizer for RoundLinear {
    type Reparam = Rounded;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Rounded>) {
        (param, is_linear(path, D).then_some(Rounded {}))
    }
}

/// A parameter in float32 that is used in bfloat16.
#[derive(Module, Debug)]
struct Rounded {}

impl Reparameterization for Rounded {
    const NAME: &'static str = "rounded";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        ops::to_bfloat16(base)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::nn::Linear;
    use crate::noise::Noise;

    fn layer(device: &Device) -> Linear {
        Linear::init(24, 16, &mut Noise::seeded(0), device)
    }

    fn inputs(device: &Device) -> Tensor<2> {
        let x = Noise::seeded(1).normal([5, 24], &Device::flex());
        if device.is_autodiff() { Tensor::from_inner(x) } else { x }
    }

    /// What a layer answers, and the gradient of its weight.
    fn answer(layer: &Linear) -> [TensorData; 2] {
        let y = layer.forward(inputs(&Device::flex().autodiff()));
        let gradients = y.clone().square().sum().backward();
        [y.into_data(), layer.weight.base().grad(&gradients).unwrap().into_data()]
    }

    #[test]
    fn training_keeps_its_weights_and_computes_as_what_is_stored() {
        let device = Device::flex().autodiff();
        let plain = layer(&device);
        let kept = plain.weight.val().into_data();
        let training = Precision::Bfloat16.train(plain.clone());
        assert_eq!(Precision::stored(&training), Precision::Float32);
        assert_eq!(training.weight.base().into_data(), kept);

        let stored = Precision::Bfloat16.store(plain.clone());
        assert_eq!(Precision::stored(&stored), Precision::Bfloat16);
        assert_ne!(stored.weight.val().into_data().convert::<f32>(), kept);
        assert_eq!(answer(&training)[0], stored.forward(inputs(&device)).into_data());

        let [exact, rounded] = [plain, training].map(|layer| answer(&layer));
        for (exact, rounded) in exact.iter().zip(&rounded) {
            let (exact, rounded) = (exact.try_to_vec::<f32>().unwrap(), rounded.try_to_vec::<f32>().unwrap());
            let largest = exact.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let apart = exact.iter().zip(&rounded).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(apart > 0.0 && apart < 1e-2 * largest, "{apart} of {largest}");
        }
    }

    #[test]
    fn rounding_twice_or_what_trains_is_rounding_once() {
        let plain = layer(&Device::flex());
        let once = Precision::Bfloat16.store(plain.clone());
        let twice = Precision::Bfloat16.store(once.clone());
        let trained = Precision::Bfloat16.store(Precision::Bfloat16.train(plain));
        for other in [twice, trained] {
            assert_eq!(other.weight.base().into_data(), once.weight.base().into_data());
            assert_eq!(other.weight.val().into_data(), once.weight.val().into_data());
        }
    }
}
