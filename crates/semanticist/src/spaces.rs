//! The three kinds of value that cross from one stage to the next.

use burn::tensor::Tensor;

/// Images as the encoder sees them.
///
/// # Shapes
/// `[B, 3, H, W]`, channels red, green, blue, values in `[0, 1]`.
#[derive(Debug, Clone)]
pub struct Pixels(pub Tensor<4>);

/// Images as the decoder denoises them: scaled to about unit variance.
///
/// # Shapes
/// `[B, C, h, w]`.
#[derive(Debug, Clone)]
pub struct Latents(pub Tensor<4>);

/// Concept tokens, most important first, each with mean 0 and unbiased standard deviation 1.
///
/// # Shapes
/// `[B, K, D]`.
#[derive(Debug, Clone)]
pub struct Tokens(pub Tensor<3>);

impl Tokens {
    /// The first `k` tokens of every image.
    ///
    /// # Panics
    /// If there are fewer than `k`.
    pub fn prefix(&self, k: usize) -> Self {
        Self(self.0.clone().narrow(1, 0, k))
    }

    /// How many images.
    pub fn batch(&self) -> usize {
        self.0.dims()[0]
    }

    /// How many tokens each image has.
    pub fn count(&self) -> usize {
        self.0.dims()[1]
    }
}
