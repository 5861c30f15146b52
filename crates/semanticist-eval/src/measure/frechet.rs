//! `evaluate frechet`: whether sets of pictures look alike to a classifier, and whether it knows what they show.

use semanticist::diffusion::Process;
use semanticist::image::to_pixels;
use semanticist::model::ClassifierModel;
use semanticist::{Error, Pixels, Result};
use semanticist_data::{Record, Source, transform};
use serde::{Deserialize, Serialize};

use super::{BATCH, Batch, Finished, Measured, Observer, Subject, tokens_text};
use crate::classification::{AccuracyCount, Labels};
use crate::findings::Table;
use crate::frechet::{FeatureStatistics, Gaussian, OnFew};
use crate::plot::{Axis, Figure, Series};

/// What a set of pictures gave.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Found {
    images: usize,
    /// From the images that are measured; none for themselves.
    distance: Option<f64>,
    /// In `[0, 1]`; none without classes.
    top1: Option<f64>,
    top5: Option<f64>,
}

/// A set while its pictures come in.
struct Set<'a> {
    model: &'a ClassifierModel,
    labels: Option<&'a Labels>,
    statistics: FeatureStatistics,
    count: AccuracyCount,
}

impl<'a> Set<'a> {
    fn new(model: &'a ClassifierModel, labels: Option<&'a Labels>) -> Self {
        let statistics = FeatureStatistics::new(model.classifier.config.blocks.width);
        Self { model, labels, statistics, count: AccuracyCount::default() }
    }

    fn add(&mut self, pixels: &Pixels, classes: &[Option<i64>]) -> Result<()> {
        let features = self.model.classifier.features(pixels)?;
        self.statistics.add(&features);
        if let Some(labels) = self.labels {
            let classes =
                classes.iter().map(|&class| labels.class("an image", class)).collect::<Result<Vec<_>>>()?;
            self.count.count(self.model.classifier.network.head.forward(features), &classes);
        }
        Ok(())
    }

    fn finish(self, original: Option<&Gaussian>) -> Result<Found> {
        let images = self.statistics.count();
        let failed = |error| Error::Data(format!("Fréchet distance: {error}"));
        let distance = match original {
            Some(original) => {
                let gaussian = self.statistics.gaussian(OnFew::Refuse).map_err(failed)?;
                Some(original.distance(&gaussian).map_err(failed)?)
            }
            None => None,
        };
        let accuracy = self.labels.map(|_| self.count.finish()).transpose()?;
        Ok(Found { images, distance, top1: accuracy.map(|it| it.top1), top5: accuracy.map(|it| it.top5) })
    }
}

/// How many images are decoded or shown, of which the observer is told, when a decoding takes `steps`.
pub fn passes(subject: &Subject, steps: usize) -> usize {
    subject.counts.len() * (steps + 1) + 3
}

