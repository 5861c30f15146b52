//! What lies in a folder: images by class folder, or shards, in Parquet or tar files.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};

use semanticist::image::EXTENSIONS;
use semanticist::{Error, Result};

use super::source::Split;

/// Everything of use below a folder, each list sorted by path.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub images: Vec<Image>,
    pub shards: Vec<PathBuf>,
    /// The folders directly below, which are the classes if there are images in them.
    pub folders: Vec<String>,
    /// Files that are neither an image nor a shard, by extension.
    pub skipped: usize,
}

/// An image file and the folder directly below the root in which it lies, if any.
#[derive(Debug)]
pub(super) struct Image {
    pub path: PathBuf,
    pub folder: Option<String>,
}

/// Looks through `root` at any depth. Hidden entries are left out, links are followed, and every
/// real folder is visited once, so that a loop of links ends.
pub(super) fn scan(root: &Path) -> Result<Contents> {
    let mut contents = Contents::default();
    let mut visited = HashSet::new();
    visit(root, None, &mut contents, &mut visited)?;
    Ok(contents)
}

fn visit(
    folder: &Path,
    class: Option<&str>,
    contents: &mut Contents,
    visited: &mut HashSet<PathBuf>,
) -> Result<Visit> {
    let failed = |error| Error::io(folder, "list the folder", error);
    if !visited.insert(folder.canonicalize().map_err(failed)?) {
        return Ok(Visit::Repeated);
    }
    let entries = fs::read_dir(folder).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let mut entries: Vec<_> = entries.into_iter().filter(|entry| !is_hidden(&entry.file_name())).collect();
    entries.sort_by_key(DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        match kind(&entry) {
            Kind::Folder => {
                let name = entry.file_name().to_string_lossy().into_owned();
                let visit = visit(&path, Some(class.unwrap_or(&name)), contents, visited)?;
                if class.is_none() && visit == Visit::First {
                    contents.folders.push(name);
                }
            }
            Kind::File if is_shard(&path) => contents.shards.push(path),
            Kind::File if is_image(&path) => {
                contents.images.push(Image { path, folder: class.map(String::from) });
            }
            Kind::File | Kind::Other => contents.skipped += 1,
        }
    }
    Ok(Visit::First)
}

#[derive(PartialEq, Eq)]
enum Visit {
    First,
    Repeated,
}

enum Kind {
    Folder,
    File,
    Other,
}

fn kind(entry: &DirEntry) -> Kind {
    match entry.file_type() {
        Ok(kind) if kind.is_dir() => Kind::Folder,
        Ok(kind) if kind.is_file() => Kind::File,
        Ok(kind) if kind.is_symlink() => match fs::metadata(entry.path()) {
            Ok(target) if target.is_dir() => Kind::Folder,
            Ok(target) if !target.is_file() => Kind::Other,
            // A dangling link counts as a file, and then as a broken image.
            _ => Kind::File,
        },
        _ => Kind::Other,
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn has_extension(path: &Path, accepted: &[&str]) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    extension.is_some_and(|found| accepted.iter().any(|one| one.eq_ignore_ascii_case(found)))
}

pub(super) fn is_shard(path: &Path) -> bool {
    has_extension(path, &["parquet"]) || is_archive(path)
}

/// A WebDataset shard.
pub(super) fn is_archive(path: &Path) -> bool {
    has_extension(path, &["tar"])
}

fn is_image(path: &Path) -> bool {
    has_extension(path, &EXTENSIONS)
}

/// Whether the folders directly below a root are splits (`train` beside `val` or `test`), not classes.
pub(super) fn are_splits(folders: &[String]) -> bool {
    let is_split = |name: &String| matches!(name.as_str(), "train" | "val" | "validation" | "test");
    folders.len() > 1 && folders.iter().all(is_split) && folders.iter().any(|name| name == "train")
}

/// The shards of one split. Which split a shard belongs to is the start of its file name or of the
/// folder below `root` in which it lies; if no name tells, all belong to every split.
pub(super) fn choose(root: &Path, shards: Vec<PathBuf>, split: Split) -> Result<Vec<PathBuf>> {
    let of = |shard: &PathBuf| {
        let inner = shard.strip_prefix(root).unwrap_or(shard);
        let names = [inner.file_name(), inner.iter().next()];
        names.into_iter().flatten().find_map(|name| Split::named(&name.to_string_lossy()))
    };
    if split == Split::All || shards.iter().all(|shard| of(shard).is_none()) {
        return Ok(shards);
    }
    let found = shards.len();
    let chosen: Vec<_> = shards.into_iter().filter(|shard| of(shard) == Some(split)).collect();
    if chosen.is_empty() {
        return Err(Error::file(
            root,
            format!("none of the {found} shards belongs to the split {split:?}; expected {}", split.names()),
        ));
    }
    Ok(chosen)
}
