//! Results on stdout, and folders for results on disk.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};
use serde::Serialize;

use crate::failure::{OutputClosed, usage};

/// Of several processes that work together, which one speaks here.
static RANK: AtomicUsize = AtomicUsize::new(0);

/// Of several processes that work together, this one is `rank`: all but the first print neither results nor remarks.
pub fn speak_as(rank: usize) {
    RANK.store(rank, Ordering::Relaxed);
}

/// What a line of this process begins with, where others write as well.
pub fn speaker() -> String {
    match RANK.load(Ordering::Relaxed) {
        0 => String::new(),
        rank => format!("rank {rank}: "),
    }
}

fn is_silent() -> bool {
    RANK.load(Ordering::Relaxed) > 0
}

/// Prints a result, all of it or an error.
pub fn print(text: &str) -> Result<()> {
    if is_silent() {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        Err(error) => Err(anyhow!("cannot write to stdout: {error}")),
    }
}

/// Prints a result for programs.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// A remark beside the result, on stderr.
pub fn note(text: &str) {
    if !is_silent() {
        note_of_rank(text);
    }
}

/// A remark of whichever process has something to say.
pub fn note_of_rank(text: &str) {
    // Without stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "{}{text}", speaker());
}

/// Fails if a file of this name cannot be written for want of a folder, before any work is done.
pub fn check_file(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        _ if path.is_dir() => Err(anyhow!("{}: is a folder; give the name of a file", path.display())),
        Some(folder) if !folder.is_dir() => {
            let problem = if folder.exists() { "is not a folder" } else { "does not exist" };
            let advice = "create it first or choose another";
            Err(anyhow!("{}: the folder {} {problem}; {advice}", path.display(), folder.display()))
        }
        _ => Ok(()),
    }
}

/// Fails if a name is not that of a PNG file; `or` is what can be given instead.
pub fn check_png(path: &Path, or: &str) -> Result<()> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
        return Ok(());
    }
    let path = path.display();
    Err(usage(format!("-o {path}: sheets are PNG files; give a name that ends with .png, or {or}")))
}

/// Makes sure that there is a folder.
pub fn create_folder(path: &Path) -> Result<()> {
    if path.exists() && !path.is_dir() {
        return Err(anyhow!("{}: is a file; give the name of a folder", path.display()));
    }
    let created = std::fs::create_dir_all(path);
    Ok(created.map_err(|error| semanticist::Error::io(path, "create the folder", error))?)
}

/// Whether a name can only be that of a folder.
pub fn names_folder(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().to_string_lossy().ends_with(std::path::is_separator)
}

/// `path` as it is, or if `taken` the first of `path-2`, `path-3` … that is not.
pub fn unique(path: PathBuf, mut taken: impl FnMut(&Path) -> bool) -> PathBuf {
    if !taken(&path) {
        return path;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = name.split_once('.').unwrap_or((&name, ""));
    (2..)
        .map(|number| path.with_file_name(format!("{stem}-{number}.{extension}")))
        .find(|other| !taken(other))
        .expect("there is no end of numbers")
}
