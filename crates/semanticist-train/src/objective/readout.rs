//! A nested linear readout: a signal for the encoder that does not pass through the decoder.
//!
//! At most times the noisy latents themselves say most of what the diffusion loss asks for, so that
//! a young encoder learns next to nothing from it: after some 45,000 images (docs/recipes.md) the
//! tokens beyond the fourth still held nothing. One linear map from the kept tokens straight to the
//! clean latents has no such way out, and because the number of kept tokens is drawn, it puts what
//! matters most into the first ones. It belongs to the training run only; nothing is decoded with it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist::nn::Linear;
use semanticist::{Error, Latents, Noise, Result, TokenizerConfig, Tokens};
use serde::{Deserialize, Serialize};

/// How much the readout counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadoutConfig {
    /// Factor of its squared error beside the diffusion loss.
    pub weight: f64,
}

impl ReadoutConfig {
    /// # Errors
    /// If the weight is negative or not a number.
    pub fn validate(&self) -> Result<()> {
        if self.weight.is_finite() && self.weight >= 0.0 {
            return Ok(());
        }
        let weight = self.weight;
        Err(Error::Config(format!("objective.linear_readout.weight = {weight} is not a number of 0 or more")))
    }
}

/// A linear map from all tokens of an image, absent ones as zeros, to its latents.
#[derive(Module, Debug)]
pub struct LinearReadout {
    /// `[C h w, K D]`
    pub map: Linear,
}

impl LinearReadout {
    /// Random weights.
    ///
    /// # Errors
    /// If the configuration is impossible.
    pub fn init(config: &TokenizerConfig, noise: &mut Noise, device: &Device) -> Result<Self> {
        let latent = config.latent_shape()?;
        let outputs = latent.channels * latent.side.pow(2);
        Ok(Self { map: Linear::init(config.tokens * config.token_dim, outputs, noise, device) })
    }

    /// The mean squared error of the latents read out of the first `keep[i]` tokens of each sample.
    ///
    /// # Shapes
    /// `tokens`: `[B, K, D]`, `latents`: `[B, C, h, w]`, `keep`: B numbers
    pub fn loss(&self, tokens: Tokens, keep: &[usize], latents: &Latents) -> Tensor<1> {
        let [b, count, dim] = tokens.0.dims();
        let read = self.map.forward(tokens.kept(keep).reshape([b, count * dim])); // [B, C h w]
        let truth = latents.0.clone().flatten(1, 3); // [B, C h w]
        (read - truth).square().mean()
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;

    use super::*;

    #[test]
    fn only_kept_tokens_are_read() {
        let device = Device::flex();
        // Two tokens of one number, read as their sum; one latent, which is 5.
        let row = Tensor::from_data([[1.0f32, 1.0]], &device);
        let map =
            Linear { weight: Param::from_tensor(row), bias: Param::from_tensor(Tensor::zeros([1], &device)) };
        let readout = LinearReadout { map };
        let loss = |keep: usize| {
            let tokens = Tokens(Tensor::from_data([[[2.0f32], [3.0]]], &device));
            let latents = Latents(Tensor::full([1, 1, 1, 1], 5.0, &device));
            readout.loss(tokens, &[keep], &latents).into_scalar::<f32>()
        };
        assert_eq!([loss(0), loss(1), loss(2)], [25.0, 9.0, 0.0]);
    }
}
