//! Writing files so that nobody ever finds half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Writes `path` in one step: whatever happens, it then holds either all that `write` wrote or what
/// it held before.
///
/// The content goes to a temporary file in the same folder, reaches the disk, and takes the name
/// last. A link is followed. A device or pipe cannot be replaced and is written directly.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let failed = |error| Error::io(path, "write", error);
    // Renaming onto a link would replace the link, not what it points to.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    match fs::metadata(&target) {
        Ok(found) if found.is_dir() => return Err(Error::file(path, "is a folder; give the name of a file")),
        Ok(found) if !found.is_file() => {
            let device = OpenOptions::new().write(true).open(&target).map_err(failed)?;
            return fill(device, write).map(drop).map_err(failed);
        }
        _ => {}
    }
    let folder = folder_of(&target);
    if !folder.is_dir() {
        let problem = format!("the folder {} does not exist; create it first", folder.display());
        return Err(Error::file(path, problem));
    }
    let (temporary, file) = Temporary::create(folder).map_err(failed)?;
    let file = fill(file, write).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    temporary.rename(&target).map_err(failed)?;
    // The name itself is safe once the folder is on disk. Some file systems cannot sync a folder;
    // the file is complete either way.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn fill(file: File, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<File> {
    let mut writer = BufWriter::new(file);
    write(&mut writer)?;
    writer.flush()?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)
}

/// A file that is removed unless it gets its final name.
struct Temporary {
    path: Option<PathBuf>,
}

impl Temporary {
    fn create(folder: &Path) -> io::Result<(Self, File)> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!(".semanticist-{}-{number}.tmp", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((Self { path: Some(path) }, file)),
                // Another machine on a shared folder may have our process number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn rename(mut self, target: &Path) -> io::Result<()> {
        let path = self.path.as_deref().expect("the path is taken only here");
        fs::rename(path, target)?;
        self.path = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Nothing more can be done about a file that cannot be removed.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_failure_keeps_the_old_file_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_atomically(&path, |writer| writer.write_all(b"old")).unwrap();
        let failure = write_atomically(&path, |writer| {
            writer.write_all(b"half")?;
            Err(io::Error::other("disk on fire"))
        });
        assert!(failure.unwrap_err().to_string().ends_with("cannot write: disk on fire"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn a_panic_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let write = || write_atomically(&path, |_| panic!("a bug in the writer"));
        assert!(std::panic::catch_unwind(write).is_err());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn missing_folders_and_folders_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_atomically(&folder.path().join("no/a.bin"), |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("no does not exist; create it first"), "{error}");
        let error = write_atomically(folder.path(), |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("is a folder"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error() {
        let full = Path::new("/dev/full");
        let error = write_atomically(full, |writer| writer.write_all(b"x")).unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
        assert!(!fs::metadata(full).unwrap().is_file(), "the device is still a device");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write_atomically(&link, |writer| writer.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
