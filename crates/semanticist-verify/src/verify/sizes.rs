//! The sizes in a recording's metadata, and networks of these sizes with recorded parameters.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use semanticist::decoder::{Decoder, DecoderConfig, LatentShape, RepaConfig};
use semanticist::encoder::{Encoder, EncoderConfig, POSITION_DEVIATION, TokenShape};
use semanticist::nn::BlockSize;
use semanticist::weights::{self, HostTensor, Weights};
use semanticist::{Error, Noise, Pixels, Result, Tokens};
use serde::Deserialize;

use super::recording::Recording;
use super::{decoder, encoder};

/// Larger sizes are no recording; this keeps their products far from overflowing.
const LARGEST: usize = 1 << 16;

/// As the file of the encoder has them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct EncoderSizes {
    pub image_size: usize,
    pub patch_size: usize,
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    pub tokens: usize,
    pub token_dim: usize,
}

/// As the files of the decoder, of training and of sampling have them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct DecoderSizes {
    pub latent_size: usize,
    pub latent_channels: usize,
    pub patch_size: usize,
    pub dim: usize,
    pub depth: usize,
    pub heads: usize,
    pub tokens: usize,
    pub token_dim: usize,
    /// After which block, counted from 1; without it there is no projector.
    pub repa_layer: Option<usize>,
    pub repa_dim: Option<usize>,
    pub repa_hidden: Option<usize>,
}

impl EncoderSizes {
    /// The sizes in the config of a recording, none of them absurd.
    pub fn of(recording: &Recording) -> Result<Self> {
        let sizes: Self = recording.config()?;
        let Self { image_size, patch_size, dim, depth, heads, tokens, token_dim } = sizes;
        bounded(recording, &[image_size, patch_size, dim, depth, heads, tokens, token_dim])?;
        Ok(sizes)
    }

    /// The sizes and parameters in the encoder's file, for cases that build on them.
    pub fn read(folder: &Path) -> Result<(Self, Weights)> {
        let mut recording = Recording::open(folder, encoder::FILE)?;
        Ok((Self::of(&recording)?, recording.parameters()?.weights))
    }

    /// Takes the recorded images.
    pub fn images(&self, recording: &mut Recording, device: &Device) -> Result<Pixels> {
        let [batch, ..] = recording.dims::<4>("image")?;
        let shape = [batch, 3, self.image_size, self.image_size];
        Ok(Pixels(recording.tensor("image", shape, device)?))
    }

    /// An encoder with the parameters under `encoder.`, taken from there.
    pub fn build(&self, parameters: &mut Weights, source: &Path, device: &Device) -> Result<Encoder> {
        let Self { image_size, patch_size, dim, depth, heads, tokens, token_dim } = *self;
        let tokens = token_shape(source, tokens, token_dim)?;
        let config = EncoderConfig {
            patch_size,
            blocks: BlockSize { width: dim, depth, heads, mlp_ratio: mlp_ratio(parameters, "encoder", dim) },
            drop_path: 0.0,
            position_deviation: POSITION_DEVIATION,
            linear_projection: false,
        };
        config.validate(image_size).map_err(|error| in_config(source, &error))?;
        let patches = (image_size / patch_size).pow(2);
        let expected: [(&str, &[usize]); 4] = [
            ("encoder.patches.weight", &[dim, 3, patch_size, patch_size]),
            ("encoder.positions", &[1, 1 + patches + tokens.count, dim]),
            ("encoder.concept_tokens", &[1, tokens.count, dim]),
            ("encoder.projection.weight", &[tokens.dim, dim]),
        ];
        fit(source, parameters, &expected)?;
        has_blocks(source, parameters, "encoder", depth)?;
        // The published code adds nothing to a token's variance.
        let epsilon = 0.0;
        let blank = Encoder::init(&config, image_size, tokens, epsilon, &mut Noise::seeded(0), device);
        Ok(weights::apply(blank, "encoder", parameters))
    }
}

/// Outputs per channel of the published process: prediction and variance.
const OUTPUTS: usize = 2;

impl DecoderSizes {
    /// The sizes in the config of a recording, none of them absurd.
    pub fn of(recording: &Recording) -> Result<Self> {
        let sizes: Self = recording.config()?;
        let Self { latent_size, latent_channels, patch_size, dim, depth, heads, tokens, token_dim, .. } =
            sizes;
        let all = [latent_size, latent_channels, patch_size, dim, depth, heads, tokens, token_dim];
        bounded(recording, &all)?;
        Ok(sizes)
    }

    /// The sizes and parameters in the decoder's file, for cases that build on them.
    pub fn read(folder: &Path) -> Result<(Self, Weights)> {
        let mut recording = Recording::open(folder, decoder::FILE)?;
        Ok((Self::of(&recording)?, recording.parameters()?.weights))
    }

    /// The same in a case whose file repeats the sizes: they must agree.
    pub fn read_for(folder: &Path, recording: &Recording) -> Result<(Self, Weights)> {
        let (sizes, parameters) = Self::read(folder)?;
        if Self::of(recording)? == sizes {
            return Ok((sizes, parameters));
        }
        let decoder = decoder::FILE;
        Err(recording.error(format!("has other sizes in its config than {decoder}, whose weights it uses")))
    }

