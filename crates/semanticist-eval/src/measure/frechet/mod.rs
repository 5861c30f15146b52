//! `evaluate frechet`, `generation` and `guidance`: whether sets of pictures look alike in the features of a network, whether it
//! knows what they show, and whether they are copies of what was learnt.

mod decoder;
mod drawn;
mod report;
mod set;

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use burn::tensor::{Device, Tensor};
use semanticist::image::RgbImage;
use semanticist::{Error, Result};
use semanticist_data::{Record, Records, Source, transform};

use super::{BATCH, Finished, Measured, Observer};
use crate::classification::Labels;
use crate::features::FeatureNetwork;
use crate::frechet::FrechetError;
use crate::neighbours::nearest;
use crate::statistics::{Origin, Statistics, of_training};
pub use decoder::Decoder;
pub use drawn::GuidanceSweep;
use set::{Found, Keep, Learnt, Reference, Role, Set};

/// What is compared, in whose features.
pub struct Pictures<'a> {
    /// Whose features they are.
    pub network: &'a FeatureNetwork,
    /// Side of the squares that are compared, in pixels: that of the network or the tokenizer, if they have one.
    pub size: usize,
    /// Images that sets are compared with.
    pub source: &'a Source,
    /// How many of them, and of each series, spread evenly.
    pub images: usize,
    /// Images that models learnt from and their fingerprint, if they are others than the measured ones.
    pub training: Option<(&'a Source, &'a str)>,
    /// Among how many of them the nearest of each picture is looked for.
    pub training_images: usize,
    /// Sets of pictures by name, of any number and of any images.
    pub series: Vec<(String, &'a Source)>,
    /// Statistics from a file that Fréchet distances are measured from, instead of those of the images.
    pub reference: Option<&'a FileReference>,
    /// Where statistics of the images go, and what they are of; the number of images is that of those that could be read.
    pub save: Option<(&'a Path, Origin)>,
    /// What is called rFID and gFID, and compared with what.
    pub customs: Customs,
    /// Of the subsets of kernel distances and the parts of Inception scores.
    pub seed: u64,
    /// Where it is computed.
    pub device: &'a Device,
}

/// Statistics from a file.
pub struct FileReference {
    /// The file.
    pub path: PathBuf,
    /// What it holds.
    pub statistics: Statistics,
    /// SHA-256 of the file, in hexadecimal.
    pub hash: String,
}

/// Whether the customs of papers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Customs {
    /// What has fewer than 50,000 images is called FID of so many; reconstructions are not compared with training images, nor
    /// anything with statistics of other weights, sizes or crops.
    Kept,
    /// The user says that all this is meant.
    Overruled,
}

