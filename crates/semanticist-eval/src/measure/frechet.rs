//! `evaluate frechet` and `evaluate generation`: whether sets of pictures look alike to a classifier, whether it knows what
//! they show, and whether they are copies of what was learnt.

use burn::tensor::{Device, Tensor};
use semanticist::diffusion::Process;
use semanticist::image::to_pixels;
use semanticist::model::ClassifierModel;
use semanticist::{Error, Pixels, Result};
use semanticist_data::{Record, Source, transform};
use serde::{Deserialize, Serialize};

use super::{BATCH, Batch, Finished, Measured, Observer, Subject, tokens_text};
use crate::classification::{AccuracyCount, Labels};
use crate::findings::{Cell, Table};
use crate::frechet::{FeatureStatistics, FrechetError, Gaussian, OnFew};
use crate::neighbours::{copied, kernel_distance, nearest, precision_recall};
use crate::plot::{Axis, Figure, Series};

/// What is compared, in whose features.
pub struct Pictures<'a> {
    /// Whose features they are.
    pub model: &'a ClassifierModel,
    /// Images that sets are compared with.
    pub source: &'a Source,
    /// How many of them, and of each series, spread evenly.
    pub images: usize,
    /// Images that models learnt from.
    pub training: &'a Source,
    /// Among how many of them the nearest of each picture is looked for.
    pub training_images: usize,
    /// Sets of pictures by name, of any number and of any images.
    pub series: Vec<(String, &'a Source)>,
    /// Of the subsets of kernel distances.
    pub seed: u64,
    /// Where it is computed.
    pub device: &'a Device,
}

/// What a set of pictures gave.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Found {
    images: usize,
    /// How it lies to the images that are measured; none for themselves.
    distances: Option<Distances>,
    /// In `[0, 1]`; none of training images.
    copied: Option<f64>,
    /// In `[0, 1]`; none without classes.
    top1: Option<f64>,
    top5: Option<f64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Distances {
    /// Squared.
    frechet: f64,
    kernel: f64,
    kernel_deviation: f64,
    precision: f64,
    recall: f64,
}

/// The measured images, and those that were learnt from.
struct Reference {
    gaussian: Gaussian,
    /// `[N, D]`
    features: Tensor<2>,
    /// `[M, D]`
    training: Tensor<2>,
    /// From each measured image to the nearest training image.
    held_out: Vec<f64>,
    seed: u64,
}

/// A set while its pictures come in.
struct Set<'a> {
    model: &'a ClassifierModel,
    labels: Option<&'a Labels>,
    statistics: FeatureStatistics,
    features: Vec<Tensor<2>>,
    count: AccuracyCount,
}

impl<'a> Set<'a> {
    fn new(model: &'a ClassifierModel, labels: Option<&'a Labels>) -> Self {
        let statistics = FeatureStatistics::new(model.classifier.config.blocks.width);
        Self { model, labels, statistics, features: Vec::new(), count: AccuracyCount::default() }
    }

    fn add(&mut self, pixels: &Pixels, classes: &[Option<i64>]) -> Result<()> {
        let features = self.model.classifier.features(pixels)?;
        self.statistics.add(&features);
        self.features.push(features.clone());
        if let Some(labels) = self.labels {
            let classes =
                classes.iter().map(|&class| labels.class("an image", class)).collect::<Result<Vec<_>>>()?;
            self.count.count(self.model.classifier.network.head.forward(features), &classes);
        }
        Ok(())
    }

    fn features(&self) -> Tensor<2> {
        Tensor::cat(self.features.clone(), 0)
    }

    fn gaussian(&self) -> Result<Gaussian> {
        self.statistics.gaussian(OnFew::Refuse).map_err(failed)
    }

    fn finish(self, reference: Option<&Reference>, is_training: bool) -> Result<Found> {
        let images = self.statistics.count();
        let (mut distances, mut copies) = (None, None);
        if let Some(reference) = reference {
            let (gaussian, features) = (self.gaussian()?, self.features());
            let kernel = kernel_distance(&reference.features, &features, reference.seed);
            let nearness = precision_recall(&reference.features, &features);
            distances = Some(Distances {
                frechet: reference.gaussian.distance(&gaussian).map_err(failed)?,
                kernel: kernel.mean,
                kernel_deviation: kernel.deviation,
                precision: nearness.precision,
                recall: nearness.recall,
            });
            copies =
                (!is_training).then(|| copied(&nearest(&features, &reference.training), &reference.held_out));
        }
        let accuracy = self.labels.map(|_| self.count.finish()).transpose()?;
        let (top1, top5) = (accuracy.map(|it| it.top1), accuracy.map(|it| it.top5));
        Ok(Found { images, distances, copied: copies, top1, top5 })
    }
}

fn failed(error: FrechetError) -> Error {
    Error::Data(format!("Fréchet distance: {error}"))
}

