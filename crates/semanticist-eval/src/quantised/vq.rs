//! VQ-16 of LlamaGen: the convolutional networks of latent diffusion with a codebook between them.
//!
//! Ported from FoundationVision/LlamaGen at 3786e6a, tokenizer/tokenizer_image/vq_model.py. Its halves are those of the KL
//! autoencoder ([`semanticist::autoencoder::kl`]) with attention at the coarsest level of both, under other names.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist::autoencoder::KlConfig;
use semanticist::autoencoder::kl::{KlDecoder, KlEncoder};
use semanticist::nn::Linear;
use semanticist::weights::{self, Weights};
use semanticist::{Pixels, Result};

use super::codebook::Codebook;
use super::names::{Convention, Shapes, groups};

/// Tokens along a side of the images it was trained on.
const SIDE: usize = 16;

/// Of the network beside its residual blocks and attention: ours, the published. Levels of the decoder are counted from the
/// coarsest here, and put in our order afterwards.
const TOP: &[[&str; 2]] = &[
    ["encoder.input.{p}", "encoder.conv_in.{p}"],
    ["encoder.levels.{l}.resample.{p}", "encoder.conv_blocks.{l}.downsample.conv.{p}"],
    ["encoder.norm.{p}", "encoder.norm_out.{p}"],
    ["encoder.output.{p}", "encoder.conv_out.{p}"],
    ["narrowing.{p}", "quant_conv.{p}"],
    ["codebook.weight", "quantize.embedding.weight"],
    ["widening.{p}", "post_quant_conv.{p}"],
    ["decoder.input.{p}", "decoder.conv_in.{p}"],
    ["decoder.levels.{l}.resample.{p}", "decoder.conv_blocks.{l}.upsample.conv.{p}"],
    ["decoder.norm.{p}", "decoder.norm_out.{p}"],
    ["decoder.output.{p}", "decoder.conv_out.{p}"],
];

/// Residual blocks of a half.
const RESIDUAL: &[[&str; 2]] = &[
    ["levels.{l}.blocks.{i}", "conv_blocks.{l}.res.{i}"],
    ["middle.first", "mid.0"],
    ["middle.second", "mid.2"],
];

/// Attention of a half.
const ATTENTION: &[[&str; 2]] =
    &[["levels.{l}.attentions.{i}", "conv_blocks.{l}.attn.{i}"], ["middle.attention", "mid.1"]];

const OF_RESIDUAL: &[[&str; 2]] = &[
    ["norm1", "norm1"],
    ["conv1", "conv1"],
    ["norm2", "norm2"],
    ["conv2", "conv2"],
    ["shortcut", "nin_shortcut"],
];

const OF_ATTENTION: &[[&str; 2]] =
    &[["norm", "norm"], ["q", "q"], ["k", "k"], ["v", "v"], ["out", "proj_out"]];

/// The network.
#[derive(Module, Debug)]
pub(super) struct Vq {
    encoder: KlEncoder,
    /// `[D, F]`
    narrowing: Linear,
    pub codebook: Codebook,
    /// `[F, D]`
    widening: Linear,
    decoder: KlDecoder,
    #[module(skip)]
    stride: usize,
}

/// Whether a published file calls a weight so.
pub(super) fn known(name: &str) -> bool {
    convention().known(name)
}

fn convention() -> Convention {
    let mut names: Vec<(String, String)> =
        TOP.iter().map(|[ours, theirs]| (ours.to_string(), theirs.to_string())).collect();
    for half in ["encoder", "decoder"] {
        for (places, parts) in [(RESIDUAL, OF_RESIDUAL), (ATTENTION, OF_ATTENTION)] {
            for [place, published] in places {
                names.extend(parts.iter().map(|[part, theirs]| {
                    (format!("{half}.{place}.{part}.{{p}}"), format!("{half}.{published}.{theirs}.{{p}}"))
                }));
            }
        }
    }
    Convention {
        names,
        unused: &["quantize.codebook_used"],
        expected: ["the VQ-16 of LlamaGen", "vq_ds16_c2i.pt"],
    }
}