    /// One latent image.
    pub fn latent(&self, batch: usize) -> [usize; 4] {
        [batch, self.latent_channels, self.latent_size, self.latent_size]
    }

    /// Takes recorded latents, whose first axis is the batch.
    pub fn latents(&self, recording: &mut Recording, device: &Device) -> Result<Tensor<4>> {
        let [batch, ..] = recording.dims::<4>("latent")?;
        recording.tensor("latent", self.latent(batch), device)
    }

    /// Takes the recorded tokens.
    pub fn tokens(&self, recording: &mut Recording, batch: usize, device: &Device) -> Result<Tokens> {
        Ok(Tokens(recording.tensor("tokens", [batch, self.tokens, self.token_dim], device)?))
    }

    /// The same decoder, but nothing is aligned with a teacher.
    pub fn without_projector(self) -> Self {
        Self { repa_layer: None, repa_dim: None, repa_hidden: None, ..self }
    }

    /// Positions of the image in the transformer.
    pub fn patches(&self) -> usize {
        (self.latent_size / self.patch_size).pow(2)
    }

    /// How the decoder is aligned with a teacher, if it is.
    pub fn repa(&self) -> Option<RepaConfig> {
        let (layer, teacher_width, hidden) = (self.repa_layer?, self.repa_dim?, self.repa_hidden?);
        Some(RepaConfig { layer, teacher_width, hidden })
    }

    /// A decoder with the parameters under `decoder.`, taken from there.
    pub fn build(&self, parameters: &mut Weights, source: &Path, device: &Device) -> Result<Decoder> {
        let Self { latent_size, latent_channels, patch_size, dim, depth, heads, tokens, token_dim, .. } =
            *self;
        let tokens = token_shape(source, tokens, token_dim)?;
        let config = DecoderConfig {
            patch_size,
            blocks: BlockSize { width: dim, depth, heads, mlp_ratio: mlp_ratio(parameters, "decoder", dim) },
            repa: self.repa(),
            linear_estimate: false,
            overlap: false,
            refinement: None,
        };
        config.validate(latent_size).map_err(|error| in_config(source, &error))?;
        let expected: [(&str, &[usize]); 3] = [
            ("decoder.patches.weight", &[dim, latent_channels, patch_size, patch_size]),
            ("decoder.null_tokens", &[1, tokens.count, tokens.dim]),
            ("decoder.output.linear.weight", &[patch_size.pow(2) * OUTPUTS * latent_channels, dim]),
        ];
        fit(source, parameters, &expected)?;
        if let Some(RepaConfig { teacher_width, hidden, .. }) = config.repa {
            fit(source, parameters, &[("decoder.projector.third.weight", &[teacher_width, hidden])])?;
        }
        has_blocks(source, parameters, "decoder", depth)?;
        let latent = LatentShape {
            channels: latent_channels,
            side: latent_size,
            outputs_per_channel: OUTPUTS,
            told_span: false,
        };
        let blank = Decoder::init(&config, latent, tokens, &mut Noise::seeded(0), device);
        Ok(weights::apply(blank, "decoder", parameters))
    }
}

pub(super) fn bounded(recording: &Recording, sizes: &[usize]) -> Result<()> {
    match sizes.iter().find(|&&size| !(1..=LARGEST).contains(&size)) {
        Some(size) => Err(recording.error(format!("config: a size of {size} is not in 1..={LARGEST}"))),
        None => Ok(()),
    }
}

fn token_shape(source: &Path, count: usize, dim: usize) -> Result<TokenShape> {
    if dim < 2 {
        return Err(Error::file(source, "config: token_dim 1 cannot be normalised; expected at least 2"));
    }
    Ok(TokenShape { count, dim })
}

pub(super) fn in_config(source: &Path, error: &Error) -> Error {
    Error::file(source, format!("config: {error}"))
}

/// The metadata do not say how wide the MLPs are; 4 is usual.
fn mlp_ratio(parameters: &Weights, network: &str, dim: usize) -> usize {
    let hidden = parameters.get(&format!("{network}.blocks.0.mlp.up.weight")).map(HostTensor::shape);
    match hidden {
        Some([hidden, _]) if hidden.is_multiple_of(dim) && *hidden > 0 => hidden / dim,
        _ => 4,
    }
}

/// Compares parameters with the sizes before anything of these sizes is allocated.
pub(super) fn fit(source: &Path, parameters: &Weights, expected: &[(&str, &[usize])]) -> Result<()> {
    for (name, expected) in expected {
        let found = parameters.get(name).map(HostTensor::shape);
        if found != Some(*expected) {
            let found = found.map_or("not there".to_string(), |shape| format!("{shape:?}"));
            let problem = format!("{name} is {found}, expected {expected:?} by the sizes in the config");
            return Err(Error::file(source, problem));
        }
    }
    Ok(())
}

fn has_blocks(source: &Path, parameters: &Weights, network: &str, depth: usize) -> Result<()> {
    let last = format!("{network}.blocks.{}.mlp.up.weight", depth - 1);
    if parameters.get(&last).is_some() {
        return Ok(());
    }
    Err(Error::file(source, format!("holds no {last}, expected it by the depth of {depth} in the config")))
}
