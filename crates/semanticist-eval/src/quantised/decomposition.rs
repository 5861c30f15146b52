//! What it is to have seen only a part of tokens that are in no order.
//!
//! The paper decodes TiTok from its first tokens, and VQ-VAE and TiTok from principal components of their latents (section
//! 5.4, Figs. 5 and 10). It does not say what stands where tokens are missing; here it is said below.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Tensor;
use semanticist::spaces::present;
use semanticist::{Result, Tokens};

use crate::principal::PrincipalComponents;

/// How tokens are taken apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DecompositionKind {
    /// The first tokens are kept.
    #[default]
    FirstK,
    /// The first principal components of all tokens together are kept.
    Pca,
}

impl DecompositionKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::FirstK, Self::Pca];

    /// What people type.
    pub fn name(self) -> &'static str {
        match self {
            Self::FirstK => "first-k",
            Self::Pca => "pca",
        }
    }
}

impl fmt::Display for DecompositionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DecompositionKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| format!("there is no decomposition called \"{text}\"; there are {}", known()))
    }
}

/// A decomposition that is ready to be used.
#[derive(Debug, Clone)]
pub enum Decomposition {
    /// Tokens behind the first are 0. All entries of the codebook have length 1: 0 is as far from one as from any other.
    FirstK,
    /// Of the K D numbers of an image's tokens, `count` tokens are the first `count` D principal components: as many numbers.
    /// Without any there is the mean. What the components show is decoded as it is, not quantised anew.
    Pca(Box<PrincipalComponents>),
}

impl Decomposition {
    /// Components of the tokens of these images, as many as there can be.
    ///
    /// # Errors
    /// If there are fewer than two images.
    pub fn pca(vectors: &Tokens) -> Result<Self> {
        let rows = rows(vectors);
        let [n, numbers] = rows.dims();
        Ok(Self::Pca(Box::new(PrincipalComponents::fit(rows, numbers.min(n))?)))
    }

    /// Which it is.
    pub fn kind(&self) -> DecompositionKind {
        match self {
            Self::FirstK => DecompositionKind::FirstK,
            Self::Pca(_) => DecompositionKind::Pca,
        }
    }

    /// What is left of every image's tokens: of each as many as `counts` says.
    ///
    /// # Shapes
    /// `[B, K, D]` -> the same
    ///
    /// # Panics
    /// If there are not B counts, or more is to be kept than there is.
    pub fn kept(&self, vectors: &Tokens, counts: &[usize]) -> Tensor<3> {
        let [b, k, dim] = vectors.0.dims();
        assert!(
            counts.len() == b && counts.iter().all(|&count| count <= k),
            "{counts:?} of {b} times {k} tokens"
        );
        let device = vectors.0.device();
        match self {
            Self::FirstK => vectors.kept(counts),
            Self::Pca(components) => {
                let scores = components.scores(rows(vectors)); // [B, R]
                let rank = scores.dims()[1];
                let kept = counts.iter().map(|count| count * dim);
                let kept = present(kept, rank, &device).squeeze_dim::<2>(2); // [B, R]
                components.rows(&(scores * kept), rank).reshape([b, k, dim])
            }
        }
    }

    /// How it was made, in a sentence.
    pub fn protocol(&self) -> String {
        match self {
            Self::FirstK => "From k tokens: the vectors of the first k, 0 for the others.".into(),
            Self::Pca(components) => format!(
                "From k tokens: as many principal components of an image's vectors as k tokens have numbers, of the {} that could \
                 be fitted; they are not quantised again.",
                components.count()
            ),
        }
    }
}

/// `[B, K, D]` -> `[B, K D]`
fn rows(vectors: &Tokens) -> Tensor<2> {
    vectors.0.clone().flatten(1, 2)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use semanticist::Noise;

    use super::*;

    fn vectors(images: usize) -> Tokens {
        Tokens(Noise::seeded(1).normal([images, 3, 2], &Device::flex()))
    }

    fn apart(a: Tensor<3>, b: Tensor<3>) -> f32 {
        (a - b).abs().max().into_scalar()
    }

    #[test]
    fn first_tokens_stay_and_the_others_are_nothing() {
        let vectors = vectors(2);
        let kept = Decomposition::FirstK.kept(&vectors, &[1, 3]);
        assert_eq!(apart(kept.clone().narrow(0, 1, 1), vectors.0.clone().narrow(0, 1, 1)), 0.0);
        assert_eq!(apart(kept.clone().narrow(1, 0, 1), vectors.0.clone().narrow(1, 0, 1)), 0.0);
        assert_eq!(kept.narrow(0, 0, 1).narrow(1, 1, 2).abs().max().into_scalar::<f32>(), 0.0);
    }

    #[test]
    fn components_of_enough_images_are_all_there_is_and_none_are_the_mean() {
        let vectors = vectors(20);
        let pca = Decomposition::pca(&vectors).unwrap();
        assert!(apart(pca.kept(&vectors, &[3; 20]), vectors.0.clone()) < 1e-4);
        let mean = vectors.0.clone().mean_dim(0).expand([20, 3, 2]);
        assert!(apart(pca.kept(&vectors, &[0; 20]), mean) < 1e-5);
        // Each step adds what is orthogonal to all before it, and no other way to keep two numbers loses less.
        let error = |kept: Tensor<3>| (kept - vectors.0.clone()).square().sum().into_scalar::<f32>();
        let errors = [0, 1, 2, 3].map(|count| error(pca.kept(&vectors, &[count; 20])));
        assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
        assert!(errors[1] < error(Decomposition::FirstK.kept(&vectors, &[1; 20])));
        assert!(Decomposition::pca(&self::vectors(1)).is_err());
    }
}
