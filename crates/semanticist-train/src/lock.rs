//! One process per run: a lock on its folder, which the system releases however the process ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use semanticist::{Error, Result};

/// The file that is locked. It stays when the run ends; that nobody holds it is what counts.
const NAME: &str = ".lock";

/// A folder that no other process can train into as long as this lives.
#[derive(Debug)]
pub struct RunLock {
    /// Closing it releases the lock. None where the file system has no locks.
    _held: Option<File>,
}

impl RunLock {
    /// Takes the folder, which is created if it is not there. Where the file system has no locks (some
    /// parallel ones), the folder is not protected, and `warn` is told.
    ///
    /// # Errors
    /// If another process holds it, with its number and machine; or if the file cannot be written.
    pub fn take(out: &Path, warn: &mut dyn FnMut(String)) -> Result<Self> {
        fs::create_dir_all(out).map_err(|error| Error::io(out, "create the folder", error))?;
        let path = out.join(NAME);
        let failed = |error| Error::io(&path, "lock", error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {
                let written = file.set_len(0).and_then(|()| file.rewind());
                written.and_then(|()| file.write_all(holder().as_bytes())).map_err(failed)?;
                Ok(Self { _held: Some(file) })
            }
            Err(TryLockError::WouldBlock) => Err(in_use(out, &mut file)),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                warn(format!("{}: this file system has no locks; start no second run in it", out.display()));
                Ok(Self { _held: None })
            }
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Fails if another process holds the folder; changes nothing.
    ///
    /// # Errors
    /// As it says.
    pub fn check_free(out: &Path) -> Result<()> {
        let Ok(mut file) = File::open(out.join(NAME)) else { return Ok(()) };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Err(in_use(out, &mut file)),
            _ => Ok(()),
        }
    }
}

/// What a killed process left half written in a folder; only whoever holds the lock may call this.
pub(crate) fn remove_leftovers(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(folder, "read the folder", error)),
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let removed = match path.file_name().and_then(|name| name.to_str()) {
            Some(name) if name.starts_with(".semanticist-") && name.ends_with(".tmp") => {
                fs::remove_file(&path)
            }
            Some(name) if name.starts_with('.') && name.ends_with(".partial") => fs::remove_dir_all(&path),
            _ => Ok(()),
        };
        removed.map_err(|error| Error::io(&path, "remove", error))?;
    }
    Ok(())
}

fn in_use(out: &Path, file: &mut File) -> Error {
    let mut holder = String::new();
    // Where a locked file cannot be read, nobody can be named.
    let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
    let holder = if known { holder.trim().to_string() } else { "another process".into() };
    Error::RunInUse { path: PathBuf::from(out), holder }
}

/// `process 123 on host`
fn holder() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let place = if host.trim().is_empty() { String::new() } else { format!(" on {}", host.trim()) };
    format!("process {}{place}\n", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_one_and_free_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("runs/1");
        let take = || RunLock::take(&out, &mut |text| panic!("{text}"));
        RunLock::check_free(&out).unwrap();
        assert!(!out.exists(), "looking changes nothing");
        let held = take().unwrap();
        for error in [take().unwrap_err(), RunLock::check_free(&out).unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        }
        drop(held);
        RunLock::check_free(&out).unwrap();
        take().unwrap();
    }

    #[test]
    fn only_what_is_half_written_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in [".semanticist-7-0.tmp", ".lock", "model.safetensors"] {
            fs::write(path(name), "x").unwrap();
        }
        fs::create_dir(path(".step-00000003.partial")).unwrap();
        fs::create_dir(path("step-00000002")).unwrap();
        remove_leftovers(folder.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".lock", "model.safetensors", "step-00000002"]);
    }
}
