//! Where images lie: class folders, flat folders, Parquet and WebDataset shards, lists, single files.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use semanticist::{Error, Result};

use super::fingerprint::{Fingerprint, SAMPLED, spread};
use super::folder;
use super::mixture::{check_weights, parts};
use super::parquet::Shard;
use super::stores::Stores;
use super::webdataset::Archive;
use found::Found;

mod found;

/// Rows of a pool when they are small enough.
const POOL_ROWS: usize = 4096;

/// Encoded bytes that the pools in memory should not exceed: one that is drawn from and the next one, of each part of the
/// data.
const POOL_BYTES: usize = 1 << 30;

/// Which shards of a folder with named splits to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Names that begin with `train`.
    Train,
    /// Names that begin with `val` or `test`.
    Validation,
    /// Everything.
    All,
}

/// One image as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The path, or `shard.parquet#row` or `shard.tar#name`, followed by ` (inner path)` if the shard gives one.
    pub name: String,
    /// The class, if known.
    pub label: Option<i64>,
    /// The encoded image.
    pub bytes: Vec<u8>,
}

/// The records of a chunk or source, in order. [`Error::Image`] concerns one record; after any
/// other error there is nothing more to read.
pub type Records<'a> = Box<dyn Iterator<Item = Result<Record>> + Send + 'a>;

/// What is read in one go.
#[derive(Debug)]
pub enum Chunk {
    /// One image file.
    File {
        /// Where it lies.
        path: PathBuf,
        /// Its class, if known.
        label: Option<i64>,
    },
    /// A row group of a Parquet file.
    RowGroup {
        /// The file.
        shard: Arc<Shard>,
        /// The number of the row group.
        group: usize,
    },
    /// Neighbouring samples of a WebDataset tar file.
    Samples {
        /// The file.
        archive: Arc<Archive>,
        /// The number of the chunk of samples.
        chunk: usize,
    },
}

/// All images of a data set, in a fixed order.
#[derive(Debug)]
pub struct Source {
    chunks: Vec<Chunk>,
    classes: Option<Vec<String>>,
    rows: usize,
    skipped: usize,
    /// The chunks that are drawn from with a weight of their own; else all.
    parts: Vec<Range<usize>>,
    /// Where the chunks of each group of paths end.
    groups: Vec<usize>,
    /// One for each part; none if there is one part.
    weights: Vec<f64>,
}

impl Source {
    /// Opens the data at `paths`, one after the other. Each is
    /// - a folder of class folders: the label is the place of the class among the sorted names (of
    ///   all `paths`); images lie at any depth, those outside of class folders have no label,
    /// - a folder with the class folders of each split in `train` and `val` (or `validation`, `test`),
    /// - a folder of images, without labels,
    /// - a folder with Parquet files at any depth, of which `split` chooses,
    /// - a Parquet file: columns `image` (binary, or a struct with binary `bytes`) and, optionally,
    ///   `label` (integer),
    /// - a folder with WebDataset tar files, chosen likewise, or such a file: samples of an image and, optionally, `cls`
    ///   (a whole number),
    /// - a list (`.jsonl`): lines such as `{"image": "a/b.jpg", "label": 3}` or with `"class": "cat"`,
    /// - an image file, whatever its extension,
    /// - the address of shards of either kind (`s3://`, `gs://`, `az://`, `http://`, `https://`), or but for HTTP of a folder
    ///   of them; braces count, as in `https://host/train-{000..146}.tar`.
    ///
    /// # Errors
    /// Names what cannot be read, or holds no image.
    pub fn open(paths: &[PathBuf], split: Split) -> Result<Self> {
        Self::open_groups(&paths.iter().map(|path| vec![path.clone()]).collect::<Vec<_>>(), split)
    }

    /// The same of paths of which several may have one weight together ([`Source::weighted`]).
    ///
    /// # Errors
    /// As there.
    pub fn open_groups(groups: &[Vec<PathBuf>], split: Split) -> Result<Self> {
        Self::open_with(groups, split, None)
    }

