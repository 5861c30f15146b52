//! The sizes that the field knows by letters.

use semanticist::autoencoder::AutoencoderConfig;
use semanticist::decoder::DecoderConfig;
use semanticist::diffusion::DiffusionConfig;
use semanticist::encoder::{EncoderConfig, POSITION_DEVIATION};
use semanticist::generator::GeneratorConfig;
use semanticist::{TokenizerConfig, presets};
use serde::Serialize;

use semanticist_train::config::RunConfig;
use semanticist_train::objective::generator::GeneratorRun;
use semanticist_train::objective::tokenizer::TokenizerRun;

/// The size of encoder and decoder: ViT-S, -B, -L (Dosovitskiy et al., 2021) and DiT-S to -XL
/// (Peebles and Xie, 2023) on 256×256 pixels, or the built-in model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The first stage of the tokenizer in the box, on 64×64 pixels.
    Tiny,
    /// ViT-S and DiT-S: width 384.
    S,
    /// ViT-B and DiT-B: width 768.
    B,
    /// ViT-L and DiT-L: width 1024.
    L,
    /// Encoder and decoder as deep and wide as DiT-XL: width 1152.
    Xl,
}

impl Preset {
    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::S => "s",
            Self::B => "b",
            Self::L => "l",
            Self::Xl => "xl",
        }
    }

    /// A tokenizer of this size. All but the smallest have 256 tokens of 16 numbers, latents of
    /// 16×16 with 16 channels, and patches of 16 pixels and 2 latent pixels.
    pub fn tokenizer(self) -> TokenizerConfig {
        let blocks = match self {
            Self::Tiny => {
                let run = RunConfig::<TokenizerRun>::parse(
                    include_str!("../../../../configs/tokenizer-tiny.toml"),
                    &[],
                );
                return run.expect("the configuration in configs is right, as its test shows").model;
            }
            Self::S => presets::S,
            Self::B => presets::B,
            Self::L => presets::L,
            Self::Xl => presets::XL,
        };
        TokenizerConfig {
            image_size: 256,
            tokens: 256,
            token_dim: 16,
            token_epsilon: 1e-12,
            encoder: EncoderConfig {
                patch_size: 16,
                blocks,
                drop_path: 0.0,
                position_deviation: POSITION_DEVIATION,
                linear_projection: false,
            },
            decoder: DecoderConfig {
                patch_size: 2,
                blocks,
                repa: None,
                linear_estimate: false,
                overlap: false,
                refinement: None,
            },
            autoencoder: AutoencoderConfig::Linear {
                patch_size: 16,
                channels: 16,
                whitening: 0.25,
                overlap: false,
            },
            diffusion: DiffusionConfig::default(),
            decoding: None,
            fitted_samplers: Vec::new(),
        }
    }

    /// A generator of this size; the published ones begin at B.
    pub fn generator(self) -> GeneratorConfig {
        let name = match self {
            Self::Tiny => {
                let run = RunConfig::<GeneratorRun>::parse(
                    include_str!("../../../../configs/generator-tiny.toml"),
                    &[],
                );
                return run.expect("the configuration in configs is right, as its test shows").model;
            }
            Self::S | Self::B => "gpt-b",
            Self::L => "gpt-l",
            Self::Xl => "gpt-xl",
        };
        presets::generator(name).expect("the names are those of the presets")
    }
}
