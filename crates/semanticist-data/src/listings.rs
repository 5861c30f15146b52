//! What tar files in stores hold, remembered: a tar file has no table of contents, so that to list one is to read it.
//!
//! The lists lie in the cache folder of the user, by address and what the store says of the content; whoever deletes them
//! loses time only.

use std::path::PathBuf;

use semanticist::files::write_atomically;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::place::Place;

/// What was remembered of an object as it is now. Files here are read faster than a list of them.
pub(crate) fn recall<T: DeserializeOwned>(place: &Place) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path(place)?).ok()?).ok()
}

/// Remembers a list; where that is not possible, it will be made again.
pub(crate) fn keep<T: Serialize>(place: &Place, list: &T) {
    let Some(path) = path(place) else { return };
    let Some(folder) = path.parent() else { return };
    if std::fs::create_dir_all(folder).is_ok() {
        let write = |file: &mut _| serde_json::to_writer(file, list).map_err(std::io::Error::from);
        let _ = write_atomically(&path, write);
    }
}

fn path(place: &Place) -> Option<PathBuf> {
    let Place::Object(object, name) = place else { return None };
    let identity = format!("{} {} {}", name.display(), object.bytes(), object.stated()?);
    let digits: String = Sha256::digest(identity).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Some(object.listings()?.join(format!("{digits}.json")))
}
