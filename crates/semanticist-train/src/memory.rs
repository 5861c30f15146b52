//! What training takes of memory, counted from sizes before anything is allocated.

use semanticist::Precision;
use serde::Serialize;

const FLOAT: u64 = size_of::<f32>() as u64;

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
    /// The weights as products read them, if that is in 16 bits.
    pub rounded: u64,
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
            rounded: 0,
            frozen,
            activations_per_image,
            images: images as u64,
            program: PROGRAM,
        }
    }

    /// The same run with its products in `precision`: rounded weights wait for the backward pass beside those that learn.
    pub fn rounding(self, precision: Precision) -> Self {
        let rounded = match precision {
            Precision::Float32 => 0,
            Precision::Bfloat16 => self.weights / 2,
        };
        Self { rounded, ..self }
    }

    /// All of it, as far as it is known: the backward pass at its height, or the update after it, in which the moved
    /// weights and their new average lie beside the old ones.
    pub fn needed(&self) -> u64 {
        let tensors = self.weights + self.average + self.optimizer + self.gradients;
        let images = self.activations_per_image.unwrap_or(0).saturating_mul(self.images);
        // Peaks of batches of 128 lie up to a third above what the operators keep, as freed tensors of many megabytes
        // leave gaps that the next ones do not fill.
        let images = images.saturating_add(images / 3);
        let update = tensors + 2 * self.weights;
        // The allocator keeps an eighth of what an update takes between its tensors.
        let most = (tensors + self.rounded).saturating_add(images).max(update + update / 8);
        most.saturating_add(self.frozen + self.program)
    }

    /// The same run with its batches in other parts.
    pub fn in_parts(&self, batch: usize, parts: usize) -> Self {
        let learnt = self.weights / FLOAT;
        let rounded = self.rounded;
        Self { rounded, ..Self::new(learnt, self.frozen, self.activations_per_image, batch / parts, parts) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greater_of_backward_pass_and_update_counts() {
        let needed =
            |images, parts| TrainingMemory::new(1000, 7, Some(3000), images, parts).needed() - PROGRAM;
        // Weights, average, two moments and gradients of 4000 bytes each; two more and an eighth, or five images and a third.
        assert_eq!([needed(1, 1), needed(5, 1), needed(1, 2)], [31_507, 40_007, 36_007]);
        assert_eq!(TrainingMemory::new(1, 0, Some(u64::MAX), 9, 1).needed(), u64::MAX, "does not wrap");
    }

    #[test]
    fn rounded_weights_lie_beside_the_others_while_a_graph_waits() {
        let plain = TrainingMemory::new(1000, 0, Some(3000), 9, 1);
        let rounded = plain.rounding(Precision::Bfloat16);
        assert_eq!(rounded.needed() - plain.needed(), 2000);
        assert_eq!(rounded.in_parts(9, 3).rounded, 2000);
        let small = |precision| TrainingMemory::new(1000, 0, Some(0), 1, 1).rounding(precision).needed();
        assert_eq!(small(Precision::Bfloat16), small(Precision::Float32), "the update is the most");
    }
}
