//! The layers of both halves. Channels are innermost throughout: `[B, H, W, C]`.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist_ops::{self as ops, Stride, Visibility};

use crate::nn::{Convolution, GroupNorm, Linear};

/// A layer that answers 0 until it is given weights.
pub fn blank_linear(inputs: usize, outputs: usize, device: &Device) -> Linear {
    Linear::init_zero(inputs, outputs, device)
}

/// Two convolutions, each after a norm and SiLU, beside the identity or a change of width.
#[derive(Module, Debug)]
pub struct ResidualBlock {
    pub norm1: GroupNorm,
    pub conv1: Convolution,
    pub norm2: GroupNorm,
    pub conv2: Convolution,
    /// Where the width changes.
    pub shortcut: Option<Linear>,
}

impl ResidualBlock {
    pub fn blank([inputs, outputs]: [usize; 2], groups: usize, device: &Device) -> Self {
        Self {
            norm1: GroupNorm::init(inputs, groups, device),
            conv1: Convolution::blank(inputs, outputs, device),
            norm2: GroupNorm::init(outputs, groups, device),
            conv2: Convolution::blank(outputs, outputs, device),
            shortcut: (inputs != outputs).then(|| blank_linear(inputs, outputs, device)),
        }
    }

    /// # Shapes
    /// `[B, H, W, inputs]` -> `[B, H, W, outputs]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv1.forward(ops::silu(self.norm1.forward(x.clone())), Stride::One);
        let y = self.conv2.forward(ops::silu(self.norm2.forward(y)), Stride::One);
        match &self.shortcut {
            Some(shortcut) => shortcut.forward(x) + y,
            None => x + y,
        }
    }
}

/// Attention of every position to all, with one head, beside the identity.
#[derive(Module, Debug)]
pub struct AttentionBlock {
    pub norm: GroupNorm,
    /// `[width, width]`, as the other three
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub out: Linear,
}

impl AttentionBlock {
    pub fn blank(width: usize, groups: usize, device: &Device) -> Self {
        let linear = || blank_linear(width, width, device);
        Self {
            norm: GroupNorm::init(width, groups, device),
            q: linear(),
            k: linear(),
            v: linear(),
            out: linear(),
        }
    }

    /// # Shapes
    /// `[B, H, W, width]` -> the same
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, h, w, width] = x.dims();
        let y = self.norm.forward(x.clone()).reshape([b, h * w, width]); // [B, N, width]
        let qkv = [&self.q, &self.k, &self.v].map(|layer| layer.forward(y.clone()));
        let y = ops::attention(Tensor::cat(qkv.to_vec(), 2), 1, Visibility::All);
        x + self.out.forward(y).reshape([b, h, w, width])
    }
}

/// Residual blocks at one side, each with attention behind it or none.
#[derive(Module, Debug)]
pub struct Level {
    pub blocks: Vec<ResidualBlock>,
    /// As many as blocks, or none.
    pub attentions: Vec<AttentionBlock>,
    /// Behind the blocks of all levels but the last that is passed: of stride 2 in the encoder, after
    /// doubling the side in the decoder.
    pub resample: Option<Convolution>,
}

impl Level {
    /// `blocks` residual blocks, the first of which changes the width.
    pub fn blank(widths: [usize; 2], blocks: usize, groups: usize, device: &Device) -> Self {
        let [inputs, width] = widths;
        let block =
            |i: usize| ResidualBlock::blank([if i == 0 { inputs } else { width }, width], groups, device);
        Self { blocks: (0..blocks).map(block).collect(), attentions: Vec::new(), resample: None }
    }

    /// Adds attention behind every block.
    pub fn with_attention(mut self, width: usize, groups: usize, device: &Device) -> Self {
        self.attentions = self.blocks.iter().map(|_| AttentionBlock::blank(width, groups, device)).collect();
        self
    }

    /// Adds the convolution that changes the side.
    pub fn with_resampling(mut self, width: usize, device: &Device) -> Self {
        self.resample = Some(Convolution::blank(width, width, device));
        self
    }

    /// The blocks, without the change of the side.
    pub fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(x);
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x);
            }
        }
        x
    }
}

/// Block, attention, block at the coarsest side.
#[derive(Module, Debug)]
pub struct Middle {
    pub first: ResidualBlock,
    pub attention: AttentionBlock,
    pub second: ResidualBlock,
}

impl Middle {
    pub fn blank(width: usize, groups: usize, device: &Device) -> Self {
        Self {
            first: ResidualBlock::blank([width, width], groups, device),
            attention: AttentionBlock::blank(width, groups, device),
            second: ResidualBlock::blank([width, width], groups, device),
        }
    }

    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.second.forward(self.attention.forward(self.first.forward(x)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Noise;

    #[test]
    fn blank_blocks_are_the_identity() {
        let device = Device::flex();
        let x = Noise::seeded(1).normal([1, 4, 3, 8], &device);
        let y = Middle::blank(8, 4, &device).forward(x.clone());
        assert_eq!(x.into_data(), y.into_data());
    }
}
