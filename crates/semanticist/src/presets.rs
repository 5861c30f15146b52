//! Named sizes: the tokenizers and generators of the paper, as data.

use crate::autoencoder::AutoencoderConfig;
use crate::decoder::{DecoderConfig, RepaConfig};
use crate::diffusion::DiffusionConfig;
use crate::encoder::{EncoderConfig, POSITION_DEVIATION};
use crate::error::{Error, Result};
use crate::generator::{GeneratorConfig, HeadConditioning, HeadConfig, HeadProcess};
use crate::nn::BlockSize;
use crate::tokenizer::TokenizerConfig;

/// ViT-S (Touvron et al., 2021) and DiT-S.
pub const S: BlockSize = BlockSize { width: 384, depth: 12, heads: 6, mlp_ratio: 4 };
/// ViT-B (Dosovitskiy et al., 2021), the encoder of all tokenizers here, and DiT-B (Peebles and Xie,
/// 2023, table 1).
pub const B: BlockSize = BlockSize { width: 768, depth: 12, heads: 12, mlp_ratio: 4 };
/// ViT-L and DiT-L.
pub const L: BlockSize = BlockSize { width: 1024, depth: 24, heads: 16, mlp_ratio: 4 };
/// DiT-XL.
pub const XL: BlockSize = BlockSize { width: 1152, depth: 28, heads: 16, mlp_ratio: 4 };

/// Decoders by size.
const DECODERS: [(&str, BlockSize); 3] = [("b", B), ("l", L), ("xl", XL)];

/// Tokens and numbers per token (paper, section 5).
const TOKENS: [(usize, usize); 4] = [(256, 16), (128, 32), (64, 64), (16, 256)];

/// What follows the name of a preset that computes what the published checkpoints need, number for
/// number. Without it, what is plainly a mistake there is repaired.
const PUBLISHED: &str = "-published";

/// All names, such as `l-256x16` and `l-256x16-published`.
pub fn tokenizer_names() -> impl Iterator<Item = String> {
    let plain = DECODERS.iter().flat_map(|(size, _)| TOKENS.map(|(k, d)| format!("{size}-{k}x{d}")));
    plain.flat_map(|name| [name.clone(), name + PUBLISHED])
}

/// A tokenizer of the paper: 256×256 pixels, latents of the KL-16 autoencoder, patches of 16 pixels and
/// 2 latent pixels, drop path 0.1, the decoder's 8th block aligned with DINOv2-B.
///
/// # Errors
/// If there is none of that name.
pub fn tokenizer(name: &str) -> Result<TokenizerConfig> {
    let (plain, published) = match name.strip_suffix(PUBLISHED) {
        Some(plain) => (plain, true),
        None => (name, false),
    };
    let (blocks, tokens, token_dim) = find(plain).ok_or_else(|| {
        let known = tokenizer_names().filter(|name| !name.ends_with(PUBLISHED)).collect::<Vec<_>>();
        Error::Config(format!(
            "there is no tokenizer preset \"{name}\"; use one of {}, or one of them with {PUBLISHED}",
            known.join(", ")
        ))
    })?;
    Ok(TokenizerConfig {
        image_size: 256,
        tokens,
        token_dim,
        token_epsilon: if published { 0.0 } else { 1e-12 },
        encoder: EncoderConfig {
            patch_size: 16,
            blocks: B,
            drop_path: 0.1,
            position_deviation: POSITION_DEVIATION,
            linear_projection: false,
        },
        decoder: DecoderConfig {
            patch_size: 2,
            blocks,
            repa: Some(RepaConfig { layer: 8, teacher_width: 768, hidden: 2048 }),
            linear_estimate: false,
            overlap: false,
            refinement: None,
        },
        autoencoder: AutoencoderConfig::preset("kl-f16-c16")?,
        diffusion: DiffusionConfig::default(),
        decoding: None,
        fitted_samplers: Vec::new(),
    })
}

fn find(name: &str) -> Option<(BlockSize, usize, usize)> {
    let (size, shape) = name.split_once('-')?;
    let (_, blocks) = DECODERS.iter().find(|(known, _)| *known == size)?;
    let (k, d) = TOKENS.iter().find(|(k, d)| shape == format!("{k}x{d}"))?;
    Some((*blocks, *k, *d))
}

/// Generators by size (LlamaGen, table 1): width, depth, heads.
const GENERATORS: [(&str, [usize; 3]); 4] = [
    ("gpt-b", [768, 12, 12]),
    ("gpt-l", [1024, 24, 16]),
    ("gpt-xl", [1280, 36, 20]),
    ("gpt-xxl", [1536, 48, 24]),
];

/// The names that [`generator`] knows.
pub fn generator_names() -> impl Iterator<Item = &'static str> {
    GENERATORS.iter().map(|(name, _)| *name)
}

/// A generator of the paper: 32 tokens of 16 numbers, the 1000 classes of ImageNet, a head of 12 blocks
/// of 1536 numbers that learns a flow.
///
/// # Errors
/// If there is none of that name.
pub fn generator(name: &str) -> Result<GeneratorConfig> {
    let Some((_, [width, depth, heads])) = GENERATORS.iter().find(|(known, _)| *known == name) else {
        let known = generator_names().collect::<Vec<_>>().join(", ");
        return Err(Error::Config(format!("there is no generator preset \"{name}\"; use one of {known}")));
    };
    Ok(GeneratorConfig {
        tokens: 32,
        token_dim: 16,
        classes: 1000,
        width: *width,
        depth: *depth,
        heads: *heads,
        head: HeadConfig {
            width: 1536,
            depth: 12,
            condition: HeadConditioning::Concat,
            process: HeadProcess::Flow,
        },
        drawn_tokens: None,
        drawing: None,
        decoding: None,
    })
}
