//! What a training run is: a TOML file, resolved and checked before anything starts.

use std::fmt::Debug;
use std::path::Path;

use semanticist::nn::Activations;
use semanticist::{Error, Precision, Result, TokenizerConfig};
use semanticist_data::Crop;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::activations::HowComputed;
use crate::optimizer::AdamWConfig;
use crate::schedule::LearningRate;

/// A kind of run by what its file holds beyond what all have.
pub trait Kind: Debug + Clone + PartialEq {
    /// The model's own configuration.
    type Model: Debug + Clone + PartialEq + Serialize + DeserializeOwned;
    /// How examples are made.
    type Data: Debug + Clone + PartialEq + Default + Serialize + DeserializeOwned;
    /// What is minimised.
    type Objective: Debug + Clone + PartialEq + Default + Serialize + DeserializeOwned;
    /// How good the weights are.
    type Validation: Debug + Clone + PartialEq + Default + Serialize + DeserializeOwned;

    /// Checks what only this kind has.
    ///
    /// # Errors
    /// Names the first field that does not fit.
    fn validate(config: &RunConfig<Self>) -> Result<()>;
}

/// A training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound = "")]
pub struct RunConfig<K: Kind> {
    /// The seed of weights, data order, augmentation and every draw of training.
    #[serde(default)]
    pub seed: u64,
    /// Optimiser steps in all. Here and wherever a file counts steps, [`RunConfig::read_for`] takes epochs as well.
    pub steps: u64,
    /// Examples per optimiser step, those of all ranks together.
    pub batch: usize,
    /// Parts that a batch, or each rank's share of it, is computed in, one after the other, to save memory.
    #[serde(default = "default_accumulate")]
    pub accumulate: usize,
    /// Whether the backward pass computes every transformer block a second time from its input (gradient
    /// checkpointing), instead of keeping what it computed on the way: the same gradients in less memory and about a third
    /// more time.
    #[serde(default)]
    pub checkpoint_blocks: bool,
    /// Decay of the moving average of the weights per step.
    #[serde(default = "default_ema")]
    pub ema: f64,
    /// What the products of linear layers and attention are computed in, those of validation included. The
    /// weights themselves, their average and the optimiser's moments are float32 in either.
    #[serde(default)]
    pub precision: Precision,
    /// What gradients are sent in between the ranks of a run, if it has several. Their sums are made in float32 in either;
    /// bfloat16 is half as much to send.
    #[serde(default)]
    pub wire: Precision,
    /// How many batches in a row are left out because their loss or gradient is not finite; one more ends the
    /// run.
    #[serde(default = "default_skips")]
    pub skips_in_a_row: u64,
    /// What is trained.
    pub model: K::Model,
    /// How examples are made of the data set.
    #[serde(default)]
    pub data: K::Data,
    /// What is minimised.
    #[serde(default)]
    pub objective: K::Objective,
    /// Its course over the steps.
    pub learning_rate: LearningRate,
    /// The other numbers of AdamW.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// What is written, and how often.
    #[serde(default)]
    pub log: LogConfig,
    /// On what the averaged weights are measured.
    #[serde(default)]
    pub validation: K::Validation,
}

fn default_accumulate() -> usize {
    1
}

fn default_ema() -> f64 {
    0.999
}

fn default_skips() -> u64 {
    10
}

/// How batches of images are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageData {
    /// How often images come from each of the sources, in proportion; one number per source in the order of `--data`. Without
    /// any, all images come equally often.
    pub weights: Vec<f64>,
    /// Which part of an image is shown.
    pub crop: TrainingCrop,
    /// Probability of a horizontal flip.
    pub flip: f32,
    /// Threads that decode images; they do not change the result.
    pub workers: usize,
    /// Images that settle an autoencoder's statistics: a linear one is fitted to them at the start, the
    /// scale of a KL one estimated on them at the end; before, on the validation images.
    pub fit_images: usize,
}

impl Default for ImageData {
    fn default() -> Self {
        let (weights, crop) = (Vec::new(), TrainingCrop::Random);
        Self { weights, crop, flip: 0.5, workers: 2, fit_images: 10_000 }
    }
}

