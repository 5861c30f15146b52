//! Choices that several commands share: which model, how many tokens, how to sample.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use burn::tensor::Device;
use semanticist::diffusion::{DecodeOptions, Guidance, Sampler};
use semanticist::generator::{DrawOptions, GeneratorConfig, TokenGuidance};
use semanticist::model::{PublishedTokenizer, TokenizerFile, TokenizerModel, Work};
use semanticist::{ModelFile, TokenizerConfig, presets};
use semanticist_data::{Source, Split};
use semanticist_eval::generation::powers;
use semanticist_hub::builtin::{self, Builtin};
use semanticist_hub::{Kind, Known, Location};
use semanticist_train::config::read_tokenizer_config;

use super::{preflight, sources};
use crate::args::{Decoding, Drawing, ModelChoice, PublishedChoice, Sampling, TokenDrawing};
use crate::output::note;
use crate::{failure, fetch};

impl ModelChoice {
    /// A choice of a model alone.
    pub fn of(model: Option<PathBuf>, published: &PublishedChoice) -> Self {
        Self { model, size: None, no_memory_check: false, published: published.clone() }
    }

    /// The chosen model, or the built-in one, if there is memory for it.
    pub fn load(&self, device: &Device) -> Result<TokenizerModel> {
        self.load_for(Work::default(), device)
    }

    /// The same in the precision of what is to be done with it, if there is also memory for that.
    pub fn load_for(&self, work: Work, device: &Device) -> Result<TokenizerModel> {
        let mut file = self.open()?;
        let trained = file.config().image_size;
        if let Some(size) = self.size.filter(|size| *size != trained) {
            file.resize(size).map_err(|error| failure::usage(format!("--size {size}: {error}")))?;
            note(&format!(
                "the model was trained on {trained}×{trained} pixels, not {size}×{size}: its positions are \
                 interpolated, and its images the worse the further the size is from its own"
            ));
        }
        if !self.no_memory_check {
            preflight::check(&file.memory()?, work)?;
        }
        Ok(file.load(device)?.with_precision(work.precision))
    }

    /// The chosen model's file, or the built-in one; a published one is fetched if it is not here.
    pub fn open(&self) -> Result<TokenizerFile> {
        let PublishedChoice { config, preset, autoencoder } = &self.published;
        let Some(model) = &self.model else {
            if config.is_some() || preset.is_some() || autoencoder.is_some() {
                return Err(failure::usage(
                    "--config, --preset and --autoencoder say what a published checkpoint holds; name its \
                     FILE (for most commands with --model)",
                ));
            }
            return builtin_tokenizer();
        };
        let path = match Location::of(model)? {
            Location::Builtin(builtin) => return builtin_file(builtin),
            Location::Known(known) => return self.open_known(known),
            Location::Remote(remote) => fetch::find(&remote)?,
            Location::File(path) => path,
        };
        let config = self.published.config()?;
        if config.is_none() && autoencoder.is_some() {
            return Err(failure::usage(
                "--autoencoder FILE belongs to a published checkpoint: say what that holds, with --preset NAME \
                 or --config TOML",
            ));
        }
        let Some(config) = config else { return Ok(ModelFile::open(&path)?.into_tokenizer()?) };
        let autoencoder = autoencoder.as_deref().map(autoencoder_file).transpose()?;
        let published = PublishedTokenizer { config: &config, autoencoder: autoencoder.as_deref() };
        Ok(TokenizerFile::published(&path, published)?)
    }

    /// The chosen file, whatever kind of model it holds.
    pub fn open_any(&self) -> Result<ModelFile> {
        let described = self.published.config.is_some() || self.published.preset.is_some();
        match self.model.as_deref().map(Location::of).transpose()? {
            Some(Location::Builtin(builtin)) => Ok(ModelFile::from_bytes(builtin.name, builtin.bytes)?),
            Some(Location::File(path)) if !described => Ok(ModelFile::open(&path)?),
            _ => Ok(ModelFile::Tokenizer(Box::new(self.open()?))),
        }
    }

    /// What is published under a known name needs no more to be said of it.
    fn open_known(&self, known: &Known) -> Result<TokenizerFile> {
        let Kind::Tokenizer { preset, autoencoder } = known.kind else {
            let kind =
                if matches!(known.kind, Kind::Generator { .. }) { "a generator" } else { "an autoencoder" };
            return Err(failure::usage(format!("--model {}: is {kind}, not a tokenizer", known.name)));
        };
        let config = match self.published.config()? {
            Some(config) => config,
            None => presets::tokenizer(preset)?,
        };
        let autoencoder = self.published.autoencoder.as_deref().unwrap_or(Path::new(autoencoder));
        let (path, autoencoder) = (fetch::find(&known.remote())?, autoencoder_file(autoencoder)?);
        let published = PublishedTokenizer { config: &config, autoencoder: Some(&autoencoder) };
        Ok(TokenizerFile::published(&path, published)?)
    }
}

/// What messages call the built-in tokenizer.
pub const BUILTIN: &str = "the built-in tokenizer";

/// The built-in tokenizer, not yet on a device.
pub fn builtin_tokenizer() -> Result<TokenizerFile> {
    builtin_file(&builtin::TOKENIZER)
}

