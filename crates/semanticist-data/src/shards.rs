//! Caches of what a network makes of images: folders of safetensors files for so many images each. A file appears whole
//! or not at all, so that making a cache goes on where it was interrupted.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use semanticist::image::{RgbImage, decode};
use semanticist::weights::{self, Metadata, Precision, Weights};
use semanticist::{Error, Result};

use crate::{Broken, Record, Source, Views};

const OF: &str = "-of-";
const EXTENSION: &str = ".safetensors";

/// A sort of cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sort {
    /// What its files' names begin with.
    pub prefix: &'static str,
    /// The command that makes it.
    pub command: &'static str,
}

impl Sort {
    fn path(self, folder: &Path, number: usize, of: usize) -> PathBuf {
        folder.join(format!("{}-{number:05}{OF}{of:05}{EXTENSION}", self.prefix))
    }

    /// The number of a shard and how many there are, from its file name.
    fn numbers(self, name: &str) -> Option<(usize, usize)> {
        let rest = name.strip_prefix(self.prefix)?.strip_prefix('-')?;
        let (number, of) = rest.strip_suffix(EXTENSION)?.split_once(OF)?;
        Some((number.parse().ok()?, of.parse().ok()?))
    }

    /// The shards of a complete cache, in order.
    ///
    /// # Errors
    /// If some are missing, or the folder cannot be read.
    pub fn of_folder(self, folder: &Path) -> Result<Vec<PathBuf>> {
        let names = std::fs::read_dir(folder).map_err(|error| Error::io(folder, "list the folder", error))?;
        let mut found: Vec<(usize, usize, PathBuf)> = names
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let (number, of) = self.numbers(path.file_name()?.to_str()?)?;
                Some((number, of, path))
            })
            .collect();
        found.sort();
        let of = found.first().map_or(0, |&(_, of, _)| of);
        let complete = found.iter().enumerate().all(|(at, &(number, all, _))| at == number && all == of);
        if found.is_empty() || !complete || found.len() != of {
            let problem = format!(
                "holds {} shards of {of}; expected a complete cache: run the same `{}` again to complete one",
                found.len(),
                self.command
            );
            return Err(Error::file(folder, problem));
        }
        Ok(found.into_iter().map(|(_, _, path)| path).collect())
    }
}

/// What goes into the shards of a cache that is made.
pub(crate) trait Content {
    /// Adds what comes next in the data set.
    fn add(&mut self, records: Vec<Result<Record>>, broken: &mut Broken) -> Result<()>;

    /// All that was added since it was last taken.
    fn take(&mut self) -> Weights;
}

/// How a cache is cut, and what its shards say of themselves.
pub(crate) struct Shards {
    pub sort: Sort,
    /// Of every shard; tells those of another cache.
    pub metadata: Metadata,
    pub stored: Precision,
    /// Images of the data set, broken ones included.
    pub images: usize,
    /// Images per shard, broken ones included.
    pub shard_images: usize,
}

impl Shards {
    pub fn count(&self) -> usize {
        self.images.div_ceil(self.shard_images)
    }

    /// How many of these shards are in the folder already.
    ///
    /// # Errors
    /// If it holds shards of another cache.
    pub fn complete(&self, folder: &Path) -> Result<usize> {
        let mut complete = 0;
        for number in 0..self.count() {
            complete += usize::from(self.holds(folder, number)?);
        }
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let other = names
            .filter_map(|entry| Some((self.sort.numbers(entry.file_name().to_str()?)?, entry.path())))
            .find(|((_, of), _)| *of != self.count());
        match other {
            Some((_, path)) => Err(foreign(&path)),
            None => Ok(complete),
        }
    }

    fn holds(&self, folder: &Path, number: usize) -> Result<bool> {
        let path = self.sort.path(folder, number, self.count());
        if !path.exists() {
            return Ok(false);
        }
        let (_, metadata) = weights::load(&path)?;
        if metadata == self.metadata { Ok(true) } else { Err(foreign(&path)) }
    }

    /// Writes the shards that are not there yet from `together` images at a time.
    ///
    /// `observe` is called after each time with the number of images done, and says whether to go on.
    ///
    /// # Errors
    /// If the folder holds another cache, the data or the disk fails, or too many images are broken.
    /// Whole shards stay, and the next call goes on after them.
    pub fn fill(
        &self,
        folder: &Path,
        source: &Source,
        together: usize,
        content: &mut dyn Content,
        observe: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Broken> {
        let mut broken = Broken::new(source.len());
        let mut records = source.records();
        for number in 0..self.count() {
            let mut left = self.shard_images.min(self.images - number * self.shard_images);
            if self.holds(folder, number)? {
                records.by_ref().take(left).for_each(drop);
                if observe(left).is_break() {
                    return Ok(broken);
                }
                continue;
            }
            while left > 0 {
                let batch: Vec<_> = records.by_ref().take(together.min(left)).collect();
                if batch.is_empty() {
                    return Err(Error::Data("the data set has fewer images than its metadata says".into()));
                }
                let done = batch.len();
                left -= done;
                content.add(batch, &mut broken)?;
                if observe(done).is_break() {
                    return Ok(broken);
                }
            }
            let path = self.sort.path(folder, number, self.count());
            weights::save(&path, &content.take(), &self.metadata, self.stored)?;
        }
        Ok(broken)
    }
}

fn foreign(path: &Path) -> Error {
    let problem = "belongs to a cache of another model, data set or choice; remove that cache or give \
                   another folder";
    Error::file(path, problem)
}

/// The views of images, squares of `size` pixels, and their labels.
pub(crate) fn cut(
    records: Vec<Result<Record>>,
    views: Views,
    size: usize,
) -> Vec<Result<(Vec<RgbImage>, Option<i64>)>> {
    let cut = |record: Result<Record>| {
        let record = record?;
        let image = decode(&record.name, &record.bytes)?;
        Ok((views.of(&image, size), record.label))
    };
    records.into_par_iter().map(cut).collect()
}
