//! The autoencoder that a tokenizer's run begins with.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use semanticist::autoencoder::{Autoencoder, AutoencoderConfig, LinearFit, OverlapFit};
use semanticist::image::{RgbImage, to_pixels};
use semanticist::{Error, Result, Seed};
use semanticist_data::{BatchOptions, Batches, Position, Share, Source};

use crate::config::RunConfig;
use crate::objective::tokenizer::TokenizerRun;

/// The autoencoder of the run in `out` as that was started with it: its file knew the scale and shift of its
/// latents, which the configuration need not.
///
/// # Errors
/// If the folder holds no run.
pub fn of_run(out: &Path, asked: &AutoencoderConfig) -> Result<AutoencoderConfig> {
    let started = RunConfig::<TokenizerRun>::read(&out.join("config.toml"), &[])?.model.autoencoder;
    Ok(if started.has_networks_of(asked) { started } else { asked.clone() })
}

/// The autoencoder that the configuration asks for, fitted to the first images of the run's order.
///
/// # Errors
/// If the data cannot be read or has too few images, or the autoencoder is trained and not fitted.
pub fn fit(
    config: &RunConfig<TokenizerRun>,
    source: Arc<Source>,
    device: &Device,
    note: &mut dyn FnMut(String),
) -> Result<Autoencoder> {
    let (patch_size, channels, whitening) = match config.model.autoencoder {
        AutoencoderConfig::Pixel {} => return Ok(Autoencoder::Pixel),
        AutoencoderConfig::Linear { patch_size, channels, whitening, .. } => {
            (patch_size, channels, whitening)
        }
        AutoencoderConfig::Kl(_) => {
            let reason = "a KL autoencoder cannot be fitted on the way";
            return Err(Error::AutoencoderNeeded { reason });
        }
    };
    let mut fit = LinearFit::new(patch_size);
    let seen = for_first_images(config, source.clone(), |images| fit.add(images))?;
    let (autoencoder, report) = fit.finish(channels, whitening, device)?;
    note(format!(
        "linear autoencoder fitted to {seen} images: {:.1} % of the variance, {:.2} dB by itself",
        100.0 * report.explained,
        report.psnr
    ));
    overlapping(config, Autoencoder::Linear(Box::new(autoencoder)), source, device, note)
}

/// `autoencoder` with the overlap that the configuration asks for, fitted to the first images of the run's order if it has
/// none yet.
///
/// # Errors
/// If the data cannot be read or has too few images.
pub fn overlapping(
    config: &RunConfig<TokenizerRun>,
    autoencoder: Autoencoder,
    source: Arc<Source>,
    device: &Device,
    note: &mut dyn FnMut(String),
) -> Result<Autoencoder> {
    let asked = matches!(config.model.autoencoder, AutoencoderConfig::Linear { overlap: true, .. });
    let linear = match autoencoder {
        Autoencoder::Linear(linear) if asked && !linear.overlaps() => linear,
        other => return Ok(other),
    };
    let mut fit = OverlapFit::new(*linear);
    let seen = for_first_images(config, source, |images| {
        fit.add(&to_pixels(images, device));
        Ok(())
    })?;
    let (linear, psnr) = fit.finish()?;
    note(format!("overlap of its patches fitted to {seen} images: {psnr:.2} dB by itself"));
    Ok(Autoencoder::Linear(Box::new(linear)))
}

/// Hands the first images of the run's order, as many as `data.fit_images` says, to `take` in batches; how
/// many they were.
pub fn for_first_images(
    config: &RunConfig<TokenizerRun>,
    source: Arc<Source>,
    mut take: impl FnMut(&[RgbImage]) -> Result<()>,
) -> Result<usize> {
    const BATCH: usize = 100;
    let wanted = config.data.fit_images.min(source.len());
    let options = BatchOptions {
        size: config.model.image_size,
        batch: BATCH.min(wanted.max(1)),
        share: Share::WHOLE,
        seed: Seed::new(config.seed),
        workers: config.data.workers,
        flip: 0.0,
        crop: config.data.crop.into(),
    };
    let (mut seen, mut batches) = (0, Batches::new(source, options, Position::default()));
    while seen < wanted {
        let Some(batch) = batches.next().transpose()? else { break };
        take(&batch.images)?;
        seen += batch.images.len();
    }
    Ok(seen)
}
