//! Choices that several commands share: which model, how many tokens, how to sample.

use anyhow::Result;
use burn::tensor::Device;
use semanticist::Model;
use semanticist::diffusion::{Guidance, SampleOptions, SamplingPlan};
use semanticist_train::config::read_tokenizer_config;

use crate::args::{ModelChoice, Sampling};
use crate::{boxed, failure};

impl ModelChoice {
    /// The chosen model, or the one in the box.
    pub fn load(&self, device: &Device) -> Result<Model> {
        let Some(path) = &self.model else {
            return Ok(boxed::model(device)?);
        };
        let config = self.config.as_deref().map(read_tokenizer_config).transpose()?;
        Ok(Model::load(path, config.as_ref(), device)?)
    }
}

impl Sampling {
    /// The options, and how often the network is asked under them.
    pub fn plan(&self, model: &Model) -> Result<(SampleOptions, usize)> {
        let guidance = Guidance::constant(self.guidance);
        let options = SampleOptions { steps: self.steps, sampler: self.sampler, guidance };
        let plan = SamplingPlan::new(&model.tokenizer.config.diffusion, &options).map_err(failure::usage)?;
        Ok((options, plan.steps()))
    }
}

/// Fails unless there are as many tokens as asked for; `holder` has them.
pub fn check_count(asked: usize, there: usize, holder: &str) -> Result<()> {
    if (1..=there).contains(&asked) {
        return Ok(());
    }
    Err(failure::usage(format!("--tokens {asked}: {holder} has {there} tokens per image; use 1 to {there}")))
}
