//! The three kinds of value that cross from one stage to the next.

use burn::tensor::{Device, Tensor, TensorData};

use crate::error::{Error, Result};

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

/// Concept tokens, most important first.
///
/// Those of the encoder have mean 0 and unbiased standard deviation 1 over their D numbers; those that a
/// generator draws come close to it, and any others may be decoded.
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

    /// The first `keep[i]` tokens of each image, zeros for the others: `[B, K, D]`.
    pub fn kept(&self, keep: &[usize]) -> Tensor<3> {
        self.0.clone() * present(keep.iter().copied(), self.count(), &self.0.device())
    }

    /// Tokens from numbers: those of one token together, tokens in order, images one after the other.
    ///
    /// # Errors
    /// If the numbers are not `batch × count × dim` or one of these is 0.
    pub fn from_vec(values: Vec<f32>, shape: [usize; 3], device: &Device) -> Result<Self> {
        let expected: usize = shape.iter().product();
        if expected == 0 || values.len() != expected {
            let [batch, count, dim] = shape;
            return Err(Error::Config(format!(
                "{} numbers are not {batch} × {count} tokens of {dim}; expected {expected}, and at least one",
                values.len()
            )));
        }
        Ok(Self(Tensor::from_data(TensorData::new(values, shape), device)))
    }

    /// The numbers in the order of [`Tokens::from_vec`].
    pub fn to_vec(&self) -> Vec<f32> {
        self.0.to_data().iter().collect()
    }

    /// How many images.
    pub fn batch(&self) -> usize {
        self.0.dims()[0]
    }

    /// K, how many tokens each image has.
    pub fn count(&self) -> usize {
        self.0.dims()[1]
    }

    /// D, the numbers per token.
    pub fn dim(&self) -> usize {
        self.0.dims()[2]
    }
}

/// 1 for each of the first `keep` of `count` tokens, 0 for the others, image by image: `[B, count, 1]`.
pub fn present(keep: impl ExactSizeIterator<Item = usize>, count: usize, device: &Device) -> Tensor<3> {
    let shape = [keep.len(), count, 1];
    let values = keep.flat_map(|keep| (0..count).map(move |i| f32::from(i < keep)));
    Tensor::from_data(TensorData::new(values.collect::<Vec<_>>(), shape), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_tokens_and_numbers_again() {
        let device = Device::flex();
        let values: Vec<f32> = (0..12).map(|value| value as f32).collect();
        let tokens = Tokens::from_vec(values.clone(), [2, 3, 2], &device).unwrap();
        assert_eq!((tokens.batch(), tokens.count(), tokens.dim()), (2, 3, 2));
        assert_eq!(tokens.to_vec(), values);
        assert_eq!(tokens.prefix(1).to_vec(), [0.0, 1.0, 6.0, 7.0]);
        let kept = Tokens(tokens.kept(&[1, 2])).to_vec();
        assert_eq!(kept, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 6.0, 7.0, 8.0, 9.0, 0.0, 0.0]);
        for (count, shape) in [(11, [2, 3, 2]), (0, [0, 3, 2])] {
            let error = Tokens::from_vec(vec![0.0; count], shape, &device).unwrap_err().to_string();
            assert!(error.contains(&format!("{count} numbers")), "{error}");
        }
    }
}
