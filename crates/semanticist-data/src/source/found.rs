//! What lies at the paths that a source is opened from, of whatever kind it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use semanticist::{Error, Result};

use super::{Chunk, Source, Split};
use crate::folder::{self, Contents};
use crate::list;
use crate::parquet::Shard;
use crate::place::Place;
use crate::ranges::in_parallel;
use crate::stores::{Object, Stores};
use crate::webdataset::Archive;

/// Shards in stores that are opened at once.
const TOGETHER: usize = 16;

/// What was found so far; labels follow once all classes are known.
#[derive(Default)]
pub(super) struct Found {
    chunks: Vec<(Chunk, Option<String>)>,
    classes: BTreeSet<String>,
    /// What the shards say of their classes, each in its turn.
    shard_classes: Vec<Option<Vec<String>>>,
    skipped: usize,
    /// How many chunks there are after each group of paths.
    groups: Vec<usize>,
    stores: Option<Stores>,
}

/// A shard that was opened.
enum Opened {
    Parquet(Shard),
    Tar(Archive),
}

impl Opened {
    fn at(place: Place) -> Result<Self> {
        Ok(match folder::is_archive(place.name()) {
            true => Self::Tar(Archive::open(place)?),
            false => Self::Parquet(Shard::open(place)?),
        })
    }
}

impl Found {
    /// Nothing yet; without stores they are those that the environment describes.
    pub fn asking(stores: Option<Stores>) -> Self {
        Self { stores, ..Self::default() }
    }

    /// What was added since the last time may have a weight of its own.
    pub fn end_group(&mut self) {
        self.groups.push(self.chunks.len());
    }

    /// Adds what is at a path or address.
    pub fn add(&mut self, path: &Path, split: Split) -> Result<()> {
        if let Some(address) = address(path) {
            let found = self.stores.get_or_insert_with(Stores::from_env).find(address, split)?;
            self.skipped += found.skipped;
            let open = |object: &Object| Opened::at(Place::object(object.clone()));
            for shard in in_parallel(&found.objects, TOGETHER, open)? {
                self.add_shard(shard);
            }
            return Ok(());
        }
        let kind = fs::metadata(path).map_err(|error| Error::io(path, "open", error))?;
        if kind.is_dir() {
            return self.add_folder(path, split);
        }
        if folder::is_shard(path) {
            self.add_shard(Opened::at(Place::file(path)?)?);
            return Ok(());
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
                self.add_shard(Opened::at(Place::file(&shard)?)?);
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

    fn add_shard(&mut self, shard: Opened) {
        match shard {
            Opened::Tar(archive) => {
                let archive = Arc::new(archive);
                self.shard_classes.push(None);
                let chunk = |chunk| (Chunk::Samples { archive: archive.clone(), chunk }, None);
                self.chunks.extend((0..archive.chunks()).map(chunk));
            }
            Opened::Parquet(shard) => {
                let shard = Arc::new(shard);
                self.shard_classes.push(shard.classes());
                let groups = (0..shard.groups()).filter(|&group| shard.rows(group) > 0);
                let chunk = |group| (Chunk::RowGroup { shard: shard.clone(), group }, None);
                self.chunks.extend(groups.map(chunk));
            }
        }
    }

    /// All that was added.
    pub fn into_source(self) -> Source {
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
        let (all, groups) = (0..chunks.len(), self.groups);
        Source { chunks, classes, rows, skipped: self.skipped, parts: vec![all], groups, weights: Vec::new() }
    }
}

/// The address that is given as a path, if it is one: `s3://bucket/folder`. A file of that name goes before.
fn address(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| text.contains("://") && !path.exists())
}
