//! Where a model is that was asked for: in a file, in the box, or on the hub.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::hub::{KNOWN, Known, Remote};
use crate::{boxed, failure};

/// What `--model` and its like can name.
#[derive(Debug)]
pub enum Location {
    File(PathBuf),
    Box,
    /// Published, and known by name.
    Known(&'static Known),
    Remote(Remote),
}

impl Location {
    /// What `asked` names: what is on the disk goes before what is only known.
    ///
    /// # Errors
    /// If it is neither there nor known, or a malformed name on the hub.
    pub fn of(asked: &Path) -> Result<Self> {
        let Some(text) = asked.to_str().filter(|_| !asked.exists()) else {
            return Ok(Self::File(asked.to_path_buf()));
        };
        if let Some(remote) = Remote::parse(text)? {
            return Ok(Self::Remote(remote));
        }
        if text == boxed::MODEL_ALIAS {
            return Ok(Self::Box);
        }
        match Known::find(text) {
            Some(known) => Ok(Self::Known(known)),
            // Who opens it says that it is not there.
            None if text.contains(['/', '\\', '.']) => Ok(Self::File(asked.to_path_buf())),
            None => Err(failure::usage(unknown(text))),
        }
    }
}

/// What is neither a file nor a name.
pub fn unknown(name: &str) -> String {
    let names = KNOWN.iter().map(|known| known.name).collect::<Vec<_>>().join(", ");
    format!(
        "\"{name}\" is neither a file nor a known model; use a file, {}, {names}, or hf:OWNER/REPOSITORY/FILE",
        boxed::MODEL_ALIAS
    )
}
