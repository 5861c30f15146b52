//! The transformer that both towers have.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use semanticist::Noise;
use semanticist::nn::{Attention, BlockSize, Initial, LayerNorm, Linear, Mlp};
use semanticist_ops::{self as ops, Activation, Answer, Visibility};

use super::ClipActivation;

/// What norms add to the variance: PyTorch's default.
const EPSILON: f64 = 1e-5;

/// How large a tower is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TowerSize {
    pub width: usize,
    pub depth: usize,
    pub heads: usize,
    /// Hidden width of the MLP.
    pub hidden: usize,
}

/// Blocks, a norm, and a projection into the common space.
#[derive(Module, Debug)]
pub(super) struct Tower {
    blocks: Vec<Block>,
    norm: LayerNorm,
    /// `[E, W]`
    pub projection: Param<Tensor<2>>,
    #[module(skip)]
    activation: Activation,
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Tower {
    pub fn blank(
        size: TowerSize,
        embedding: usize,
        activation: ClipActivation,
        noise: &mut Noise,
        device: &Device,
    ) -> Self {
        let TowerSize { width, depth, heads, hidden } = size;
        let block_size = BlockSize { width, depth, heads, mlp_ratio: 1 };
        let blocks = (0..depth).map(|_| Block {
            norm1: LayerNorm::init(width, device),
            attention: Attention::init(&block_size, noise, device),
            norm2: LayerNorm::init(width, device),
            mlp: Mlp {
                up: Linear::init(width, hidden, noise, device),
                down: Linear::init(hidden, width, noise, device),
            },
        });
        Self {
            blocks: blocks.collect(),
            norm: LayerNorm::init(width, device),
            projection: Initial::Normal(0.02).parameter([embedding, width], noise, device),
            activation: match activation {
                // Of weights that hold its factor (`names`).
                ClipActivation::QuickGelu => Activation::Silu,
                ClipActivation::Gelu => Activation::Gelu,
            },
        }
    }

    /// `[B, N, W]` -> the same, through all blocks
    pub fn run(
        &self,
        mut x: Tensor<3>,
        visibility: Visibility,
        after_block: &mut dyn FnMut(&Tensor<3>),
    ) -> Tensor<3> {
        for Block { norm1, attention, norm2, mlp } in &self.blocks {
            x = x.clone() + attention.forward(normal(norm1, x), visibility);
            x = x.clone() + mlp.forward(normal(norm2, x), self.activation);
            after_block(&x);
        }
        x
    }

    /// `[B, W]` -> `[B, E]`
    pub fn projected(&self, x: Tensor<2>) -> Tensor<2> {
        let x = normal(&self.norm, x.unsqueeze_dim(1)).squeeze_dim(1);
        ops::linear(x, self.projection.val(), None, Answer::Float32)
    }
}

/// `[B, N, W]` -> the same
pub(super) fn normal(norm: &LayerNorm, x: Tensor<3>) -> Tensor<3> {
    ops::layer_norm(x, norm.weight.val().unsqueeze(), norm.bias.val().unsqueeze(), EPSILON)
}
