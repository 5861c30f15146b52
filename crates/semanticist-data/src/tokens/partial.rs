//! A file on its way: beside its final name, which it gets only when it is complete.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use semanticist::{Error, Result};

/// Removed when dropped, unless [`Partial::complete`] gave it its name.
pub(super) struct Partial {
    target: PathBuf,
    temporary: PathBuf,
}

impl Partial {
    /// Creates the file that will become `target`.
    pub fn create(target: &Path) -> Result<(Self, File)> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        if target.is_dir() {
            return Err(Error::file(target, "is a folder; give the name of a file"));
        }
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!(".semanticist-tokens-{}-{number}.tmp", std::process::id());
            let temporary = target.with_file_name(name);
            match OpenOptions::new().read(true).write(true).create_new(true).open(&temporary) {
                Ok(file) => return Ok((Self { target: target.to_path_buf(), temporary }, file)),
                // A process of the same number died here, or runs on another machine.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(target, "create", error)),
            }
        }
    }

    /// Puts `file`, all of it, under its final name.
    pub fn complete(self, file: &File) -> Result<()> {
        let renamed = file.sync_all().and_then(|()| fs::rename(&self.temporary, &self.target));
        renamed.map_err(|error| self.failed(error))
    }

    /// An error in writing this file.
    pub fn failed(&self, error: io::Error) -> Error {
        Error::io(&self.target, "write", error)
    }

    /// The final name.
    pub fn target(&self) -> &Path {
        &self.target
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing to remove, and otherwise nothing more to be done.
        let _ = fs::remove_file(&self.temporary);
    }
}
