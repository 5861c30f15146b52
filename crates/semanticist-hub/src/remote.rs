//! The name of a file on the hub.

use std::fmt;

use crate::{Error, Result, dataset};

/// What names of files on the hub begin with.
const SCHEME: &str = "hf:";

/// What a repository on the hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repository {
    /// Weights.
    Models,
    /// Data.
    Datasets,
}

/// A file in a repository, at a branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Of what kind the repository is.
    pub kind: Repository,
    /// The user or organisation.
    pub owner: String,
    /// Its name, without the owner's.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// With the folders it lies in, separated by `/`.
    pub file: String,
}

impl Remote {
    /// At the main branch.
    pub fn new(owner: &str, repository: &str, file: &str) -> Self {
        let [owner, repository, revision, file] = [owner, repository, "main", file].map(str::to_owned);
        Self { kind: Repository::Models, owner, repository, revision, file }
    }

    /// What `text` names, if it begins with `hf:`.
    ///
    /// # Errors
    /// If it has another form, or a name that could lead out of the cache.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let Some(rest) = text.strip_prefix(SCHEME) else { return Ok(None) };
        let wrong = || Error::Name(text.to_string());
        let mut parts = rest.splitn(3, '/');
        let (Some(owner), Some(repository), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let (repository, revision) = repository.split_once('@').unwrap_or((repository, "main"));
        let all = [owner, repository, revision].into_iter().chain(file.split('/'));
        if !all.clone().all(is_name) {
            return Err(wrong());
        }
        let revision = revision.to_owned();
        Ok(Some(Self { revision, ..Self::new(owner, repository, file) }))
    }

    /// Another file in the same folder.
    pub fn beside(&self, name: &str) -> Self {
        let folder = self.file.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        Self { file: format!("{folder}{name}"), ..self.clone() }
    }

    /// Its address below `endpoint`.
    pub fn url(&self, endpoint: &str) -> String {
        let (page, revision) = (self.page(endpoint), escaped(&self.revision));
        let file = self.file.split('/').map(escaped).collect::<Vec<_>>().join("/");
        format!("{page}/resolve/{revision}/{file}")
    }

    /// The address of its repository below `endpoint`, for people.
    pub fn page(&self, endpoint: &str) -> String {
        let kind = match self.kind {
            Repository::Models => "",
            Repository::Datasets => "datasets/",
        };
        format!("{endpoint}/{kind}{}/{}", escaped(&self.owner), escaped(&self.repository))
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, owner, repository, revision, file } = self;
        let revision = if revision == "main" { String::new() } else { format!("@{revision}") };
        let scheme = match kind {
            Repository::Models => SCHEME,
            Repository::Datasets => dataset::SCHEME,
        };
        write!(f, "{scheme}{owner}/{repository}{revision}/{file}")
    }
}

/// Whether this can be a part of a path, here and on the hub.
pub(crate) fn is_name(part: &str) -> bool {
    let forbidden = |c: char| c.is_control() || ['\\', ':', '?', '#', '*', '"', '<', '>', '|'].contains(&c);
    !part.is_empty() && part != "." && part != ".." && !part.contains(forbidden)
}

/// Percent-encoded, but for what RFC 3986 leaves alone.
pub(crate) fn escaped(part: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    part.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        let parse = |text: &str| Remote::parse(text).unwrap();
        let plain = Remote::new("ada", "model", "a/b c.pkl");
        assert_eq!(parse("hf:ada/model/a/b c.pkl"), Some(plain.clone()));
        assert_eq!(plain.to_string(), "hf:ada/model/a/b c.pkl");
        assert_eq!(plain.url("http://h"), "http://h/ada/model/resolve/main/a/b%20c.pkl");
        assert_eq!(plain.beside("x.pkl").file, "a/x.pkl");
        let dated = parse("hf:ada/model@v1/x.pkl").unwrap();
        assert_eq!((dated.revision.as_str(), dated.to_string()), ("v1", "hf:ada/model@v1/x.pkl".into()));
        assert_eq!([parse("model.pkl"), parse("C:/hf:x")], [None, None]);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for text in [
            "hf:",
            "hf:ada",
            "hf:ada/model",
            "hf:ada/model/",
            "hf:/model/x",
            "hf:ada/../x",
            "hf:ada/model/../x",
            "hf:ada/model/a//x",
            "hf:ada/model@../x",
            "hf:ada/model@/x",
            "hf:a:b/model/x",
            "hf:ada/model/x?y",
            "hf:ada/model/..\\x",
        ] {
            assert!(Remote::parse(text).unwrap_err().to_string().contains("expected hf:OWNER"), "{text}");
        }
    }
}