impl Vq {
    /// # Errors
    /// If these are not the weights of a VQ-16.
    pub fn from_weights(found: &Weights, source: &Path, device: &Device) -> Result<Self> {
        let convention = convention();
        let mut weights = convention.translated(found, source)?;
        let shapes = Shapes { weights: &weights, convention: &convention, source };
        let (blank, levels) = Self::blank(&shapes, device)?;
        let coarsest_first = weights.split_prefix("decoder.levels.");
        for (name, tensor) in coarsest_first.iter() {
            let (level, rest) = name.split_once('.').expect("our names have a number there");
            let level = level.parse().ok().and_then(|level| (levels - 1).checked_sub(level));
            let Some(level) = level else {
                let problem = format!("its decoder has more levels than the {levels} of its encoder");
                return Err(convention.refusal(source, &problem));
            };
            weights.insert(format!("decoder.levels.{level}.{rest}"), tensor.clone());
        }
        let network = weights::apply(blank, "", &mut weights);
        weights.finish(source)?;
        Ok(network)
    }

    /// A network for weights of these shapes, and how many levels it has.
    fn blank(shapes: &Shapes, device: &Device) -> Result<(Self, usize)> {
        let [base_width, ..] = shapes.of::<4>("encoder.input.weight")?;
        let [features, ..] = shapes.of::<4>("encoder.output.weight")?;
        let codebook: [usize; 2] = shapes.of("codebook.weight")?;
        let levels = shapes.count("encoder.levels.{}.blocks.0.conv1.weight");
        let width = |level: usize| {
            let [width, ..] = shapes.of::<4>(&format!("encoder.levels.{level}.blocks.0.conv1.weight"))?;
            Ok(width)
        };
        let widths = (0..levels).map(width).collect::<Result<Vec<_>>>()?;
        if !features.is_multiple_of(2) || !widths.iter().all(|width| width.is_multiple_of(base_width)) {
            let problem = format!("levels {widths:?} wide on {base_width} channels, and {features} features");
            return Err(shapes.refusal(&problem));
        }
        let config = |channels| {
            let config = KlConfig {
                channels,
                base_width,
                width_multipliers: widths.iter().map(|width| width / base_width).collect(),
                blocks: shapes.count("encoder.levels.0.blocks.{}.conv1.weight"),
                encoder_attention: levels.checked_sub(1).into_iter().collect(),
                decoder_attention: levels.checked_sub(1).into_iter().collect(),
                groups: groups(&[&widths[..], &[base_width]].concat(), shapes)?,
                quant_conv: true,
                scale: 1.0,
                shift: 0.0,
            };
            config.validate().map_err(|error| shapes.refusal(&error.to_string()))?;
            Ok::<_, semanticist::Error>(config)
        };
        // A KL encoder answers with means and variances: two numbers per channel.
        let (encoder, decoder) = (config(features / 2)?, config(features)?);
        let [_, dim] = codebook;
        let network = Self {
            encoder: KlEncoder::blank(&encoder, device),
            narrowing: Linear::init_zero(features, dim, device),
            codebook: Codebook::blank(codebook, device),
            widening: Linear::init_zero(dim, features, device),
            decoder: KlDecoder::blank(&decoder, device),
            stride: encoder.stride(),
        };
        Ok((network, levels))
    }

    /// Side of the images, in pixels.
    pub fn image_size(&self) -> usize {
        SIDE * self.stride
    }

    /// K
    pub fn tokens(&self) -> usize {
        SIDE * SIDE
    }

    /// # Shapes
    /// `[B, 3, H, W]` in `[0, 1]` -> `[B, K, D]`, row by row
    pub fn latents(&self, images: &Pixels) -> Tensor<3> {
        let x = self.encoder.forward(images.0.clone().permute([0, 2, 3, 1]) * 2.0 - 1.0); // [B, h, w, F]
        self.narrowing.forward(x).flatten(1, 2)
    }

    /// # Shapes
    /// `[B, side², D]` -> `[B, 3, H, H]`
    pub fn pixels(&self, vectors: Tensor<3>) -> Tensor<4> {
        let [b, count, dim] = vectors.dims();
        let side = count.isqrt();
        let x = self.widening.forward(vectors.reshape([b, side, side, dim]));
        (self.decoder.forward(x).permute([0, 3, 1, 2]) + 1.0) / 2.0
    }
}
