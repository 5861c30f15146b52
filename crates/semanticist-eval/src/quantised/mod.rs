//! Tokenizers with a codebook, which the paper compares with (Figs. 1, 5 and 10): TiTok (Yu et al., 2024, arXiv:2406.07550) and
//! the VQ-16 of LlamaGen (Sun et al., 2024, arXiv:2406.06525), from their published files. Only the forward pass, in float32:
//! they do not learn here.

mod codebook;
mod decomposition;
mod names;
mod titok;
mod vq;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use burn::tensor::{Device, Int, Tensor};
use semanticist::weights::{self, Metadata, Weights};
use semanticist::{Error, Pixels, Result, Tokens};

pub use decomposition::{Decomposition, DecompositionKind};

/// Images of 256×256 pixels that go through a network together: its finest level takes 34 MB for each, several times over.
const TOGETHER: usize = 4;

/// Which tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantisedKind {
    /// TiTok S-128, B-64 or L-32; its shapes say which.
    TiTok,
    /// The VQ-16 of LlamaGen.
    Vq,
}

impl QuantisedKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::TiTok, Self::Vq];

    /// What people type.
    pub fn name(self) -> &'static str {
        match self {
            Self::TiTok => "titok",
            Self::Vq => "vq",
        }
    }

    /// What papers call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::TiTok => "TiTok",
            Self::Vq => "LlamaGen's VQ-16",
        }
    }
}

impl fmt::Display for QuantisedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for QuantisedKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| format!("there is no such tokenizer as \"{text}\"; there are {}", known()))
    }
}

/// A tokenizer whose tokens are entries of a codebook.
#[derive(Debug, Clone)]
pub struct QuantisedTokenizer {
    network: Network,
    hash: String,
}

#[derive(Debug, Clone)]
enum Network {
    TiTok(Box<titok::TiTok>),
    Vq(Box<vq::Vq>),
}

/// What a tokenizer says of images.
#[derive(Debug, Clone)]
pub struct Quantised {
    /// `[B, K, D]`: what the encoder answers.
    pub latents: Tensor<3>,
    /// `[B, K]`: the entries of the codebook nearest to them in direction.
    pub codes: Tensor<2, Int>,
    /// `[B, K, D]`: those entries, of length 1. They are what the decoder sees.
    pub vectors: Tokens,
}

impl QuantisedTokenizer {
    /// Reads a published file: of TiTok, `model.safetensors` of `yucornetto/tokenizer_titok_l32_imagenet` and the like or the
    /// `.bin` files of its first release; of LlamaGen, `vq_ds16_c2i.pt`. How large the network is, its weights say.
    ///
    /// # Errors
    /// If the file cannot be read, or does not hold this tokenizer.
    pub fn load(kind: QuantisedKind, path: &Path, device: &Device) -> Result<Self> {
        let known: fn(&str) -> bool = match kind {
            QuantisedKind::TiTok => titok::known,
            QuantisedKind::Vq => vq::known,
        };
        let (found, _) = weights::published::read(path, known)?;
        Self::from_weights(kind, &found, path, device)
    }

    /// The tokenizer of weights that were read already, under their published names; `source` is what errors call their origin.
    ///
    /// # Errors
    /// If they are not those of this tokenizer.
    pub fn from_weights(
        kind: QuantisedKind,
        found: &Weights,
        source: &Path,
        device: &Device,
    ) -> Result<Self> {
        let hash =
            weights::hash(found, &Metadata::new()).map_err(|error| Error::io(source, "read", error))?;
        let network = match kind {
            QuantisedKind::TiTok => {
                Network::TiTok(Box::new(titok::TiTok::from_weights(found, source, device)?))
            }
            QuantisedKind::Vq => Network::Vq(Box::new(vq::Vq::from_weights(found, source, device)?)),
        };
        Ok(Self { network, hash })
    }

