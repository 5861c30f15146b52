//! `semanticist study new`.

use std::collections::HashSet;
use std::fs;

use anyhow::{Context, Result};
use burn::tensor::Device;
use semanticist::Error;
use semanticist::diffusion::DecodeOptions;
use semanticist::image::{Fit, RgbImage};
use semanticist::model::{TokenizerModel, Work};
use semanticist_data::{Record, Source, transform};
use semanticist_eval::measure::tokens_text;
use semanticist_eval::sweep::{Subject, Sweep, TOGETHER};
use semanticist_study::{Item, Plan, Study};
use serde_json::json;

use super::paired::{Photo, pictures};
use crate::args::StudyNew;
use crate::command::choice::{BUILTIN, counts, validation_source};
use crate::command::reconstruct::decode_all;
use crate::progress::Progress;
use crate::{failure, output};

/// Trials that take about five minutes.
const TRIALS: usize = 36;

const CONSENT: &str = "\
Your answers are kept with the times that they took, under a number and without your name, and are used to measure how well \
pictures made from few numbers show what a photo shows.

You can stop at any time by closing the page.";

pub fn run(request: &StudyNew) -> Result<()> {
    let precision = request.machine.precision();
    let device = request.machine.start(precision)?;
    let source = validation_source(&request.data)?;
    if request.images > source.len() {
        return Err(failure::usage(format!(
            "--images {}: the data has {} photos",
            request.images,
            source.len()
        )));
    }
    if request.distractors.is_none() && source.classes().is_none() {
        return Err(failure::usage(
            "the data has no classes, so no other photo is known to show the same; --distractors DIR gives pictures to compare with",
        ));
    }
    let consent = match &request.consent {
        Some(path) => fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => CONSENT.into(),
    };
    let work =
        Work { encode: 1, decode: request.sampling.together(request.tokens.len().min(TOGETHER)), precision };
    let model = request.model.load_for(work, &device)?;
    let counts = counts(&request.tokens, model.tokenizer.config.tokens)?;
    let photos = photos(&source, request.images)?;
    let distractors = match &request.distractors {
        Some(path) => pictures("--distractors", path, &photos, &source)?,
        None => of_same_class(&source, &photos)?,
    };
    let mut others = Vec::new();
    for (name, path) in &request.series {
        others.push(pictures(&format!("--series {name}"), path, &photos, &source)?);
    }
    let plan = Plan {
        title: request.title.clone(),
        consent: consent.trim().into(),
        seed: request.sampling.seed,
        reveal_ms: request.reveal.clone(),
        trials: request.trials.unwrap_or(photos.len().min(TRIALS)),
        practice: request.practice,
        original: request.original.into(),
        original_ms: request.original_ms,
    };
    let series: Vec<String> = counts
        .iter()
        .map(|&count| tokens_text(count))
        .chain(request.series.iter().map(|(name, _)| name.clone()))
        .collect();
    let (options, steps) = request.sampling.plan(&model)?;
    let made_of = json!({
        "command": std::env::args().skip(1).collect::<Vec<_>>(),
        "model": request.model.model.as_ref().map_or(BUILTIN.into(), |path| path.display().to_string()),
        "model_hash": model.hash()?,
        "data": source.fingerprint()?,
        "distractors": match &request.distractors {
            Some(path) => path.display().to_string(),
            None => "another photo of the same class".into(),
        },
    });
    let progress = Progress::of_steps(photos.len() * counts.len() * steps);
    let maker =
        Maker { model: &model, device: &device, counts, options, seed: request.sampling.seed, progress };
    let size = model.tokenizer.config.image_size;
    let items = photos.iter().zip(distractors).enumerate().map(|(at, (photo, distractor))| {
        let mut generated = maker.of(&photo.image)?;
        generated.extend(others.iter().map(|pictures| transform::evaluation(&pictures[at], size)));
        let original = transform::evaluation(&photo.image, size);
        let distractor = transform::evaluation(&distractor, size);
        Ok(Item { name: photo.name.clone(), original, distractor, generated })
    });
    let study = Study::create(&request.output, plan, series, made_of, items)?;
    drop(maker);
    let place = request.output.display();
    output::print(&format!(
        "{place}: {} photos, {} trials for each participant\n\nsemanticist serve --study {place} --open        to take part at /study\n\
         semanticist study results {place}          to see what came out",
        study.items().len(),
        study.plan().trials
    ))
}

/// What pictures are made with.
struct Maker<'a> {
    model: &'a TokenizerModel,
    device: &'a Device,
    counts: Vec<usize>,
    options: DecodeOptions,
    seed: u64,
    progress: Progress,
}

impl Maker<'_> {
    /// A photo from each number of tokens.
    fn of(&self, photo: &RgbImage) -> semanticist::Result<Vec<RgbImage>> {
        let tokenizer = &self.model.tokenizer;
        let subject = Subject::of(photo, tokenizer.config.image_size, Fit::Crop);
        let most = self.counts.iter().copied().max().unwrap_or(1);
        let sweep = Sweep::new(tokenizer, &subject, most, self.device)?;
        let decoded = decode_all(&sweep, &self.counts, &self.options, self.seed, &self.progress)?;
        Ok(decoded.into_iter().map(|it| it.picture).collect())
    }
}

fn photos(source: &Source, count: usize) -> Result<Vec<Photo>> {
    source
        .spread_records(count)
        .map(|record| {
            let Record { name, label, bytes } = record?;
            let image = semanticist::image::decode(&name, &bytes)?;
            Ok(Photo { name, label, image })
        })
        .collect()
}

/// For each photo another one of its class, none of them twice.
fn of_same_class(source: &Source, photos: &[Photo]) -> Result<Vec<RgbImage>> {
    let taken: HashSet<&str> = photos.iter().map(|photo| photo.name.as_str()).collect();
    let mut found: Vec<Option<RgbImage>> = photos.iter().map(|_| None).collect();
    let mut missing = photos.len();
    for record in source.records() {
        let Record { name, label, bytes } = record?;
        if missing == 0 {
            break;
        }
        let wanted = (0..photos.len()).find(|&at| found[at].is_none() && photos[at].label == label);
        if let (Some(at), false) = (wanted.filter(|_| label.is_some()), taken.contains(name.as_str())) {
            found[at] = Some(semanticist::image::decode(&name, &bytes)?);
            missing -= 1;
        }
    }
    let of = |(found, photo): (Option<RgbImage>, &Photo)| {
        found.ok_or_else(|| {
            Error::Data(format!(
                "{}: there is no other photo of its class left to compare with; take fewer --images, or give --distractors",
                photo.name
            ))
            .into()
        })
    };
    found.into_iter().zip(photos).map(of).collect()
}
