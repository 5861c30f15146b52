//! How a cache is made: what is in it, how it is cut into shards, and how those are filled.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use rayon::prelude::*;
use semanticist::image::{RgbImage, decode, to_pixels};
use semanticist::weights::{self, HostTensor, Metadata, Precision, Weights};
use semanticist::{Error, Result, Tokenizer};

use super::super::TokenFileInfo;
use super::{CLASSES, LABELS, NO_LABEL, PLAN, TOKENS, VIEWS};
use crate::{Broken, Record, Source, Views};

/// What a cache will hold.
#[derive(Debug, Clone)]
pub struct CachePlan {
    /// What its token files say of themselves.
    pub info: TokenFileInfo,
    /// The crops and flips of each image that are encoded.
    pub views: Views,
    /// How tokens are stored: `F16` or `F32`.
    pub stored: Precision,
    /// What the tokenizer's products are computed in: all shards are of one kind.
    pub computed: semanticist::Precision,
    /// Images of the data set, broken ones included.
    pub images: usize,
    /// Images per shard, broken ones included.
    pub shard_images: usize,
    /// The name of every class, if the data set has names.
    pub classes: Option<Vec<String>>,
}

impl CachePlan {
    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.images.div_ceil(self.shard_images)
    }

    /// How many bytes the tokens take.
    pub fn bytes(&self) -> u64 {
        let width = match self.stored {
            Precision::F32 => 4,
            Precision::F16 => 2,
        };
        let TokenFileInfo { tokens, token_dim, .. } = self.info;
        (self.images * self.views.count() * tokens * token_dim * width) as u64
    }

    /// How many shards of this plan are in the folder already.
    ///
    /// # Errors
    /// If it holds shards of another plan.
    pub fn complete(&self, folder: &Path) -> Result<usize> {
        let mut complete = 0;
        for number in 0..self.shards() {
            complete += usize::from(self.holds(folder, number)?);
        }
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let other = names
            .filter_map(|entry| Some((numbers(entry.file_name().to_str()?)?, entry.path())))
            .find(|((_, of), _)| *of != self.shards());
        match other {
            Some((_, path)) => Err(Self::foreign(&path)),
            None => Ok(complete),
        }
    }

    fn holds(&self, folder: &Path, number: usize) -> Result<bool> {
        let path = self.path(folder, number);
        if !path.exists() {
            return Ok(false);
        }
        let (_, metadata) = weights::load(&path)?;
        if metadata == self.metadata() { Ok(true) } else { Err(Self::foreign(&path)) }
    }

    fn foreign(path: &Path) -> Error {
        let problem = "belongs to a cache of another model, data set or choice; remove that cache or give \
                       another folder";
        Error::file(path, problem)
    }

    fn path(&self, folder: &Path, number: usize) -> PathBuf {
        folder.join(format!("{PREFIX}{number:05}{OF}{:05}{EXTENSION}", self.shards()))
    }

    fn metadata(&self) -> Metadata {
        let mut metadata: Metadata =
            self.info.to_metadata().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        metadata.insert(VIEWS.into(), self.views.count().to_string());
        let Self { views, stored, images, shard_images, .. } = self;
        // Float32 is not named, as when there was nothing else.
        let computed = match self.computed {
            semanticist::Precision::Float32 => String::new(),
            other => format!(" {other}"),
        };
        metadata.insert(PLAN.into(), format!("{views:?} {stored:?} {images} {shard_images}{computed}"));
        if let Some(classes) = &self.classes {
            metadata.insert(CLASSES.into(), serde_json::json!(classes).to_string());
        }
        metadata
    }

    /// Writes the shards that are not there yet; `batch` views go through the encoder together.
    ///
    /// `observe` is called after every batch with the number of images done, and says whether to go on.
    ///
    /// # Errors
    /// If the folder holds another cache, the data or the disk fails, or too many images are broken.
    /// Whole shards stay, and the next call goes on after them.
    pub fn fill(
        &self,
        folder: &Path,
        source: &Source,
        tokenizer: &Tokenizer,
        device: &Device,
        batch: usize,
        observe: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Broken> {
        let mut broken = Broken::new(source.len());
        let mut records = source.records();
        let together = (batch / self.views.count()).max(1);
        for number in 0..self.shards() {
            let mut left = self.shard_images.min(self.images - number * self.shard_images);
            if self.holds(folder, number)? {
                records.by_ref().take(left).for_each(drop);
                if observe(left).is_break() {
                    return Ok(broken);
                }
                continue;
            }
            let (mut values, mut labels) = (Vec::new(), Vec::new());
            while left > 0 {
                let batch: Vec<_> = records.by_ref().take(together.min(left)).collect();
                if batch.is_empty() {
                    return Err(Error::Data("the data set has fewer images than its metadata says".into()));
                }
                left -= batch.len();
                let done = batch.len();
                let (views, found) = self.views_of(batch, tokenizer.config.image_size, &mut broken)?;
                if !views.is_empty() {
                    let tokens = tokenizer.encode(&to_pixels(&views, device), self.info.tokens)?;
                    values.extend(tokens.0.into_data().iter::<f32>());
                    labels.extend(found);
                }
                if observe(done).is_break() {
                    return Ok(broken);
                }
            }
            self.write(folder, number, &values, &labels)?;
        }
        Ok(broken)
    }

    /// The views of the images that are not broken, one image after the other, and their labels.
    fn views_of(
        &self,
        batch: Vec<Result<Record>>,
        size: usize,
        broken: &mut Broken,
    ) -> Result<(Vec<RgbImage>, Vec<i64>)> {
        let cut = |record: Result<Record>| {
            let record = record?;
            let image = decode(&record.name, &record.bytes)?;
            Ok((self.views.of(&image, size), record.label.unwrap_or(NO_LABEL)))
        };
        let (mut views, mut labels) = (Vec::new(), Vec::new());
        for result in batch.into_par_iter().map(cut).collect::<Vec<_>>() {
            match result {
                Ok((cut, label)) => {
                    views.extend(cut);
                    labels.push(label);
                }
                Err(Error::Image { name, problem }) => broken.add(name, problem)?,
                Err(error) => return Err(error),
            }
        }
        Ok((views, labels))
    }

    fn write(&self, folder: &Path, number: usize, values: &[f32], labels: &[i64]) -> Result<()> {
        let TokenFileInfo { tokens, token_dim, .. } = self.info;
        let shape = [labels.len(), self.views.count(), tokens, token_dim];
        let mut weights = Weights::new();
        weights.insert(TOKENS, HostTensor::from_f32(&shape, values));
        weights.insert(LABELS, HostTensor::from_i64(labels));
        weights::save(&self.path(folder, number), &weights, &self.metadata(), self.stored)
    }
}

const PREFIX: &str = "tokens-";
const OF: &str = "-of-";
const EXTENSION: &str = ".safetensors";

/// The number of a shard and how many there are, from its file name.
pub(super) fn numbers(name: &str) -> Option<(usize, usize)> {
    let (number, of) = name.strip_prefix(PREFIX)?.strip_suffix(EXTENSION)?.split_once(OF)?;
    Some((number.parse().ok()?, of.parse().ok()?))
}
