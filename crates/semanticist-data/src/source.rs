//! Where images lie: class folders, flat folders, Parquet and WebDataset shards, lists, single files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use semanticist::{Error, Result};

use super::fingerprint::{Fingerprint, SAMPLED, spread};
use super::folder::{self, Contents};
use super::list;
use super::parquet::Shard;
use super::webdataset::Archive;

/// Rows of a pool when they are small enough.
const POOL_ROWS: usize = 4096;

/// Encoded bytes that a pool should not exceed, in bytes.
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
    /// - an image file, whatever its extension.
    pub fn open(paths: &[PathBuf], split: Split) -> Result<Self> {
        let mut found = Found::default();
        for path in paths {
            found.add(path, split)?;
        }
        let source = found.into_source();
        if source.is_empty() {
            let places: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            return Err(Error::Data(format!(
                "no images in {}; expected image files ({}) Parquet or WebDataset shards",
                if places.is_empty() { "an empty list of paths".into() } else { places.join(", ") },
                semanticist::image::EXTENSIONS.join(", ")
            )));
        }
        Ok(source)
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

    /// How many rows to shuffle together: 4096, or as many as fit into 1 GiB on average, since the
    /// shards' part of a pool is held in memory.
    pub fn pool_rows(&self) -> usize {
        let (mut rows, mut bytes) = (0, 0);
        for chunk in &self.chunks {
            match chunk {
                Chunk::File { .. } => {}
                Chunk::RowGroup { shard, group } => {
                    rows += shard.rows(*group);
                    bytes += shard.bytes(*group);
                }
                Chunk::Samples { archive, chunk } => {
                    rows += archive.rows(*chunk);
                    bytes += archive.bytes(*chunk);
                }
            }
        }
        pool_rows(rows, bytes)
    }

    /// All records in order, read as they are asked for.
    pub fn records(&self) -> Records<'_> {
        Box::new(self.chunks.iter().flat_map(Chunk::records))
    }

    /// Up to `count` records spread evenly over the data, in order, so that of data sorted by class all
    /// classes are seen. Row groups without any of them are not read.
    pub fn spread_records(&self, count: usize) -> Records<'_> {
        let wanted: BTreeSet<usize> = spread(count, self.rows).collect();
        let mut first = 0;
        Box::new(self.chunks.iter().flat_map(move |chunk| -> Records<'_> {
            let range = first..first + chunk.rows();
            first = range.end;
            let rows: BTreeSet<usize> = wanted.range(range.clone()).map(|row| row - range.start).collect();
            if rows.is_empty() {
                return Box::new(std::iter::empty());
            }
            Box::new(chunk.records().enumerate().filter(move |(row, _)| rows.contains(row)).map(|(_, r)| r))
        }))
    }

    /// Which data this is: equal for equal data wherever it lies, different if an image is added, removed, or
    /// of another class. Contents are read of some images only.
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
                Chunk::RowGroup { shard, group } => {
                    fingerprint.add(format!("{} {}", shard.rows(*group), shard.bytes(*group)));
                }
                Chunk::Samples { archive, chunk } => {
                    fingerprint.add(format!("{} {}", archive.rows(*chunk), archive.bytes(*chunk)));
                }
            }
        }
        for record in self.spread_records(SAMPLED) {
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

/// Rows of average size that fit into a pool, for `rows` rows of `bytes` bytes together.
fn pool_rows(rows: usize, bytes: usize) -> usize {
    match bytes.checked_div(rows) {
        Some(average) => (POOL_BYTES / average.max(1)).clamp(1, POOL_ROWS),
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

    pub(super) fn names(self) -> &'static str {
        match self {
            Self::Train => "names that begin with \"train\"",
            Self::Validation => "names that begin with \"val\" or \"test\"",
            Self::All => "any name",
        }
    }
}

/// What was found so far; labels follow once all classes are known.
#[derive(Default)]
struct Found {
    chunks: Vec<(Chunk, Option<String>)>,
    classes: BTreeSet<String>,
    /// What the shards say of their classes, each in its turn.
    shard_classes: Vec<Option<Vec<String>>>,
    skipped: usize,
}

impl Found {
    fn add(&mut self, path: &Path, split: Split) -> Result<()> {
        let kind = fs::metadata(path).map_err(|error| Error::io(path, "open", error))?;
        if kind.is_dir() {
            return self.add_folder(path, split);
        }
        if folder::is_shard(path) {
            return self.add_shard(path);
        }
        if list::is_list(path) {
            for list::Line { image, label, class } in list::read(path)? {
                // A number that is given stays; a name gets its place among all.
                let class = class.filter(|_| label.is_none());
                self.classes.extend(class.clone());
                self.chunks.push((Chunk::File { path: image, label }, class));
            }
            return Ok(());
        }
        self.chunks.push((Chunk::File { path: path.to_path_buf(), label: None }, None));
        Ok(())
    }

    fn add_folder(&mut self, root: &Path, split: Split) -> Result<()> {
        let Contents { images, shards, folders, skipped } = folder::scan(root)?;
        self.skipped += skipped;
        if !shards.is_empty() {
            // Images beside shards belong to the data set's description.
            self.skipped += images.len() + shards.len();
            for shard in folder::choose(root, shards, split)? {
                self.skipped -= 1;
                self.add_shard(&shard)?;
            }
            return Ok(());
        }
        if folder::are_splits(&folders) {
            let chosen = |name: &&String| split == Split::All || Split::named(name) == Some(split);
            return folders
                .iter()
                .filter(chosen)
                .try_for_each(|name| self.add_folder(&root.join(name), split));
        }
        if images.iter().any(|image| image.folder.is_some()) {
            self.classes.extend(folders);
        }
        let chunk = |path| Chunk::File { path, label: None };
        self.chunks.extend(images.into_iter().map(|image| (chunk(image.path), image.folder)));
        Ok(())
    }

    fn add_shard(&mut self, path: &Path) -> Result<()> {
        if folder::is_archive(path) {
            let archive = Arc::new(Archive::open(path)?);
            self.shard_classes.push(None);
            let chunk = |chunk| (Chunk::Samples { archive: archive.clone(), chunk }, None);
            self.chunks.extend((0..archive.chunks()).map(chunk));
            return Ok(());
        }
        let shard = Arc::new(Shard::open(path)?);
        self.shard_classes.push(shard.classes());
        let groups = (0..shard.groups()).filter(|&group| shard.rows(group) > 0);
        self.chunks.extend(groups.map(|group| (Chunk::RowGroup { shard: shard.clone(), group }, None)));
        Ok(())
    }

    fn into_source(self) -> Source {
        let labels: BTreeMap<&str, i64> = self.classes.iter().map(String::as_str).zip(0..).collect();
        let labelled = |(chunk, class): (Chunk, Option<String>)| match (chunk, class) {
            (Chunk::File { path, .. }, Some(class)) => {
                Chunk::File { path, label: labels.get(class.as_str()).copied() }
            }
            (chunk, _) => chunk,
        };
        let chunks: Vec<_> = self.chunks.into_iter().map(labelled).collect();
        let rows = chunks.iter().map(Chunk::rows).sum();
        let agreed = self.shard_classes.windows(2).all(|pair| pair[0] == pair[1]);
        let classes = match self.shard_classes.into_iter().next() {
            // Labels of folders and of shards together have no names that fit both.
            Some(names) => names.filter(|_| agreed && self.classes.is_empty()),
            None => (!self.classes.is_empty()).then(|| self.classes.into_iter().collect()),
        };
        Source { chunks, classes, rows, skipped: self.skipped }
    }
}

#[cfg(test)]
mod tests;
