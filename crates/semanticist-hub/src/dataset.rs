//! The data sets of the hub: which of their files are meant, and at which commit.

use serde::Deserialize;

use crate::download::Client;
use crate::remote::{escaped, is_name};
use crate::{Error, Hub, Remote, Repository, Result};

/// What names of data sets begin with.
pub(crate) const SCHEME: &str = "hf://datasets/";

/// What names of other things on the hub begin with, which none is here.
const HUB: &str = "hf://";

/// Names of revisions that have slashes in them, and what they begin with.
const LONG_REVISIONS: [&str; 2] = ["refs/convert/", "refs/pr/"];

/// Files that hold data.
const EXTENSIONS: [&str; 2] = [".parquet", ".tar"];

/// Files of a data set: `hf://datasets/OWNER/NAME@REVISION/PATTERN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The repository at the revision; its file is what the names of those meant look like: a file, a folder,
    /// or a pattern with `*` and `**`; empty for all.
    files: Remote,
}

impl Dataset {
    /// What `text` names, if it begins with `hf://`.
    ///
    /// # Errors
    /// If it has another form, or a name that could lead out of the cache.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        if !text.starts_with(HUB) {
            return Ok(None);
        }
        let wrong = || Error::Dataset(text.to_string());
        let (owner, rest) =
            text.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
        let end = rest.find(['/', '@']).unwrap_or(rest.len());
        let (repository, rest) = rest.split_at(end);
        let (revision, pattern) = match rest.strip_prefix('@') {
            None => ("main", rest),
            Some(rest) => {
                let long =
                    LONG_REVISIONS.iter().find(|long| rest.starts_with(*long)).map_or(0, |long| long.len());
                rest.split_at(rest[long..].find('/').map_or(rest.len(), |slash| long + slash))
            }
        };
        // The hub's own short name of what it converts to Parquet.
        let revision = if revision == "~parquet" { "refs/convert/parquet" } else { revision };
        let pattern = pattern.trim_matches('/');
        let is_pattern = |part: &str| is_name(&part.replace('*', "x"));
        let named = [owner, repository].into_iter().chain(revision.split('/')).all(is_name);
        if !named || !(pattern.is_empty() || pattern.split('/').all(is_pattern)) {
            return Err(wrong());
        }
        let files = Remote {
            kind: Repository::Datasets,
            revision: revision.to_string(),
            ..Remote::new(owner, repository, pattern)
        };
        Ok(Some(Self { files }))
    }

    /// The one file that is meant, if it is named in full; the hub need not be asked for it.
    pub fn file(&self) -> Option<Remote> {
        let file = &self.files.file;
        (is_data(file) && !file.contains('*')).then(|| self.files.clone())
    }

    /// Its files that hold data and are meant, sorted by name, at the commit that the revision stands for now; without a
    /// network (`HF_HUB_OFFLINE`) those that are in the cache.
    ///
    /// # Errors
    /// If the hub cannot be asked, or there are none.
    pub fn files(&self, hub: &Hub) -> Result<Vec<Remote>> {
        let (revision, names) = match hub.offline {
            true => (self.files.revision.clone(), hub.cache.names(&self.files)),
            false => self.listed(hub)?,
        };
        let found = names.len();
        let mut meant: Vec<String> = names
            .into_iter()
            .filter(|name| is_data(name) && self.means(name) && name.split('/').all(is_name))
            .collect();
        meant.sort();
        if meant.is_empty() {
            if hub.offline {
                return Err(Error::Offline(self.files.to_string()));
            }
            let (name, page) = (self.files.to_string(), self.files.page(&hub.endpoint));
            return Err(Error::NoData { name, found, page });
        }
        let remote = |file| Remote { file, revision: revision.clone(), ..self.files.clone() };
        Ok(meant.into_iter().map(remote).collect())
    }

    /// The commit, and the names of all files.
    fn listed(&self, hub: &Hub) -> Result<(String, Vec<String>)> {
        #[derive(Deserialize)]
        struct Revision {
            sha: String,
        }
        #[derive(Deserialize)]
        struct Entry {
            r#type: String,
            path: String,
        }
        let Remote { owner, repository, revision, .. } = &self.files;
        let client = Client::new(hub, &self.files);
        let api = format!("{}/api/datasets/{}/{}", hub.endpoint, escaped(owner), escaped(repository));
        let (Revision { sha }, _) = client.json(&format!("{api}/revision/{}", escaped(revision)))?;
        if sha.is_empty() || !sha.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            let problem = format!("{} names no commit; check HF_ENDPOINT", hub.endpoint);
            return Err(Error::refused(&self.files, problem));
        }
        hub.cache.refer(&self.files, &sha)?;
        let mut names = Vec::new();
        let mut next = Some(format!("{api}/tree/{sha}?recursive=true"));
        while let Some(url) = next {
            let entries: Vec<Entry>;
            (entries, next) = client.json(&url)?;
            names.extend(entries.into_iter().filter(|entry| entry.r#type == "file").map(|entry| entry.path));
        }
        Ok((sha, names))
    }

    /// Whether a file is one of those that the pattern stands for, or lies in a folder that is.
    fn means(&self, name: &str) -> bool {
        let pattern: Vec<&str> = self.files.file.split('/').filter(|part| !part.is_empty()).collect();
        let name: Vec<&str> = name.split('/').collect();
        (1..=name.len()).any(|parts| fits(&pattern, &name[..parts])) || pattern.is_empty()
    }
}

