//! Caches of a frozen network's features of patches: what a decoder is aligned with in training, without the network.
//!
//! A cache is a folder of safetensors shards with `features` `[n, views, positions, width]` in 16 or 32 bits, mapped into
//! memory and read where a batch needs them. Row i of all shards is image i of the data set; the rows of broken images,
//! which training never shows, are not a number.

mod plan;

use std::path::Path;

use semanticist::weights::{self, Dtype, HostTensor};
use semanticist::{Error, Precision, Result};
use serde::{Deserialize, Serialize};

use crate::fingerprint::{Fingerprint, SAMPLED, spread};
use crate::shards::Sort;
use crate::{Shown, Views};

pub use plan::FeaturePlan;

const SORT: Sort = Sort { prefix: "features", command: "cache-features" };
const FEATURES: &str = "features";
const INFO: &str = "semanticist.features";

/// Whose features of what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureInfo {
    /// SHA-256 of the network's weights.
    pub teacher: String,
    /// The data set: [`crate::Source::fingerprint`].
    pub data: String,
    /// Its images, broken ones included.
    pub images: usize,
    /// The side of the views that were shown, in pixels.
    pub image_size: usize,
    /// Which views: the evaluation crop, and its mirror image.
    pub views: Views,
    /// Features per view.
    pub positions: usize,
    /// Numbers per feature.
    pub width: usize,
    /// What the network's products were computed in.
    pub computed: Precision,
}

impl FeatureInfo {
    fn values(&self) -> usize {
        self.positions * self.width
    }
}

/// Features of images by number.
#[derive(Debug)]
pub struct FeatureCache {
    info: FeatureInfo,
    /// Each `[n, views, positions, width]`.
    shards: Vec<HostTensor>,
    /// For each shard, the number of its first image.
    first: Vec<usize>,
}

impl FeatureCache {
    /// Opens the cache in a folder.
    ///
    /// # Errors
    /// If there is none, or it is not complete or damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let (mut shards, mut first, mut len) = (Vec::new(), Vec::new(), 0);
        let mut info: Option<FeatureInfo> = None;
        for path in SORT.of_folder(folder)? {
            let damaged = |problem: &str| {
                Error::file(&path, format!("is no whole shard of a cache of features: {problem}"))
            };
            let (mut weights, metadata) = weights::load(&path)?;
            let text = metadata.get(INFO).ok_or_else(|| damaged("its metadata does not say of what"))?;
            let found: FeatureInfo =
                serde_json::from_str(text).map_err(|error| damaged(&error.to_string()))?;
            let info = info.get_or_insert_with(|| found.clone());
            if *info != found {
                return Err(damaged("it is of another network, data set or size than those before it"));
            }
            let tensor = weights.remove(FEATURES).ok_or_else(|| damaged("it has no features"))?;
            let rest = [info.views.count(), info.positions, info.width];
            match tensor.shape() {
                [_, found @ ..] if found == rest && matches!(tensor.dtype(), Dtype::F16 | Dtype::F32) => {}
                other => {
                    let found = format!("features are {} {other:?}, expected [n, {rest:?}]", tensor.dtype());
                    return Err(damaged(&found));
                }
            }
            first.push(len);
            len += tensor.shape()[0];
            shards.push(tensor);
        }
        let info = info.expect("a cache has a shard");
        if len != info.images {
            let problem = format!("holds features of {len} images instead of {}; make it again", info.images);
            return Err(Error::file(folder, problem));
        }
        Ok(Self { info, shards, first })
    }

    /// Whose features of what they are.
    pub fn info(&self) -> &FeatureInfo {
        &self.info
    }

    /// Fails if these are not of the evaluation crops, `image_size` pixels large, of the data with this fingerprint; nor of
    /// their mirror images, if training shows them.
    ///
    /// # Errors
    /// As it says; the message names what is expected and what to do.
    pub fn check(&self, data: &str, image_size: usize, flip: f32) -> Result<()> {
        let info = &self.info;
        let problem = if info.data != data {
            format!("the cache is of other data ({}) than the run ({data})", info.data)
        } else if info.image_size != image_size {
            format!("the cache is of images of {} pixels, the run of {image_size}", info.image_size)
        } else if flip > 0.0 && info.views != Views::Flip {
            format!(
                "the cache has no mirror images, which the run shows; set data.flip = 0 (it is {flip}), or make it with \
                 --views flip"
            )
        } else {
            return Ok(());
        };
        Err(Error::Data(format!("features of a teacher: {problem}; `{}` makes one", SORT.command)))
    }

    /// The features of a view, `positions` × `width` numbers, position by position.
    ///
    /// # Panics
    /// If the data has no such image, or the cache no mirror images.
    pub fn features(&self, shown: Shown) -> Vec<f32> {
        let (views, values) = (self.info.views.count(), self.info.values());
        let view = usize::from(shown.mirrored);
        assert!(shown.image < self.info.images && view < views, "{shown:?} of {:?}", self.info);
        let shard = self.first.partition_point(|&first| first <= shown.image) - 1;
        let row = (shown.image - self.first[shard]) * views + view;
        self.shards[shard].values(row * values..(row + 1) * values).expect("the type was checked")
    }

    /// Which features these are: equal for equal caches wherever they lie. Contents are read of some images only.
    pub fn fingerprint(&self) -> String {
        let mut fingerprint = Fingerprint::default();
        fingerprint.add(format!("{:?}", self.info));
        for image in spread(SAMPLED, self.info.images) {
            let values = self.features(Shown { image, mirrored: false }).into_iter();
            fingerprint.add(values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
        }
        fingerprint.finish(self.info.images)
    }
}

#[cfg(test)]
mod tests;
