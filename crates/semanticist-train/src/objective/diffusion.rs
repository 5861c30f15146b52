//! The diffusion loss of images that are decoded from some of their tokens.

use burn::tensor::Tensor;
use semanticist::diffusion::{Losses, Process};
use semanticist::tokenizer::Networks;
use semanticist::{Latents, Tokens};

/// Everything drawn for one batch.
#[derive(Debug, Clone)]
pub struct Draws {
    /// How many tokens each sample keeps.
    pub keep: Vec<usize>,
    /// The time of each sample.
    pub times: Vec<f32>,
    /// Gaussian, of the latents' shape.
    pub noise: Tensor<4>,
}

/// The diffusion loss of a batch whose tokens are these.
///
/// # Shapes
/// `tokens` `[B, K, D]` and `latents` `[B, C, h, w]` on the networks' device.
pub fn loss(
    networks: &Networks,
    process: &Process,
    tokens: &Tokens,
    latents: &Latents,
    draws: &Draws,
) -> Losses {
    let example = process.corrupt(latents.0.clone(), draws.noise.clone(), &draws.times);
    let output = networks.decoder.forward(example.noisy.clone(), &draws.times, tokens, &draws.keep);
    process.loss(output, &example)
}

/// [`loss`], and the hidden states projected onto a teacher's features.
///
/// # Panics
/// If the decoder has no projector.
pub(super) fn projected_loss(
    networks: &Networks,
    process: &Process,
    tokens: &Tokens,
    latents: &Latents,
    draws: &Draws,
) -> (Losses, Tensor<3>) {
    let example = process.corrupt(latents.0.clone(), draws.noise.clone(), &draws.times);
    let noisy = example.noisy.clone();
    let (output, projection) = networks.decoder.forward_projected(noisy, &draws.times, tokens, &draws.keep);
    (process.loss(output, &example), projection)
}
