//! What the training of a tokenizer minimises.

use burn::tensor::Tensor;
use semanticist::diffusion::{Losses, Process};
use semanticist::tokenizer::Networks;
use semanticist::{Error, Latents, Noise, Pixels, Result};
use serde::{Deserialize, Serialize};

/// Nested classifier-free guidance (paper 4.3 and C.1): how many tokens a sample keeps in training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NestedGuidance {
    /// The first step that keeps a random number of tokens, uniform in 1..=K. Steps before it keep
    /// all, so that the encoder can settle.
    pub from_step: u64,
    /// Probability that a sample loses all its tokens, which trains the unguided half of guidance.
    pub drop_all: f64,
    /// The same from `from_step` on; the published trainer has 0 there.
    pub drop_all_nested: f64,
}

impl Default for NestedGuidance {
    fn default() -> Self {
        Self { from_step: 0, drop_all: 0.1, drop_all_nested: 0.1 }
    }
}

impl NestedGuidance {
    /// # Errors
    /// If a probability is outside [0, 1].
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [("drop_all", self.drop_all), ("drop_all_nested", self.drop_all_nested)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::Config(format!("nested_guidance.{name} = {value} is not in [0, 1]")));
            }
        }
        Ok(())
    }

    /// How many of `tokens` tokens each of `count` samples keeps at a step, counted from 1.
    pub fn draw(&self, count: usize, tokens: usize, step: u64, noise: &mut Noise) -> Vec<usize> {
        let nested = step > self.from_step;
        let kept = noise.below(count, tokens).into_iter().map(|k| if nested { k + 1 } else { tokens });
        let drop_all = if nested { self.drop_all_nested } else { self.drop_all } as f32;
        let dropped = noise.uniform(count);
        kept.zip(dropped).map(|(kept, u)| if u < drop_all { 0 } else { kept }).collect()
    }
}

/// Everything drawn for one batch.
#[derive(Debug, Clone)]
pub struct Draws {
    /// How many tokens each sample keeps.
    pub keep: Vec<usize>,
    /// The timestep of each sample.
    pub timesteps: Vec<usize>,
    /// Gaussian, of the latents' shape.
    pub noise: Tensor<4>,
}

/// The diffusion loss of a batch.
///
/// `drop_path` is the source of the encoder's dropped branches; `None` drops none.
///
/// # Shapes
/// `images` `[B, 3, H, W]` and `latents` `[B, C, h, w]` on the networks' device.
pub fn loss(
    networks: &Networks,
    process: &Process,
    (images, latents): (&Pixels, Latents),
    draws: Draws,
    drop_path: Option<&mut Noise>,
) -> Losses {
    let count = networks.encoder.concept_tokens.dims()[1];
    let tokens = networks.encoder.forward(images, count, drop_path).tokens;
    let example = process.add_noise(latents.0, draws.noise, &draws.timesteps);
    let output = networks.decoder.forward(example.noisy.clone(), &draws.timesteps, &tokens, &draws.keep);
    process.training_loss(output, &example)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_tokens_are_uniform_from_one_to_all_and_sometimes_none() {
        let nested = NestedGuidance { from_step: 10, drop_all: 0.1, drop_all_nested: 0.0 };
        let before = nested.draw(10_000, 4, 10, &mut Noise::seeded(0));
        assert!(before.iter().all(|&k| k == 0 || k == 4));
        let none = before.iter().filter(|&&k| k == 0).count();
        assert!((900..1100).contains(&none), "{none}");
        let after = nested.draw(10_000, 4, 11, &mut Noise::seeded(0));
        for k in 1..=4 {
            let count = after.iter().filter(|&&kept| kept == k).count();
            assert!((2350..2650).contains(&count), "{k}: {count}");
        }
    }
}
