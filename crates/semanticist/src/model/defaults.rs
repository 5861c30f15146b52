//! How a finished file says that it is used, changed without touching its weights.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::{CONFIG, GeneratorFile, KIND, Origin, SharedTokens, TRAINING, TokenizerFile, json};
use crate::diffusion::{DecodeOptions, FittedSampler};
use crate::error::{Error, Result};
use crate::generator::DrawOptions;
use crate::tokenizer::TokenizerConfig;
use crate::weights::{self, Dtype, Metadata, Precision};

impl TokenizerFile {
    /// Writes the same model to `path`, which may be its own, decoded like this unless it is said otherwise; weights stay as they
    /// are stored. Its hash changes with its configuration, its tokens do not: its history says so ([`SharedTokens`]), so that
    /// files of tokens and generators stay good.
    ///
    /// # Errors
    /// If it is a checkpoint as published, it cannot be decoded like this, or the file cannot be written.
    pub fn save_with_decoding(self, path: &Path, decoding: DecodeOptions) -> Result<()> {
        self.save_changed(path, |config| config.decoding = Some(decoding))
    }

    /// Likewise with samplers that were fitted to its decoder, which replace those of as many steps that it has.
    ///
    /// # Errors
    /// As [`Self::save_with_decoding`].
    pub fn save_with_fitted_samplers(self, path: &Path, samplers: Vec<FittedSampler>) -> Result<()> {
        self.save_changed(path, |config| {
            let had = &mut config.fitted_samplers;
            had.retain(|old| samplers.iter().all(|new| new.steps() != old.steps()));
            had.extend(samplers);
            had.sort_by_key(FittedSampler::steps);
        })
    }

    fn save_changed(self, path: &Path, change: impl FnOnce(&mut TokenizerConfig)) -> Result<()> {
        let origin = self.origin();
        if !origin.metadata.contains_key(KIND) {
            return Err(origin.error(
                "is a checkpoint as published; import it first, which writes a file that says how it is used",
            ));
        }
        let mut config = self.config().clone();
        change(&mut config);
        config.validate()?;
        let history = with_shared_tokens(origin, config.tokens)?;
        save(origin, path, &config, Metadata::from([(TRAINING.into(), json(&history))]))
    }
}

impl GeneratorFile {
    /// Writes the same model to `path`, which may be its own, with another `model.decoding`, `model.drawn_tokens` or
    /// `model.drawing`; what is not given stays, and so do weights as they are stored.
    ///
    /// # Errors
    /// If the new configuration is impossible, or the file cannot be written.
    pub fn save_with_defaults(
        self,
        path: &Path,
        decoding: Option<DecodeOptions>,
        drawn_tokens: Option<usize>,
        drawing: Option<DrawOptions>,
    ) -> Result<()> {
        let mut config = self.config().clone();
        config.decoding = decoding.or(config.decoding);
        config.drawn_tokens = drawn_tokens.or(config.drawn_tokens);
        config.drawing = drawing.or(config.drawing);
        config.validate()?;
        save(self.origin(), path, &config, Metadata::new())
    }
}

/// Writes what was read with another configuration, and `others` of its metadata; in 16 bits, if any of it is.
fn save(origin: &Origin, path: &Path, config: &impl Serialize, others: Metadata) -> Result<()> {
    let mut metadata = origin.metadata.clone();
    metadata.insert(CONFIG.into(), json(config));
    metadata.extend(others);
    let half = origin.weights.iter().any(|(_, tensor)| tensor.dtype() == Dtype::F16);
    weights::save(path, &origin.weights, &metadata, if half { Precision::F16 } else { Precision::F32 })
}

/// The history of a tokenizer, to which it is added that another file gives the same tokens: this one.
fn with_shared_tokens(origin: &Origin, tokens: usize) -> Result<Value> {
    let unread = |error| Error::io(&origin.path, "read", error);
    let model = weights::hash(&origin.weights, &origin.metadata).map_err(unread)?;
    let mut history = origin.entry::<Value>(TRAINING)?.unwrap_or_else(|| serde_json::json!({}));
    let damaged = || origin.error("the metadata entry \"training\" is not a table; it is damaged");
    let entries = history.as_object_mut().ok_or_else(damaged)?;
    let shared = entries.entry(SharedTokens::ENTRY).or_insert_with(|| serde_json::json!([]));
    let other = serde_json::json!(SharedTokens { model, tokens });
    shared.as_array_mut().ok_or_else(damaged)?.insert(0, other);
    Ok(history)
}