    /// The same; without stores they are those that the environment describes.
    pub(crate) fn open_with(groups: &[Vec<PathBuf>], split: Split, stores: Option<Stores>) -> Result<Self> {
        let mut found = Found::asking(stores);
        for paths in groups {
            paths.iter().try_for_each(|path| found.add(path, split))?;
            found.end_group();
        }
        let source = found.into_source();
        if source.is_empty() {
            let places: Vec<_> = groups.iter().flatten().map(|path| path.display().to_string()).collect();
            return Err(Error::Data(format!(
                "no images in {}; expected image files ({}) Parquet or WebDataset shards",
                if places.is_empty() { "an empty list of paths".into() } else { places.join(", ") },
                semanticist::image::EXTENSIONS.join(", ")
            )));
        }
        Ok(source)
    }

    /// The same images, but an epoch, which has as many images as before, takes them from the paths (or groups of them)
    /// that were opened in proportion to `weights`, one for each. Each part has an order of its own that goes on from
    /// epoch to epoch, so that all of its images are seen equally often, to one. Without weights nothing changes.
    ///
    /// # Errors
    /// If there is another number of weights, one that is not above 0, or a path without images.
    pub fn weighted(mut self, weights: &[f64]) -> Result<Self> {
        if weights.is_empty() {
            return Ok(self);
        }
        let parts = parts(&self.groups);
        let rows = |part: &Range<usize>| self.chunks[part.clone()].iter().map(Chunk::rows).sum::<usize>();
        check_weights(weights, &parts.iter().map(rows).collect::<Vec<_>>())?;
        if weights.len() > 1 {
            (self.parts, self.weights) = (parts, weights.to_vec());
        }
        Ok(self)
    }

    /// How many images there are, broken ones included.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The chunks, in order.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Chunks that are drawn from together.
    pub(crate) fn parts(&self) -> &[Range<usize>] {
        &self.parts
    }

    /// The weight of each part; none if there is one.
    pub(crate) fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// The names of the classes in the order of the labels, if class folders or shards gave them.
    pub fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    /// The names of the image files in order, without their folders; none if some images are in shards or archives.
    pub fn file_names(&self) -> Option<Vec<&OsStr>> {
        let names = self.chunks.iter().map(|chunk| match chunk {
            Chunk::File { path, .. } => path.file_name(),
            Chunk::RowGroup { .. } | Chunk::Samples { .. } => None,
        });
        names.collect()
    }

    /// How many files of the folders are not images, by their extension, or belong to another split.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// How many rows to shuffle together: 4096, or as many as fit into memory on average, since the shards' part of two
    /// pools is held there, of each part of the data: 1 GiB in all.
    pub fn pool_rows(&self) -> usize {
        let (mut rows, mut bytes) = (0, 0);
        for chunk in &self.chunks {
            match chunk {
                Chunk::File { .. } => {}
                Chunk::RowGroup { .. } | Chunk::Samples { .. } => {
                    rows += chunk.rows();
                    bytes += chunk.bytes();
                }
            }
        }
        pool_rows(rows, bytes, self.parts.len())
    }

    /// All records in order, read as they are asked for.
    pub fn records(&self) -> Records<'_> {
        Box::new(self.chunks.iter().flat_map(Chunk::records))
    }

    /// Up to `count` records spread evenly over the data, in order, so that of data sorted by class all
    /// classes are seen. Row groups without any of them are not read.
    pub fn spread_records(&self, count: usize) -> Records<'_> {
        self.spread_over(count, |_| true)
    }

    /// Those of them that lie in chunks of which `counts` is true.
    fn spread_over(&self, count: usize, counts: impl Fn(&Chunk) -> bool + Send + 'static) -> Records<'_> {
        let wanted: BTreeSet<usize> = spread(count, self.rows).collect();
        let mut first = 0;
        Box::new(self.chunks.iter().flat_map(move |chunk| -> Records<'_> {
            let range = first..first + chunk.rows();
            first = range.end;
            let rows: BTreeSet<usize> = wanted.range(range.clone()).map(|row| row - range.start).collect();
            if rows.is_empty() || !counts(chunk) {
                return Box::new(std::iter::empty());
            }
            chunk.some_records(rows)
        }))
    }

    /// Which data this is: equal for equal data wherever it lies, different if an image is added, removed, or
    /// of another class. Contents are read of some images only, and of shards in stores not at all: what counts is their
    /// ETag, or for want of one the time of their last change.
    ///
    /// # Errors
    /// If one of those cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut fingerprint = Fingerprint::default();
        for chunk in &self.chunks {
            match chunk {
                Chunk::File { path, label } => {
                    fingerprint.add(path.file_name().unwrap_or_default().as_encoded_bytes());
                    fingerprint.add(format!("{label:?}"));
                }
                Chunk::RowGroup { .. } | Chunk::Samples { .. } => {
                    fingerprint.add(format!("{} {}", chunk.rows(), chunk.bytes()));
                }
            }
            if let Some(stated) = chunk.stated() {
                fingerprint.add(stated);
            }
        }
        for record in self.spread_over(SAMPLED, |chunk| chunk.stated().is_none()) {
            match record {
                Ok(Record { label, bytes, .. }) => {
                    fingerprint.add(format!("{label:?}"));
                    fingerprint.add(bytes);
                }
                Err(Error::Image { .. }) => fingerprint.add("broken"),
                Err(error) => return Err(error),
            }
        }
        Ok(fingerprint.finish(self.rows))
    }
}

