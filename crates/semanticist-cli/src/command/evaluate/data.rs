//! Images, and whether they are still those that were opened.

use std::path::PathBuf;

use anyhow::Result;
use semanticist::Error;
use semanticist_data::{Source, Split};
use semanticist_eval::statistics::Part;
use serde_json::{Value, json};

use super::super::choice::validation_source;
use super::super::sources;
use crate::failure;
use crate::output::note;

/// Opened images.
pub struct Data {
    pub source: Source,
    /// Which images these are.
    pub fingerprint: String,
    paths: Vec<PathBuf>,
    split: Split,
}

impl Data {
    pub fn open(paths: &[PathBuf], split: Split) -> Result<Self> {
        Self::of(sources::open(paths, split)?, paths, split)
    }

    /// The validation part if there is one, else all.
    pub fn validation(paths: &[PathBuf]) -> Result<Self> {
        let source = validation_source(paths)?;
        let whole = source.len() == sources::open(paths, Split::All)?.len();
        Self::of(source, paths, if whole { Split::All } else { Split::Validation })
    }

    /// What is given, or the training part of the data, or for want of one all of it.
    pub fn training(given: &[PathBuf], data: &[PathBuf]) -> Result<Self> {
        if !given.is_empty() {
            return Self::open(given, Split::All);
        }
        Self::open(data, Split::Train).or_else(|_| {
            note("the data has no training part: what is fitted is fitted to all of it, and copies are not looked for");
            Self::open(data, Split::All)
        })
    }

    fn of(source: Source, paths: &[PathBuf], split: Split) -> Result<Self> {
        Ok(Self { fingerprint: source.fingerprint()?, source, paths: paths.to_vec(), split })
    }

    /// Which part of the data it is.
    pub fn part(&self) -> Part {
        match self.split {
            Split::All => Part::All,
            Split::Train => Part::Training,
            Split::Validation => Part::Validation,
        }
    }

    /// Images that come, go or change while they are measured would be measured by some numbers and not by others.
    ///
    /// # Errors
    /// If that happened, as far as a look at some of them tells.
    pub fn check_unchanged(&self) -> Result<()> {
        let now = sources::open(&self.paths, self.split)?.fingerprint()?;
        if now == self.fingerprint {
            return Ok(());
        }
        let places: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
        Err(Error::Data(format!(
            "{}: the images changed while they were measured ({} before, {now} now); nothing was written: measure again when \
             nobody writes there",
            places.join(", "),
            self.fingerprint
        ))
        .into())
    }
}

/// Pictures by name.
pub struct NamedData(pub Vec<(String, Data)>);

impl NamedData {
    pub fn open(series: &[(String, PathBuf)]) -> Result<Self> {
        for (number, (name, _)) in series.iter().enumerate() {
            if series[..number].iter().any(|(other, _)| other == name) {
                return Err(failure::usage(format!(
                    "--series {name}: is there twice; give each a name of its own"
                )));
            }
        }
        let open = |(name, path): &(String, PathBuf)| {
            Ok((name.clone(), Data::open(std::slice::from_ref(path), Split::All)?))
        };
        series.iter().map(open).collect::<Result<_>>().map(Self)
    }

    pub fn sources(&self) -> Vec<(String, &Source)> {
        self.0.iter().map(|(name, data)| (name.clone(), &data.source)).collect()
    }

    /// What of them decides what is found.
    pub fn options(&self) -> Value {
        let one = |(name, data): &(String, Data)| json!({ "name": name, "data": data.fingerprint });
        self.0.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use semanticist::image::{RgbImage, save_png};

    use super::*;

    #[test]
    fn images_that_change_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a.png", "b.png"] {
            save_png(&RgbImage::new(4, 4), &path(name)).unwrap();
        }
        let data = Data::open(&[folder.path().to_path_buf()], Split::All).unwrap();
        data.check_unchanged().unwrap();
        save_png(&RgbImage::new(5, 4), &path("b.png")).unwrap();
        assert!(data.check_unchanged().unwrap_err().to_string().contains("changed while"));
        save_png(&RgbImage::new(4, 4), &path("b.png")).unwrap();
        data.check_unchanged().unwrap();
        std::fs::remove_file(path("a.png")).unwrap();
        assert!(data.check_unchanged().is_err());
    }
}
