//! `semanticist classify`: the classes that a classifier sees in images, and how often it is right.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use burn::tensor::Device;
use semanticist::image::to_pixels;
use semanticist::model::{ClassifierFile, ClassifierModel};
use semanticist::{Error, ModelFile};
use semanticist_data::{Broken, Record, Split, transform};
use semanticist_eval::classification::{self, Accuracy, AccuracyCount, Labels, Prediction};
use semanticist_hub::Location;
use serde::Serialize;

use super::choice::validation_source;
use super::sources;
use crate::args::Classify;
use crate::output::{self, note};
use crate::progress::Progress;
use crate::{failure, fetch};

#[derive(Serialize)]
struct Report {
    /// The hash of the classifier.
    model: String,
    images: Vec<Classified>,
    /// None without labelled data.
    accuracy: Option<Accuracy>,
}

#[derive(Serialize)]
struct Classified {
    path: String,
    /// The most probable first.
    classes: Vec<Prediction>,
}

pub fn run(request: &Classify) -> Result<()> {
    let precision = request.machine.precision();
    let device = request.machine.start(precision)?;
    let file = open(&request.model)?;
    let hash = file.hash()?;
    let mut model = file.load(&device)?;
    model.classifier = model.classifier.with_precision(precision);
    let accuracy = match request.data.is_empty() {
        true => None,
        false => Some(accuracy(request, &model, &device)?),
    };
    let images = match request.images.is_empty() {
        true => Vec::new(),
        false => classified(request, &model, &device)?,
    };
    let report = Report { model: hash, images, accuracy };
    if request.json { output::print_json(&report) } else { output::print(&text(&report)?) }
}

fn open(asked: &Path) -> Result<ClassifierFile> {
    let file = match Location::of(asked)? {
        Location::Builtin(builtin) => ModelFile::from_bytes(builtin.name, builtin.bytes)?,
        Location::File(path) => ModelFile::open(&path)?,
        Location::Remote(remote) => ModelFile::open(&fetch::find(&remote)?)?,
        Location::Known(known) => {
            return Err(failure::usage(format!("--model {}: is not a classifier", known.name)));
        }
    };
    Ok(file.into_classifier()?)
}

/// The most probable classes of every image.
fn classified(request: &Classify, model: &ClassifierModel, device: &Device) -> Result<Vec<Classified>> {
    let source = sources::open(&request.images, Split::All)?;
    let size = model.classifier.config.image_size;
    let (mut classified, mut broken) = (Vec::new(), Broken::new(source.len()));
    let progress = Progress::new(source.len(), "classifying");
    let mut records = source.records();
    loop {
        let batch: Vec<_> = records.by_ref().take(classification::BATCH).collect();
        if batch.is_empty() {
            return Ok(classified);
        }
        let pieces = batch.len();
        let (mut names, mut images) = (Vec::new(), Vec::new());
        for record in batch {
            let decoded = record.and_then(|Record { name, bytes, .. }| {
                let image = semanticist::image::decode(&name, &bytes)?;
                Ok((name, transform::evaluation(&image, size)))
            });
            match decoded {
                Ok((name, image)) => {
                    names.push(name);
                    images.push(image);
                }
                Err(Error::Image { name, problem }) => {
                    note(&format!("skipped {name}: {problem}"));
                    broken.add(name, problem)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !images.is_empty() {
            let found = classification::predictions(model, &to_pixels(&images, device), request.top)?;
            let of_image = |(path, classes)| Classified { path, classes };
            classified.extend(names.into_iter().zip(found).map(of_image));
        }
        progress.advance(pieces);
    }
}

fn accuracy(request: &Classify, model: &ClassifierModel, device: &Device) -> Result<Accuracy> {
    let source = validation_source(&request.data)?;
    let config = &model.classifier.config;
    let labels = Labels::new(config.classes, &model.classes, source.classes())?;
    let images = request.count.unwrap_or(source.len()).min(source.len());
    let progress = Progress::new(images, "classifying");
    let mut count = AccuracyCount::default();
    let images = classification::labelled_images(&source, images, config.image_size, &labels);
    count.add(&model.classifier, images, device, |images| progress.advance(images))?;
    Ok(count.finish()?)
}

fn text(report: &Report) -> Result<String> {
    let mut text = String::new();
    for Classified { path, classes } in &report.images {
        writeln!(text, "{path}")?;
        for Prediction { name, probability, .. } in classes {
            writeln!(text, "  {:>5.1} %  {name}", 100.0 * probability)?;
        }
    }
    if let Some(Accuracy { images, top1, top5, cross_entropy }) = report.accuracy {
        writeln!(text, "{images} labelled images")?;
        writeln!(text, "  top-1          {:>6.2} %", 100.0 * top1)?;
        writeln!(text, "  top-5          {:>6.2} %", 100.0 * top5)?;
        writeln!(text, "  cross entropy  {cross_entropy:>6.4} nats")?;
    }
    Ok(text)
}