    /// Which it is.
    pub fn kind(&self) -> QuantisedKind {
        match &self.network {
            Network::TiTok(_) => QuantisedKind::TiTok,
            Network::Vq(_) => QuantisedKind::Vq,
        }
    }

    /// The SHA-256 of its weights, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Side of the square images it was trained on, in pixels; 256 in those that are published.
    pub fn image_size(&self) -> usize {
        match &self.network {
            Network::TiTok(network) => network.image_size(),
            Network::Vq(network) => network.image_size(),
        }
    }

    /// K, how many tokens an image has: of VQ-16, a grid of 16×16, row by row.
    pub fn tokens(&self) -> usize {
        match &self.network {
            Network::TiTok(network) => network.tokens(),
            Network::Vq(network) => network.tokens(),
        }
    }

    /// D, the numbers of an entry of the codebook.
    pub fn token_dim(&self) -> usize {
        self.codebook().size()[1]
    }

    /// How many entries the codebook has.
    pub fn codebook_size(&self) -> usize {
        self.codebook().size()[0]
    }

    /// What an image's first `count` tokens take, in bits.
    pub fn bits(&self, count: usize) -> f64 {
        count as f64 * (self.codebook_size() as f64).log2()
    }

    fn codebook(&self) -> &codebook::Codebook {
        match &self.network {
            Network::TiTok(network) => &network.codebook,
            Network::Vq(network) => &network.codebook,
        }
    }

    /// The tokens of images.
    ///
    /// # Shapes
    /// `[B, 3, side, side]` in `[0, 1]`, of [`QuantisedTokenizer::image_size`]
    ///
    /// # Panics
    /// If the images are of another size.
    pub fn encode(&self, images: &Pixels) -> Quantised {
        let side = self.image_size();
        assert_eq!(images.0.dims()[1..], [3, side, side], "images of the size the tokenizer was trained on");
        let latents = in_parts(&images.0, |part| match &self.network {
            Network::TiTok(network) => network.latents(&Pixels(part)),
            Network::Vq(network) => network.latents(&Pixels(part)),
        });
        // The products of a batch with all of a large codebook would be a gigabyte.
        let parts = latents.clone().split(TOGETHER, 0).into_iter();
        let codes = Tensor::cat(parts.map(|part| self.codebook().nearest(part)).collect(), 0);
        let vectors = Tokens(self.codebook().vectors(codes.clone()));
        Quantised { latents, codes, vectors }
    }

    /// The images of vectors, which need not be entries of the codebook. Values may lie outside `[0, 1]`: whoever shows or
    /// measures them clamps.
    ///
    /// # Shapes
    /// `[B, K, D]` -> `[B, 3, side, side]`
    ///
    /// # Panics
    /// If there are not as many tokens, or numbers in one, as an image has.
    pub fn decode(&self, vectors: &Tensor<3>) -> Pixels {
        assert_eq!(vectors.dims()[1..], [self.tokens(), self.token_dim()], "the tokens of images");
        Pixels(in_parts(vectors, |part| match &self.network {
            Network::TiTok(network) => network.pixels(part),
            Network::Vq(network) => network.pixels(part),
        }))
    }

    /// What TiTok's transformer says of the codes of its pixel decoder, `[B, side, side, codes]`; nothing for others.
    pub fn pixel_logits(&self, vectors: &Tensor<3>) -> Option<Tensor<4>> {
        match &self.network {
            Network::TiTok(network) => Some(network.logits(vectors.clone())),
            Network::Vq(_) => None,
        }
    }
}

/// Passes a batch through a network a few images at a time.
fn in_parts<const I: usize, const O: usize>(
    x: &Tensor<I>,
    network: impl Fn(Tensor<I>) -> Tensor<O>,
) -> Tensor<O> {
    Tensor::cat(x.clone().split(TOGETHER, 0).into_iter().map(network).collect(), 0)
}

#[cfg(test)]
mod tests;
