//! Why a model could not be found or fetched.

use std::path::{Path, PathBuf};

use crate::Remote;
use crate::location::names;

/// What went wrong: what was found, what was expected and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that begins with `hf:` has another form than that.
    #[error("\"{0}\": expected hf:OWNER/REPOSITORY/FILE, or hf:OWNER/REPOSITORY@REVISION/FILE")]
    Name(String),
    /// A name that begins with `hf://` has another form than that.
    #[error(
        "\"{0}\": expected hf://datasets/OWNER/NAME, hf://datasets/OWNER/NAME@REVISION, and after either a folder or file, in \
         which * stands for any part of a name and ** for any folders"
    )]
    Dataset(String),
    /// A data set has no file of data, or none that fits.
    #[error("{name}: none of its {found} files is a Parquet or tar file of that name; see {page}")]
    NoData {
        /// What was asked for.
        name: String,
        /// How many files the data set has.
        found: usize,
        /// Where they are listed.
        page: String,
    },
    /// A name that is neither a file's nor that of a model.
    #[error("\"{0}\" is neither a file nor a known model; use a file, {names}, or hf:OWNER/REPOSITORY/FILE", names = names())]
    Unknown(String),
    /// A variable of the environment has a value that cannot be used, or one is needed and not set.
    #[error("{0}")]
    Environment(String),
    /// The file is not in the cache and `HF_HUB_OFFLINE` is set.
    #[error("{0}: it was not fetched before, and HF_HUB_OFFLINE forbids to fetch it now")]
    Offline(String),
    /// The hub does not give the file: it is not there, or may not be read.
    #[error("{remote}: {problem}")]
    Refused {
        /// The file that was asked for.
        remote: String,
        /// What the hub answered, and what to do.
        problem: String,
    },
    /// The hub cannot be reached.
    #[error(
        "{remote}: {endpoint} cannot be reached ({source}); without a network, only built-in models and those \
         in the cache can be used"
    )]
    Unreachable {
        /// The file that was asked for.
        remote: String,
        /// The hub's address.
        endpoint: String,
        /// What the HTTP client says.
        source: Box<ureq::Error>,
    },
    /// The transfer broke off again and again; what arrived stays for the next attempt.
    #[error("{remote}: broke off after {had}: {problem}; fetch it again to go on from there")]
    BrokeOff {
        /// The file that was asked for.
        remote: String,
        /// How much has arrived.
        had: String,
        /// How the last attempt ended.
        problem: String,
    },
    /// What arrived is not what the hub states; it was removed.
    #[error(
        "{remote}: what arrived has the hash {found}…, the hub states {expected}…; it was removed, fetch it again"
    )]
    Corrupt {
        /// The file that was asked for.
        remote: String,
        /// The first digits of the SHA-256 of what arrived.
        found: String,
        /// The first digits of what the hub states.
        expected: String,
    },
    /// Another process is fetching the same file.
    #[error("{0}: another process is fetching it; wait for that")]
    Busy(String),
    /// The cache cannot be read or written.
    #[error("{}: {problem}: {source}", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, and what to do.
        problem: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The index of a model in several files is not one.
    #[error("{}: {problem}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The result of anything that touches the cache or the hub.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failed attempt to write the cache.
    pub(crate) fn cache(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Cache {
            path,
            problem: "the cache of models cannot be written; set HF_HOME to a folder that can",
            source,
        }
    }

    /// Whether what was asked for is wrong, and not what was found.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Name(_) | Self::Dataset(_) | Self::Unknown(_) | Self::Environment(_))
    }

    pub(crate) fn refused(remote: &Remote, problem: impl Into<String>) -> Self {
        Self::Refused { remote: remote.to_string(), problem: problem.into() }
    }
}