impl Pictures<'_> {
    fn size(&self) -> usize {
        self.model.classifier.config.image_size
    }

    /// How many pictures the observer is told of, with those that a tokenizer decodes in so many steps.
    pub fn pieces(&self, tokenizer: Option<(&Subject, usize)>) -> usize {
        let decoded = tokenizer.map_or(0, |(subject, steps)| subject.counts.len() * (steps + 1) + 1);
        let of = |source: &Source, count: usize| count.min(source.len());
        let series: usize = self.series.iter().map(|(_, source)| of(source, self.images)).sum();
        of(self.source, self.images) * (1 + decoded)
            + of(self.training, self.images)
            + of(self.training, self.training_images)
            + series
    }

    /// Which classes of the classifier the labels of a source mean, if it has classes.
    fn labels(&self, source: &Source) -> Result<Option<Labels>> {
        let config = &self.model.classifier.config;
        let of_names = |names| Labels::new(config.classes, &self.model.classes, Some(names));
        source.classes().map(of_names).transpose()
    }

    /// Up to `count` pictures of a source as a set.
    fn set<'a>(
        &'a self,
        source: &Source,
        labels: Option<&'a Labels>,
        count: usize,
        observe: &mut dyn FnMut(usize),
    ) -> Result<Set<'a>> {
        let mut set = Set::new(self.model, labels);
        let mut records = source.spread_records(count);
        loop {
            let records: Vec<_> = records.by_ref().take(BATCH).collect();
            if records.is_empty() {
                return Ok(set);
            }
            let (mut pictures, mut classes) = (Vec::new(), Vec::new());
            for record in records {
                let decoded = record.and_then(|Record { name, label, bytes }| {
                    Ok((semanticist::image::decode(&name, &bytes)?, label))
                });
                match decoded {
                    Ok((picture, label)) => {
                        pictures.push(transform::evaluation(&picture, self.size()));
                        classes.push(label);
                    }
                    Err(Error::Image { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            if !pictures.is_empty() {
                observe(pictures.len());
                set.add(&to_pixels(&pictures, self.device), &classes)?;
            }
        }
    }
}

/// Measures training images and the pictures of every series, and of a tokenizer, if there is one, samples and one-step means
/// from every count of tokens and its autoencoder alone.
///
/// # Errors
/// If the classifier takes images of another size than the tokenizer or does not know the classes, or there are no more images
/// than features.
pub fn measure(
    pictures: &Pictures,
    tokenizer: Option<&Subject>,
    finished: &mut Finished,
    observe: Observer,
) -> Result<Measured> {
    let model = pictures.model;
    if let Some(wanted) = tokenizer.map(Subject::size).filter(|size| *size != pictures.size()) {
        let found = pictures.size();
        return Err(Error::Input(format!(
            "the classifier sees {found}×{found} pixels, but the tokenizer makes {wanted}×{wanted}; give a classifier of that \
             size, or decode with --size {found}"
        )));
    }
    let known = pictures.labels(pictures.source)?;
    let originals = pictures.set(pictures.source, known.as_ref(), pictures.images, observe)?;
    let (gaussian, features) = (originals.gaussian()?, originals.features());
    let training = pictures.set(pictures.training, None, pictures.training_images, observe)?;
    if training.features.is_empty() {
        return Err(Error::Data("no training image could be decoded".into()));
    }
    let training = training.features();
    let held_out = nearest(&features, &training);
    let reference = Reference { gaussian, features, training, held_out, seed: pictures.seed };
    let mut rows: Vec<(String, Found)> = vec![("the images".into(), originals.finish(None, false)?)];
    if let Some(subject) = tokenizer {
        decoded(model, subject, known.as_ref(), &reference, finished, observe, &mut rows)?;
    }
    let others = [(TRAINING.to_string(), pictures.training)].into_iter().chain(pictures.series.clone());
    for (number, (name, source)) in others.enumerate() {
        let labels = pictures.labels(source)?;
        let found = finished.part(&name, || {
            let set = pictures.set(source, labels.as_ref(), pictures.images, observe)?;
            set.finish(Some(&reference), number == 0)
        });
        let found = found.map_err(|error| of_series(&name, error))?;
        rows.push((name, found));
    }
    Ok(report(pictures, tokenizer, &rows))
}

/// Says of which pictures an error is.
fn of_series(name: &str, error: Error) -> Error {
    match error {
        Error::Data(problem) => Error::Data(format!("{name}: {problem}")),
        other => other,
    }
}

/// What a tokenizer makes of the images.
fn decoded(
    model: &ClassifierModel,
    subject: &Subject,
    labels: Option<&Labels>,
    reference: &Reference,
    finished: &mut Finished,
    observe: Observer,
    rows: &mut Vec<(String, Found)>,
) -> Result<()> {
    let process = Process::new(&subject.tokenizer.config.diffusion)?;
    let mut add = |name: String, of: &mut dyn FnMut(&Batch) -> Result<Pixels>| {
        let found = finished.part(&name, || {
            let mut set = Set::new(model, labels);
            subject.each(|batch| set.add(&of(batch)?, &batch.labels))?;
            set.finish(Some(reference), false)
        })?;
        rows.push((name, found));
        Ok::<(), Error>(())
    };
    add("the autoencoder alone".into(), &mut |batch| {
        observe(batch.images.len());
        let latents = subject.tokenizer.autoencoder.encode(&to_pixels(&batch.images, subject.device));
        Ok(subject.tokenizer.autoencoder.decode(&latents))
    })?;
    let tokens = |batch: &Batch| {
        let tokenizer = subject.tokenizer;
        tokenizer.encode(&to_pixels(&batch.images, subject.device), tokenizer.config.tokens)
    };
    for &count in &subject.counts {
        add(format!("{}, {SAMPLED}", tokens_text(count)), &mut |batch| {
            subject.sample(batch, &tokens(batch)?, count, observe)
        })?;
        add(format!("{}, {MEAN}", tokens_text(count)), &mut |batch| {
            observe(batch.images.len());
            subject.one_step_mean(&process, batch, &tokens(batch)?, count)
        })?;
    }
    Ok(())
}

/// What rows are called that the report looks for.
const TRAINING: &str = "training images";
const SAMPLED: &str = "sampled";
const MEAN: &str = "one-step mean";

fn report(pictures: &Pictures, tokenizer: Option<&Subject>, rows: &[(String, Found)]) -> Measured {
    let mut table = Table::new(
        "Distance from the images in the classifier's features, and classes that it knows",
        &[
            "pictures",
            "how many",
            "distance",
            "kernel × 1000",
            "±",
            "precision",
            "recall",
            "near training %",
            "top-1 %",
            "top-5 %",
        ],
    );
    for (name, found) in rows {
        let percent = |share: Option<f64>| Cell::from(share.map(|share| 100.0 * share));
        let of = |part: fn(&Distances) -> f64| Cell::from(found.distances.as_ref().map(part));
        table.row([
            name.as_str().into(),
            found.images.into(),
            of(|it| it.frechet),
            of(|it| 1000.0 * it.kernel),
            of(|it| 1000.0 * it.kernel_deviation),
            of(|it| it.precision),
            of(|it| it.recall),
            percent(found.copied),
            percent(found.top1),
            percent(found.top5),
        ]);
    }
    let figures = tokenizer.map(|subject| {
        let line = |kind: &str| {
            let points = subject.counts.iter().filter_map(|&count| {
                let name = format!("{}, {kind}", tokens_text(count));
                let found = rows.iter().find(|(row, _)| *row == name)?.1;
                Some((count as f64, found.distances?.frechet))
            });
            Series::line(kind, points)
        };
        Figure {
            title: "Fréchet distance in the classifier's features".into(),
            x: Axis::linear("tokens"),
            y: Axis::linear("squared distance"),
            series: vec![line(SAMPLED), line(MEAN)],
        }
    });
    let distance_of = |name: &str| rows.iter().find(|(row, _)| row == name).and_then(|(_, it)| it.distances);
    let training = distance_of(TRAINING).map_or(f64::NAN, |it| it.frechet);
    let sentence = |(name, _): &(String, &Source)| {
        let found = rows.iter().find(|(row, _)| row == name)?.1;
        let (Distances { frechet, precision, recall, .. }, copied) = (found.distances?, found.copied?);
        Some(format!(
            "{name}: a squared distance of {frechet:.3} from the images, where as many training images are at {training:.3}; \
             precision {precision:.2}, recall {recall:.2}; {:.1} % lie nearer to a training image than 99 % of the images do, \
             where 1 % would without copying.",
            100.0 * copied
        ))
    };
    let protocol = vec![
        format!(
            "The squared Fréchet distance between normal distributions of {} features (the mean of a classifier's patches before \
             its last layer): not FID, which is of Inception-v3, and to be compared within this table alone.",
            pictures.model.classifier.config.blocks.width
        ),
        "The kernel distance is KID's, in the same features: the mean over 50 pairs of subsets of up to 1000 pictures or half of \
         them, and its deviation. It takes sets for independent: those made of the images themselves lie a little below."
            .into(),
        "Precision and recall: the share of pictures that are as near to an image as its third neighbour, and the reverse.".into(),
        format!(
            "Near training: nearer to one of {} training images than 99 of 100 measured images are.",
            pictures.training_images.min(pictures.training.len())
        ),
        "Training images are as many real ones as are measured: what a perfect set of other images would have.".into(),
    ];
    Measured {
        images: rows[0].1.images,
        protocol,
        sentences: pictures.series.iter().filter_map(sentence).collect(),
        tables: vec![table],
        figures: figures.into_iter().collect(),
    }
}
