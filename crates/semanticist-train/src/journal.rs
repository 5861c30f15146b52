//! The run's history: one JSON line per event worth keeping.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use semanticist::{Error, Result, files};
use serde::Serialize;

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

/// A file of JSON lines.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
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
        Ok(Self { path: path.to_path_buf(), file, validated })
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
        self.file.write_all(line.as_bytes()).map_err(|error| Error::io(&self.path, "write", error))
    }
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