/// Which part of an image training shows; of square images, all of it in either case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainingCrop {
    /// As much as a square can, at another place each time.
    #[default]
    Random,
    /// The part that evaluation shows, resized as there.
    Center,
}

impl From<TrainingCrop> for Crop {
    fn from(crop: TrainingCrop) -> Self {
        match crop {
            TrainingCrop::Random => Self::Largest,
            TrainingCrop::Center => Self::Center,
        }
    }
}

/// When the run says something, and what; steps, except where stated. 0 turns a line off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A line in the journal.
    pub every: u64,
    /// A checkpoint; the last step always makes one.
    pub checkpoint_every: u64,
    /// Checkpoints kept, at least 2, so that there is one to go back to if the last is damaged; older ones
    /// are removed.
    pub keep_checkpoints: usize,
    /// A validation of the averaged weights.
    pub validate_every: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { every: 50, checkpoint_every: 1000, keep_checkpoints: 2, validate_every: 1000 }
    }
}

impl<K: Kind> RunConfig<K> {
    /// Reads a file and lays `settings` of the form `key.path=value` over it.
    ///
    /// # Errors
    /// If the file or a setting is not TOML, names an unknown key, contradicts itself, or gives a number of steps in
    /// epochs.
    pub fn read(path: &Path, settings: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, "read", error))?;
        Self::parse(&text, settings).map_err(|error| Error::file(path, error.to_string()))
    }

    /// The same for a data set of so many examples: a number of steps may be given as `"400 epochs"`.
    ///
    /// # Errors
    /// As there.
    pub fn read_for(path: &Path, settings: &[String], examples: usize) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, "read", error))?;
        let read = || {
            let mut table = laid_over(&text, settings)?;
            epochs_to_steps(&mut table, examples)?;
            Self::of_table(table)
        };
        read().map_err(|error: Error| Error::file(path, error.to_string()))
    }

    /// [`RunConfig::read`] on text.
    ///
    /// # Errors
    /// As there.
    pub fn parse(text: &str, settings: &[String]) -> Result<Self> {
        Self::of_table(laid_over(text, settings)?)
    }

    fn of_table(table: Table) -> Result<Self> {
        let config: Self = table.try_into().map_err(|error: toml::de::Error| config_error(&error))?;
        config.validate()?;
        Ok(config)
    }

    /// The file that [`RunConfig::read`] reads back.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a run configuration is plain data")
    }

    /// What the memory of a step depends on beside the model's sizes.
    pub fn how_computed(&self) -> HowComputed {
        HowComputed { precision: self.precision, activations: self.activations() }
    }

    /// What becomes of the values within transformer blocks.
    pub fn activations(&self) -> Activations {
        if self.checkpoint_blocks { Activations::Recomputed } else { Activations::Kept }
    }

    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<()> {
        K::validate(self)?;
        let Self { batch, accumulate, .. } = *self;
        let problem = if self.steps == 0 {
            "steps is 0; a run has at least 1".into()
        } else if batch == 0 || accumulate == 0 || !batch.is_multiple_of(accumulate) {
            format!("accumulate = {accumulate} does not divide batch = {batch}")
        } else if !(0.0..1.0).contains(&self.ema) {
            format!("ema = {} is not in [0, 1)", self.ema)
        } else if self.log.keep_checkpoints < 2 {
            let kept = self.log.keep_checkpoints;
            format!(
                "log.keep_checkpoints = {kept} leaves none to go back to if the last is damaged; use at least 2"
            )
        } else if !(self.learning_rate.peak > 0.0 && self.learning_rate.peak.is_finite()) {
            format!("learning_rate.peak = {} is not a positive number", self.learning_rate.peak)
        } else {
            return Ok(());
        };
        Err(Error::Config(problem))
    }
}

