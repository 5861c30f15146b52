//! What a tokenizer makes of the images, from every number of tokens and in every way that it has.

use semanticist::diffusion::Process;
use semanticist::image::{RgbImage, from_pixels, to_pixels};
use semanticist::{Pixels, Result};

use super::super::quantised::QuantisedSubject;
use super::super::{Batch, Observer, Subject, tokens_text};
use super::{MEAN, SAMPLED};

/// A tokenizer whose pictures are compared.
#[derive(Clone, Copy)]
pub enum Decoder<'a> {
    /// One of ours.
    Diffusion(&'a Subject<'a>),
    /// One with a codebook.
    Quantised(&'a QuantisedSubject<'a>),
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
        }
    }

    /// How many times an image passes the network, if a decoding of ours takes `steps`.
    pub fn passes(self, steps: usize) -> usize {
        match self {
            Self::Diffusion(subject) => subject.counts.len() * (steps + 1) + 1,
            Self::Quantised(subject) => subject.passes(),
        }
    }

    pub(super) fn counts(&self) -> &[usize] {
        match self {
            Self::Diffusion(subject) => &subject.counts,
            Self::Quantised(subject) => &subject.counts,
        }
    }

    /// What is made from a number of tokens: the name of a row is that number, a comma and one of these.
    pub(super) fn ways(self) -> Vec<&'static str> {
        match self {
            Self::Diffusion(_) => vec![SAMPLED, MEAN],
            Self::Quantised(subject) => subject.decompositions.iter().map(|kind| kind.name()).collect(),
        }
    }

    /// Gives every row; what is to be said of them is the answer.
    pub(super) fn decode(self, observe: Observer, row: Row) -> Result<Vec<String>> {
        match self {
            Self::Diffusion(subject) => diffusion(subject, observe, row).map(|()| Vec::new()),
            Self::Quantised(subject) => quantised(subject, observe, row),
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
