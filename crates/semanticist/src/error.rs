//! The one error type of the library: what was found, what was expected, what to do.

use std::path::{Path, PathBuf};

/// Why something outside the program (a file, a configuration, a request) could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb phrase ("read", "create the folder").
        action: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// An image could not be decoded, or is too large.
    #[error("{name}: {problem}")]
    Image {
        /// Where the image came from: a path, or a shard and row.
        name: String,
        /// What is wrong with it, and what would be accepted.
        problem: String,
    },
    /// A data set cannot be used: it is empty, has another layout, or too much of it is broken.
    #[error("{0}")]
    Data(String),
    /// Whoever observed the work ended it.
    #[error("cancelled")]
    Cancelled,
    /// Images, tokens or labels do not fit the model that they are given to.
    #[error("{0}")]
    Input(String),
    /// A configuration contradicts itself or asks for something impossible.
    #[error("{0}")]
    Config(String),
    /// A folder already holds a training run.
    #[error("{}: already holds a run", path.display())]
    RunExists {
        /// The run's folder.
        path: PathBuf,
    },
    /// A folder holds no checkpoint that a run could go on from.
    #[error("{}: holds no checkpoint to resume from", path.display())]
    NoCheckpoint {
        /// The folder of the checkpoints.
        path: PathBuf,
    },
    /// Another process trains into a run's folder.
    #[error("{}: {holder} is training into it", path.display())]
    RunInUse {
        /// The run's folder.
        path: PathBuf,
        /// Who, such as `process 123 on host`.
        holder: String,
    },
    /// A run ended before its last step because of what lies outside it.
    #[error("{source}\nthe run in {} stopped after step {step}; {}", path.display(), saved_at(*saved))]
    RunStopped {
        /// The run's folder.
        path: PathBuf,
        /// Steps made.
        step: u64,
        /// The step of the last checkpoint, if there is one.
        saved: Option<u64>,
        /// What stopped it.
        source: Box<Error>,
    },
    /// A run is to go on under other conditions than it was started with.
    #[error("the run was started in another way, so that its end would be that of neither:{changes}")]
    RunChanged {
        /// A line per change, each after a line break.
        changes: String,
    },
    /// A configuration asks for an autoencoder that can only be had from a file.
    #[error("{reason}; it needs the file of an autoencoder")]
    AutoencoderNeeded {
        /// Why there is none.
        reason: &'static str,
    },
    /// A model could not be found or fetched by its name.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] semanticist_hub::Error),
    /// Training cannot go on.
    #[error("{0}")]
    Training(String),
    /// A file of weights does not say what they are of, as published checkpoints do not.
    #[error("{}: holds weights but does not say of what, as published checkpoints do", path.display())]
    Undescribed {
        /// The file.
        path: PathBuf,
    },
    /// A file says itself what it holds, and is told from outside as well.
    #[error("{}: is a model file of this program, which says itself what it holds", path.display())]
    Described {
        /// The file.
        path: PathBuf,
    },
    /// A model, checkpoint or token file does not hold what it should.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what would be accepted.
        problem: String,
    },
}

fn saved_at(step: Option<u64>) -> String {
    match step {
        Some(step) => format!("its last checkpoint is of step {step}"),
        None => "it has no checkpoint yet".into(),
    }
}

/// The result of anything that touches the outside world.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps an operating-system error: `map_err(|e| Error::io(path, "read", e))`.
    pub fn io(path: impl AsRef<Path>, action: &'static str, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), action, source }
    }

    /// A file whose content is not what it should be.
    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), problem: problem.into() }
    }

    /// An image that cannot be used.
    pub fn image(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Image { name: name.into(), problem: problem.into() }
    }
}
