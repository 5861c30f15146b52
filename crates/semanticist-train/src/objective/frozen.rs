//! The file of what does not learn in a run: a configuration, and weights that are frozen.

use std::path::Path;

use semanticist::weights::{self, Metadata, Precision, Weights};
use semanticist::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The entry of the metadata that says what the weights belong to.
const CONFIG: &str = "config";

/// Writes the file.
pub(super) fn save(path: &Path, config: &impl Serialize, weights: &Weights) -> Result<()> {
    let config = serde_json::to_string(config).expect("configurations are plain data");
    let metadata = Metadata::from([(CONFIG.to_string(), config)]);
    weights::save(path, weights, &metadata, Precision::F32)
}

/// Reads what [`save`] wrote.
pub(super) fn load<C: DeserializeOwned>(path: &Path) -> Result<(C, Weights)> {
    let (weights, metadata) = weights::load(path)?;
    let config = serde_json::from_str(metadata.get(CONFIG).map_or("", String::as_str)).map_err(|error| {
        Error::file(path, format!("is not what a run of this version began with: {error}"))
    })?;
    Ok((config, weights))
}
