//! From images and times to vectors, and from vectors back to images.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use semanticist_ops::{self as ops, Activation, Answer};

use super::{Initial, Linear, constant};
use crate::noise::Noise;

/// A convolution whose stride is its size: one vector per patch.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// `[width, channels, patch, patch]`
    pub weight: Param<Tensor<4>>,
    /// `[width]`
    pub bias: Param<Tensor<1>>,
}

impl PatchEmbed {
    /// Glorot's uniform weights, as of a linear layer on the flattened patch.
    pub fn init(channels: usize, patch: usize, width: usize, noise: &mut Noise, device: &Device) -> Self {
        let weight = Initial::glorot(channels * patch * patch, width);
        Self {
            weight: weight.parameter([width, channels, patch, patch], noise, device),
            bias: constant(0.0, [width], device),
        }
    }

    /// # Shapes
    /// `[B, C, H, W]` -> `[B, H W / patch², width]`, row by row
    pub fn forward(&self, images: Tensor<4>) -> Tensor<3> {
        let [width, channels, patch, _] = self.weight.dims();
        let [b, _, h, w] = images.dims();
        let (rows, columns) = (h / patch, w / patch);
        let patches = images
            .reshape([b, channels, rows, patch, columns, patch])
            .permute([0, 2, 4, 1, 3, 5]) // [B, rows, columns, C, patch, patch]
            .reshape([b, rows * columns, channels * patch * patch]);
        let weight = self.weight.val().reshape([width, channels * patch * patch]);
        ops::linear(patches, weight, Some(self.bias.val()), Answer::Float32)
    }
}

/// Puts patches back in their places.
///
/// # Shapes
/// `[B, side², patch² C]`, channels innermost -> `[B, C, side patch, side patch]`
pub fn unpatchify(patches: Tensor<3>, side: usize, patch: usize) -> Tensor<4> {
    let [b, _, packed] = patches.dims();
    let channels = packed / (patch * patch);
    patches
        .reshape([b, side, side, patch, patch, channels])
        .permute([0, 5, 1, 3, 2, 4]) // [B, C, side, patch, side, patch]
        .reshape([b, channels, side * patch, side * patch])
}

/// A time as a vector: sinusoids of many frequencies through a small MLP.
#[derive(Module, Debug)]
pub struct TimestepEmbed {
    /// `[width, 256]`
    pub up: Linear,
    /// `[width, width]`
    pub down: Linear,
}

/// Cosines and sines per time.
const FREQUENCIES: usize = 128;

impl TimestepEmbed {
    /// Random weights: normal, with a deviation of 0.02.
    pub fn init(width: usize, noise: &mut Noise, device: &Device) -> Self {
        Self {
            up: Linear::init_small(2 * FREQUENCIES, width, noise, device),
            down: Linear::init_small(width, width, noise, device),
        }
    }

    /// # Shapes
    /// B times, whole or not -> `[B, width]`
    pub fn forward(&self, times: &[f32]) -> Tensor<2> {
        let device = self.up.weight.device();
        Linear::mlp(&self.up, &self.down, sinusoids(times, &device), Activation::Silu)
    }
}

/// Cosines, then sines, of `t / 10000^(i / 128)` (DiT, models.py, `timestep_embedding`).
fn sinusoids(times: &[f32], device: &Device) -> Tensor<2> {
    let angle = |t: f32, i: usize| {
        let frequency = (-(10_000f64.ln()) * i as f64 / FREQUENCIES as f64).exp() as f32;
        t * frequency
    };
    let mut values = Vec::with_capacity(times.len() * 2 * FREQUENCIES);
    for &t in times {
        values.extend((0..FREQUENCIES).map(|i| angle(t, i).cos()));
        values.extend((0..FREQUENCIES).map(|i| angle(t, i).sin()));
    }
    Tensor::from_data(TensorData::new(values, [times.len(), 2 * FREQUENCIES]), device)
}

/// The fixed positions of a square grid: sines and cosines of the column in the first half of the
/// width, of the row in the second (MAE, `get_2d_sincos_pos_embed`).
///
/// # Shapes
/// `[1, side², width]`; `width` must be a multiple of 4
pub fn sine_cosine_grid(side: usize, width: usize, device: &Device) -> Tensor<3> {
    let quarter = width / 4;
    let mut values = Vec::with_capacity(side * side * width);
    for row in 0..side {
        for column in 0..side {
            for position in [column, row] {
                let angle = |i: usize| position as f64 / 10_000f64.powf(i as f64 / quarter as f64);
                values.extend((0..quarter).map(|i| angle(i).sin() as f32));
                values.extend((0..quarter).map(|i| angle(i).cos() as f32));
            }
        }
    }
    Tensor::from_data(TensorData::new(values, [1, side * side, width]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_come_back_in_their_places() {
        let device = Device::flex();
        let image = Noise::seeded(0).normal([2, 3, 8, 8], &device);
        // A weight that copies pixel (channel, row, column) of the patch to output (row, column, channel).
        let mut weight = vec![0.0f32; 12 * 12];
        for (c, y, x) in (0..12).map(|i| (i / 4, i / 2 % 2, i % 2)) {
            weight[(y * 6 + x * 3 + c) * 12 + c * 4 + y * 2 + x] = 1.0;
        }
        let embed = PatchEmbed {
            weight: Param::from_tensor(Tensor::from_data(TensorData::new(weight, [12, 3, 2, 2]), &device)),
            bias: Param::from_tensor(Tensor::zeros([12], &device)),
        };
        let back = unpatchify(embed.forward(image.clone()), 4, 2);
        assert_eq!(image.into_data(), back.into_data());
    }
}
