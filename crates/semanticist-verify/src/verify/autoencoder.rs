//! KL autoencoders in both conventions of names: images to moments, and latents to images.

use semanticist::autoencoder::{KlAutoencoder, KlConfig};
use semanticist::weights::{self, Weights};
use semanticist::{Error, Latents, Pixels, Result};
use serde::Deserialize;

use super::comparison::Comparison;
use super::recording::Recording;
use super::sizes::{bounded, fit, in_config};
use super::tolerance::Kind;

pub(super) const LDM_FILE: &str = "autoencoder_ldm.safetensors";
pub(super) const DIFFUSERS_FILE: &str = "autoencoder_diffusers.safetensors";

/// Sizes as latent diffusion and MAR call them.
#[derive(Debug, Deserialize)]
struct LdmSizes {
    ch: usize,
    ch_mult: Vec<usize>,
    num_res_blocks: usize,
    /// Side of the images for which `attn_resolutions` are meant.
    resolution: usize,
    z_channels: usize,
    /// Sides at which the encoder has attention; the decoder has none but in its middle.
    attn_resolutions: Vec<usize>,
}

/// Sizes as diffusers calls them.
#[derive(Debug, Deserialize)]
struct DiffusersSizes {
    latent_channels: usize,
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    norm_num_groups: usize,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
}

pub(super) fn run_ldm(comparison: &mut Comparison) -> Result<()> {
    let recording = comparison.open(LDM_FILE)?;
    let LdmSizes { ch, ch_mult, num_res_blocks, resolution, z_channels, attn_resolutions } =
        recording.config()?;
    bounded(&recording, &[ch, num_res_blocks, resolution, z_channels])?;
    let side = |level: usize| resolution.checked_shr(level as u32).unwrap_or(0);
    let encoder_attention =
        (0..ch_mult.len()).filter(|&level| attn_resolutions.contains(&side(level))).collect();
    // Latent diffusion always normalises 32 groups.
    let config = KlConfig {
        channels: z_channels,
        base_width: ch,
        width_multipliers: ch_mult,
        blocks: num_res_blocks,
        encoder_attention,
        decoder_attention: Vec::new(),
        groups: 32,
        quant_conv: true,
        ..unscaled()
    };
    compare(comparison, recording, config)
}

pub(super) fn run_diffusers(comparison: &mut Comparison) -> Result<()> {
    let recording = comparison.open(DIFFUSERS_FILE)?;
    let sizes: DiffusersSizes = recording.config()?;
    let DiffusersSizes { latent_channels, block_out_channels, layers_per_block, norm_num_groups, .. } = sizes;
    bounded(&recording, &[latent_channels, layers_per_block, norm_num_groups])?;
    bounded(&recording, &block_out_channels)?;
    let base_width = block_out_channels.first().copied().unwrap_or(1);
    let multiplier = |width: &usize| {
        width.is_multiple_of(base_width).then(|| width / base_width).ok_or_else(|| {
            recording.error(format!("config: a width of {width} is no multiple of the first, {base_width}"))
        })
    };
    let encoder_attention = attention_of(&recording, &sizes.down_block_types, "DownEncoderBlock2D")?;
    let reversed = attention_of(&recording, &sizes.up_block_types, "UpDecoderBlock2D")?;
    let levels = block_out_channels.len();
    for (side, count) in [("down", sizes.down_block_types.len()), ("up", sizes.up_block_types.len())] {
        if count != levels {
            let problem = format!("config: {count} {side}_block_types for {levels} block_out_channels");
            return Err(recording.error(problem));
        }
    }
    let config = KlConfig {
        channels: latent_channels,
        base_width,
        width_multipliers: block_out_channels.iter().map(multiplier).collect::<Result<_>>()?,
        blocks: layers_per_block,
        encoder_attention,
        decoder_attention: reversed.into_iter().map(|place| levels - 1 - place).collect(),
        groups: norm_num_groups,
        quant_conv: true,
        ..unscaled()
    };
    compare(comparison, recording, config)
}

