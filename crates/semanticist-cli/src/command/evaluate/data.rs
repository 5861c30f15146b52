//! Images, and whether they are still those that were opened.

use std::path::PathBuf;

use anyhow::Result;
use semanticist::Error;
use semanticist_data::{Source, Split};

use super::super::choice::validation_source;

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
        Self::of(Source::open(paths, split)?, paths, split)
    }

    /// The validation part if there is one, else all.
    pub fn validation(paths: &[PathBuf]) -> Result<Self> {
        let source = validation_source(paths)?;
        let whole = source.len() == Source::open(paths, Split::All)?.len();
        Self::of(source, paths, if whole { Split::All } else { Split::Validation })
    }

    fn of(source: Source, paths: &[PathBuf], split: Split) -> Result<Self> {
        Ok(Self { fingerprint: source.fingerprint()?, source, paths: paths.to_vec(), split })
    }

    /// Images that come, go or change while they are measured would be measured by some numbers and not by others.
    ///
    /// # Errors
    /// If that happened, as far as a look at some of them tells.
    pub fn check_unchanged(&self) -> Result<()> {
        let now = Source::open(&self.paths, self.split)?.fingerprint()?;
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
