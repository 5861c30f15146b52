//! What an interrupted measurement has finished, in a small file beside its result: a line that says what was asked
//! for, then one line per finished part.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use semanticist::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Finished parts by name.
#[derive(Debug)]
pub struct Finished {
    parts: HashMap<String, Value>,
    file: Option<(PathBuf, File)>,
    found: usize,
}

#[derive(Serialize, Deserialize)]
struct Part {
    part: String,
    value: Value,
}

impl Finished {
    /// Keeps nothing.
    pub fn nowhere() -> Self {
        Self { parts: HashMap::new(), file: None, found: 0 }
    }

    /// Reads what `path` has of the same `request`; of another one, or if there is no such file, it begins anew. A line
    /// that was being written when the work ended is left out.
    ///
    /// # Errors
    /// If another process writes it, or it cannot be written.
    pub fn open(path: &Path, request: &Value) -> Result<Self> {
        let failed = |error| Error::io(path, "write", error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        // Where the file system has no locks, nobody is kept away.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let problem = "another process is measuring for the same file; wait for it, or name another";
            return Err(Error::file(path, problem));
        }
        let mut text = String::new();
        if file.read_to_string(&mut text).is_err() {
            text.clear();
        }
        let mut lines = text.lines();
        let same =
            lines.next().and_then(|line| serde_json::from_str::<Value>(line).ok()).as_ref() == Some(request);
        let parts: Vec<Part> = match same {
            true => lines.map_while(|line| serde_json::from_str(line).ok()).collect(),
            false => Vec::new(),
        };
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        writeln!(file, "{request}").map_err(failed)?;
        for part in &parts {
            writeln!(file, "{}", line(part)).map_err(failed)?;
        }
        let found = parts.len();
        let parts = parts.into_iter().map(|Part { part, value }| (part, value)).collect();
        Ok(Self { parts, file: Some((path.to_path_buf(), file)), found })
    }

    /// How many parts were there already.
    pub fn found(&self) -> usize {
        self.found
    }

    /// The value of a part: as it was finished before, or computed now and kept.
    ///
    /// # Errors
    /// If the computation fails, or its value cannot be kept.
    pub fn part<T: Serialize + DeserializeOwned>(
        &mut self,
        name: &str,
        compute: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let kept = self.parts.remove(name).and_then(|value| serde_json::from_value(value).ok());
        if let Some(value) = kept {
            return Ok(value);
        }
        let value = compute()?;
        if let Some((path, file)) = &mut self.file {
            let kept = serde_json::to_value(&value).expect("measurements are numbers and texts");
            let text = line(&Part { part: name.into(), value: kept });
            writeln!(file, "{text}").map_err(|error| Error::io(path, "write", error))?;
        }
        Ok(value)
    }

    /// All is done and written elsewhere: the file goes.
    pub fn done(self) {
        if let Some((path, _)) = self.file {
            // What is left of it would only be read by the same request, and is right.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn line(part: &Part) -> String {
    serde_json::to_string(part).expect("measurements are numbers and texts")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finished_parts_are_not_computed_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.json.part");
        let request = json!({"seed": 1});
        let mut finished = Finished::open(&path, &request).unwrap();
        let second = Finished::open(&path, &request).unwrap_err().to_string();
        assert!(second.contains("another process"), "{second}");
        assert_eq!(finished.part("a", || Ok(vec![0.1, 2.5e-300])).unwrap(), [0.1, 2.5e-300]);
        assert!(finished.part::<u8>("b", || Err(Error::Cancelled)).is_err());
        drop(finished);
        // Ended within a line.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"part\":\"b\",\"va").unwrap();
        let mut again = Finished::open(&path, &request).unwrap();
        assert_eq!(again.found(), 1);
        let kept: Vec<f64> = again.part("a", || panic!("it is there")).unwrap();
        assert_eq!(kept, [0.1, 2.5e-300]);
        assert_eq!(again.part("b", || Ok(7)).unwrap(), 7);
        drop(again);
        assert_eq!(Finished::open(&path, &json!({"seed": 2})).unwrap().found(), 0);
        Finished::open(&path, &request).unwrap().done();
        assert!(!path.exists());
    }
}