/// Recorded latents are as the networks have them; the numbers that are not set here are replaced.
fn unscaled() -> KlConfig {
    KlConfig {
        channels: 1,
        base_width: 1,
        width_multipliers: Vec::new(),
        blocks: 1,
        encoder_attention: Vec::new(),
        decoder_attention: Vec::new(),
        groups: 1,
        quant_conv: true,
        scale: 1.0,
        shift: 0.0,
    }
}

/// The places of blocks with attention in a list of `NAME` and `AttnNAME`.
fn attention_of(recording: &Recording, blocks: &[String], name: &str) -> Result<Vec<usize>> {
    let mut places = Vec::new();
    for (place, block) in blocks.iter().enumerate() {
        match block.strip_prefix("Attn") {
            Some(rest) if rest == name => places.push(place),
            None if block == name => {}
            _ => return Err(recording.error(format!("config: \"{block}\" is neither {name} nor Attn{name}"))),
        }
    }
    Ok(places)
}

fn compare(comparison: &mut Comparison, mut recording: Recording, config: KlConfig) -> Result<()> {
    config.validate().map_err(|error| in_config(recording.path(), &error))?;
    let autoencoder = build(comparison, &mut recording, config.clone())?;
    let [batch, _, height, width] = recording.dims::<4>("image")?;
    let stride = config.stride();
    if !height.is_multiple_of(stride) || !width.is_multiple_of(stride) {
        return Err(recording.error(format!("image is {height}×{width}, no multiple of the stride {stride}")));
    }
    // Recorded images are in [-1, 1].
    let image = recording.tensor("image", [batch, 3, height, width], comparison.device)?;
    let moments = autoencoder.moments(&Pixels((image + 1.0) / 2.0));
    comparison.compare(&mut recording, "moments", moments.into(), Kind::Unrounded);

    let [batch, _, rows, columns] = recording.dims::<4>("latent")?;
    let latents = recording.tensor("latent", [batch, config.channels, rows, columns], comparison.device)?;
    let decoded = autoencoder.decode(&Latents(latents)).0 * 2.0 - 1.0;
    comparison.compare(&mut recording, "decoded", decoded.into(), Kind::Unrounded);
    comparison.close(&recording);
    Ok(())
}

/// The autoencoder with all recorded parameters.
fn build(comparison: &Comparison, recording: &mut Recording, config: KlConfig) -> Result<KlAutoencoder> {
    let mut parameters = recording.autoencoder_parameters(config.levels())?;
    let config = KlConfig { quant_conv: parameters.get("autoencoder.moments.weight").is_some(), ..config };
    check_sizes(recording, &parameters, &config)?;
    let blank = KlAutoencoder::blank(&config, comparison.device);
    let autoencoder = weights::apply(blank, "autoencoder", &mut parameters);
    parameters.finish(recording.path())?;
    Ok(autoencoder)
}

/// Compares parameters with the sizes before anything of these sizes is allocated.
fn check_sizes(recording: &Recording, parameters: &Weights, config: &KlConfig) -> Result<(), Error> {
    let widths = config.width_multipliers.iter().map(|multiplier| multiplier * config.base_width);
    let widths: Vec<usize> = widths.collect();
    let last = widths[widths.len() - 1];
    let check = |name: &str, shape: [usize; 4]| {
        fit(recording.path(), parameters, &[(&format!("autoencoder.{name}.weight"), &shape)])
    };
    check("encoder.input", [config.base_width, 3, 3, 3])?;
    check("encoder.output", [2 * config.channels, last, 3, 3])?;
    check("decoder.input", [last, config.channels, 3, 3])?;
    for (level, &width) in widths.iter().enumerate() {
        let final_block = |half: &str, block: usize| format!("{half}.levels.{level}.blocks.{block}.conv2");
        check(&final_block("encoder", config.blocks - 1), [width, width, 3, 3])?;
        check(&final_block("decoder", config.blocks), [width, width, 3, 3])?;
    }
    Ok(())
}
