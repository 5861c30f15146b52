//! How a cache is made: what is in it, how it is cut into shards, and how those are filled.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use semanticist::image::to_pixels;
use semanticist::weights::{HostTensor, Metadata, Precision, Weights};
use semanticist::{Error, Result, Tokenizer};

use super::super::TokenFileInfo;
use super::{CLASSES, LABELS, NO_LABEL, PLAN, SORT, TOKENS, VIEWS};
use crate::shards::{Content, Shards, cut};
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
        self.shards_of().count()
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
        self.shards_of().complete(folder)
    }

    fn shards_of(&self) -> Shards {
        let Self { stored, images, shard_images, .. } = *self;
        Shards { sort: SORT, metadata: self.metadata(), stored, images, shard_images }
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
        let together = (batch / self.views.count()).max(1);
        let mut content = Tokens { plan: self, tokenizer, device, values: Vec::new(), labels: Vec::new() };
        self.shards_of().fill(folder, source, together, &mut content, observe)
    }
}

/// The tokens of a shard as they come.
struct Tokens<'a> {
    plan: &'a CachePlan,
    tokenizer: &'a Tokenizer,
    device: &'a Device,
    values: Vec<f32>,
    labels: Vec<i64>,
}

impl Content for Tokens<'_> {
    /// Broken images are left out.
    fn add(&mut self, records: Vec<Result<Record>>, broken: &mut Broken) -> Result<()> {
        let mut views = Vec::new();
        for result in cut(records, self.plan.views, self.tokenizer.config.image_size) {
            match result {
                Ok((cut, label)) => {
                    views.extend(cut);
                    self.labels.push(label.unwrap_or(NO_LABEL));
                }
                Err(Error::Image { name, problem }) => broken.add(name, problem)?,
                Err(error) => return Err(error),
            }
        }
        if !views.is_empty() {
            let tokens = self.tokenizer.encode(&to_pixels(&views, self.device), self.plan.info.tokens)?;
            self.values.extend(tokens.0.into_data().iter::<f32>());
        }
        Ok(())
    }

    fn take(&mut self) -> Weights {
        let TokenFileInfo { tokens, token_dim, .. } = self.plan.info;
        let (values, labels) = (std::mem::take(&mut self.values), std::mem::take(&mut self.labels));
        let shape = [labels.len(), self.plan.views.count(), tokens, token_dim];
        let mut weights = Weights::new();
        weights.insert(TOKENS, HostTensor::from_f32(&shape, &values));
        weights.insert(LABELS, HostTensor::from_i64(&labels));
        weights
    }
}
