//! What a model makes: a tokenizer of the images, from every number of tokens and in every way that it has; a generator of
//! nothing, at every scale of guidance.

use semanticist::diffusion::Process;
use semanticist::image::{RgbImage, from_pixels, to_pixels};
use semanticist::{Pixels, Result};

use super::super::quantised::QuantisedSubject;
use super::super::{Batch, Observer, Subject, tokens_text};
use super::drawn::GuidanceSweep;
use super::{MEAN, SAMPLED};

/// A model whose pictures are compared.
#[derive(Clone, Copy)]
pub enum Decoder<'a> {
    /// One of ours.
    Diffusion(&'a Subject<'a>),
    /// One with a codebook.
    Quantised(&'a QuantisedSubject<'a>),
    /// A generator with its tokenizer.
    Drawn(&'a GuidanceSweep<'a>),
}

/// Some of the rows as a line of a plot.
pub(super) struct Line {
    pub name: String,
    /// Where each row is on the axis, and what it is called.
    pub points: Vec<(f64, String)>,
}

/// Takes some pictures with the classes of their images.
type Take<'a> = &'a mut dyn FnMut(Vec<RgbImage>, &[Option<i64>]) -> Result<()>;

/// Is told the name of a row, and asks for its pictures when it wants them.
pub(super) type Row<'a> = &'a mut dyn FnMut(String, &mut dyn FnMut(Take) -> Result<()>) -> Result<()>;

impl Decoder<'_> {
    /// Side of the pictures, in pixels.
    pub fn size(self) -> usize {
        match self {
            Self::Diffusion(subject) => subject.size(),
            Self::Quantised(subject) => subject.tokenizer.image_size(),
            Self::Drawn(sweep) => sweep.tokenizer.config.image_size,
        }
    }

    /// How many times an image passes the network, if a decoding of ours takes `steps`.
    pub fn passes(self, steps: usize) -> usize {
        match self {
            Self::Diffusion(subject) => subject.counts.len() * (steps + 1) + 1,
            Self::Quantised(subject) => subject.passes(),
            Self::Drawn(sweep) => sweep.passes(),
        }
    }

    /// Whether its pictures are reconstructions of the images.
    pub(super) fn reconstructs(self) -> bool {
        !matches!(self, Self::Drawn(_))
    }

    /// The names of the classes that it draws; none if its pictures have the classes of the images.
    pub(super) fn classes(&self) -> Option<&[String]> {
        match self {
            Self::Drawn(sweep) => Some(&sweep.generator.classes),
            Self::Diffusion(_) | Self::Quantised(_) => None,
        }
    }

    /// What is drawn of the rows, and over what.
    pub(super) fn lines(self) -> (&'static str, Vec<Line>) {
        let of_counts = |counts: &[usize], ways: Vec<&'static str>| {
            let line = |way: &str| Line {
                name: way.into(),
                points: counts
                    .iter()
                    .map(|&count| (count as f64, format!("{}, {way}", tokens_text(count))))
                    .collect(),
            };
            ("tokens", ways.into_iter().map(line).collect())
        };
        match self {
            Self::Diffusion(subject) => of_counts(&subject.counts, vec![SAMPLED, MEAN]),
            Self::Quantised(subject) => {
                let ways = subject.decompositions.iter().map(|kind| kind.name()).collect();
                of_counts(&subject.counts, ways)
            }
            Self::Drawn(sweep) => {
                let points = sweep.scales.iter().map(|&scale| (scale, GuidanceSweep::name(scale))).collect();
                ("guidance scale", vec![Line { name: "drawn".into(), points }])
            }
        }
    }

    /// Gives every row; what is to be said of them is the answer.
    pub(super) fn decode(self, observe: Observer, row: Row) -> Result<Vec<String>> {
        match self {
            Self::Diffusion(subject) => diffusion(subject, observe, row).map(|()| Vec::new()),
            Self::Quantised(subject) => quantised(subject, observe, row),
            Self::Drawn(sweep) => sweep.draw(observe, row).map(|()| Vec::new()),
        }
    }
}

fn diffusion(subject: &Subject, observe: Observer, row: Row) -> Result<()> {
    let process = Process::new(&subject.tokenizer.config.diffusion)?;
    let mut add = |name: String, of: &mut dyn FnMut(&Batch) -> Result<Pixels>| {
        row(name, &mut |take| {
            // In 8 bits, as if they had been written to files and read.
            subject.each(|batch| take(from_pixels(&of(batch)?), &batch.labels))
        })
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

fn quantised(subject: &QuantisedSubject, observe: Observer, row: Row) -> Result<Vec<String>> {
    let decompositions = subject.decompositions(observe)?;
    for decomposition in &decompositions {
        for &count in &subject.counts {
            let name = format!("{}, {}", tokens_text(count), decomposition.kind());
            row(name, &mut |take| {
                subject.photos().each(|batch| {
                    let pictures = subject.decoded(&subject.vectors(batch), decomposition, count)?;
                    observe(batch.images.len());
                    take(from_pixels(&pictures), &batch.labels)
                })
            })?;
        }
    }
    Ok(subject.protocol(&decompositions))
}
