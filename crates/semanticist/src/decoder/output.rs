//! From hidden states to what is predicted of the latents.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use semanticist_ops::{self as ops, Stride};

use super::{modulated_norm, parts};
use crate::nn::{Linear, constant};

/// The last layer: a modulated norm and the projection to latent patches.
#[derive(Module, Debug)]
pub struct OutputLayer {
    /// `[2 W, W]`: shift and scale
    pub modulation: Linear,
    /// `[p² outputs C, W]`
    pub linear: Linear,
    /// `[p² outputs C, W, 3, 3]`: what a patch and its eight neighbours add; zero at first, so that a model that was
    /// trained without can go on with it.
    pub overlap: Option<Param<Tensor<4>>>,
}

impl OutputLayer {
    /// It answers 0.
    pub fn init(width: usize, outputs: usize, overlap: bool, device: &Device) -> Self {
        Self {
            modulation: Linear::init_zero(width, 2 * width, device),
            linear: Linear::init_zero(width, outputs, device),
            overlap: overlap.then(|| constant(0.0, [outputs, width, 3, 3], device)),
        }
    }

    /// # Shapes
    /// `x`: `[B, N, W]`, of `side × side` patches
    pub(super) fn forward(&self, x: Tensor<3>, time: Tensor<2>, side: usize) -> Tensor<3> {
        let [shift, scale] = parts(self.modulation.forward(time));
        let x = modulated_norm(x, shift, scale);
        let own = self.linear.forward(x.clone());
        let Some(overlap) = &self.overlap else { return own };
        let ([b, n, width], [_, _, outputs]) = (x.dims(), own.dims());
        let grid = x.reshape([b, side, side, width]);
        own + ops::convolve(grid, overlap.val(), None, Stride::One).reshape([b, n, outputs])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;

    #[test]
    fn neighbours_add_to_a_patch_and_nobody_else_does() {
        let (device, mut noise) = (Device::flex(), Noise::seeded(0));
        let mut layer = OutputLayer::init(8, 3, true, &device);
        let x = noise.normal([2, 25, 8], &device);
        let time = noise.normal([2, 8], &device);
        let answer = |layer: &OutputLayer, x: &Tensor<3>| layer.forward(x.clone(), time.clone(), 5);
        let differ = |a: Tensor<3>, b: Tensor<3>| -> Vec<bool> {
            (a - b).abs().sum_dim(2).into_data().iter::<f32>().map(|it| it > 1e-6).collect()
        };
        layer.linear = Linear::init(8, 3, &mut noise, &device);
        // Zero at first: as without.
        let plain = OutputLayer { overlap: None, ..layer.clone() };
        assert!(!differ(answer(&layer, &x), answer(&plain, &x)).contains(&true));
        layer.overlap = layer.overlap.map(|it| it.map(|it| noise.normal(it.dims(), &device)));
        // Patch 6, in the second row and column, of the first sample.
        let changed = x.clone().slice_assign([0..1, 6..7, 0..8], noise.normal([1, 1, 8], &device));
        let found = differ(answer(&layer, &x), answer(&layer, &changed));
        let expected = |place: usize| place < 25 && place / 5 <= 2 && place % 5 <= 2;
        assert_eq!(found, (0..50).map(expected).collect::<Vec<_>>());
    }
}