/// Measures training images and the pictures of every series; of a tokenizer, if there is one, samples and one-step means from
/// every count of tokens and its autoencoder alone; of a generator what it draws at every scale of guidance.
///
/// # Errors
/// If the network takes images of another size than the tokenizer or does not know the classes, there are no more images than
/// features, the reference is of another network, or [`Customs`] are broken.
pub fn measure(
    pictures: &Pictures,
    decoder: Option<Decoder>,
    finished: &mut Finished,
    observe: Observer,
) -> Result<Measured> {
    pictures.check(decoder)?;
    // Where nothing is compared, neither features nor training images are wanted.
    let compares = decoder.is_some() || !pictures.series.is_empty();
    let keep = if compares { Keep::Features } else { Keep::Statistics };
    let known = pictures.labels(pictures.source)?;
    let originals = pictures.set(pictures.source, known.as_ref(), pictures.images, keep, observe)?;
    let (gaussian, spatial) = (originals.gaussian()?, originals.spatial()?);
    let count = originals.count();
    let gaussian = match &pictures.save {
        Some((path, origin)) => {
            let origin = Origin { images: count, ..origin.clone() };
            let statistics = Statistics { gaussian, spatial: spatial.clone(), origin: Some(origin) };
            statistics.write(path)?;
            statistics.gaussian
        }
        None => gaussian,
    };
    let (gaussian, spatial) = match pictures.reference {
        Some(FileReference { statistics, .. }) => (statistics.gaussian.clone(), statistics.spatial.clone()),
        None => (gaussian, spatial),
    };
    let from_file = pictures.reference.is_some();
    let mut reference =
        Reference { gaussian, spatial, from_file, features: None, training: None, seed: pictures.seed };
    if compares {
        let features = originals.features();
        reference.training = pictures
            .training
            .map(|(training, _)| pictures.learnt(training, &features, observe))
            .transpose()?;
        reference.features = Some(features);
    }
    let mut rows: Vec<(String, Found)> = vec![(IMAGES.into(), originals.finish(&reference, Role::Measured)?)];
    let mut said = Vec::new();
    if let Some(decoder) = decoder {
        let drawn = decoder.classes().map(|names| pictures.labels_of(names)).transpose()?;
        let labels = drawn.as_ref().map_or(known.as_ref(), Option::as_ref);
        said = decoder.decode(observe, &mut |name: String, of_batches| {
            let found = finished.part(&name, || {
                let mut set = Set::new(pictures.network, labels, keep, pictures.device);
                of_batches(&mut |pictures, labels| set.add(&pictures, labels))?;
                set.finish(&reference, Role::Pictures)
            })?;
            rows.push((name, found));
            Ok(())
        })?;
    }
    let training = pictures.training.filter(|_| compares);
    let training = training.map(|(source, _)| (TRAINING.to_string(), source, Role::Training));
    let series = pictures.series.iter().map(|(name, source)| (name.clone(), *source, Role::Pictures));
    for (name, source, role) in training.into_iter().chain(series) {
        let labels = pictures.labels(source)?;
        let found = finished.part(&name, || {
            let set = pictures.set(source, labels.as_ref(), pictures.images, keep, observe)?;
            set.finish(&reference, role)
        });
        let found = found.map_err(|error| of_series(&name, error))?;
        rows.push((name, found));
    }
    let mut measured = report::report(pictures, decoder, &rows);
    measured.protocol.extend(said);
    Ok(measured)
}