fn builtin_file(builtin: &'static Builtin) -> Result<TokenizerFile> {
    Ok(ModelFile::from_bytes(builtin.name, builtin.bytes)?.into_tokenizer()?)
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

/// The file of an autoencoder that is given as a file, by name, or on the hub; fetched if it is not here.
pub fn autoencoder_file(asked: &Path) -> Result<PathBuf> {
    match Location::of(asked)? {
        Location::File(path) => Ok(path),
        Location::Remote(remote) => fetch::find(&remote),
        Location::Known(known) if matches!(known.kind, Kind::Autoencoder { .. }) => {
            fetch::find(&known.remote())
        }
        Location::Known(_) | Location::Builtin(_) => {
            let asked = asked.display();
            Err(failure::usage(format!("--autoencoder {asked}: is a model, not an autoencoder")))
        }
    }
}

/// What was asked for of decoding; what was not, the model says.
#[derive(Clone, Copy)]
pub struct AskedDecoding {
    pub steps: Option<usize>,
    pub sampler: Option<Sampler>,
    pub guidance: Option<f64>,
}

impl AskedDecoding {
    /// The options where `usual` is what is not asked for.
    pub fn over(self, usual: DecodeOptions) -> DecodeOptions {
        DecodeOptions {
            steps: self.steps.unwrap_or(usual.steps),
            sampler: self.sampler.or(usual.sampler),
            guidance: self.guidance.map_or(usual.guidance, Guidance::constant),
        }
    }

    /// The options, and how many evaluations of the decoder an image takes under them.
    pub fn plan(self, model: &TokenizerModel) -> Result<(DecodeOptions, usize)> {
        self.plan_from(model.tokenizer.config.decode_options(), model)
    }

    /// The same where `usual` is what is not asked for.
    fn plan_from(self, usual: DecodeOptions, model: &TokenizerModel) -> Result<(DecodeOptions, usize)> {
        let options = self.over(usual);
        let evaluations = model.tokenizer.evaluations(&options).map_err(failure::usage)?;
        Ok((options, evaluations))
    }
}

impl Drawing {
    /// The options where `usual` is what is not asked for.
    pub fn over(&self, usual: DrawOptions) -> DrawOptions {
        let mut options = self.tokens.over(usual);
        options.guidance.scale = self.guidance.unwrap_or(options.guidance.scale);
        options
    }

    /// Whether anything is.
    pub fn asked(&self) -> bool {
        self.guidance.is_some() || self.tokens.asked()
    }
}

impl TokenDrawing {
    fn asked(&self) -> bool {
        let Self { schedule, steps, sampler, temperature } = self;
        schedule.is_some() || steps.is_some() || sampler.is_some() || temperature.is_some()
    }

    /// The options where `usual` is what is not asked for, the scale of guidance among it.
    pub fn over(&self, usual: DrawOptions) -> DrawOptions {
        let Self { schedule, steps, sampler, temperature } = *self;
        let schedule = schedule.map_or(usual.guidance.schedule, Into::into);
        DrawOptions {
            guidance: TokenGuidance { schedule, ..usual.guidance },
            steps: steps.unwrap_or(usual.steps),
            sampler: sampler.or(usual.sampler),
            temperature: temperature.unwrap_or(usual.temperature),
        }
    }
}

impl Decoding {
    /// What was asked for.
    pub fn asked(&self) -> AskedDecoding {
        let Self { decode_steps: steps, decode_sampler: sampler, decode_guidance: guidance } = *self;
        AskedDecoding { steps, sampler, guidance }
    }

    /// The options for what `generator` draws, and how many evaluations of the decoder an image takes under them.
    pub fn plan(
        &self,
        generator: &GeneratorConfig,
        model: &TokenizerModel,
    ) -> Result<(DecodeOptions, usize)> {
        let usual = generator.decode_options(model.tokenizer.config.decode_options());
        self.asked().plan_from(usual, model)
    }
}

impl Sampling {
    /// The options, and how many evaluations of the network that takes under them.
    pub fn plan(&self, model: &TokenizerModel) -> Result<(DecodeOptions, usize)> {
        let Self { steps, sampler, guidance, .. } = *self;
        AskedDecoding { steps, sampler, guidance }.plan(model)
    }

    /// How many images go through the decoder at once to decode `images`. The model's own guidance is not known
    /// before it is opened; it is taken for one that guides.
    pub fn together(&self, images: usize) -> usize {
        if self.guidance == Some(1.0) { images } else { images.saturating_mul(2) }
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
    let all = sources::open(data, Split::All)?;
    match sources::open(data, Split::Validation) {
        Ok(part) if part.len() < all.len() => Ok(part),
        _ => {
            note("the data has no validation part of its own; all of it is used to validate");
            Ok(all)
        }
    }
}

/// What was asked for, 0 for none included, or powers of two up to all tokens.
pub fn counts(asked: &[usize], all: usize) -> Result<Vec<usize>> {
    if asked.is_empty() {
        return Ok(powers(all));
    }
    if let Some(count) = asked.iter().find(|&&count| count > all) {
        return Err(failure::usage(format!(
            "--tokens {count}: the model has {all} tokens per image; use 0 to {all}"
        )));
    }
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
