//! Caches of tokens: what a generator learns from.
//!
//! A cache is a folder of safetensors shards, each with `tokens` `[n, views, k, D]` in 16 or 32 bits
//! and `labels` `[n]`, mapped into memory and read where a batch needs them. A shard appears whole or
//! not at all, so that making a cache goes on where it was interrupted.

mod plan;

use std::ops::Range;
use std::path::{Path, PathBuf};

use semanticist::weights::{self, Dtype, HostTensor, Metadata};
use semanticist::{Error, Result};

use super::{TokenFileInfo, TokenReader};
use crate::fingerprint::{Fingerprint, SAMPLED, spread};
use crate::mixture::{check_weights, parts};
use crate::shards::Sort;

pub use plan::CachePlan;

const SORT: Sort = Sort { prefix: "tokens", command: "cache-tokens" };

const TOKENS: &str = "tokens";
const LABELS: &str = "labels";
const VIEWS: &str = "semanticist.views";
const CLASSES: &str = "semanticist.classes";
const PLAN: &str = "semanticist.plan";

/// The label of an image without one.
const NO_LABEL: i64 = -1;

/// Tokens of images by number, in several views.
#[derive(Debug)]
pub struct TokenCache {
    info: TokenFileInfo,
    classes: Option<Vec<String>>,
    shards: Vec<Shard>,
    /// For each shard, the number of its first image.
    first: Vec<usize>,
    len: usize,
    /// For each path that was opened, behind its last image.
    ends: Vec<usize>,
    /// Of each path; none if all images are drawn from together.
    weights: Vec<f64>,
}

#[derive(Debug)]
struct Shard {
    /// `[n, views, k, D]`
    tokens: HostTensor,
    labels: Vec<Option<i64>>,
}

impl TokenCache {
    /// Opens caches, or shards of one, or token files of `encode`, whose tokens are then in memory; one
    /// after the other.
    ///
    /// # Errors
    /// If a file is none of these, a cache is not complete, or they are of different models or shapes.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut files = Vec::new();
        for (number, path) in paths.iter().enumerate() {
            let own = if path.is_dir() { SORT.of_folder(path)? } else { vec![path.clone()] };
            files.extend(own.into_iter().map(|file| (number, file)));
        }
        let mut cache: Option<Self> = None;
        for (number, path) in &files {
            let (info, classes, shard) = open(path)?;
            let cache = cache.get_or_insert_with(|| Self {
                info: info.clone(),
                classes: classes.clone(),
                shards: Vec::new(),
                first: Vec::new(),
                len: 0,
                ends: vec![0; paths.len()],
                weights: Vec::new(),
            });
            if (&cache.info, &cache.classes) != (&info, &classes) {
                return Err(Error::file(
                    path,
                    format!(
                        "holds {} × {} numbers of model {:.12}, the files before it {} × {} of {:.12}, or \
                         their classes differ; give files of one model and data set",
                        info.tokens,
                        info.token_dim,
                        info.model_hash,
                        cache.info.tokens,
                        cache.info.token_dim,
                        cache.info.model_hash
                    ),
                ));
            }
            cache.first.push(cache.len);
            cache.len += shard.labels.len();
            cache.shards.push(shard);
            cache.ends[*number..].fill(cache.len);
        }
        match cache {
            Some(cache) if cache.len > 0 => Ok(cache),
            _ => Err(Error::Data("the token files hold no image; give a cache of `cache-tokens`".into())),
        }
    }

    /// The same tokens, but an epoch, which has as many images as before, takes them from the paths that were opened in proportion
    /// to `weights`, one for each, as [`crate::Source::weighted`] does. Without weights nothing changes.
    ///
    /// # Errors
    /// If there is another number of weights, one that is not above 0, or a path without images.
    pub fn weighted(mut self, weights: &[f64]) -> Result<Self> {
        if weights.is_empty() {
            return Ok(self);
        }
        let images: Vec<usize> = parts(&self.ends).iter().map(ExactSizeIterator::len).collect();
        check_weights(weights, &images)?;
        if weights.len() > 1 {
            self.weights = weights.to_vec();
        }
        Ok(self)
    }

    /// Images that are drawn from together.
    pub(crate) fn parts(&self) -> Vec<Range<usize>> {
        if self.weights.is_empty() { parts(&[self.len]) } else { parts(&self.ends) }
    }

    /// The weight of each part; none if there is one.
    pub(crate) fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// What all tokens have in common.
    pub fn info(&self) -> &TokenFileInfo {
        &self.info
    }

    /// The names of the classes, if known.
    pub fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many views image `index` has.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn views(&self, index: usize) -> usize {
        self.shards[self.place(index).0].tokens.shape()[1]
    }

    /// The class of image `index`, if known.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn label(&self, index: usize) -> Option<i64> {
        let (shard, row) = self.place(index);
        self.shards[shard].labels[row]
    }

    /// The first `count` tokens of a view of image `index`, one after the other.
    ///
    /// # Panics
    /// If there is no such image, view or token.
    pub fn tokens(&self, index: usize, view: usize, count: usize) -> Vec<f32> {
        let (shard, row) = self.place(index);
        let tokens = &self.shards[shard].tokens;
        let &[_, views, k, dim] = tokens.shape() else { unreachable!("the shape was checked") };
        assert!(view < views && count <= k, "view {view} of {views}, {count} tokens of {k}");
        let start = (row * views + view) * k * dim;
        tokens.values(start..start + count * dim).expect("the type was checked")
    }

    /// Which tokens these are: equal for equal caches wherever they lie, different if they are of another model,
    /// or an image is added, removed or of another class. Tokens are read of some images only.
    pub fn fingerprint(&self) -> String {
        let mut fingerprint = Fingerprint::default();
        fingerprint.add(format!("{:?} {:?}", self.info, self.classes));
        for shard in &self.shards {
            fingerprint.add(format!("{:?} {:?}", shard.tokens.shape(), shard.labels));
        }
        for image in spread(SAMPLED, self.len) {
            let values = self.tokens(image, 0, self.info.tokens).into_iter();
            fingerprint.add(values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
        }
        fingerprint.finish(self.len)
    }

    fn place(&self, index: usize) -> (usize, usize) {
        assert!(index < self.len, "image {index} of {}", self.len);
        let shard = self.first.partition_point(|&first| first <= index) - 1;
        (shard, index - self.first[shard])
    }
}

