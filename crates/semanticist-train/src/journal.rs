//! The run's history: one JSON line per event worth keeping.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use semanticist::{Error, Result, files};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::tensorboard::EventFile;

/// A logged step.
#[derive(Debug, Clone, Serialize)]
pub struct StepRecord {
    /// Counted from 1.
    pub step: u64,
    /// Mean over the batch, before the step.
    pub loss: f64,
    /// What it is made of, by name.
    #[serde(flatten)]
    pub parts: BTreeMap<&'static str, f64>,
    /// Of the gradients together, before clipping.
    pub gradient_norm: f64,
    /// The same of parameters that are optimised apart, by what their names begin with.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub other_gradient_norms: BTreeMap<String, f64>,
    /// Of this step.
    pub learning_rate: f64,
    /// Since the last logged step.
    pub images_per_second: f64,
    /// The share of that time in which the next batch was not ready, from 0 to 1.
    pub data_wait: f64,
    /// Passes over the data that are complete.
    pub epoch: u64,
}

/// The fields of a step that depend on the clock, so that two runs of one configuration differ in them.
pub const OF_THE_CLOCK: [&str; 2] = ["images_per_second", "data_wait"];

/// A batch that was left out, as a number was not finite.
#[derive(Debug, Clone, Serialize)]
pub struct SkipRecord {
    /// The step that was then made of a later batch, or not at all.
    pub step: u64,
    /// Which number: `loss` or `gradient`.
    pub skipped: &'static str,
    /// `NaN` or `inf`, which JSON has no numbers for.
    pub value: String,
    /// Passes over the data that are complete.
    pub epoch: u64,
}

/// A validation of the averaged weights.
#[derive(Debug, Clone, Serialize)]
pub struct ValidationRecord {
    /// Steps made, counted from 1.
    pub step: u64,
    /// What was found, by name.
    #[serde(flatten)]
    pub measures: serde_json::Map<String, serde_json::Value>,
}

/// A file of JSON lines, and beside it an event file for TensorBoard with the same numbers.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    events: EventFile,
    /// The last step that was validated before the journal was opened.
    validated: Option<u64>,
}

impl Journal {
    /// Opens the journal of a run at `step`, dropping what an interrupted run wrote after it.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let kept = match std::fs::read_to_string(path) {
            Ok(text) => {
                text.lines().filter(|line| belongs(line, step)).fold(String::new(), |t, l| t + l + "\n")
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io(path, "read", error)),
        };
        let validated = kept.lines().filter_map(validated_step).next_back();
        files::write_atomically(path, |file| file.write_all(kept.as_bytes()))?;
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(|error| Error::io(path, "write", error))?;
        let events = EventFile::create(path.parent().unwrap_or(Path::new(".")), step)?;
        Ok(Self { path: path.to_path_buf(), file, events, validated })
    }

    /// Whether the journal told of the validation of `step` when it was opened; there is none of step 0.
    pub fn validated(&self, step: u64) -> bool {
        step == 0 || self.validated == Some(step)
    }

    /// Appends a line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, record: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(record).expect("records are plain data") + "\n";
        self.file.write_all(line.as_bytes()).map_err(|error| Error::io(&self.path, "write", error))?;
        let record: Map<String, Value> =
            serde_json::from_str(&line).expect("it was just written as an object");
        match record.get("step").and_then(Value::as_u64) {
            Some(step) => self.events.scalars(step, &scalars(&record)),
            None => Ok(()),
        }
    }
}

/// The numbers of a line as TensorBoard shows them: `training/loss`, `validation/validation_mse/32`.
fn scalars(record: &Map<String, Value>) -> Vec<(String, f64)> {
    let group = match record {
        _ if record.contains_key("skipped") => return Vec::new(),
        _ if record.contains_key("learning_rate") => "training",
        _ => "validation",
    };
    let counts = record.get("tokens").and_then(Value::as_array);
    let mut scalars = Vec::new();
    // What a number is of, not a result.
    let shown = record.iter().filter(|(name, _)| !["step", "images", "tokens"].contains(&name.as_str()));
    for (name, value) in shown {
        let mut add = |tag: String, value: &Value| scalars.extend(value.as_f64().map(|value| (tag, value)));
        match value {
            Value::Array(values) => {
                let counts = counts.into_iter().flatten();
                counts.zip(values).for_each(|(count, value)| add(format!("{group}/{name}/{count}"), value));
            }
            Value::Object(values) => {
                values.iter().for_each(|(part, value)| add(format!("{group}/{name}/{part}"), value));
            }
            _ => add(format!("{group}/{name}"), value),
        }
    }
    scalars
}

/// The step of a line, if that is of a validation.
fn validated_step(line: &str) -> Option<u64> {
    let record: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_validation = record.get("learning_rate").is_none() && record.get("skipped").is_none();
    is_validation.then(|| record.get("step")?.as_u64()).flatten()
}

/// Whether a whole line tells of a step up to `step`; a torn last line does not.
fn belongs(line: &str, step: u64) -> bool {
    serde_json::from_str::<serde_json::Value>(line)
        .ok()
        .and_then(|record| record.get("step")?.as_u64())
        .is_some_and(|found| found <= step)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tensorboard_is_told_the_numbers_of_the_journal() {
        let told = |record: Value| scalars(record.as_object().unwrap());
        let step = json!({ "step": 3, "loss": 0.5, "learning_rate": 0.1, "other_gradient_norms": { "critic.": 2.0 } });
        let expected = [("learning_rate", 0.1), ("loss", 0.5), ("other_gradient_norms/critic.", 2.0)];
        assert_eq!(told(step), expected.map(|(name, value)| (format!("training/{name}"), value)));
        let validation = json!({ "step": 3, "validation_mse": [0.4, 0.2], "tokens": [1, 32], "images": 8 });
        let expected = [("1", 0.4), ("32", 0.2)].map(|(k, v)| (format!("validation/validation_mse/{k}"), v));
        assert_eq!(told(validation), expected);
        assert_eq!(told(json!({ "step": 3, "skipped": "loss", "value": "NaN", "epoch": 0 })), []);
    }
}
