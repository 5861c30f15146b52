//! What stands for [`stores`](super::stores) in a build without the feature: there is nothing elsewhere.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use semanticist::{Error, Result};

use super::source::Split;

/// There is none.
#[derive(Debug, Clone)]
pub struct Object(Never);

#[derive(Debug, Clone)]
enum Never {}

impl Object {
    pub fn url(&self) -> &str {
        match self.0 {}
    }

    pub fn bytes(&self) -> u64 {
        match self.0 {}
    }

    pub fn stated(&self) -> Option<&str> {
        match self.0 {}
    }

    pub fn listings(&self) -> Option<&Path> {
        match self.0 {}
    }

    pub fn read(&self, _: Range<u64>) -> Result<Bytes> {
        match self.0 {}
    }
}

/// None.
#[derive(Debug)]
pub(crate) struct Stores;

/// What an address names, if this build could look.
#[derive(Debug)]
pub(crate) struct Found {
    pub objects: Vec<Object>,
    pub skipped: usize,
}

impl Stores {
    pub fn from_env() -> Self {
        Self
    }

    pub fn find(&mut self, address: &str, _: Split) -> Result<Found> {
        Err(Error::Data(format!(
            "{address}: this build reads files only; build it with the Cargo feature `stores`, or copy the data here"
        )))
    }
}
