//! The transformer of both halves: a class token, patches, then latent tokens, all of which see each other.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use semanticist::nn::{Attention, BlockSize, Linear, Mlp, constant};
use semanticist::{Noise, Result};
use semanticist_ops::{self as ops, Activation, Visibility};

use super::super::names::Shapes;

/// The width of an attention head in every size.
const HEAD: usize = 64;

/// As `torch.nn.LayerNorm` has it.
const EPSILON: f64 = 1e-5;

/// What the shapes say of a half.
#[derive(Debug, Clone, Copy)]
pub(super) struct HalfSize {
    width: usize,
    depth: usize,
    /// Hidden width of the MLP.
    hidden: usize,
    /// Patches along a side.
    pub side: usize,
    tokens: usize,
}

impl HalfSize {
    pub fn of(half: &str, width: usize, tokens: usize, shapes: &Shapes) -> Result<Self> {
        let [places, _] = shapes.of(&format!("{half}.positions"))?;
        let depth = shapes.count(&format!("{half}.blocks.{{}}.norm1.weight"));
        let [hidden, _] = shapes.of(&format!("{half}.blocks.0.mlp.up.weight"))?;
        let side = (places - 1).isqrt();
        if side == 0 || side * side + 1 != places || !width.is_multiple_of(HEAD) {
            return Err(shapes.refusal(&format!(
                "its {half} has {places} places of {width} numbers, where a square of patches with a class token and heads of \
                 {HEAD} are usual"
            )));
        }
        Ok(Self { width, depth, hidden, side, tokens })
    }
}

/// One of the two transformers.
#[derive(Module, Debug)]
pub(super) struct Half {
    /// `[1, W]`
    class_token: Param<Tensor<2>>,
    /// `[1 + N, W]`
    positions: Param<Tensor<2>>,
    /// `[K, W]`
    latent_positions: Param<Tensor<2>>,
    norm_before: Norm,
    blocks: Vec<Block>,
    pub norm_after: Norm,
}

impl Half {
    pub fn blank(size: HalfSize, device: &Device) -> Self {
        let HalfSize { width, depth, hidden, side, tokens } = size;
        let vectors = |count| constant(0.0, [count, width], device);
        Self {
            class_token: vectors(1),
            positions: vectors(1 + side * side),
            latent_positions: vectors(tokens),
            norm_before: Norm::blank(width, device),
            blocks: (0..depth).map(|_| Block::blank(width, hidden, device)).collect(),
            norm_after: Norm::blank(width, device),
        }
    }

    /// Patches along a side.
    pub fn side(&self) -> usize {
        (self.positions.lazy_shape()[0] - 1).isqrt()
    }

    /// All places behind the last block, before the last norm.
    ///
    /// # Shapes
    /// `[B, N, W]`, `[B, K, W]` -> `[B, 1 + N + K, W]`
    pub fn forward(&self, patches: Tensor<3>, latents: Tensor<3>) -> Tensor<3> {
        let [b, _, width] = patches.dims();
        let class_token = self.class_token.val().unsqueeze::<3>().expand([b, 1, width]);
        let patches = Tensor::cat(vec![class_token, patches], 1) + self.positions.val().unsqueeze();
        let latents = latents + self.latent_positions.val().unsqueeze();
        let x = self.norm_before.forward(Tensor::cat(vec![patches, latents], 1));
        self.blocks.iter().fold(x, |x, block| block.forward(x))
    }
}

#[derive(Module, Debug)]
struct Block {
    norm1: Norm,
    attention: Attention,
    norm2: Norm,
    mlp: Mlp,
}

impl Block {
    fn blank(width: usize, hidden: usize, device: &Device) -> Self {
        let size = BlockSize { width, depth: 1, heads: width / HEAD, mlp_ratio: 1 };
        Self {
            norm1: Norm::blank(width, device),
            // Values are drawn only where none come from a file.
            attention: Attention::init(&size, &mut Noise::seeded(0), device),
            norm2: Norm::blank(width, device),
            mlp: Mlp {
                up: Linear::init_zero(width, hidden, device),
                down: Linear::init_zero(hidden, width, device),
            },
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = x.clone() + self.attention.forward(self.norm1.forward(x), Visibility::All);
        x.clone() + self.mlp.forward(self.norm2.forward(x), Activation::Gelu)
    }
}

/// Layer normalisation with PyTorch's usual epsilon.
#[derive(Module, Debug)]
pub(super) struct Norm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

impl Norm {
    fn blank(width: usize, device: &Device) -> Self {
        Self { weight: constant(1.0, [width], device), bias: constant(0.0, [width], device) }
    }

    /// # Shapes
    /// `[B, N, W]` -> the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ops::layer_norm(x, self.weight.val().unsqueeze(), self.bias.val().unsqueeze(), EPSILON)
    }
}