/// Measures samples and one-step means from every count of tokens, the autoencoder alone, training images and the pictures of
/// every series, which may be of other images and of any number.
///
/// # Errors
/// If the classifier takes images of another size or does not know the classes, or there are no more images than features.
pub fn measure(
    subject: &Subject,
    model: &ClassifierModel,
    finished: &mut Finished,
    observe: Observer,
) -> Result<Measured> {
    let (found, wanted) = (model.classifier.config.image_size, subject.size());
    if found != wanted {
        return Err(Error::Input(format!(
            "the classifier sees {found}×{found} pixels, but the tokenizer makes {wanted}×{wanted}; give a classifier of that \
             size, or decode with --size {found}"
        )));
    }
    let process = Process::new(&subject.tokenizer.config.diffusion)?;
    let labels = |source: &Source| -> Result<Option<Labels>> {
        match source.classes() {
            Some(names) => {
                Labels::new(model.classifier.config.classes, &model.classes, Some(names)).map(Some)
            }
            None => Ok(None),
        }
    };
    let known = labels(subject.source)?;
    let originals = {
        let mut set = Set::new(model, known.as_ref());
        subject.each(|batch| {
            observe(batch.images.len());
            set.add(&to_pixels(&batch.images, subject.device), &batch.labels)
        })?;
        set
    };
    let failed = |error| Error::Data(format!("Fréchet distance: {error}"));
    let original = originals.statistics.gaussian(OnFew::Refuse).map_err(failed)?;
    let mut rows: Vec<(String, Found)> = vec![("the images".into(), originals.finish(None)?)];
    let mut add =
        |name: String, rows: &mut Vec<(String, Found)>, of: &mut dyn FnMut(&Batch) -> Result<Pixels>| {
            let found = finished.part(&name, || {
                let mut set = Set::new(model, known.as_ref());
                subject.each(|batch| set.add(&of(batch)?, &batch.labels))?;
                set.finish(Some(&original))
            })?;
            rows.push((name, found));
            Ok::<(), Error>(())
        };
    add("the autoencoder alone".into(), &mut rows, &mut |batch| {
        observe(batch.images.len());
        let latents = subject.tokenizer.autoencoder.encode(&to_pixels(&batch.images, subject.device));
        Ok(subject.tokenizer.autoencoder.decode(&latents))
    })?;
    let tokens = |batch: &Batch| {
        let tokenizer = subject.tokenizer;
        tokenizer.encode(&to_pixels(&batch.images, subject.device), tokenizer.config.tokens)
    };
    for &count in &subject.counts {
        add(format!("{}, sampled", tokens_text(count)), &mut rows, &mut |batch| {
            subject.sample(batch, &tokens(batch)?, count, observe)
        })?;
        add(format!("{}, one-step mean", tokens_text(count)), &mut rows, &mut |batch| {
            observe(batch.images.len());
            subject.one_step_mean(&process, batch, &tokens(batch)?, count)
        })?;
    }
    let others =
        [("training images".to_string(), subject.training)].into_iter().chain(subject.series.clone());
    for (name, source) in others {
        let labels = labels(source)?;
        let found = finished.part(&name, || {
            let mut set = Set::new(model, labels.as_ref());
            let mut records = source.spread_records(subject.images);
            loop {
                let records: Vec<_> = records.by_ref().take(BATCH).collect();
                if records.is_empty() {
                    return set.finish(Some(&original));
                }
                let (mut pictures, mut classes) = (Vec::new(), Vec::new());
                for record in records {
                    let Record { name, label, bytes } = record?;
                    let picture = semanticist::image::decode(&name, &bytes)?;
                    pictures.push(transform::evaluation(&picture, subject.size()));
                    classes.push(label);
                }
                observe(pictures.len());
                set.add(&to_pixels(&pictures, subject.device), &classes)?;
            }
        })?;
        rows.push((name, found));
    }
    Ok(report(subject, model, &rows))
}

fn report(subject: &Subject, model: &ClassifierModel, rows: &[(String, Found)]) -> Measured {
    let mut table = Table::new(
        "Fréchet distance from the images, and classes told by the classifier",
        &["pictures", "how many", "distance", "top-1 %", "top-5 %"],
    );
    for (name, Found { images, distance, top1, top5 }) in rows {
        let percent = |share: &Option<f64>| share.map(|share| 100.0 * share).into();
        table.row([name.as_str().into(), (*images).into(), (*distance).into(), percent(top1), percent(top5)]);
    }
    let line = |kind: &str| {
        let points = subject.counts.iter().filter_map(|&count| {
            let name = format!("{}, {kind}", tokens_text(count));
            let found = rows.iter().find(|(row, _)| *row == name)?.1;
            Some((count as f64, found.distance?))
        });
        Series::line(kind, points)
    };
    let figure = Figure {
        title: "Fréchet distance in the classifier's features".into(),
        x: Axis::linear("tokens"),
        y: Axis::linear("squared distance"),
        series: vec![line("sampled"), line("one-step mean")],
    };
    let protocol = vec![
        format!(
            "The squared Fréchet distance between normal distributions of {} features (the mean of a classifier's patches before \
             its last layer): not FID, which is of Inception-v3, and to be compared within this table alone.",
            model.classifier.config.blocks.width
        ),
        "Training images are as many real ones as are measured: what a perfect set of other images would have.".into(),
    ];
    Measured {
        images: rows[0].1.images,
        protocol,
        sentences: vec![],
        tables: vec![table],
        figures: vec![figure],
    }
}
