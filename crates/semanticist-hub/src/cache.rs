//! The folder of what was fetched, in the layout of Hugging Face's libraries: `blobs/` holds the content
//! by its hash, `snapshots/COMMIT/` names it, `refs/` says at which commit a branch is.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{Error, Remote, Repository, Result};

/// How deep the files of a repository are looked for.
const DEPTH: usize = 4;

/// The cache in a folder that need not exist.
#[derive(Debug, Clone)]
pub struct Cache(PathBuf);

/// A file in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// Where it was fetched from.
    pub remote: Remote,
    /// Its copy on this machine.
    pub path: PathBuf,
}

impl Cache {
    /// In this folder.
    pub fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The copy of a file, if there is one.
    pub fn find(&self, remote: &Remote) -> Option<PathBuf> {
        let path = self.snapshot(remote).join(&remote.file);
        path.is_file().then_some(path)
    }

    /// The names of all files of the repository that are here, as its revision has them.
    pub(crate) fn names(&self, remote: &Remote) -> Vec<String> {
        below(&self.snapshot(remote), DEPTH)
    }

    /// The folder of the files of a revision.
    fn snapshot(&self, remote: &Remote) -> PathBuf {
        let repository = self.repository(remote);
        let named = fs::read_to_string(repository.join("refs").join(&remote.revision));
        // A revision that no branch or tag has may be a commit.
        let commit = named.map_or_else(|_| remote.revision.clone(), |commit| commit.trim().to_string());
        repository.join("snapshots").join(commit)
    }

    /// Remembers at which commit the revision of `remote` is.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub(crate) fn refer(&self, remote: &Remote, commit: &str) -> Result<()> {
        if remote.revision == commit {
            return Ok(());
        }
        let repository = self.repository(remote);
        let reference = repository.join("refs").join(&remote.revision);
        create(reference.parent().unwrap_or(&repository))?;
        write(&reference, commit).map_err(Error::cache(&reference))
    }

    /// Where the content with this hash belongs, and its folder is made.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub(crate) fn blob(&self, remote: &Remote, hash: &str) -> Result<PathBuf> {
        let folder = self.repository(remote).join("blobs");
        create(&folder)?;
        Ok(folder.join(hash))
    }

    /// Gives the content `blob` its name at `commit`, which the revision of `remote` stands for now.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub(crate) fn link(&self, remote: &Remote, commit: &str, blob: &Path) -> Result<PathBuf> {
        let repository = self.repository(remote);
        let path = repository.join("snapshots").join(commit).join(&remote.file);
        create(path.parent().unwrap_or(&repository))?;
        if fs::symlink_metadata(&path).is_ok() {
            fs::remove_file(&path).map_err(Error::cache(&path))?;
        }
        let up = "../".repeat(2 + remote.file.split('/').count() - 1);
        let name = blob.file_name().unwrap_or_default();
        place(blob, &Path::new(&up).join("blobs").join(name), &path).map_err(Error::cache(&path))?;
        self.refer(remote, commit)?;
        Ok(path)
    }

    /// All files that were fetched, by repository and name, as their branches have them.
    pub fn files(&self) -> Vec<Cached> {
        let mut found = Vec::new();
        for folder in names(&self.0) {
            let Some((owner, repository)) =
                folder.strip_prefix("models--").and_then(|rest| rest.split_once("--"))
            else {
                continue;
            };
            let root = self.0.join(&folder);
            for revision in names(&root.join("refs")) {
                let Ok(commit) = fs::read_to_string(root.join("refs").join(&revision)) else { continue };
                let snapshot = root.join("snapshots").join(commit.trim());
                for file in below(&snapshot, DEPTH) {
                    let remote =
                        Remote { revision: revision.clone(), ..Remote::new(owner, repository, &file) };
                    found.push(Cached { remote, path: snapshot.join(file) });
                }
            }
        }
        found
    }

    fn repository(&self, remote: &Remote) -> PathBuf {
        let kind = match remote.kind {
            Repository::Models => "models",
            Repository::Datasets => "datasets",
        };
        self.0.join(format!("{kind}--{}--{}", remote.owner, remote.repository))
    }
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::cache(folder))
}

/// Writes a small file in one step.
fn write(path: &Path, content: &str) -> std::io::Result<()> {
    let mut file = NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(content.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Names `blob` at `path` by a relative link, or where links are not allowed, by a second name.
fn place(blob: &Path, relative: &Path, path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(relative, path);
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_file(relative, path);
    #[cfg(not(any(unix, windows)))]
    let linked: std::io::Result<()> = Err(std::io::Error::other(relative.display().to_string()));
    linked.or_else(|_| fs::hard_link(blob, path)).or_else(|_| fs::copy(blob, path).map(drop))
}

/// The names in a folder, sorted; none if it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| entry.ok());
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The files below a folder, with `/` between the parts of their names.
fn below(folder: &Path, depth: usize) -> Vec<String> {
    names(folder)
        .into_iter()
        .flat_map(|name| {
            let path = folder.join(&name);
            match path.is_dir() {
                true if depth == 0 => Vec::new(),
                true => below(&path, depth - 1).into_iter().map(|file| format!("{name}/{file}")).collect(),
                false if path.is_file() => vec![name],
                // A link to nothing.
                false => Vec::new(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("not there yet"));
        assert!(cache.files().is_empty());
        let [first, deep] = ["x.pkl", "a/b/x.pkl"].map(|file| Remote::new("ada", "m", file));
        assert_eq!(cache.find(&first), None);
        for (remote, content) in [(&first, "one"), (&deep, "two")] {
            let blob = cache.blob(remote, content).unwrap();
            fs::write(&blob, content).unwrap();
            cache.link(remote, "c0ffee", &blob).unwrap();
            assert_eq!(fs::read_to_string(cache.find(remote).unwrap()).unwrap(), content);
        }
        let files = cache.files();
        assert_eq!(files.iter().map(|cached| &cached.remote).collect::<Vec<_>>(), [&deep, &first]);
        let commit = Remote { revision: "c0ffee".into(), ..first.clone() };
        assert!(cache.find(&commit).is_some());
        let other = Remote { revision: "v2".into(), ..first };
        assert_eq!(cache.find(&other), None);
    }
}
