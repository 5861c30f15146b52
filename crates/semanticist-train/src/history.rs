//! Runs as their folders tell of them: how far they came, and how their losses went.

use std::fs;
use std::path::{Path, PathBuf};

use semanticist::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::lock::RunLock;

const JOURNAL: &str = "journal.jsonl";

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// A process is at work in its folder.
    Running,
    /// All its steps were made and saved.
    Finished,
    /// It can go on.
    Stopped,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Its folder.
    pub path: PathBuf,
    /// Where it stands.
    pub state: RunState,
    /// The last step that the journal tells of; 0 if there is none.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Images seen up to that step, those of batches that were left out not counted.
    pub images: u64,
    /// Batches left out because a number was not finite.
    pub skipped: u64,
    /// The last line of a step: loss, what it is made of, and pace.
    pub last: Map<String, Value>,
    /// The last line of a validation.
    pub validation: Map<String, Value>,
    /// Steps and their losses.
    #[serde(skip)]
    pub losses: Vec<(u64, f64)>,
}

/// The runs in folders and below them, by path.
///
/// # Errors
/// If a folder cannot be read, or a run's files are not those of a run.
pub fn find(folders: &[PathBuf]) -> Result<Vec<Run>> {
    let mut found = Vec::new();
    for folder in folders {
        // Below, folders may be forbidden or gone; those that were named must be there.
        fs::read_dir(folder).map_err(|error| Error::io(folder, "read the folder", error))?;
        collect(folder, &mut found)?;
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup_by(|a, b| a.path == b.path);
    Ok(found)
}

fn collect(folder: &Path, found: &mut Vec<Run>) -> Result<()> {
    if folder.join(JOURNAL).is_file() {
        found.push(Run::read(folder)?);
        return Ok(());
    }
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        // Links may lead in circles.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found)?;
        }
    }
    Ok(())
}

impl Run {
    /// Reads what a run's folder tells.
    ///
    /// # Errors
    /// If its configuration or journal cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|error| Error::io(&path, "read", error))
        };
        let config: toml::Table = text("config.toml")?
            .parse()
            .map_err(|error| Error::file(folder.join("config.toml"), format!("is not a run's: {error}")))?;
        let number = |name: &str| {
            let value =
                config.get(name).and_then(toml::Value::as_integer).and_then(|n| u64::try_from(n).ok());
            value.ok_or_else(|| {
                Error::file(folder.join("config.toml"), format!("{name} is not a whole number"))
            })
        };
        let (steps, batch) = (number("steps")?, number("batch")?);
        let mut run = Self {
            path: folder.to_path_buf(),
            state: RunState::Stopped,
            step: 0,
            steps,
            images: 0,
            skipped: 0,
            last: Map::new(),
            validation: Map::new(),
            losses: Vec::new(),
        };
        // A torn last line is of a process that was killed, or is just writing.
        let records =
            text(JOURNAL)?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<_>>();
        records.into_iter().for_each(|record| run.add(record));
        run.images = run.step * batch;
        run.state = if matches!(RunLock::check_free(folder), Err(Error::RunInUse { .. })) {
            RunState::Running
        } else if folder.join(format!("checkpoints/step-{steps:08}")).is_dir() {
            RunState::Finished
        } else {
            RunState::Stopped
        };
        Ok(run)
    }

    fn add(&mut self, record: Map<String, Value>) {
        let Some(step) = record.get("step").and_then(Value::as_u64) else { return };
        if record.contains_key("skipped") {
            self.skipped += 1;
        } else if record.contains_key("learning_rate") {
            self.step = step;
            self.losses.extend(record.get("loss").and_then(Value::as_f64).map(|loss| (step, loss)));
            self.last = record;
        } else {
            self.validation = record;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, steps: u64, journal: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.toml"), format!("steps = {steps}\nbatch = 8\n[model]\n")).unwrap();
        fs::write(folder.join(JOURNAL), journal).unwrap();
    }

    #[test]
    fn runs_are_found_with_what_their_journals_tell() {
        let folder = tempfile::tempdir().unwrap();
        let journal = "{\"step\":1,\"loss\":2.0,\"learning_rate\":0.1}\n{\"step\":2,\"skipped\":\"loss\"}\n\
                       {\"step\":2,\"loss\":1.5,\"learning_rate\":0.1}\n{\"step\":2,\"validation_mse\":[1.0]}\n{\"st";
        write(&folder.path().join("b/deep"), 2, journal);
        fs::create_dir_all(folder.path().join("b/deep/checkpoints/step-00000002")).unwrap();
        write(&folder.path().join("a"), 9, "");
        let _held = RunLock::take(&folder.path().join("a"), &mut |_| ()).unwrap();
        let twice = [folder.path().to_path_buf(), folder.path().join("a")];
        let [a, b] = &find(&twice).unwrap()[..] else { panic!("two runs") };
        assert_eq!((a.state, a.step, a.steps, a.images), (RunState::Running, 0, 9, 0));
        assert_eq!((b.state, b.step, b.images, b.skipped), (RunState::Finished, 2, 16, 1));
        assert_eq!(b.losses, [(1, 2.0), (2, 1.5)]);
        assert_eq!((&b.last["loss"], &b.validation["validation_mse"][0]), (&1.5.into(), &1.0.into()));
        let error = find(&[folder.path().join("nowhere")]).unwrap_err().to_string();
        assert!(error.contains("nowhere: cannot read the folder"), "{error}");
    }
}
