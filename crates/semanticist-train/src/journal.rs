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
        files::write_atomically(path, |file| file.write_all(kept.as_bytes()))?;
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(|error| Error::io(path, "write", error))?;
        Ok(Self { path: path.to_path_buf(), file })
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

/// Whether a whole line tells of a step up to `step`; a torn last line does not.
fn belongs(line: &str, step: u64) -> bool {
    serde_json::from_str::<serde_json::Value>(line)
        .ok()
        .and_then(|record| record.get("step")?.as_u64())
        .is_some_and(|found| found <= step)
}
