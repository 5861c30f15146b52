//! What matrix products are computed in.

use std::fmt;

use burn::module::{Module, ModuleMapper, Param, Reparameterization, Reparameterizer};
use burn::tensor::Tensor;
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
    /// Factors of 8 significant bits, summed in float32: twice as fast on processors with AVX512-BF16,
    /// half the memory for weights, answers within about 1 %.
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
    /// `networks` with the weights of their linear layers stored for these products. What is rounded stays
    /// rounded: for use, not for training, and not to be saved.
    pub fn store<M: Module>(self, networks: M) -> M {
        match self {
            Self::Float32 => networks,
            Self::Bfloat16 => networks.map(&mut Rounder(Place::new(""))),
        }
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
fn is_linear(name: &str, rank: usize) -> bool {
    rank == 2 && (name == "weight" || name.ends_with(".weight"))
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
