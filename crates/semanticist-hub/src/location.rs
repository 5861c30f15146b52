//! Where a model is that was asked for: built in, in a file, or on the hub.

use std::path::{Path, PathBuf};

use crate::builtin::{self, Builtin};
use crate::{Error, KNOWN, Known, Remote, Result};

/// What can be named where a model is expected.
#[derive(Debug)]
pub enum Location {
    /// A file, which need not be there.
    File(PathBuf),
    /// Compiled into the program.
    Builtin(&'static Builtin),
    /// Published, and known by name.
    Known(&'static Known),
    /// A file on the hub, by its full name.
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
        if let Some(found) = builtin::ALL.into_iter().find(|builtin| builtin.name == text) {
            return Ok(Self::Builtin(found));
        }
        match Known::find(text) {
            Some(known) => Ok(Self::Known(known)),
            // Who opens it says that it is not there.
            None if text.contains(['/', '\\', '.']) => Ok(Self::File(asked.to_path_buf())),
            None => Err(Error::Unknown(text.to_string())),
        }
    }
}

/// All that can be asked for by a short name, for messages.
pub(crate) fn names() -> String {
    let builtin = builtin::ALL.into_iter().map(|builtin| builtin.name);
    builtin.chain(KNOWN.iter().map(|known| known.name)).collect::<Vec<_>>().join(", ")
}
