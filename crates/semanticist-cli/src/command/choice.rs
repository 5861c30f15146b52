//! Choices that several commands share: which model, how many tokens, how to sample.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use burn::tensor::Device;
use semanticist::diffusion::{Guidance, SampleOptions, SamplingPlan};
use semanticist::model::Published;
use semanticist::{Model, TokenizerConfig, presets};
use semanticist_train::config::read_tokenizer_config;
use semanticist_train::data::{Source, Split};

use crate::args::{ModelChoice, PublishedChoice, Sampling};
use crate::output::note;
use crate::{boxed, failure};

impl ModelChoice {
    /// The chosen model, or the one in the box.
    pub fn load(&self, device: &Device) -> Result<Model> {
        let PublishedChoice { config, preset, autoencoder } = &self.published;
        let Some(path) = &self.model else {
            if config.is_some() || preset.is_some() || autoencoder.is_some() {
                return Err(failure::usage(
                    "--config, --preset and --autoencoder say what a published checkpoint holds; name its \
                     FILE (for most commands with --model)",
                ));
            }
            return Ok(boxed::model(device)?);
        };
        let config = self.published.config()?;
        let autoencoder = autoencoder.as_deref();
        if config.is_none() && autoencoder.is_some() {
            return Err(failure::usage(
                "--autoencoder FILE belongs to a published checkpoint: say what that holds, with --preset NAME \
                 or --config TOML",
            ));
        }
        let published = config.as_ref().map(|config| Published { config, autoencoder });
        Ok(Model::load(path, published, device)?)
    }
}

impl PublishedChoice {
    /// What the checkpoint holds, if that was said.
    pub fn config(&self) -> Result<Option<TokenizerConfig>> {
        Ok(match (&self.config, &self.preset) {
            (Some(path), _) => Some(read_tokenizer_config(path)?),
            (None, Some(name)) => Some(presets::tokenizer(name).map_err(failure::usage)?),
            (None, None) => None,
        })
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

/// The validation part of the data if it has one, else all of it.
pub fn validation_source(data: &[PathBuf]) -> Result<Source> {
    let all = Source::open(data, Split::All)?;
    match Source::open(data, Split::Validation) {
        Ok(part) if part.len() < all.len() => Ok(part),
        _ => {
            note("the data has no validation part of its own; all of it is used to validate");
            Ok(all)
        }
    }
}

/// What was asked for, or powers of two up to all tokens.
pub fn counts(asked: &[usize], all: usize) -> Result<Vec<usize>> {
    if asked.is_empty() {
        let powers = std::iter::successors(Some(1), |count| Some(count * 2));
        return Ok(powers.take_while(|&count| count < all).chain([all]).collect());
    }
    asked.iter().try_for_each(|&count| check_count(count, all, "the model"))?;
    Ok(asked.to_vec())
}

/// Set by the first Ctrl-C, so that what is unfinished can be put away; the second ends at once.
pub fn listen() -> Result<&'static AtomicBool> {
    static INTERRUPTED: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(&INTERRUPTED)
}
