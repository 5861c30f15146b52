//! What is predicted of the latents, made whole: convolutions across the edges of the transformer's patches.
//!
//! The transformer predicts each patch by a projection of its own hidden state, so that neighbouring patches
//! agree only as far as attention makes them, and samples of a small one show the patches as a mosaic. A few
//! convolutions over latent pixels, which see the noisy latents, the prediction and what the transformer says of each
//! pixel, can bring them together (U-ViT, arXiv 2209.12152, section 3.1); docs/recipes.md has what they were seen to do.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist_ops::{self as ops, Stride};
use serde::{Deserialize, Serialize};

use super::{OutputLayer, modulated_norm, parts};
use crate::error::{Error, Result};
use crate::nn::{Convolution, Linear, unpatchify};
use crate::noise::Noise;

/// The sizes of a [`Refinement`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefinementConfig {
    /// Numbers per latent pixel between its convolutions.
    pub width: usize,
    /// Residual blocks of two convolutions.
    pub depth: usize,
}

impl RefinementConfig {
    pub(super) fn validate(&self) -> Result<()> {
        for (name, value) in [("width", self.width), ("depth", self.depth)] {
            if value == 0 {
                return Err(Error::Config(format!(
                    "decoder: refinement.{name} is 0; use at least 1, or leave refinement out"
                )));
            }
        }
        Ok(())
    }
}

/// A residual convolutional network on latent pixels, behind the transformer.
#[derive(Module, Debug)]
pub struct Refinement {
    /// From a patch's hidden state to `width` numbers for each of its latent pixels.
    pub features: OutputLayer,
    /// From the noisy latents and the prediction to the width.
    pub input: Convolution,
    /// One after the other.
    pub blocks: Vec<RefinementBlock>,
    /// From the width to what is added to the prediction; zero at first, so that a model that was trained without
    /// can go on with it.
    pub output: Convolution,
}

impl Refinement {
    /// It adds 0.
    ///
    /// `channels`: of the noisy latents, and of the prediction; `hidden`: the transformer's width; `patch`: the side
    /// of its patches.
    pub(super) fn init(
        config: RefinementConfig,
        channels: [usize; 2],
        [hidden, patch]: [usize; 2],
        noise: &mut Noise,
        device: &Device,
    ) -> Self {
        let RefinementConfig { width, depth } = config;
        Self {
            features: OutputLayer::init(hidden, patch.pow(2) * width, false, device),
            input: Convolution::init(channels.iter().sum(), width, noise, device),
            blocks: (0..depth).map(|_| RefinementBlock::init(width, hidden, noise, device)).collect(),
            output: Convolution::blank(width, channels[1], device),
        }
    }

    /// # Shapes
    /// - `prediction`: `[B, outputs C, h, w]`, and so is the result
    /// - `noisy`: `[B, C, h, w]`
    /// - `hidden`: `[B, N, W]`, of `side × side` patches
    /// - `time`: `[1 or B, W]`
    pub(super) fn forward(
        &self,
        prediction: Tensor<4>,
        noisy: Tensor<4>,
        hidden: Tensor<3>,
        time: Tensor<2>,
        side: usize,
    ) -> Tensor<4> {
        let patch = prediction.dims()[2] / side;
        let features = unpatchify(self.features.forward(hidden, time.clone(), side), side, patch);
        let seen = Tensor::cat(vec![noisy, prediction.clone()], 1).permute([0, 2, 3, 1]);
        let mut x = self.input.forward(seen, Stride::One) + features.permute([0, 2, 3, 1]);
        for block in &self.blocks {
            x = block.forward(x, time.clone());
        }
        prediction + self.output.forward(x, Stride::One).permute([0, 3, 1, 2])
    }
}

/// Two convolutions behind a norm that is steered by the time, added to what they are given.
#[derive(Module, Debug)]
pub struct RefinementBlock {
    /// `[2 width, W]`: shift and scale
    pub modulation: Linear,
    /// `[width, width, 3, 3]`
    pub first: Convolution,
    /// `[width, width, 3, 3]`
    pub second: Convolution,
}

impl RefinementBlock {
    fn init(width: usize, hidden: usize, noise: &mut Noise, device: &Device) -> Self {
        Self {
            modulation: Linear::init_zero(hidden, 2 * width, device),
            first: Convolution::init(width, width, noise, device),
            second: Convolution::init(width, width, noise, device),
        }
    }