fn is_data(name: &str) -> bool {
    EXTENSIONS.iter().any(|extension| name.to_ascii_lowercase().ends_with(extension))
}

/// Whether a path fits a pattern, part by part.
fn fits(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, first) => first.is_none(),
        (Some((&"**", rest)), first) => {
            fits(rest, path) || first.is_some_and(|(_, path)| fits(pattern, path))
        }
        (Some((part, rest)), Some((name, path))) => {
            fits_name(part.as_bytes(), name.as_bytes()) && fits(rest, path)
        }
        (Some(_), None) => false,
    }
}

/// Whether a name fits, in which `*` stands for any letters.
fn fits_name(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, first) => first.is_none(),
        (Some((b'*', rest)), first) => {
            fits_name(rest, name) || first.is_some_and(|(_, name)| fits_name(pattern, name))
        }
        (Some((letter, rest)), Some((found, name))) => letter == found && fits_name(rest, name),
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Dataset {
        Dataset::parse(text).unwrap().unwrap()
    }

    #[test]
    fn names_are_read() {
        let of = |text: &str| {
            let Remote { owner, repository, revision, file, .. } = parse(text).files;
            [owner, repository, revision, file].join(" ")
        };
        assert_eq!(of("hf://datasets/ada/photos"), "ada photos main ");
        assert_eq!(of("hf://datasets/ada/photos/data/*.parquet"), "ada photos main data/*.parquet");
        assert_eq!(of("hf://datasets/ada/photos@v1/data/"), "ada photos v1 data");
        assert_eq!(of("hf://datasets/ada/photos@~parquet/x"), "ada photos refs/convert/parquet x");
        assert_eq!(
            of("hf://datasets/ada/photos@refs/convert/parquet/x/y"),
            "ada photos refs/convert/parquet x/y"
        );
        assert_eq!(Dataset::parse("hf:ada/model/x").unwrap(), None);
        let file = parse("hf://datasets/ada/photos@refs/pr/3/a b.parquet").file().unwrap();
        assert_eq!(file.url("http://h"), "http://h/datasets/ada/photos/resolve/refs%2Fpr%2F3/a%20b.parquet");
        assert_eq!(file.to_string(), "hf://datasets/ada/photos@refs/pr/3/a b.parquet");
        assert_eq!(parse("hf://datasets/ada/photos/data").file(), None);
        for text in [
            "hf://ada/photos",
            "hf://datasets/ada",
            "hf://datasets/ada/../x",
            "hf://datasets/*/x/y",
            "hf://datasets/a/b@../c",
        ] {
            assert!(
                Dataset::parse(text).unwrap_err().to_string().contains("expected hf://datasets/"),
                "{text}"
            );
        }
    }

    #[test]
    fn patterns_stand_for_files_and_folders() {
        let means =
            |pattern: &str, name: &str| parse(&format!("hf://datasets/ada/photos/{pattern}")).means(name);
        for (pattern, name, expected) in [
            ("", "a/b.parquet", true),
            ("a", "a/b.parquet", true),
            ("a", "ab.parquet", false),
            ("*.parquet", "b.parquet", true),
            ("*.parquet", "a/b.parquet", false),
            ("**/*.parquet", "b.parquet", true),
            ("**/*.parquet", "a/c/b.parquet", true),
            ("data/train-*", "data/train-00000-of-00001.parquet", true),
            ("data/train-*", "data/test-00000-of-00001.parquet", false),
            ("*/train", "plain/train/0.parquet", true),
        ] {
            assert_eq!(means(pattern, name), expected, "{pattern} {name}");
        }
    }
}
