//! Batches of images for objectives that learn from pixels.

use std::sync::Arc;

use semanticist::image::RgbImage;
use semanticist::{Error, Result, Seed};
use semanticist_data::{self as data, BatchOptions, Position, Share, Shown, Source};

use super::Batches;
use crate::config::{ImageData, Kind, RunConfig};

/// An image to learn from.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageExample {
    /// A square.
    pub image: RgbImage,
    /// What it shows.
    pub shown: Shown,
}

/// [`data::Batches`] as the trainer takes them.
pub struct ImageBatches(data::Batches);

impl ImageBatches {
    /// Squares of `size` pixels from `start` on, of a share of the batches.
    pub fn new<K: Kind<Data = ImageData>>(
        source: Arc<Source>,
        config: &RunConfig<K>,
        size: usize,
        start: Position,
        share: Share,
    ) -> Self {
        let ImageData { flip, workers, crop, .. } = config.data;
        let (seed, crop) = (Seed::new(config.seed), crop.into());
        let options = BatchOptions { size, batch: config.batch, share, seed, workers, crop, flip };
        Self(data::Batches::new(source, options, start))
    }
}

impl Batches for ImageBatches {
    type Example = ImageExample;

    fn next(&mut self) -> Result<(Vec<ImageExample>, Position)> {
        let batch = next(&mut self.0)?;
        let examples = batch.images.into_iter().zip(batch.shown);
        Ok((examples.map(|(image, shown)| ImageExample { image, shown }).collect(), batch.next))
    }

    fn take_warnings(&mut self) -> Vec<String> {
        warnings(&mut self.0)
    }
}

/// The images of examples, and what they show.
pub(super) fn apart(examples: &[ImageExample]) -> (Vec<RgbImage>, Vec<Shown>) {
    examples.iter().cloned().map(|ImageExample { image, shown }| (image, shown)).unzip()
}

/// The next batch of an endless stream.
pub(super) fn next(batches: &mut data::Batches) -> Result<data::Batch> {
    batches.next().unwrap_or_else(|| Err(Error::Data("the data has ended".into())))
}

/// What was wrong with images since the last call, for people.
pub(super) fn warnings(batches: &mut data::Batches) -> Vec<String> {
    let broken = batches.take_warnings().into_iter();
    broken.map(|(name, problem)| format!("skipped a broken image: {name}: {problem}")).collect()
}
