//! How a finished file says that it is used, changed without touching its weights.

use std::path::Path;

use serde_json::{Value, json};

use super::{CONFIG, KIND, ModelFile, Origin, SharedTokens, TRAINING, json as text};
use crate::diffusion::DecodeOptions;
use crate::error::{Error, Result};
use crate::weights::{self, Dtype, Precision, Weights};

impl ModelFile {
    /// Writes the same model to `path`, which may be its own, with another `model.decoding`, or of a generator another
    /// `model.drawn_tokens`; what is not given stays. Weights stay as they are stored. A tokenizer's hash changes with its
    /// configuration, its tokens do not: its history says so ([`SharedTokens`]), so that files of tokens and generators stay good.
    ///
    /// # Errors
    /// If it is neither a tokenizer nor a generator of ours, the new configuration is impossible, or the file cannot be written.
    pub fn save_with_defaults(
        self,
        path: &Path,
        decoding: Option<DecodeOptions>,
        drawn_tokens: Option<usize>,
    ) -> Result<()> {
        let origin = self.origin();
        if !origin.metadata.contains_key(KIND) {
            return Err(origin.error(
                "is a checkpoint as published; import it first, which writes a file that says how it is used",
            ));
        }
        let mut metadata = origin.metadata.clone();
        let config = match &self {
            Self::Tokenizer(file) if drawn_tokens.is_none() => {
                let mut config = file.config().clone();
                config.decoding = decoding.or(config.decoding);
                config.validate()?;
                let history = with_shared_tokens(origin, config.tokens)?;
                metadata.insert(TRAINING.into(), text(&history));
                text(&config)
            }
            Self::Tokenizer(_) => {
                return Err(origin.error("is a tokenizer, which draws no tokens; a generator does"));
            }
            Self::Generator(file) => {
                let mut config = file.config().clone();
                config.decoding = decoding.or(config.decoding);
                config.drawn_tokens = drawn_tokens.or(config.drawn_tokens);
                config.validate()?;
                text(&config)
            }
            Self::Autoencoder(_) | Self::Classifier(_) => {
                return Err(origin.another_kind(self.kind(), super::ModelKind::Tokenizer));
            }
        };
        metadata.insert(CONFIG.into(), config);
        weights::save(path, &origin.weights, &metadata, stored(&origin.weights))
    }
}

/// The history of a tokenizer, to which it is added that another file gives the same tokens: this one.
fn with_shared_tokens(origin: &Origin, tokens: usize) -> Result<Value> {
    let unread = |error| Error::io(&origin.path, "read", error);
    let model = weights::hash(&origin.weights, &origin.metadata).map_err(unread)?;
    let mut history = origin.entry::<Value>(TRAINING)?.unwrap_or_else(|| json!({}));
    let damaged = || origin.error("the metadata entry \"training\" is not a table; it is damaged");
    let entries = history.as_object_mut().ok_or_else(damaged)?;
    let shared = entries.entry(SharedTokens::ENTRY).or_insert_with(|| json!([]));
    shared.as_array_mut().ok_or_else(damaged)?.insert(0, json!(SharedTokens { model, tokens }));
    Ok(history)
}

/// How exactly a file of ours stores its weights: in 16 bits, if any of them.
fn stored(weights: &Weights) -> Precision {
    match weights.iter().any(|(_, tensor)| tensor.dtype() == Dtype::F16) {
        true => Precision::F16,
        false => Precision::F32,
    }
}
