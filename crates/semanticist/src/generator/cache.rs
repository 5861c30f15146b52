//! What a transformer remembers of the positions that it has seen.

use burn::tensor::Tensor;

/// Keys and values of one layer.
#[derive(Debug, Clone, Default)]
pub struct KeysValues(Option<(Tensor<4>, Tensor<4>)>);

impl KeysValues {
    /// Adds a position; returns the keys and values of all.
    ///
    /// # Shapes
    /// `[B, heads, 1, each]` -> `[B, heads, n, each]`
    pub(super) fn push(&mut self, key: Tensor<4>, value: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let all = match self.0.take() {
            None => (key, value),
            Some((keys, values)) => (Tensor::cat(vec![keys, key], 2), Tensor::cat(vec![values, value], 2)),
        };
        self.0.insert(all).clone()
    }
}