impl<K: Kind> RunConfig<K> {
    /// Checks that a batch has equal shares for so many ranks, in equal parts.
    ///
    /// # Errors
    /// If it has not, or an objective cannot learn from parts of that size.
    pub fn check_ranks(&self, ranks: usize) -> Result<()> {
        let Self { batch, accumulate, .. } = *self;
        let parts = ranks * accumulate;
        if !batch.is_multiple_of(parts) {
            return Err(Error::Config(format!(
                "batch = {batch} cannot be divided among {ranks} ranks, each computing its share in accumulate = \
                 {accumulate} parts: {ranks} times {accumulate} does not divide it; use a multiple of {parts}"
            )));
        }
        // What is computed together is as large as in one process with so many parts.
        K::validate(&Self { accumulate: parts, ..self.clone() })
    }
}

/// Reads the configuration of a tokenizer: a run's `[model]` table, or the bare table.
///
/// # Errors
/// As [`RunConfig::read`].
pub fn read_tokenizer_config(path: &Path) -> Result<TokenizerConfig> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, "read", error))?;
    let parse = || {
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| config_error(&error))?;
        let model = match table.remove("model") {
            Some(Value::Table(model)) => model,
            Some(_) => return Err(Error::Config("\"model\" is not a table".into())),
            None => table,
        };
        let config: TokenizerConfig =
            model.try_into().map_err(|error: toml::de::Error| config_error(&error))?;
        config.validate()?;
        Ok(config)
    };
    parse().map_err(|error: Error| Error::file(path, error.to_string()))
}

/// Whether a configuration is of a tokenizer's run, and not of an autoencoder's.
///
/// # Errors
/// If the file is not TOML.
pub fn is_of_tokenizer(path: &Path) -> Result<bool> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, "read", error))?;
    let table: Table =
        text.parse().map_err(|error: toml::de::Error| Error::file(path, config_error(&error).to_string()))?;
    Ok(table.get("model").and_then(|model| model.get("encoder")).is_some())
}

/// A file with settings laid over it.
fn laid_over(text: &str, settings: &[String]) -> Result<Table> {
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| config_error(&error))?;
    settings.iter().try_for_each(|setting| apply_setting(&mut table, setting))?;
    Ok(table)
}

/// Replaces every `"N epochs"` by as many steps, rounded: an epoch is `examples` over the batch.
fn epochs_to_steps(table: &mut Table, examples: usize) -> Result<()> {
    let batch = table.get("batch").and_then(Value::as_integer).filter(|batch| *batch > 0);
    // Without a batch the table is refused anyway.
    let Some(batch) = batch else { return Ok(()) };
    replace_epochs(table, examples as f64 / batch as f64)
}

