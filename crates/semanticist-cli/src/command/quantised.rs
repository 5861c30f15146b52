//! Opens a tokenizer with a codebook in the place of one of ours.

use anyhow::Result;
use burn::tensor::Device;
use semanticist::Precision;
use semanticist_eval::QuantisedTokenizer;

use crate::args::{ModelChoice, QuantisedChoice, Sampling};
use crate::device::Machine;
use crate::failure;

impl QuantisedChoice {
    /// The chosen tokenizer, if one was asked for, and where it computes; nothing else may be asked of a model then.
    pub fn open(
        &self,
        model: &ModelChoice,
        sampling: Option<&Sampling>,
        machine: &Machine,
    ) -> Result<Option<(QuantisedTokenizer, Device)>> {
        let Some((kind, path)) = &self.tokenizer else { return Ok(None) };
        let asked = [
            ("--size", model.size.is_some()),
            ("--config", model.published.config.is_some()),
            ("--preset", model.published.preset.is_some()),
            ("--autoencoder", model.published.autoencoder.is_some()),
            ("--steps", sampling.is_some_and(|sampling| sampling.steps.is_some())),
            ("--sampler", sampling.is_some_and(|sampling| sampling.sampler.is_some())),
            ("--guidance", sampling.is_some_and(|sampling| sampling.guidance.is_some())),
            ("--precision", machine.precision() != Precision::Float32),
        ];
        if let Some((option, _)) = asked.iter().find(|(_, asked)| *asked) {
            return Err(failure::usage(format!(
                "{option}: {} computes in float32 and decodes in one pass, images of the size it was trained on; leave it out",
                kind.title()
            )));
        }
        let device = machine.start(Precision::Float32)?;
        Ok(Some((QuantisedTokenizer::load(*kind, path, &device)?, device)))
    }
}
