//! Images in batches, beside other tokenizers' pictures of them.

use semanticist::image::RgbImage;
use semanticist::{Error, Result};
use semanticist_data::{Record, Source, transform};

use super::{BATCH, Finished, pairs};

/// Images that are measured.
pub(super) struct Photos<'a> {
    pub source: &'a Source,
    /// How many of them, spread evenly.
    pub images: usize,
    /// Side of the squares that are made of them, in pixels.
    pub size: usize,
    /// Pictures of the same images, by name.
    pub series: &'a [(String, &'a Source)],
}

impl Photos<'_> {
    /// How many images there will be, if none is broken.
    pub fn expected(&self) -> usize {
        self.images.min(self.source.len())
    }

    /// Checks that the pictures of other tokenizers are of the images.
    ///
    /// # Errors
    /// Says of the first series that does not fit why.
    pub fn check_series(&self) -> Result<()> {
        self.series
            .iter()
            .try_for_each(|(name, pictures)| pairs::check(name, pictures, self.source, self.expected()))
    }

    /// Shows each batch to `of_batch`; nothing is kept, and other tokenizers' pictures are not read.
    pub fn each(&self, of_batch: impl FnMut(&Batch) -> Result<()>) -> Result<()> {
        let alone = Photos { series: &[], ..*self };
        alone.batches(&mut Finished::nowhere(), "", of_batch).map(|_: Vec<()>| ())
    }

    /// What `of_batch` makes of each batch, or made of it in an earlier attempt.
    pub fn batches<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        finished: &mut Finished,
        name: &str,
        mut of_batch: impl FnMut(&Batch) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut records = self.source.spread_records(self.images);
        let mut others: Vec<_> =
            self.series.iter().map(|(_, source)| source.spread_records(self.images)).collect();
        let mut found = Vec::new();
        for (number, first) in (0..self.expected()).step_by(BATCH).enumerate() {
            let of_source = records.by_ref().take(BATCH).collect::<Vec<_>>();
            let of_series: Vec<Vec<_>> =
                others.iter_mut().map(|records| records.by_ref().take(BATCH).collect()).collect();
            let part = finished.part(&format!("{name} {number}"), || {
                let (mut images, mut labels, mut originals) = (Vec::new(), Vec::new(), Vec::new());
                for record in of_source {
                    let original = match record.and_then(decoded) {
                        Ok((record, image)) => {
                            images.push(transform::evaluation(&image, self.size));
                            labels.push(record.label);
                            Some((record.name, image.dimensions()))
                        }
                        Err(Error::Image { .. }) => None,
                        Err(error) => return Err(error),
                    };
                    originals.push(original);
                }
                let mut series = Vec::new();
                for records in of_series {
                    let mut pictures = Vec::new();
                    for (record, original) in records.into_iter().zip(&originals) {
                        let Some((image, dimensions)) = original else { continue };
                        // One that cannot be read is an error: it has a partner.
                        let (record, picture) = decoded(record?)?;
                        let original = (image.as_str(), *dimensions);
                        pairs::check_size(&record.name, picture.dimensions(), original, self.size)?;
                        pictures.push(transform::evaluation(&picture, self.size));
                    }
                    series.push(pictures);
                }
                if images.is_empty() {
                    Ok(None)
                } else {
                    of_batch(&Batch { first, images, labels, series }).map(Some)
                }
            })?;
            found.extend(part);
        }
        if found.is_empty() {
            return Err(Error::Data("no image to evaluate on could be decoded".into()));
        }
        Ok(found)
    }
}

fn decoded(record: Record) -> Result<(Record, RgbImage)> {
    let image = semanticist::image::decode(&record.name, &record.bytes)?;
    Ok((record, image))
}

/// Some images.
pub struct Batch {
    /// The number of the first among all.
    pub first: usize,
    /// The images.
    pub images: Vec<RgbImage>,
    /// The class of each, where the data has classes.
    pub labels: Vec<Option<i64>>,
    /// Their pictures by other tokenizers, in the order of [`Subject::series`].
    pub series: Vec<Vec<RgbImage>>,
}
