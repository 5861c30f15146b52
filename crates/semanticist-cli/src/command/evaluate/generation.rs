//! `semanticist evaluate generation`: whether generated pictures look like images, to a classifier.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Device;
use semanticist::ModelFile;
use semanticist::model::ClassifierModel;
use semanticist_data::Source;
use semanticist_eval::findings::Made;
use semanticist_eval::measure::frechet::{self, Pictures};
use serde_json::{Value, json};

use super::data::{Data, NamedData};
use super::keep::{self, Work};
use crate::args::{Comparing, Images};
use crate::failure;

/// In whose features pictures are compared.
pub struct Classifier {
    model: ClassifierModel,
    hash: String,
    training_images: usize,
}

impl Classifier {
    pub fn open(path: &Path, training_images: usize, device: &Device) -> Result<Self> {
        let file = ModelFile::open(path)?.into_classifier()?;
        let hash = file.hash()?;
        Ok(Self { model: file.load(device)?, hash, training_images })
    }

    /// What of it decides what is found.
    pub fn options(&self) -> Value {
        json!({ "hash": self.hash, "training_images": self.training_images })
    }

    pub fn pictures<'a>(
        &'a self,
        (data, training): (&'a Data, &'a Data),
        images: usize,
        series: Vec<(String, &'a Source)>,
        seed: u64,
        device: &'a Device,
    ) -> Pictures<'a> {
        Pictures {
            model: &self.model,
            source: &data.source,
            images,
            training: &training.source,
            training_images: self.training_images,
            series,
            seed,
            device,
        }
    }
}

pub fn run(on: &Images, comparing: &Comparing, series: &[(String, PathBuf)], seed: u64) -> Result<()> {
    if on.plot.is_some() {
        return Err(failure::usage(
            "--plot: sets of pictures have numbers, but nothing to draw; leave it out",
        ));
    }
    let precision = on.machine.precision();
    let device = on.machine.start(precision)?;
    let classifier = Classifier::open(&comparing.classifier, comparing.training_images, &device)?;
    let data = Data::validation(&on.data)?;
    let training = Data::training(&on.training, &on.data)?;
    let series = NamedData::open(series)?;
    let pictures = classifier.pictures((&data, &training), on.images, series.sources(), seed, &device);
    let made = Made {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        version: env!("CARGO_PKG_VERSION").into(),
        model: None,
        data: data.fingerprint.clone(),
        training: training.fingerprint.clone(),
        images: on.images,
        image_size: classifier.model.classifier.config.image_size,
        crop: keep::CROP.into(),
        precision: precision.to_string(),
        options: json!({ "series": series.options(), "classifier": classifier.options(), "seed": seed }),
        seconds: 0.0,
    };
    let all = [&data, &training].into_iter().chain(series.0.iter().map(|(_, data)| data)).collect();
    let work = Work { kind: "generation", made, data: all, pieces: pictures.pieces(None) };
    keep::show(on, |kept| {
        work.findings(kept, |finished, observe| frechet::measure(&pictures, None, finished, observe))
    })
}
