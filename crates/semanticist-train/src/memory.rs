//! What training takes of memory, counted from sizes before anything is allocated.

use semanticist::nn::BlockSize;
use semanticist::{Result, TokenizerConfig};
use serde::Serialize;

const FLOAT: u64 = size_of::<f32>() as u64;

/// Numbers that a transformer block keeps for the backward pass, per position and in units of its width: its
/// input, two norms, queries, keys and values, the answer of attention, both layers of the MLP and two sums; and
/// what the backward pass holds beside them. `bench train` took 18.5 and
/// 16 of them at the sizes S and tiny (BENCHMARKS.md).
const BLOCK_COPIES: u64 = 20;

/// Code, threads, and images that are being decoded.
const PROGRAM: u64 = 160 << 20;

/// Bytes of memory by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrainingMemory {
    /// The weights that learn, in 32 bits.
    pub weights: u64,
    /// Their moving average.
    pub average: u64,
    /// The two moments of AdamW.
    pub optimizer: u64,
    /// Their gradients: one set, and a second while the parts of a batch are added up.
    pub gradients: u64,
    /// Weights that do not learn.
    pub frozen: u64,
    /// What the backward pass needs of an image; none if it is not known before it is measured.
    pub activations_per_image: Option<u64>,
    /// Images that are computed together: a batch over `accumulate`.
    pub images: u64,
    /// Everything else.
    pub program: u64,
}

impl TrainingMemory {
    /// Of a run with so many numbers that learn and bytes that do not, which computes `images` at once in each
    /// of `parts` parts of a batch.
    pub fn new(
        learnt: u64,
        frozen: u64,
        activations_per_image: Option<u64>,
        images: usize,
        parts: usize,
    ) -> Self {
        let weights = learnt * FLOAT;
        Self {
            weights,
            average: weights,
            optimizer: 2 * weights,
            gradients: if parts > 1 { 2 * weights } else { weights },
            frozen,
            activations_per_image,
            images: images as u64,
            program: PROGRAM,
        }
    }

    /// All of it, as far as it is known: the backward pass at its height, or the update after it, in which the moved
    /// weights and their new average lie beside the old ones.
    pub fn needed(&self) -> u64 {
        let tensors = self.weights + self.average + self.optimizer + self.gradients;
        let images = self.activations_per_image.unwrap_or(0).saturating_mul(self.images);
        let update = tensors + 2 * self.weights;
        // The allocator keeps an eighth of what an update takes between its tensors.
        let most = tensors.saturating_add(images).max(update + update / 8);
        most.saturating_add(self.frozen + self.program)
    }

    /// The same run with its batches in other parts.
    pub fn in_parts(&self, batch: usize, parts: usize) -> Self {
        let learnt = self.weights / FLOAT;
        Self::new(learnt, self.frozen, self.activations_per_image, batch / parts, parts)
    }
}

/// What the backward pass of a tokenizer needs of an image, in bytes.
///
/// # Errors
/// If the configuration is impossible.
pub fn tokenizer_activations(config: &TokenizerConfig) -> Result<u64> {
    let latent = config.latent_shape()?;
    let encoded = (config.image_size / config.encoder.patch_size).pow(2) + 1 + config.tokens;
    let decoded = (latent.side / config.decoder.patch_size).pow(2) + config.tokens;
    Ok(blocks(&config.encoder.blocks, encoded) + blocks(&config.decoder.blocks, decoded))
}

fn blocks(size: &BlockSize, rows: usize) -> u64 {
    // The widest layers of a block are `mlp_ratio` wide; two of the copies above are of them.
    let copies = BLOCK_COPIES * (2 + size.mlp_ratio as u64) / 6;
    copies * (size.depth * rows * size.width) as u64 * FLOAT
}

#[cfg(test)]
mod tests {
    use semanticist::presets;

    use super::*;

    #[test]
    fn the_greater_of_backward_pass_and_update_counts() {
        let needed =
            |images, parts| TrainingMemory::new(1000, 7, Some(3000), images, parts).needed() - PROGRAM;
        // Weights, average, two moments and gradients of 4000 bytes each; two more and an eighth, or five images.
        assert_eq!([needed(1, 1), needed(5, 1), needed(1, 2)], [31_507, 35_007, 36_007]);
        assert_eq!(TrainingMemory::new(1, 0, Some(u64::MAX), 9, 1).needed(), u64::MAX, "does not wrap");
    }

    #[test]
    fn larger_images_and_networks_keep_more() {
        let activations = |name| tokenizer_activations(&presets::tokenizer(name).unwrap()).unwrap();
        let [b, l] = ["b-256x16", "l-256x16"].map(activations);
        // The encoder sees 256 patches, a class token and 256 tokens, the decoder 64 patches and the tokens.
        assert_eq!(b, 20 * 12 * 768 * 4 * (513 + 320));
        assert_eq!(l, 20 * 4 * (12 * 768 * 513 + 24 * 1024 * 320));
    }
}
