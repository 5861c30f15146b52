//! The decoder of MaskGIT's VQGAN: from mixtures of its codes to pixels. Channels are innermost: `[B, H, W, C]`.
//!
//! Ported from bytedance/1d-tokenizer at be0b076, modeling/modules/maskgit_vqgan.py.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use semanticist::Result;
use semanticist::nn::{Convolution, GroupNorm, constant, doubled};
use semanticist_ops::{self as ops, Answer, Stride};

use super::super::names::{Shapes, groups};

#[derive(Module, Debug)]
pub(super) struct PixelDecoder {
    input: Convolution,
    middle: Vec<Residual>,
    /// From the finest to the coarsest; they are passed the other way round.
    levels: Vec<Level>,
    norm: GroupNorm,
    output: Convolution,
}

#[derive(Module, Debug)]
struct Level {
    blocks: Vec<Residual>,
    /// Behind the doubling of the side, in all levels but the finest.
    resample: Option<Convolution>,
}

#[derive(Module, Debug)]
struct Residual {
    norm1: GroupNorm,
    conv1: Kernel,
    norm2: GroupNorm,
    conv2: Kernel,
    /// Where the width changes.
    shortcut: Option<Matrix>,
}

/// A convolution of 3×3 positions without a bias.
#[derive(Module, Debug)]
struct Kernel {
    /// `[outputs, inputs, 3, 3]`
    weight: Param<Tensor<4>>,
}

/// A linear layer without a bias.
#[derive(Module, Debug)]
struct Matrix {
    /// `[outputs, inputs]`
    weight: Param<Tensor<2>>,
}

impl PixelDecoder {
    /// For codes of `inputs` numbers.
    pub fn blank(inputs: usize, shapes: &Shapes, device: &Device) -> Result<Self> {
        let [coarsest, ..] = shapes.of::<4>("pixel_decoder.input.weight")?;
        let count = shapes.count("pixel_decoder.levels.{}.blocks.0.conv1.weight");
        let level = |level: usize| {
            let [width, ..] =
                shapes.of::<4>(&format!("pixel_decoder.levels.{level}.blocks.0.conv1.weight"))?;
            let blocks = shapes.count(&format!("pixel_decoder.levels.{level}.blocks.{{}}.conv1.weight"));
            Ok((width, blocks))
        };
        let sizes = (0..count).map(level).collect::<Result<Vec<_>>>()?;
        let mut widths: Vec<usize> = sizes.iter().map(|size| size.0).collect();
        widths.push(coarsest);
        let groups = groups(&widths, shapes)?;
        let of_level = |(number, &(width, blocks)): (usize, &(usize, usize))| {
            let before = widths[number + 1];
            let block =
                |at: usize| Residual::blank([if at == 0 { before } else { width }, width], groups, device);
            Level {
                blocks: (0..blocks).map(block).collect(),
                resample: (number > 0).then(|| Convolution::blank(width, width, device)),
            }
        };
        let middle = shapes.count("pixel_decoder.middle.{}.conv1.weight");
        Ok(Self {
            input: Convolution::blank(inputs, coarsest, device),
            middle: (0..middle).map(|_| Residual::blank([coarsest; 2], groups, device)).collect(),
            levels: sizes.iter().enumerate().map(of_level).collect(),
            norm: GroupNorm::init(widths[0], groups, device),
            output: Convolution::blank(widths[0], 3, device),
        })
    }

    /// Pixels along a side per code.
    pub fn stride(&self) -> usize {
        1usize.checked_shl(self.levels.len().saturating_sub(1) as u32).unwrap_or(0)
    }

    /// # Shapes
    /// `[B, h, w, Q]` -> `[B, H, W, 3]`, about `[0, 1]`
    pub fn forward(&self, codes: Tensor<4>) -> Tensor<4> {
        let x = self.input.forward(codes, Stride::One);
        let mut x = self.middle.iter().fold(x, |x, block| block.forward(x));
        for level in self.levels.iter().rev() {
            x = level.blocks.iter().fold(x, |x, block| block.forward(x));
            if let Some(resample) = &level.resample {
                x = resample.forward(doubled(x), Stride::One);
            }
        }
        self.output.forward(ops::silu(self.norm.forward(x)), Stride::One)
    }
}

impl Residual {
    fn blank([inputs, outputs]: [usize; 2], groups: usize, device: &Device) -> Self {
        let kernel = |inputs| Kernel { weight: constant(0.0, [outputs, inputs, 3, 3], device) };
        let shortcut = || Matrix { weight: constant(0.0, [outputs, outputs], device) };
        Self {
            norm1: GroupNorm::init(inputs, groups, device),
            conv1: kernel(inputs),
            norm2: GroupNorm::init(outputs, groups, device),
            conv2: kernel(outputs),
            shortcut: (inputs != outputs).then(shortcut),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv1.forward(ops::silu(self.norm1.forward(x.clone())));
        let y = self.conv2.forward(ops::silu(self.norm2.forward(y)));
        match &self.shortcut {
            // Of what the block answers, not of what it was given: the published code does so, and so do its weights.
            Some(shortcut) => y.clone() + ops::linear(y, shortcut.weight.val(), None, Answer::Float32),
            None => x + y,
        }
    }
}

impl Kernel {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::convolve(x, self.weight.val(), None, Stride::One)
    }
}
