//! Where `decode` puts each image: names from the paths in a token file, which may be anything, made
//! safe and different from each other.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::output;

/// Names are cut to this many bytes; file systems allow 255, and `-2.png` must fit.
const MAX_BYTES: usize = 200;

/// The folder that all paths of a file have in common.
#[derive(Debug, Default)]
pub struct CommonFolder(Option<Vec<String>>);

impl CommonFolder {
    /// Takes one more path into account.
    pub fn add(&mut self, path: &str) {
        let mut folder = parts(path);
        folder.pop();
        match &mut self.0 {
            None => self.0 = Some(folder),
            Some(common) => {
                let same = common.iter().zip(&folder).take_while(|(a, b)| a == b).count();
                common.truncate(same);
            }
        }
    }

    fn depth(&self) -> usize {
        self.0.as_ref().map_or(0, Vec::len)
    }
}

/// Gives every image a name of its own, relative to the folder of the output.
///
/// It remembers hashes only: two names that happen to share one cost a number at the end of a name.
#[derive(Debug)]
pub struct Names {
    skip: usize,
    taken: HashSet<u64>,
}

impl Names {
    /// Names relative to a folder of the inputs.
    pub fn below(common: &CommonFolder) -> Self {
        Self { skip: common.depth(), taken: HashSet::new() }
    }

    /// The name for the image that came from `path`: never absolute, without `..`, unlike all before.
    pub fn next(&mut self, path: &str) -> PathBuf {
        let parts: Vec<String> = parts(path).iter().skip(self.skip).filter_map(|part| safe(part)).collect();
        let (folder, name) = parts.split_at(parts.len().saturating_sub(1));
        let name = name.first().map_or("image", |name| stem(name));
        let name = folder.iter().collect::<PathBuf>().join(format!("{name}.png"));
        let name = output::unique(name, |other| self.taken.contains(&key(other)));
        self.taken.insert(key(&name));
        name
    }
}

/// Some file systems do not tell upper from lower case.
fn key(name: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.to_string_lossy().to_lowercase().hash(&mut hasher);
    hasher.finish()
}

/// Folders and name. Row 12 of `a/b.parquet`, which is called `a/b.parquet#12 (inner name)`, is the
/// image `12` in the folder `a/b`.
fn parts(path: &str) -> Vec<String> {
    let row = path.rsplit_once(".parquet#").and_then(|(shard, row)| {
        let number = row.split(' ').next().filter(|number| number.parse::<u64>().is_ok())?;
        Some((shard, number))
    });
    let (path, row) = row.map_or((path, None), |(shard, number)| (shard, Some(number)));
    // A file of tokens may come from another system.
    path.split(['/', '\\']).chain(row).filter(|part| !matches!(*part, "" | ".")).map(String::from).collect()
}

/// A part of a path that any file system takes for a name, if there is anything to name.
fn safe(part: &str) -> Option<String> {
    if part == ".." {
        return None;
    }
    let harmful = |c: char| c.is_control() || matches!(c, ':' | '*' | '?' | '"' | '<' | '>' | '|');
    let mut safe: String = part.chars().map(|c| if harmful(c) { '_' } else { c }).collect();
    let mut end = safe.len().min(MAX_BYTES);
    while !safe.is_char_boundary(end) {
        end -= 1;
    }
    safe.truncate(end);
    Some(safe)
}

/// A name without the extension of an image.
fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && is_image(extension) => stem,
        _ => name,
    }
}

fn is_image(extension: &str) -> bool {
    semanticist::image::EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(paths: &[&str]) -> Vec<String> {
        let mut common = CommonFolder::default();
        paths.iter().for_each(|path| common.add(path));
        let mut names = Names::below(&common);
        paths.iter().map(|path| names.next(path).to_str().unwrap().to_string()).collect()
    }

    #[test]
    fn names_are_relative_to_the_common_folder() {
        assert_eq!(named(&["photos/cat.jpg"]), ["cat.png"]);
        assert_eq!(named(&["/data/a/x.png", "/data/b/x.png"]), ["a/x.png", "b/x.png"]);
        assert_eq!(named(&["x.png", "/data/x.png"]), ["x.png", "data/x.png"]);
        assert_eq!(named(&["no.1", "no.2"]), ["no.1.png", "no.2.png"]);
    }

    #[test]
    fn rows_of_a_shard_are_named_by_their_number() {
        assert_eq!(named(&["d/a.parquet#0", "d/a.parquet#12 (n01/x.JPEG)"]), ["0.png", "12.png"]);
        assert_eq!(named(&["d/a.parquet#0", "d/b.parquet#0"]), ["a/0.png", "b/0.png"]);
    }

    #[test]
    fn equal_names_get_a_number_even_where_case_does_not_count() {
        assert_eq!(
            named(&["x.png", "x.jpg", "X.png", "x-2.png", "x.png"]),
            ["x.png", "x-2.png", "X-3.png", "x-2-2.png", "x-4.png"]
        );
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let hostile = [
            "/etc/passwd",
            "../../x.png",
            "a/../../../x.png",
            "..",
            "",
            "/",
            "C:\\windows\\x.png",
            "a\0b.png",
            "..\\..\\y.png",
            ".",
            "....//x.png",
        ];
        for name in named(&hostile) {
            let path = Path::new(&name);
            let harmless = |part| matches!(part, std::path::Component::Normal(_));
            assert!(path.components().all(harmless) && name.ends_with(".png"), "{name}");
            assert!(!name.contains(['\0', ':', '\\']), "{name}");
        }
        let long = "é".repeat(400);
        assert!(named(&[&long])[0].len() < 255);
    }
}
