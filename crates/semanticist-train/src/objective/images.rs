//! Batches of images for objectives that learn from pixels.

use std::sync::Arc;

use semanticist::image::RgbImage;
use semanticist::{Error, Result, Seed};
use semanticist_data::{self as data, BatchOptions, Position, Source};

use super::Batches;
use crate::config::{ImageData, Kind, RunConfig};

/// [`data::Batches`] as the trainer takes them.
pub struct ImageBatches(data::Batches);

impl ImageBatches {
    /// Squares of `size` pixels from `start` on.
    pub fn new<K: Kind<Data = ImageData>>(
        source: Arc<Source>,
        config: &RunConfig<K>,
        size: usize,
        start: Position,
    ) -> Self {
        let ImageData { flip, workers, .. } = config.data;
        let options = BatchOptions { size, batch: config.batch, seed: Seed::new(config.seed), workers, flip };
        Self(data::Batches::new(source, options, start))
    }
}

impl Batches for ImageBatches {
    type Example = RgbImage;

    fn next(&mut self) -> Result<(Vec<RgbImage>, Position)> {
        let batch = self.0.next().unwrap_or_else(|| Err(Error::Data("the data has ended".into())))?;
        Ok((batch.images, batch.next))
    }

    fn take_warnings(&mut self) -> Vec<String> {
        let broken = self.0.take_warnings().into_iter();
        broken.map(|(name, problem)| format!("skipped a broken image: {name}: {problem}")).collect()
    }
}
