//! TiTok: a vision transformer whose latent tokens are quantised, another that paints mask tokens from them, and the
//! convolutional decoder of MaskGIT's VQGAN.
//!
//! Ported from bytedance/1d-tokenizer at 10113ad (modeling/titok.py, modeling/modules/blocks.py): the models of the second
//! stage with `is_legacy`, which S-128, B-64 and L-32 are.

mod names;
mod pixels;
mod transformer;

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use semanticist::nn::{Linear, PatchEmbed, constant};
use semanticist::weights::{self, Weights};
use semanticist::{Pixels, Result};

use self::pixels::PixelDecoder;
use self::transformer::{Half, HalfSize};
use super::codebook::Codebook;
use super::names::Shapes;

/// The network.
#[derive(Module, Debug)]
pub(super) struct TiTok {
    patches: PatchEmbed,
    /// `[K, W]`
    latent_tokens: Param<Tensor<2>>,
    encoder: Half,
    /// `[D, W]`
    projection: Linear,
    pub codebook: Codebook,
    /// `[V, D]`
    embedding: Linear,
    /// `[1, 1, V]`
    mask_token: Param<Tensor<3>>,
    decoder: Half,
    /// `[2 V, V]`
    widening: Linear,
    /// `[P, 2 V]`
    logits: Linear,
    /// `[P, Q]`: the codebook of the pixel decoder, of which mixtures are decoded.
    pixel_codes: Param<Tensor<2>>,
    pixel_decoder: PixelDecoder,
}

/// Whether a published file calls a weight so.
pub(super) fn known(name: &str) -> bool {
    names::convention().known(name)
}

impl TiTok {
    /// # Errors
    /// If these are not the weights of a TiTok.
    pub fn from_weights(found: &Weights, source: &Path, device: &Device) -> Result<Self> {
        let convention = names::convention();
        let mut weights = convention.translated(found, source)?;
        let blank = Self::blank(&Shapes { weights: &weights, convention: &convention, source }, device)?;
        let network = weights::apply(blank, "", &mut weights);
        weights.finish(source)?;
        Ok(network)
    }

    fn blank(shapes: &Shapes, device: &Device) -> Result<Self> {
        let [width, channels, patch, other] = shapes.of("patches.weight")?;
        let [tokens, _] = shapes.of("latent_tokens")?;
        let codebook = shapes.of("codebook.weight")?;
        let [_, dim] = codebook;
        let [narrow, _] = shapes.of("embedding.weight")?;
        let pixel_codes: [usize; 2] = shapes.of("pixel_codes")?;
        let encoder = HalfSize::of("encoder", width, tokens, shapes)?;
        let decoder = HalfSize::of("decoder", narrow, tokens, shapes)?;
        let pixel_decoder = PixelDecoder::blank(pixel_codes[1], shapes, device)?;
        let problem = if (channels, patch) != (3, other) {
            format!("its patches are {channels} channels of {patch}×{other} pixels")
        } else if encoder.side != decoder.side {
            format!("it has {0}×{0} patches and {1}×{1} mask tokens", encoder.side, decoder.side)
        } else if pixel_decoder.stride() != patch {
            format!("patches of {patch} pixels are decoded to {}", pixel_decoder.stride())
        } else {
            let linear = |inputs, outputs| Linear::init_zero(inputs, outputs, device);
            return Ok(Self {
                patches: PatchEmbed {
                    weight: constant(0.0, [width, 3, patch, patch], device),
                    bias: constant(0.0, [width], device),
                },
                latent_tokens: constant(0.0, [tokens, width], device),
                encoder: Half::blank(encoder, device),
                projection: linear(width, dim),
                codebook: Codebook::blank(codebook, device),
                embedding: linear(dim, narrow),
                mask_token: constant(0.0, [1, 1, narrow], device),
                decoder: Half::blank(decoder, device),
                widening: linear(narrow, 2 * narrow),
                logits: linear(2 * narrow, pixel_codes[0]),
                pixel_codes: constant(0.0, pixel_codes, device),
                pixel_decoder,
            });
        };
        Err(shapes.refusal(&problem))
    }

    /// Side of the images, in pixels.
    pub fn image_size(&self) -> usize {
        self.encoder.side() * self.pixel_decoder.stride()
    }

    /// K
    pub fn tokens(&self) -> usize {
        self.latent_tokens.lazy_shape()[0]
    }

    /// # Shapes
    /// `[B, 3, side, side]` in `[0, 1]` -> `[B, K, D]`
    pub fn latents(&self, images: &Pixels) -> Tensor<3> {
        let patches = self.patches.forward(images.0.clone()); // [B, N, W]
        let [b, _, width] = patches.dims();
        let count = self.tokens();
        let latents = self.latent_tokens.val().unsqueeze::<3>().expand([b, count, width]);
        let x = self.encoder.forward(patches, latents);
        let open = x.dims()[1] - count;
        let x = self.encoder.norm_after.forward(x.narrow(1, open, count)); // [B, K, W]
        // The published code means to turn this around and reads the numbers in another order instead, to which the weights
        // behind it were trained (`is_legacy`).
        let x = x.reshape([b, width, count]).swap_dims(1, 2);
        self.projection.forward(x)
    }

    /// What stands at every patch, as codes of the pixel decoder.
    ///
    /// # Shapes
    /// `[B, K, D]` -> `[B, side, side, P]` in patches
    pub fn logits(&self, vectors: Tensor<3>) -> Tensor<4> {
        let latents = self.embedding.forward(vectors); // [B, K, V]
        let [b, _, width] = latents.dims();
        let side = self.decoder.side();
        let masks = self.mask_token.val().expand([b, side * side, width]);
        let x = self.decoder.forward(masks, latents).narrow(1, 1, side * side);
        let x = self.decoder.norm_after.forward(x).reshape([b, side, side, width]);
        self.logits.forward(activation::tanh(self.widening.forward(x)))
    }

    /// # Shapes
    /// `[B, K, D]` -> `[B, 3, side, side]`
    pub fn pixels(&self, vectors: Tensor<3>) -> Tensor<4> {
        let shares = activation::softmax(self.logits(vectors), 3); // [B, h, w, P]
        let [b, h, w, codes] = shares.dims();
        let codebook = self.pixel_codes.val();
        let mixed = shares.reshape([b * h * w, codes]).matmul(codebook); // [B h w, Q]
        let channels = mixed.dims()[1];
        self.pixel_decoder.forward(mixed.reshape([b, h, w, channels])).permute([0, 3, 1, 2])
    }
}
