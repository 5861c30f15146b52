//! The two halves of a transformer block.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist_ops::{self as ops, Activation, Visibility};
use serde::{Deserialize, Serialize};

use super::Linear;
use crate::error::{Error, Result};
use crate::noise::Noise;

/// The numbers that make a stack of transformer blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockSize {
    /// Width of every position.
    pub width: usize,
    /// How many blocks.
    pub depth: usize,
    /// Attention heads per block.
    pub heads: usize,
    /// Hidden width of the MLP over the width.
    #[serde(default = "four")]
    pub mlp_ratio: usize,
}

fn four() -> usize {
    4
}

impl BlockSize {
    /// Checks that the heads divide the width; `part` names the network in the message.
    pub fn validate(&self, part: &str) -> Result<()> {
        let Self { width, depth, heads, mlp_ratio } = *self;
        if width == 0 || depth == 0 || heads == 0 || mlp_ratio == 0 {
            return Err(Error::Config(format!("{part}: width, depth, heads and mlp_ratio must be positive")));
        }
        if !width.is_multiple_of(heads) {
            return Err(Error::Config(format!(
                "{part}: {heads} heads do not divide a width of {width}; use a divisor such as {}",
                (1..=heads).rev().find(|h| width.is_multiple_of(*h)).unwrap_or(1)
            )));
        }
        Ok(())
    }
}

/// Multi-head self-attention with one projection for queries, keys and values.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[3 width, width]`
    pub qkv: Linear,
    /// `[width, width]`
    pub out: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    /// Random weights, drawn in the order of the fields.
    pub fn init(size: &BlockSize, noise: &mut Noise, device: &Device) -> Self {
        Self {
            qkv: Linear::init(size.width, 3 * size.width, noise, device),
            out: Linear::init(size.width, size.width, noise, device),
            heads: size.heads,
        }
    }

    /// # Shapes
    /// `[B, N, width]` -> the same
    pub fn forward(&self, x: Tensor<3>, visibility: Visibility) -> Tensor<3> {
        self.out.forward(ops::attention(self.qkv.forward_as_weight(x), self.heads, visibility))
    }
}

/// Two linear layers with a non-linearity between them.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[ratio · width, width]`
    pub up: Linear,
    /// `[width, ratio · width]`
    pub down: Linear,
}

impl Mlp {
    /// Random weights, drawn in the order of the fields.
    pub fn init(size: &BlockSize, noise: &mut Noise, device: &Device) -> Self {
        let hidden = size.mlp_ratio * size.width;
        Self {
            up: Linear::init(size.width, hidden, noise, device),
            down: Linear::init(hidden, size.width, noise, device),
        }
    }

    /// # Shapes
    /// `[B, N, width]` -> the same
    pub fn forward(&self, x: Tensor<3>, activation: Activation) -> Tensor<3> {
        Linear::mlp(&self.up, &self.down, x, activation)
    }
}
