//! Models and data sets on the Hugging Face hub: what they are called, where their copies lie, how they get there.
//!
//! The cache is the one that Hugging Face's own libraries use, in their layout, so that what one of them
//! has fetched need not be fetched again. The transfer is our own on `ureq`, the HTTP client of the
//! `hf-hub` crate: that crate (0.5.0) does not check what it has fetched, appends to a partial file
//! whatever the server answers, cannot go on from a partial file that is complete, sends the token to
//! whatever host a file is redirected to, and knows neither HF_TOKEN nor HF_HUB_OFFLINE.

pub mod builtin;

mod cache;
mod dataset;
mod download;
mod error;
mod known;
mod location;
mod remote;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use cache::{Cache, Cached};
pub use dataset::Dataset;
pub use error::{Error, Result};
pub use known::{KNOWN, Kind, Known};
pub use location::Location;
pub use remote::{Remote, Repository};

/// What a transfer has to say while it runs.
#[derive(Debug, Clone, Copy)]
pub enum Transfer<'a> {
    /// It begins, or goes on where an interrupted one ended.
    Started {
        /// The file.
        remote: &'a Remote,
        /// Bytes that were there before.
        had: u64,
        /// Bytes in all.
        bytes: u64,
    },
    /// So many more bytes have arrived.
    Advanced {
        /// Since the last time.
        bytes: u64,
    },
}

/// The hub as the environment describes it.
#[derive(Debug, Clone)]
pub struct Hub {
    /// Such as `https://huggingface.co`, without a slash at its end: `HF_ENDPOINT`.
    endpoint: String,
    /// `HF_TOKEN`, or the file that `hf auth login` writes.
    token: Option<String>,
    /// `HF_HUB_OFFLINE`: nothing may be fetched.
    offline: bool,
    cache: Cache,
}

impl Hub {
    /// # Errors
    /// If the environment names no folder for the cache.
    pub fn from_env() -> Result<Self> {
        // An empty variable is as one that is not set, as for Hugging Face's own libraries.
        Self::with(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
    }

    fn with(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let home = match (variable("HF_HOME"), variable("XDG_CACHE_HOME"), home(&variable)) {
            (Some(home), ..) => PathBuf::from(home),
            (None, Some(cache), _) => Path::new(&cache).join("huggingface"),
            (None, None, Some(home)) => Path::new(&home).join(".cache").join("huggingface"),
            (None, None, None) => {
                let problem = "there is no home folder for the cache of models; set HF_HOME to a folder";
                return Err(Error::Environment(problem.into()));
            }
        };
        let folder = variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::Environment(format!(
                "HF_ENDPOINT is \"{endpoint}\"; expected an address that begins with https://"
            )));
        }
        let token_file = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let token = variable("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        let offline = variable("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()));
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            token: token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty()),
            offline,
            cache: Cache::at(folder),
        })
    }

    /// Where copies lie.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The copy of a file, which is fetched if there is none.
    ///
    /// # Errors
    /// If there is none and it cannot be fetched.
    pub fn find(&self, remote: &Remote, observe: &mut dyn FnMut(Transfer)) -> Result<PathBuf> {
        match self.cache.find(remote) {
            Some(path) => Ok(path),
            None => self.pull(remote, observe),
        }
    }

    /// The newest version of a file and, if it is an index, of its shards.
    ///
    /// # Errors
    /// If it is not there, may not be read, or cannot be written.
    pub fn pull(&self, remote: &Remote, observe: &mut dyn FnMut(Transfer)) -> Result<PathBuf> {
        if self.offline {
            return self.cache.find(remote).ok_or_else(|| Error::Offline(remote.to_string()));
        }
        let path = download::fetch(self, remote, observe)?;
        if remote.file.ends_with(".index.json") {
            for shard in shards(&path)? {
                download::fetch(self, &remote.beside(&shard), observe)?;
            }
        }
        Ok(path)
    }
}

/// The files that an index says a model is in: the values of its `weight_map`.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let failed = |problem: String| Error::Index { path: index.to_path_buf(), problem };
    let text = std::fs::read(index).map_err(|error| failed(error.to_string()))?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    match shards.iter().find(|shard| shard.contains(['/', '\\'])) {
        Some(shard) => Err(failed(format!("names the file {shard:?}, which does not lie beside it"))),
        None => Ok(shards),
    }
}

fn home(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    variable("HOME").or_else(|| variable("USERPROFILE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(variables: &[(&str, &str)]) -> Hub {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Hub::with(|name| find(name).map(|(_, value)| value.to_string())).unwrap()
    }

    #[test]
    fn the_environment_decides_as_for_the_libraries_of_the_hub() {
        let folder = |variables: &[(&str, &str)]| hub(variables).cache.folder().display().to_string();
        let home = ("HOME", "/home/ada");
        assert_eq!(folder(&[home]), "/home/ada/.cache/huggingface/hub");
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "/c")]), "/c/huggingface/hub");
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "/c"), ("HF_HOME", "/hf")]), "/hf/hub");
        assert_eq!(folder(&[home, ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/models")]), "/models");
        let hub = hub(&[
            home,
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_TOKEN", " t \n"),
            ("HF_HUB_OFFLINE", "TRUE"),
        ]);
        assert_eq!(
            (hub.endpoint.as_str(), hub.token.as_deref(), hub.offline),
            ("http://mirror", Some("t"), true)
        );
        assert!(Hub::with(|_| None).unwrap_err().to_string().contains("set HF_HOME"));
        let nonsense = |name: &str| (name == "HF_ENDPOINT" || name == "HOME").then(|| "mirror".to_string());
        assert!(Hub::with(nonsense).unwrap_err().to_string().contains("begins with https://"));
    }

    #[test]
    fn a_token_in_a_file_is_used_if_the_environment_has_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "from-file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(hub(&[("HF_HOME", home)]).token.as_deref(), Some("from-file"));
        assert_eq!(hub(&[("HF_HOME", home), ("HF_TOKEN", "mine")]).token.as_deref(), Some("mine"));
    }
}
