//! The two networks: images to moments of latents, and latents to images.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist_ops::{self as ops, Stride};

use super::config::KlConfig;
use super::layers::{Level, Middle};
use crate::nn::{Convolution, GroupNorm, doubled};

/// Images to moments.
#[derive(Module, Debug)]
pub struct KlEncoder {
    pub(crate) input: Convolution,
    /// From the finest to the coarsest.
    pub(crate) levels: Vec<Level>,
    pub(crate) middle: Middle,
    pub(crate) norm: GroupNorm,
    pub(crate) output: Convolution,
}

impl KlEncoder {
    /// Zeros everywhere but in the scales of norms: what weights are placed in.
    ///
    /// # Panics
    /// If the configuration is not valid.
    pub fn blank(config: &KlConfig, device: &Device) -> Self {
        let (groups, last) = (config.groups, config.levels() - 1);
        let level = |i: usize| {
            let width = config.width(i);
            let before = if i == 0 { config.base_width } else { config.width(i - 1) };
            let level = Level::blank([before, width], config.blocks, groups, device);
            let level = if config.encoder_attention.contains(&i) {
                level.with_attention(width, groups, device)
            } else {
                level
            };
            if i < last { level.with_resampling(width, device) } else { level }
        };
        let width = config.width(last);
        Self {
            input: Convolution::blank(3, config.base_width, device),
            levels: (0..=last).map(level).collect(),
            middle: Middle::blank(width, groups, device),
            norm: GroupNorm::init(width, groups, device),
            output: Convolution::blank(width, 2 * config.channels, device),
        }
    }

    /// # Shapes
    /// `[B, H, W, 3]` in `[-1, 1]` -> `[B, h, w, 2 C]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let mut x = self.input.forward(images, Stride::One);
        for level in &self.levels {
            x = level.forward(x);
            if let Some(resample) = &level.resample {
                x = resample.forward(x, Stride::Two);
            }
        }
        let x = self.middle.forward(x);
        self.output.forward(ops::silu(self.norm.forward(x)), Stride::One)
    }
}

/// Latents to images.
#[derive(Module, Debug)]
pub struct KlDecoder {
    pub(crate) input: Convolution,
    pub(crate) middle: Middle,
    /// From the finest to the coarsest, as in the encoder; they are passed the other way round.
    pub(crate) levels: Vec<Level>,
    pub(crate) norm: GroupNorm,
    pub(crate) output: Convolution,
}

impl KlDecoder {
    /// Zeros everywhere but in the scales of norms: what weights are placed in.
    ///
    /// # Panics
    /// If the configuration is not valid.
    pub fn blank(config: &KlConfig, device: &Device) -> Self {
        let (groups, last) = (config.groups, config.levels() - 1);
        let level = |i: usize| {
            let width = config.width(i);
            let before = config.width((i + 1).min(last));
            let level = Level::blank([before, width], config.blocks + 1, groups, device);
            let level = if config.decoder_attention.contains(&i) {
                level.with_attention(width, groups, device)
            } else {
                level
            };
            if i > 0 { level.with_resampling(width, device) } else { level }
        };
        let width = config.width(last);
        Self {
            input: Convolution::blank(config.channels, width, device),
            middle: Middle::blank(width, groups, device),
            levels: (0..=last).map(level).collect(),
            norm: GroupNorm::init(config.width(0), groups, device),
            output: Convolution::blank(config.width(0), 3, device),
        }
    }

    /// # Shapes
    /// `[B, h, w, C]` -> `[B, H, W, 3]`, about `[-1, 1]`
    pub fn forward(&self, latents: Tensor<4>) -> Tensor<4> {
        let mut x = self.middle.forward(self.input.forward(latents, Stride::One));
        for level in self.levels.iter().rev() {
            x = level.forward(x);
            if let Some(resample) = &level.resample {
                x = resample.forward(doubled(x), Stride::One);
            }
        }
        self.output.forward(ops::silu(self.norm.forward(x)), Stride::One)
    }
}