/// Rows of average size that fit into a pool, for `rows` rows of `bytes` bytes together, if `parts` parts have two each.
fn pool_rows(rows: usize, bytes: usize, parts: usize) -> usize {
    match bytes.checked_div(rows) {
        Some(average) => (POOL_BYTES / 2 / parts / average.max(1)).clamp(1, POOL_ROWS),
        None => POOL_ROWS,
    }
}

impl Chunk {
    /// How many images, from the metadata.
    pub fn rows(&self) -> usize {
        match self {
            Self::File { .. } => 1,
            Self::RowGroup { shard, group } => shard.rows(*group),
            Self::Samples { archive, chunk } => archive.rows(*chunk),
        }
    }

    /// The images in order, read as they are asked for. An unreadable image file is an
    /// [`Error::Image`], as it concerns no other record.
    pub fn records(&self) -> Records<'_> {
        match self {
            Self::File { path, label } => Box::new(std::iter::once_with(|| read_file(path, *label))),
            Self::RowGroup { shard, group } => shard.records(*group),
            Self::Samples { archive, chunk } => archive.records(*chunk),
        }
    }

    /// The images of these rows in order. What else the chunk holds is read only where rows cannot be told apart before.
    pub fn some_records(&self, rows: BTreeSet<usize>) -> Records<'_> {
        match self {
            Self::Samples { archive, chunk } => archive.some_records(*chunk, rows),
            Self::File { .. } | Self::RowGroup { .. } => {
                let all = self.records().enumerate();
                // What ends reading stands where its row would, and must not be passed over.
                let wanted = move |(row, record): &(usize, Result<Record>)| {
                    rows.contains(row) || !matches!(record, Ok(_) | Err(Error::Image { .. }))
                };
                Box::new(all.filter(wanted).map(|(_, record)| record))
            }
        }
    }

    /// How many bytes its images have; of a file that is not known before it is read, and 0.
    fn bytes(&self) -> usize {
        match self {
            Self::File { .. } => 0,
            Self::RowGroup { shard, group } => shard.bytes(*group),
            Self::Samples { archive, chunk } => archive.bytes(*chunk),
        }
    }

    /// What a store says of the content, if that is where it lies.
    fn stated(&self) -> Option<&str> {
        match self {
            Self::File { .. } => None,
            Self::RowGroup { shard, .. } => shard.place().stated(),
            Self::Samples { archive, .. } => archive.place().stated(),
        }
    }
}

fn read_file(path: &Path, label: Option<i64>) -> Result<Record> {
    let name = path.display().to_string();
    match fs::read(path) {
        Ok(bytes) => Ok(Record { name, label, bytes }),
        Err(error) => Err(Error::image(name, format!("cannot read: {error}"))),
    }
}

impl Split {
    /// The split that a file or folder name begins with.
    pub(super) fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        if name.starts_with("train") {
            Some(Self::Train)
        } else if name.starts_with("val") || name.starts_with("test") {
            Some(Self::Validation)
        } else {
            None
        }
    }

    /// Those of the shards `names` that belong to this split. Which one a shard belongs to is the start of its file name or
    /// of the folder in which it lies, below `root` if that is part of the name; if no name tells, all belong to every split.
    ///
    /// # Errors
    /// If there are none, though others are told.
    pub fn choose(self, root: &Path, names: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
        folder::choose(root, names, self)
    }

    pub(super) fn names(self) -> &'static str {
        match self {
            Self::Train => "names that begin with \"train\"",
            Self::Validation => "names that begin with \"val\" or \"test\"",
            Self::All => "any name",
        }
    }
}

#[cfg(test)]
mod tests;
