//! The file of an autoencoder alone, which training runs share.

use std::path::Path;

use burn::tensor::Device;

use super::{KIND, ModelFile, ModelKind, Origin, TRAINING, json, metadata};
use crate::autoencoder::{Autoencoder, AutoencoderConfig};
use crate::error::{Error, Result};
use crate::weights::{self, Precision, Weights};

/// A file on its way to become an [`Autoencoder`].
#[derive(Debug, Clone)]
pub struct AutoencoderFile {
    origin: Origin,
    config: AutoencoderConfig,
}

impl AutoencoderFile {
    pub(super) fn of(origin: Origin) -> Result<Self> {
        let config = origin.config()?;
        Ok(Self { origin, config })
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The file, unless it is compiled into the program.
    pub fn path(&self) -> Option<&Path> {
        self.origin.path_on_disk()
    }

    /// What it holds.
    pub fn config(&self) -> &AutoencoderConfig {
        &self.config
    }

    /// How it was trained, if the file says so.
    ///
    /// # Errors
    /// If what it says is damaged.
    pub fn training(&self) -> Result<Option<serde_json::Value>> {
        self.origin.entry(TRAINING)
    }

    /// Itself, if it is of this configuration but for the scale and shift of KL latents, which it knows best.
    fn expecting(self, expected: &AutoencoderConfig) -> Result<Self> {
        if self.config.has_networks_of(expected) {
            return Ok(self);
        }
        let (found, expected) = (json(&self.config), json(expected));
        Err(self
            .origin
            .error(format!("holds the autoencoder {found}, but the configuration asks for {expected}")))
    }

    /// Places the weights on `device`.
    ///
    /// # Errors
    /// If missing, unused or misshapen weights are found.
    pub fn load(self, device: &Device) -> Result<(AutoencoderConfig, Autoencoder)> {
        let autoencoder = placed(&self.origin.path, &self.config, self.origin.weights, device)?;
        Ok((self.config, autoencoder))
    }
}

/// Writes an autoencoder alone, for training runs that share it; `training` is kept as its history.
///
/// # Errors
/// If the file cannot be written; nothing is left under its name then.
pub fn save_autoencoder(
    path: &Path,
    config: &AutoencoderConfig,
    autoencoder: &Autoencoder,
    training: Option<&serde_json::Value>,
) -> Result<()> {
    let mut metadata = metadata(ModelKind::Autoencoder, config);
    metadata.extend(training.map(|training| (TRAINING.to_string(), json(training))));
    weights::save(path, &autoencoder.to_weights(), &metadata, Precision::F32)
}

/// Reads what [`save_autoencoder`] wrote, which must be of this configuration; or, if that is of a KL
/// autoencoder, a published file of its weights. Returns the configuration as well: one of our files
/// knows the scale and shift of its latents best.
///
/// # Errors
/// If the file is something else, damaged, or of another configuration.
pub fn load_autoencoder(
    path: &Path,
    config: &AutoencoderConfig,
    device: &Device,
) -> Result<(AutoencoderConfig, Autoencoder)> {
    match weights::load(path) {
        Ok((_, metadata)) if metadata.contains_key(KIND) => {
            ModelFile::open(path)?.into_autoencoder()?.expecting(config)?.load(device)
        }
        // What is not ours, safetensors or not, may be published.
        found => published(path, config, found.map(drop), device),
    }
}

fn published(
    path: &Path,
    config: &AutoencoderConfig,
    found: Result<()>,
    device: &Device,
) -> Result<(AutoencoderConfig, Autoencoder)> {
    let AutoencoderConfig::Kl(kl) = config else {
        found?;
        return Err(Error::file(path, "holds weights but does not say of what; fit it anew"));
    };
    let weights = weights::autoencoder::load(path, kl.levels())?;
    Ok((config.clone(), placed(path, config, weights, device)?))
}

fn placed(
    path: &Path,
    config: &AutoencoderConfig,
    mut weights: Weights,
    device: &Device,
) -> Result<Autoencoder> {
    let autoencoder = Autoencoder::from_weights(config, &mut weights, device)
        .map_err(|error| Error::file(path, error.to_string()))?;
    weights.finish(path)?;
    Ok(autoencoder)
}