    /// # Shapes
    /// `x`: `[B, h, w, width]`, `time`: `[1 or B, W]`
    fn forward(&self, x: Tensor<4>, time: Tensor<2>) -> Tensor<4> {
        let [b, h, w, width] = x.dims();
        let [shift, scale] = parts(self.modulation.forward(time));
        let normal =
            modulated_norm(x.clone().reshape([b, h * w, width]), shift, scale).reshape([b, h, w, width]);
        let inner = ops::silu(self.first.forward(normal, Stride::One));
        x + self.second.forward(inner, Stride::One)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On latents of 2 channels and 8×8 pixels, in patches of 2.
    struct Example {
        refinement: Refinement,
        prediction: Tensor<4>,
        noisy: Tensor<4>,
        hidden: Tensor<3>,
        time: Tensor<2>,
    }

    impl Example {
        fn new() -> Self {
            let (device, mut noise) = (Device::flex(), Noise::seeded(0));
            let config = RefinementConfig { width: 6, depth: 1 };
            Self {
                refinement: Refinement::init(config, [2, 2], [8, 2], &mut noise, &device),
                prediction: noise.normal([2, 2, 8, 8], &device),
                noisy: noise.normal([2, 2, 8, 8], &device),
                hidden: noise.normal([2, 16, 8], &device),
                time: noise.normal([2, 8], &device),
            }
        }

        fn with_output(mut self) -> Self {
            let (device, mut noise) = (Device::flex(), Noise::seeded(1));
            self.refinement.output = Convolution::init(6, 2, &mut noise, &device);
            self.refinement.features.linear = Linear::init(8, 24, &mut noise, &device);
            self
        }

        fn answer(&self) -> Tensor<4> {
            let Self { refinement, prediction, noisy, hidden, time } = self;
            refinement.forward(prediction.clone(), noisy.clone(), hidden.clone(), time.clone(), 4)
        }
    }

    /// Which pixels of the first sample differ, by row and column; in the second none may.
    fn differing(a: Tensor<4>, b: Tensor<4>) -> Vec<(usize, usize)> {
        let differs =
            (a - b).abs().max_dim(1).into_data().iter::<f32>().map(|it| it > 0.0).collect::<Vec<_>>();
        assert!(!differs[64..].contains(&true), "samples do not see one another");
        (0..64).filter(|&place| differs[place]).map(|place| (place / 8, place % 8)).collect()
    }

    #[test]
    fn at_first_the_prediction_stays_as_it_is() {
        let example = Example::new();
        assert_eq!(example.answer().into_data(), example.prediction.into_data());
    }

    #[test]
    fn what_is_added_depends_on_pixels_as_far_as_the_convolutions_reach() {
        let example = Example::new().with_output();
        let before = example.answer() - example.prediction.clone();
        let change = Tensor::ones([1, 2, 1, 1], &Device::flex());
        let noisy = example.noisy.clone().slice_assign([0..1, 0..2, 1..2, 2..3], change.clone());
        let changed = Example { noisy, ..example };
        let found = differing(before, changed.answer() - changed.prediction.clone());
        // Four convolutions reach four pixels, across the edges of patches.
        let expected =
            (0..64).map(|place| (place / 8, place % 8)).filter(|&(row, column)| row <= 5 && column <= 6);
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_hidden_state_speaks_of_the_pixels_of_its_patch() {
        let mut example = Example::new().with_output();
        // Without the blocks' convolutions only the last one spreads it.
        for block in &mut example.refinement.blocks {
            block.second = Convolution::blank(6, 6, &Device::flex());
        }
        let before = example.answer();
        let hidden = example
            .hidden
            .clone()
            .slice_assign([0..1, 6..7, 0..8], Noise::seeded(2).normal([1, 1, 8], &Device::flex()));
        let found = differing(before, Example { hidden, ..example }.answer());
        // Patch 6 is in the second row and third column: pixels 2 to 3 and 4 to 5, and one around them.
        let expected = (1..5).flat_map(|row| (3..7).map(move |column| (row, column)));
        assert_eq!(found, expected.collect::<Vec<_>>());
    }
}
