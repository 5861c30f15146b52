//! Which files hold a checkpoint: the one that was named, the shards that an index lists, or what a
//! training run left in a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Error, Result};

/// What an index of shards ends in, as Hugging Face libraries write it.
const INDEX: &str = ".index.json";

/// Files that hold the weights in a folder that `accelerate` or a hub library wrote, the ones to prefer
/// first.
const IN_FOLDERS: &[&str] = &[
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
];

/// A checkpoint's files, and what an index says of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sources {
    pub files: Vec<PathBuf>,
    /// The names that an index promises.
    pub promised: BTreeSet<String>,
}

/// The files behind `path`.
///
/// # Errors
/// If a folder holds no weights that are known by name, or an index is damaged or points elsewhere.
pub(super) fn find(path: &Path) -> Result<Sources> {
    if path.is_dir() {
        let found = IN_FOLDERS.iter().map(|name| path.join(name)).find(|file| file.is_file());
        let Some(file) = found else {
            let expected = IN_FOLDERS.join(", ");
            return Err(Error::file(
                path,
                format!("is a folder without weights: it has none of {expected}; give the file itself"),
            ));
        };
        return find(&file);
    }
    if path.to_string_lossy().ends_with(INDEX) {
        return read_index(path);
    }
    Ok(Sources { files: vec![path.to_owned()], promised: BTreeSet::new() })
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read_index(path: &Path) -> Result<Sources> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, "read", error))?;
    let index: Index = serde_json::from_str(&text).map_err(|error| {
        Error::file(path, format!("is not an index of shards ({error}); expected {{\"weight_map\": …}}"))
    })?;
    let shards: BTreeSet<&String> = index.weight_map.values().collect();
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files = Vec::new();
    for shard in shards {
        // An index that came from elsewhere must not choose files elsewhere.
        if Path::new(shard).file_name().is_none_or(|name| name != shard.as_str()) {
            return Err(Error::file(path, format!("names the shard \"{shard}\", which is not beside it")));
        }
        files.push(folder.join(shard));
    }
    if files.is_empty() {
        return Err(Error::file(path, "lists no shards"));
    }
    Ok(Sources { files, promised: index.weight_map.into_keys().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        find(path).unwrap_err().to_string()
    }

    #[test]
    fn a_folder_gives_its_weights_and_an_index_its_shards() {
        let folder = tempfile::tempdir().unwrap();
        assert!(refusal(folder.path()).contains("pytorch_model.bin"));
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("optimizer.bin"), "").unwrap();
        std::fs::write(path("pytorch_model.bin"), "").unwrap();
        assert_eq!(find(folder.path()).unwrap().files, [path("pytorch_model.bin")]);
        let index = r#"{"metadata": {}, "weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}"#;
        std::fs::write(path("model.safetensors.index.json"), index).unwrap();
        let sources = find(folder.path()).unwrap();
        assert_eq!(sources.files, [path("1.safetensors"), path("2.safetensors")]);
        assert_eq!(sources.promised.len(), 3);
    }

    #[test]
    fn an_index_cannot_point_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.index.json");
        for (text, part) in [
            ("{", "is not an index"),
            (r#"{"weight_map": {}}"#, "lists no shards"),
            (r#"{"weight_map": {"a": "../x.safetensors"}}"#, "which is not beside it"),
            (r#"{"weight_map": {"a": "/etc/passwd"}}"#, "which is not beside it"),
            (r#"{"weight_map": {"a": ".."}}"#, "which is not beside it"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(refusal(&path).contains(part), "{text}: {}", refusal(&path));
        }
    }
}