fn replace_epochs(table: &mut Table, steps_per_epoch: f64) -> Result<()> {
    for (name, value) in table.iter_mut() {
        match value {
            Value::Table(inner) => replace_epochs(inner, steps_per_epoch)?,
            Value::String(text) => {
                let Some(epochs) = text.strip_suffix("epochs").or(text.strip_suffix("epoch")) else {
                    continue;
                };
                let epochs = epochs.trim().parse::<f64>().ok().filter(|epochs| (0.0..1e9).contains(epochs));
                let epochs = epochs.ok_or_else(|| {
                    Error::Config(format!(
                        "{name} = \"{text}\": expected a number of epochs, such as \"400 epochs\""
                    ))
                })?;
                *value = Value::Integer((epochs * steps_per_epoch).round() as i64);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Sets `a.b.c=value`; the value is TOML, or else text.
fn apply_setting(table: &mut Table, setting: &str) -> Result<()> {
    let (key, value) = setting.split_once('=').ok_or_else(|| {
        Error::Config(format!("setting {setting}: expected KEY=VALUE, such as learning_rate.peak=1e-3"))
    })?;
    let value = format!("value = {value}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(value.to_string()));
    let mut names = key.split('.').collect::<Vec<_>>();
    let last = names.pop().unwrap_or_default();
    let mut place = table;
    for name in names {
        let next = place.entry(name).or_insert_with(|| Value::Table(Table::new()));
        place = next
            .as_table_mut()
            .ok_or_else(|| Error::Config(format!("setting {setting}: {name} is a value, not a table")))?;
    }
    place.insert(last.to_string(), value);
    Ok(())
}

/// Serde's message, with the nearest known name if it is about an unknown one.
fn config_error(error: &toml::de::Error) -> Error {
    let message = error.to_string();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let hint = match quoted.split_first() {
        Some((unknown, known))
            if message.contains("unknown field") || message.contains("unknown variant") =>
        {
            nearest(unknown, known).map(|name| format!(" (did you mean `{name}`?)"))
        }
        _ => None,
    };
    Error::Config(message.trim_end().to_string() + &hint.unwrap_or_default())
}

fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |name: &&&str| strsim::damerau_levenshtein(unknown, name);
    known
        .iter()
        .min_by_key(distance)
        .copied()
        .filter(|name| strsim::damerau_levenshtein(unknown, name) <= 1 + unknown.len() / 3)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::objective::autoencoder::AutoencoderRun;
    use crate::objective::classifier::ClassifierRun;
    use crate::objective::generator::GeneratorRun;
    use crate::objective::tokenizer::TokenizerRun;

    type RunConfig = super::RunConfig<TokenizerRun>;

    const TINY: &str = include_str!("../../../configs/tokenizer-tiny.toml");

    #[test]
    fn the_preset_reads_and_survives_a_round_trip() {
        let config = RunConfig::parse(TINY, &[]).unwrap();
        assert_eq!(RunConfig::parse(&config.to_toml(), &[]).unwrap(), config);
    }

    #[test]
    fn every_configuration_in_the_box_reads_as_what_it_is() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let read = |name: &str| folder.join(name);
        let autoencoder = read("autoencoder-tiny.toml");
        super::RunConfig::<AutoencoderRun>::read(&autoencoder, &[]).unwrap();
        assert!(!super::is_of_tokenizer(&autoencoder).unwrap());
        super::RunConfig::<GeneratorRun>::read(&read("generator-tiny.toml"), &[]).unwrap();
        super::RunConfig::<ClassifierRun>::read(&read("classifier-tiny.toml"), &[]).unwrap();
        assert!(super::is_of_tokenizer(&read("tokenizer-tiny.toml")).unwrap());
    }

    #[test]
    fn settings_lie_over_the_file() {
        let settings = ["model.encoder.blocks.depth=3", "learning_rate.decay=constant", "steps=7"];
        let config = RunConfig::parse(TINY, &settings.map(String::from)).unwrap();
        assert_eq!((config.model.encoder.blocks.depth, config.steps), (3, 7));
    }

    #[test]
    fn epochs_become_steps_of_the_data_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, TINY).unwrap();
        let settings =
            ["batch=8", "steps=2.5 epochs", "learning_rate.warmup_steps=1 epoch"].map(String::from);
        let config = RunConfig::read_for(&path, &settings, 100).unwrap();
        assert_eq!((config.steps, config.learning_rate.warmup_steps), (31, 13));
        let wrong = RunConfig::read_for(&path, &["steps=many epochs".into()], 100).unwrap_err().to_string();
        assert!(wrong.contains("steps") && wrong.contains("400 epochs"), "{wrong}");
        let unknown = RunConfig::read(&path, &settings).unwrap_err().to_string();
        assert!(unknown.contains("epoch"), "{unknown}");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_suggests_the_nearest() {
        let error = RunConfig::parse(TINY, &["model.token_dmi=3".into()]).unwrap_err().to_string();
        assert!(error.contains("token_dmi") && error.contains("did you mean `token_dim`?"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (setting, part) in [
            ("model.image_size=60", "60 is not a multiple"),
            ("model.encoder.blocks.heads=5", "5 heads do not divide"),
            ("accumulate=3", "accumulate = 3"),
            ("steps=0", "steps"),
            ("log.keep_checkpoints=1", "at least 2"),
            ("validation.tokens=[64]", "64"),
            ("objective.nested_guidance.drop_all=1.5", "1.5"),
            ("precision=float16", "float16"),
        ] {
            let error = RunConfig::parse(TINY, &[setting.into()]).unwrap_err().to_string();
            assert!(error.contains(part), "{setting}: {error}");
        }
    }
}
