//! `semanticist evaluate reconstruction`, `spectrum` and `frechet` of a tokenizer with a codebook.

use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::Device;
use semanticist::Precision;
use semanticist_eval::QuantisedTokenizer;
use semanticist_eval::findings::{Made, Model};
use semanticist_eval::measure::frechet::{self, Decoder};
use semanticist_eval::measure::quantised::{self, QuantisedSubject};
use semanticist_eval::measure::{self};
use semanticist_eval::quantised::DecompositionKind;
use serde_json::json;

use super::compared::{self, Compared};
use super::data::{Data, NamedData};
use super::keep::{self, Work};
use super::perceptual::Perceptual;
use super::{Kind, ascending, none_and_powers};
use crate::args::{Comparing, Decomposing, Measuring, PerceptualFiles};

/// What is measured.
#[derive(Clone, Copy)]
pub enum Question<'a> {
    Reconstruction(&'a PerceptualFiles),
    Spectrum,
    /// With the seed of subsets.
    Frechet(&'a Comparing, u64),
}

impl Question<'_> {
    fn kind(self) -> Kind {
        match self {
            Self::Reconstruction(_) => Kind::Reconstruction,
            Self::Spectrum => Kind::Spectrum,
            Self::Frechet(..) => Kind::Frechet,
        }
    }
}

pub fn run(
    question: Question,
    (tokenizer, device): (QuantisedTokenizer, Device),
    decomposing: &Decomposing,
    measuring: &Measuring,
    series: &[(String, PathBuf)],
) -> Result<()> {
    let on = &measuring.on;
    let (perceptual, comparing) = match question {
        Question::Reconstruction(files) => (Perceptual::open(files, tokenizer.image_size(), &device)?, None),
        Question::Spectrum => (Perceptual::default(), None),
        Question::Frechet(comparing, seed) => (Perceptual::default(), Some((comparing, seed))),
    };
    let all = tokenizer.tokens();
    let counts = match &measuring.tokens[..] {
        [] => none_and_powers(all),
        asked => ascending(asked, all)?,
    };
    let mut decompositions = decomposing.decomposition.clone();
    if decompositions.is_empty() {
        decompositions = DecompositionKind::ALL.to_vec();
    }
    let compared = comparing.map(|(comparing, _)| Compared::open(comparing, &device)).transpose()?;
    let data = Data::validation(&on.data)?;
    let training = Data::training(&on.training, &on.data)?;
    let series = NamedData::open(series)?;
    let names: Vec<_> = decompositions.iter().map(|kind| kind.name()).collect();
    let made = Made {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        version: env!("CARGO_PKG_VERSION").into(),
        model: Some(Model { name: tokenizer.kind().title().into(), hash: tokenizer.hash().into() }),
        data: data.fingerprint.clone(),
        training: training.fingerprint.clone(),
        images: on.images,
        image_size: tokenizer.image_size(),
        crop: measure::CROP.into(),
        precision: Precision::Float32.to_string(),
        options: json!({
            "tokens": counts,
            "decompositions": names,
            "series": series.options(),
            "perceptual": perceptual.hashes,
            "features": compared.as_ref().map(Compared::options),
            "seed": comparing.map(|(_, seed)| seed),
        }),
        seconds: 0.0,
    };
    let subject = QuantisedSubject {
        tokenizer: &tokenizer,
        decompositions,
        source: &data.source,
        images: on.images,
        training: &training.source,
        counts,
        series: series.sources(),
        perceptual: perceptual.measures,
        device: &device,
    };
    let pictures = compared.as_ref().zip(comparing).map(|(compared, (_, seed))| {
        let size = tokenizer.image_size();
        let asked = compared::Asked { size, images: on.images, series: series.sources(), seed };
        compared.pictures(&data, &training, asked, &device)
    });
    let work = Work {
        kind: question.kind().name(),
        made,
        data: [&data, &training].into_iter().chain(series.0.iter().map(|(_, data)| data)).collect(),
        pieces: match &pictures {
            Some(pictures) => pictures.pieces(subject.passes()) + subject.fitted_first(),
            None => subject.pieces(),
        },
        takes_earlier: pictures.as_ref().is_none_or(|pictures| pictures.save.is_none()),
    };
    keep::show(on, |kept| {
        work.findings(kept, |finished, observe| match (&pictures, question) {
            (Some(pictures), _) => {
                frechet::measure(pictures, Some(Decoder::Quantised(&subject)), finished, observe)
            }
            (None, Question::Spectrum) => quantised::spectrum(&subject, finished, observe),
            (None, _) => quantised::reconstruction(&subject, finished, observe),
        })
    })
}