type Opened = (TokenFileInfo, Option<Vec<String>>, Shard);

fn open(path: &Path) -> Result<Opened> {
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        let (weights, metadata) = weights::load(path)?;
        if metadata.contains_key(VIEWS) {
            return open_shard(path, weights, &metadata);
        }
    }
    let reader = TokenReader::open(path)?;
    let info = reader.info().clone();
    let (mut labels, mut values) = (Vec::new(), Vec::new());
    for record in reader {
        let record = record?;
        labels.push(record.label);
        values.extend(record.tokens);
    }
    let tokens = HostTensor::from_f32(&[labels.len(), 1, info.tokens, info.token_dim], &values);
    Ok((info, None, Shard { tokens, labels }))
}

fn open_shard(path: &Path, mut weights: weights::Weights, metadata: &Metadata) -> Result<Opened> {
    let info = TokenFileInfo::from_metadata(path, |key| metadata.get(key).cloned())?;
    let damaged = |problem: String| Error::file(path, format!("is a damaged token cache: {problem}"));
    let views: usize = metadata[VIEWS].parse().map_err(|_| damaged("views is no number".into()))?;
    let classes = metadata.get(CLASSES).map(|text| serde_json::from_str(text)).transpose();
    let classes = classes.map_err(|error| damaged(format!("classes: {error}")))?;
    let mut take = |name| weights.remove(name).ok_or_else(|| damaged(format!("it has no {name}")));
    let (tokens, labels) = (take(TOKENS)?, take(LABELS)?);
    let labels = labels.to_i64().ok_or_else(|| damaged("labels are no integers".into()))?;
    let expected = [labels.len(), views, info.tokens, info.token_dim];
    if tokens.shape() != expected || !matches!(tokens.dtype(), Dtype::F16 | Dtype::F32) {
        let found = format!("{} {:?}", tokens.dtype(), tokens.shape());
        return Err(damaged(format!("tokens are {found}, expected F16 or F32 {expected:?}")));
    }
    let labels = labels.into_iter().map(|label| (label != NO_LABEL).then_some(label)).collect();
    Ok((info, classes, Shard { tokens, labels }))
}

#[cfg(test)]
mod tests;
