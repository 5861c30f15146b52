//! How a cache of features is made.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use semanticist::image::to_pixels;
use semanticist::weights::{HostTensor, Metadata, Precision, Weights};
use semanticist::{Error, Pixels, Result};

use super::{FEATURES, FeatureInfo, INFO, SORT};
use crate::shards::{Content, Shards, cut};
use crate::{Broken, Record, Source};

/// Bytes of a shard whose number of images nobody asked for, about: as much is in memory, and lost when stopped.
const SHARD_BYTES: usize = 256 << 20;

/// What a cache will hold.
#[derive(Debug, Clone)]
pub struct FeaturePlan {
    /// What it says of itself.
    pub info: FeatureInfo,
    /// How features are stored: `F16` (11 significant bits) or `F32`.
    pub stored: Precision,
    /// Images per shard, broken ones included.
    pub shard_images: usize,
}

impl FeaturePlan {
    /// Of shards of `shard_images` images, or else of about 256 MiB of numbers in 32 bits.
    pub fn new(info: FeatureInfo, stored: Precision, shard_images: Option<usize>) -> Self {
        let row = (info.views.count() * info.values() * size_of::<f32>()).max(1);
        let shard_images = shard_images.unwrap_or((SHARD_BYTES / row).max(1));
        Self { info, stored, shard_images }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards_of().count()
    }

    /// How many bytes the features take.
    pub fn bytes(&self) -> u64 {
        let width = match self.stored {
            Precision::F32 => 4,
            Precision::F16 => 2,
        };
        (self.info.images * self.info.views.count() * self.info.values() * width) as u64
    }

    /// How many shards of this plan are in the folder already.
    ///
    /// # Errors
    /// If it holds shards of another plan.
    pub fn complete(&self, folder: &Path) -> Result<usize> {
        self.shards_of().complete(folder)
    }

    fn shards_of(&self) -> Shards {
        let info = serde_json::to_string(&self.info).expect("they are plain data");
        let metadata = Metadata::from([(INFO.to_owned(), info)]);
        let Self { stored, shard_images, .. } = *self;
        Shards { sort: SORT, metadata, stored, images: self.info.images, shard_images }
    }

    /// Writes the shards that are not there yet; `batch` views are shown to the network together, which gives
    /// `[B, positions, width]` for `[B, 3, H, H]`.
    ///
    /// `observe` is called after every batch with the number of images done, and says whether to go on.
    ///
    /// # Errors
    /// If the folder holds another cache, the data or the disk fails, or too many images are broken.
    /// Whole shards stay, and the next call goes on after them.
    ///
    /// # Panics
    /// If the network gives other features than the plan says.
    pub fn fill(
        &self,
        folder: &Path,
        source: &Source,
        network: &dyn Fn(&Pixels) -> Result<Tensor<3>>,
        device: &Device,
        batch: usize,
        observe: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Broken> {
        let together = (batch / self.info.views.count()).max(1);
        let mut content = Features { info: &self.info, network, device, values: Vec::new() };
        self.shards_of().fill(folder, source, together, &mut content, observe)
    }
}

/// The features of a shard as they come.
struct Features<'a> {
    info: &'a FeatureInfo,
    network: &'a dyn Fn(&Pixels) -> Result<Tensor<3>>,
    device: &'a Device,
    values: Vec<f32>,
}

impl Content for Features<'_> {
    /// Every image keeps its place, so that its number finds it.
    fn add(&mut self, records: Vec<Result<Record>>, broken: &mut Broken) -> Result<()> {
        let (mut views, mut whole) = (Vec::new(), Vec::new());
        for result in cut(records, self.info.views, self.info.image_size) {
            whole.push(result.is_ok());
            match result {
                Ok((cut, _)) => views.extend(cut),
                Err(Error::Image { name, problem }) => broken.add(name, problem)?,
                Err(error) => return Err(error),
            }
        }
        let mut found = Vec::new();
        if !views.is_empty() {
            let features = (self.network)(&to_pixels(&views, self.device))?;
            let expected = [views.len(), self.info.positions, self.info.width];
            assert_eq!(features.dims(), expected, "features of a batch");
            found.extend(features.into_data().iter::<f32>());
        }
        let row = self.info.views.count() * self.info.values();
        let mut rows = found.chunks_exact(row);
        for whole in whole {
            let features = if whole { rows.next() } else { None };
            match features {
                Some(features) => self.values.extend(features),
                None => self.values.extend(std::iter::repeat_n(f32::NAN, row)),
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Weights {
        let values = std::mem::take(&mut self.values);
        let FeatureInfo { views, positions, width, .. } = *self.info;
        let views = views.count();
        let shape = [values.len() / (views * positions * width), views, positions, width];
        let mut weights = Weights::new();
        weights.insert(FEATURES, HostTensor::from_f32(&shape, &values));
        weights
    }
}
