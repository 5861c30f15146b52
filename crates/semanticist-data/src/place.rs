//! Where a shard lies: in a file here, or elsewhere as an object that is read in parts. Either way, what is read is what was
//! opened first, or an error.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use semanticist::{Error, Result};

use super::ranges::Reader;
use super::stores::Object;

/// Where a shard lies.
#[derive(Debug)]
pub(crate) enum Place {
    /// A file, and what it was when it was opened first.
    File(PathBuf, Version),
    /// An object in a store, or behind an address.
    Object(Object, PathBuf),
}

/// Tells a file from what is later written under its name.
#[derive(Debug, PartialEq)]
pub(crate) struct Version {
    bytes: u64,
    /// None where the file system has no times.
    modified: Option<SystemTime>,
}

/// A shard that is open to be read.
#[derive(Debug)]
pub(crate) enum Opened {
    File(File),
    Object(Box<Reader>),
}

impl Place {
    /// A file as it is now.
    pub fn file(path: &Path) -> Result<Self> {
        let io = |error| Error::io(path, "open", error);
        let version = Version::of(&File::open(path).map_err(io)?).map_err(io)?;
        Ok(Self::File(path.to_path_buf(), version))
    }

    /// An object as it is now.
    pub fn object(object: Object) -> Self {
        let name = PathBuf::from(object.url());
        Self::Object(object, name)
    }

    /// Its path, or its address, for messages.
    pub fn name(&self) -> &Path {
        match self {
            Self::File(name, _) | Self::Object(_, name) => name,
        }
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::File(_, version) => version.bytes,
            Self::Object(object, _) => object.bytes(),
        }
    }

    /// What a store says of an object's content, without which it would have to be read to tell it apart.
    pub fn stated(&self) -> Option<&str> {
        match self {
            Self::File(..) => None,
            Self::Object(object, _) => object.stated(),
        }
    }

    /// Opens it to be read from its beginning.
    ///
    /// # Errors
    /// If the file is gone or is another one now; of objects that shows when they are read.
    pub fn open(&self) -> Result<Opened> {
        let (path, version) = match self {
            Self::Object(object, _) => return Ok(Opened::Object(Box::new(Reader::of(object.clone())))),
            Self::File(path, version) => (path, version),
        };
        let io = |error| Error::io(path, "open", error);
        let file = File::open(path).map_err(io)?;
        let found = Version::of(&file).map_err(io)?;
        if found == *version {
            return Ok(Opened::File(file));
        }
        let (was, is) = (version.bytes, found.bytes);
        let problem = format!(
            "the file changed while it was in use: it had {was} bytes when it was opened, now it has {is} and \
             another time of change; put it back, or begin again with the new data"
        );
        Err(Error::file(path, problem))
    }
}

impl Version {
    fn of(file: &File) -> std::io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self { bytes: found.len(), modified: found.modified().ok() })
    }
}

impl Opened {
    /// What went wrong on the way here, which what reads the content can only tell in part.
    pub fn failure(&mut self) -> Option<Error> {
        match self {
            Self::File(_) => None,
            Self::Object(reader) => reader.failure(),
        }
    }
}

impl Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Object(reader) => reader.read(buffer),
        }
    }
}

impl Seek for Opened {
    fn seek(&mut self, place: SeekFrom) -> std::io::Result<u64> {
        match self {
            Self::File(file) => file.seek(place),
            Self::Object(reader) => reader.seek(place),
        }
    }
}
