//! A linear estimate of the latents from the tokens, which the decoder sees beside the noisy ones.
//!
//! A transformer on patches and tokens must learn where each number of each token belongs, and a small one
//! learns that slowly: what a principal component does, adding one picture to the whole image, is a map of
//! its own for every patch. Here that map is given: one linear layer from all kept tokens to all latents.
//! What is linear in the tokens need not pass through attention, and the decoder adds the rest. Not in the
//! paper; `docs/recipes.md` has what is known of it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::LatentShape;
use crate::encoder::TokenShape;
use crate::nn::{Linear, PatchEmbed};
use crate::noise::Noise;
use crate::spaces::Tokens;

/// From tokens to an estimate of the latents, and from that to what is added to the patches.
#[derive(Module, Debug)]
pub struct LinearEstimate {
    /// `[C h w, K D]`
    pub map: Linear,
    /// From the estimate's patches to the transformer's width.
    pub patches: PatchEmbed,
}

impl LinearEstimate {
    /// Random weights.
    pub fn init(
        latent: LatentShape,
        tokens: TokenShape,
        [patch, width]: [usize; 2],
        noise: &mut Noise,
        device: &Device,
    ) -> Self {
        let outputs = latent.channels * latent.side.pow(2);
        Self {
            map: Linear::init(tokens.count * tokens.dim, outputs, noise, device),
            patches: PatchEmbed::init(latent.channels, patch, width, noise, device),
        }
    }

    /// The latents as the first `keep[i]` tokens of each sample give them; absent tokens are zeros.
    ///
    /// # Shapes
    /// `tokens`: `[B, k, D]`, `keep`: B numbers, result: `[B, C, side, side]`
    pub fn latents(&self, tokens: &Tokens, keep: &[usize], side: usize) -> Tensor<4> {
        let [b, given, dim] = tokens.0.dims();
        let device = tokens.0.device();
        let kept = tokens.kept(keep).reshape([b, given * dim]);
        let [outputs, inputs] = self.map.weight.dims();
        let kept = match inputs - given * dim {
            0 => kept,
            missing => Tensor::cat(vec![kept, Tensor::zeros([b, missing], &device)], 1),
        };
        self.map.forward(kept).reshape([b, outputs / side.pow(2), side, side])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kept_tokens_are_read_and_missing_ones_are_zeros() {
        let device = Device::flex();
        let latent = LatentShape { channels: 2, side: 4, outputs_per_channel: 1, told_span: false };
        let shape = TokenShape { count: 3, dim: 2 };
        let mut noise = Noise::seeded(0);
        let estimate = LinearEstimate::init(latent, shape, [2, 8], &mut noise, &device);
        let all = noise.normal([2, 3, 2], &device);
        let latents = |tokens: Tensor<3>, keep: usize| {
            estimate.latents(&Tokens(tokens), &[keep; 2], 4).into_data().try_to_vec::<f32>().unwrap()
        };
        let changed = Tensor::cat(vec![all.clone().narrow(1, 0, 2), all.clone().narrow(1, 0, 1)], 1);
        assert_eq!(latents(all.clone(), 2), latents(changed.clone(), 2));
        assert_ne!(latents(all.clone(), 3), latents(changed, 3));
        assert_eq!(latents(all.clone(), 2), latents(all.narrow(1, 0, 2), 3));
    }
}