impl Pictures<'_> {
    /// How many pictures the observer is told of if a tokenizer passes each image `decoded` times.
    pub fn pieces(&self, decoded: usize) -> usize {
        let of = |source: &Source, count: usize| count.min(source.len());
        let series: usize = self.series.iter().map(|(_, source)| of(source, self.images)).sum();
        let training = self.training.filter(|_| decoded + series > 0);
        let training =
            training.map_or(0, |(source, _)| of(source, self.images) + of(source, self.training_images));
        of(self.source, self.images) * (1 + decoded) + training + series
    }

    /// Asked before anything is measured.
    fn check(&self, decoder: Option<Decoder>) -> Result<()> {
        let wanted = decoder.map_or(self.size, Decoder::size);
        if let Some(found) = self.network.image_size().filter(|size| *size != wanted) {
            return Err(Error::Input(format!(
                "the classifier sees {found}×{found} pixels, but the tokenizer makes {wanted}×{wanted}; give a classifier of that \
                 size, or decode with --size {found}"
            )));
        }
        let available = self.images.min(self.source.len());
        let dimensions = self.network.width();
        if available <= dimensions {
            return Err(failed(FrechetError::TooFewImages { images: available, dimensions }));
        }
        self.reference.map_or(Ok(()), |reference| {
            self.check_reference(reference, decoder.is_some_and(Decoder::reconstructs))
        })
    }

    fn check_reference(&self, reference: &FileReference, reconstructs: bool) -> Result<()> {
        let FileReference { path, statistics, .. } = reference;
        let refuse = |problem: String| Err(Error::file(path, problem));
        let (found, expected) = (statistics.gaussian.dimensions(), self.network.width());
        let kind = self.network.kind();
        if found != expected {
            return refuse(format!(
                "has statistics of {found} features, but {kind} gives {expected}; they are of another network"
            ));
        }
        if let (Some(spatial), Some(expected)) = (&statistics.spatial, self.network.spatial_width()) {
            let found = spatial.dimensions();
            if found != expected {
                return refuse(format!("has {found} features of sFID (mu_s), expected {expected}"));
            }
        }
        if self.customs == Customs::Overruled {
            return Ok(());
        }
        let origin = statistics.origin.as_ref();
        if reconstructs && of_training(origin, path, self.training.map(|(_, fingerprint)| fingerprint)) {
            return refuse(
                "has statistics of training images, but rFID compares reconstructions with the images that were reconstructed; \
                 leave it out, or give statistics of the validation images"
                    .into(),
            );
        }
        let Some(Origin { features, weights, image_size, crop, .. }) = origin else { return Ok(()) };
        if *features != kind.name() || weights != self.network.hash() {
            return refuse(format!(
                "was made by {features} with weights {weights}, but this is {kind} with weights {}; make it again with \
                 --save-statistics",
                self.network.hash()
            ));
        }
        if *image_size != self.size || crop != super::CROP {
            return refuse(format!(
                "is of images of {image_size} pixels ({crop}), but {} pixels are compared ({}); make it again with \
                 --save-statistics",
                self.size,
                super::CROP
            ));
        }
        Ok(())
    }

    /// Which classes of the classifier the labels of a source mean, if both have classes.
    fn labels(&self, source: &Source) -> Result<Option<Labels>> {
        source.classes().map_or(Ok(None), |names| self.labels_of(names))
    }

    /// The same of classes with these names.
    fn labels_of(&self, names: &[String]) -> Result<Option<Labels>> {
        let Some(model) = self.network.classifier() else { return Ok(None) };
        // Without names, numbers are the same.
        let names = Some(names).filter(|names| !names.is_empty());
        Labels::new(model.classifier.config.classes, &model.classes, names).map(Some)
    }

    /// Training images that pictures may be copies of.
    fn learnt(&self, training: &Source, measured: &Tensor<2>, observe: Observer) -> Result<Learnt> {
        let set = self.set(training, None, self.training_images, Keep::Features, observe)?;
        if set.count() == 0 {
            return Err(Error::Data("no training image could be decoded".into()));
        }
        let features = set.features();
        let held_out = nearest(measured, &features);
        Ok(Learnt { features, held_out })
    }

    /// Up to `count` pictures of a source as a set.
    fn set<'a>(
        &'a self,
        source: &Source,
        labels: Option<&'a Labels>,
        count: usize,
        keep: Keep,
        observe: &mut dyn FnMut(usize),
    ) -> Result<Set<'a>> {
        let mut records = source.spread_records(count);
        let (sender, batches) = sync_channel(1);
        // The next pictures are decoded while the network looks at these.
        thread::scope(|scope| {
            scope.spawn(move || {
                while let Some(batch) = decoded(&mut records, self.size).transpose() {
                    let failed = batch.is_err();
                    // Nobody listens where the network failed.
                    if sender.send(batch).is_err() || failed {
                        return;
                    }
                }
            });
            let mut set = Set::new(self.network, labels, keep, self.device);
            for batch in batches {
                let (pictures, classes) = batch?;
                if !pictures.is_empty() {
                    observe(pictures.len());
                    set.add(&pictures, &classes)?;
                }
            }
            Ok(set)
        })
    }
}

/// Pictures, and the class of each, where it has one.
type Labelled = (Vec<RgbImage>, Vec<Option<i64>>);

/// The next pictures as squares of `size` pixels, but for those that cannot be read; none behind the last.
fn decoded(records: &mut Records, size: usize) -> Result<Option<Labelled>> {
    let records: Vec<_> = records.take(BATCH).collect();
    if records.is_empty() {
        return Ok(None);
    }
    let (mut pictures, mut classes) = (Vec::new(), Vec::new());
    for record in records {
        let decoded = record.and_then(|Record { name, label, bytes }| {
            Ok((semanticist::image::decode(&name, &bytes)?, label))
        });
        match decoded {
            Ok((picture, label)) => {
                pictures.push(transform::evaluation(&picture, size));
                classes.push(label);
            }
            Err(Error::Image { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some((pictures, classes)))
}

fn failed(error: FrechetError) -> Error {
    Error::Data(format!("Fréchet distance: {error}"))
}

/// Says of which pictures an error is.
fn of_series(name: &str, error: Error) -> Error {
    match error {
        Error::Data(problem) => Error::Data(format!("{name}: {problem}")),
        other => other,
    }
}

/// What rows are called that the report looks for.
const IMAGES: &str = "the images";
const TRAINING: &str = "training images";
const SAMPLED: &str = "sampled";
const MEAN: &str = "one-step mean";
