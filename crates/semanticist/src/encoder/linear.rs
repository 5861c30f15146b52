//! A linear path from pixels to tokens, beside the transformer.
//!
//! A young transformer does not find the directions in which images differ most for a long time; principal
//! components are those, and linear. With this path an encoder starts as good as they are, and the
//! transformer adds what is not linear. Not in the paper; `docs/recipes.md` has what is known of it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::TokenShape;
use crate::nn::Linear;
use crate::noise::Noise;
use crate::spaces::Pixels;

/// Images are reduced to this side first: what principal components of photos see is coarser.
pub const LINEAR_SIDE: usize = 32;

/// From reduced images to all tokens before they are normalised.
#[derive(Module, Debug)]
pub struct LinearProjection {
    /// `[K D, 3 · 32 · 32]`
    pub map: Linear,
}

impl LinearProjection {
    /// Random weights.
    pub fn init(tokens: TokenShape, noise: &mut Noise, device: &Device) -> Self {
        let inputs = 3 * LINEAR_SIDE.pow(2);
        Self { map: Linear::init(inputs, tokens.count * tokens.dim, noise, device) }
    }

    /// What the path adds to the first `count` tokens of `dim` numbers.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` in `[0, 1]` -> `[B, count, dim]`
    pub fn forward(&self, images: &Pixels, count: usize, dim: usize) -> Tensor<3> {
        let b = images.0.dims()[0];
        let [outputs, _] = self.map.weight.dims();
        let all = self.map.forward(reduced(images)).reshape([b, outputs / dim, dim]);
        all.narrow(1, 0, count)
    }
}

/// The means of squares of pixels, 32 by 32 of them, less 0.5: `[B, 3 · 32 · 32]`.
pub fn reduced(images: &Pixels) -> Tensor<2> {
    let [b, channels, h, w] = images.0.dims();
    let (rows, columns) = (h / LINEAR_SIDE, w / LINEAR_SIDE);
    let squares = images.0.clone().reshape([b, channels, LINEAR_SIDE, rows, LINEAR_SIDE, columns]);
    squares.mean_dim(5).mean_dim(3).reshape([b, channels * LINEAR_SIDE.pow(2)]) - 0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_of_pixels_become_their_mean() {
        let device = Device::flex();
        // Each pixel of a 64×64 image says in which square of 2×2 it is.
        let value = |i: usize| ((i / 64 % 64) / 2 * 32 + (i % 64) / 2) as f32;
        let values: Vec<f32> = (0..3 * 64 * 64).map(value).collect();
        let images = Tensor::<1>::from_floats(values.as_slice(), &device).reshape([1, 3, 64, 64]);
        let found = reduced(&Pixels(images)).into_data().try_to_vec::<f32>().unwrap();
        assert!(found.iter().enumerate().all(|(i, &v)| v == (i % 1024) as f32 - 0.5));
    }
}
