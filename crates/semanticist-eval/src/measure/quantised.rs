//! `evaluate reconstruction` and `evaluate spectrum` of tokenizers with a codebook, which decode in one pass and whose tokens
//! are in no order: what a part of them says depends on how they are taken apart (paper, section 5.4, Figs. 5 and 10).

use burn::tensor::{Device, Tensor};
use semanticist::image::{RgbImage, from_pixels, to_pixels};
use semanticist::{Pixels, Result, Tokens};
use semanticist_data::Source;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::closeness::{Metric, Sum};
use super::photos::Photos;
use super::spectrum::{self, add, power};
use super::{BATCH, Batch, Finished, Measured, Observer, finite, tokens_text};
use crate::findings::Table;
use crate::perceptual::PerceptualMeasures;
use crate::plot::{Axis, Figure, Series};
use crate::quantised::{Decomposition, DecompositionKind, QuantisedTokenizer};
use crate::reconstruction;
use crate::spectrum::distance;

/// Images that components are fitted to at most.
const IMAGES: usize = 5000;

/// What is measured, on what.
pub struct QuantisedSubject<'a> {
    /// The model.
    pub tokenizer: &'a QuantisedTokenizer,
    /// How its tokens are taken apart, in the order of the findings.
    pub decompositions: Vec<DecompositionKind>,
    /// Images that it was not trained on.
    pub source: &'a Source,
    /// How many of them, spread evenly.
    pub images: usize,
    /// Images to fit principal components of tokens to: those that the model was trained on, or such.
    pub training: &'a Source,
    /// From how many tokens, ascending; 0 is from none.
    pub counts: Vec<usize>,
    /// Images by other tokenizers, by name.
    pub series: Vec<(String, &'a Source)>,
    /// Measures of closeness that need weights.
    pub perceptual: PerceptualMeasures,
    /// Where it is computed.
    pub device: &'a Device,
}

/// What a batch gave: of each decomposition one entry per count, and of each series one.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Part<T> {
    images: usize,
    original: T,
    decoded: Vec<Vec<T>>,
    series: Vec<T>,
}

impl QuantisedSubject<'_> {
    /// How many images the observer is told of.
    pub fn pieces(&self) -> usize {
        self.photos().expected() * self.passes() + self.fitted_first()
    }

    /// How many times an image is decoded.
    pub fn passes(&self) -> usize {
        self.counts.len() * self.decompositions.len()
    }

    /// How many images are looked at before any is measured.
    pub fn fitted_first(&self) -> usize {
        if self.decompositions.contains(&DecompositionKind::Pca) { self.fitted() } else { 0 }
    }

    fn fitted(&self) -> usize {
        IMAGES.min(self.training.len())
    }

    pub(super) fn photos(&self) -> Photos<'_> {
        let Self { source, images, series, .. } = self;
        Photos { source, images: *images, size: self.tokenizer.image_size(), series }
    }

    /// Decompositions that are ready to be used.
    pub(super) fn decompositions(&self, observe: Observer) -> Result<Vec<Decomposition>> {
        let ready = |kind: &DecompositionKind| match kind {
            DecompositionKind::FirstK => Ok(Decomposition::FirstK),
            DecompositionKind::Pca => Decomposition::pca(&self.training_vectors(observe)?),
        };
        self.decompositions.iter().map(ready).collect()
    }

    fn training_vectors(&self, observe: Observer) -> Result<Tokens> {
        let mut images = reconstruction::images(self.training, self.fitted(), self.tokenizer.image_size());
        let mut vectors: Vec<Tensor<3>> = Vec::new();
        loop {
            let batch = images.by_ref().take(BATCH).collect::<Result<Vec<_>>>()?;
            if batch.is_empty() {
                break;
            }
            vectors.push(self.tokenizer.encode(&to_pixels(&batch, self.device)).vectors.0);
            observe(batch.len());
        }
        if vectors.is_empty() {
            let problem = "no image to fit principal components to could be decoded";
            return Err(semanticist::Error::Data(problem.into()));
        }
        Ok(Tokens(Tensor::cat(vectors, 0)))
    }

    /// What `of` makes of the originals and of the pictures from every count of tokens, summed over all batches by `sum`; and
    /// the decompositions.
    fn measured<T: Serialize + DeserializeOwned>(
        &self,
        finished: &mut Finished,
        observe: Observer,
        of: impl Fn(&Pixels, &Pixels) -> T,
        sum: impl Fn(&mut T, T),
    ) -> Result<(Part<T>, Vec<Decomposition>)> {
        self.photos().check_series()?;
        let decompositions = self.decompositions(observe)?;
        let parts = self.photos().batches(finished, "images", |batch: &Batch| {
            let originals = to_pixels(&batch.images, self.device);
            let vectors = self.tokenizer.encode(&originals).vectors;
            let mut from = |decomposition: &Decomposition, count: usize| {
                let pictures = self.decoded(&vectors, decomposition, count)?;
                observe(batch.images.len());
                Ok(of(&originals, &pictures))
            };
            let decoded = decompositions
                .iter()
                .map(|decomposition| self.counts.iter().map(|&count| from(decomposition, count)).collect())
                .collect::<Result<Vec<Vec<T>>>>()?;
            let of_series = |pictures: &Vec<RgbImage>| of(&originals, &to_pixels(pictures, self.device));
            let series = batch.series.iter().map(of_series).collect();
            let original = of(&originals, &originals);
            Ok(Part { images: batch.images.len(), original, decoded, series })
        })?;
        let together = |mut a: Part<T>, b: Part<T>| {
            a.images += b.images;
            sum(&mut a.original, b.original);
            let all = a.decoded.iter_mut().flatten().zip(b.decoded.into_iter().flatten());
            all.chain(a.series.iter_mut().zip(b.series)).for_each(|(a, b)| sum(a, b));
            a
        };
        Ok((parts.into_iter().reduce(together).expect("there is a batch"), decompositions))
    }

    /// The vectors of the tokens of a batch.
    pub(super) fn vectors(&self, batch: &Batch) -> Tokens {
        self.tokenizer.encode(&to_pixels(&batch.images, self.device)).vectors
    }

    /// Pictures from `count` tokens of each image.
    pub(super) fn decoded(
        &self,
        vectors: &Tokens,
        decomposition: &Decomposition,
        count: usize,
    ) -> Result<Pixels> {
        let kept = decomposition.kept(vectors, &vec![count; vectors.batch()]);
        finite(self.tokenizer.decode(&kept))
    }

    /// What is said of all measurements.
    pub(super) fn protocol(&self, decompositions: &[Decomposition]) -> Vec<String> {
        let tokenizer = self.tokenizer;
        let mut protocol = vec![format!(
            "The tokenizer is {} (weights {}): {} tokens of a codebook of {} entries of {} numbers, computed in float32.",
            tokenizer.kind().title(),
            &tokenizer.hash()[..12],
            tokenizer.tokens(),
            tokenizer.codebook_size(),
            tokenizer.token_dim(),
        )];
        protocol.extend(decompositions.iter().map(|it| format!("{}: {}", it.kind(), it.protocol())));
        protocol
    }

    /// Of each decomposition its name and what was found of it, count by count.
    fn rows<'a, T>(&self, all: &'a Part<T>) -> impl Iterator<Item = (DecompositionKind, &'a Vec<T>)> {
        self.decompositions.clone().into_iter().zip(&all.decoded)
    }
}

/// How close images come back from every count of tokens.
///
/// # Errors
/// If images cannot be read, or there are too few to fit components to.
pub fn reconstruction(
    subject: &QuantisedSubject,
    finished: &mut Finished,
    observe: Observer,
) -> Result<Measured> {
    let of = |originals: &Pixels, pictures: &Pixels| Sum::of(originals, pictures, &subject.perceptual);
    let (all, decompositions) = subject.measured(finished, observe, of, Sum::add)?;
    let metrics = Metric::of(subject.tokenizer.image_size(), &subject.perceptual);
    let mut columns = vec!["images from", "kept", "bits"];
    columns.extend(metrics.iter().map(|metric| metric.name()));
    let mut table = Table::new("Reconstruction", &columns);
    for (kind, sums) in subject.rows(&all) {
        for (&count, sum) in subject.counts.iter().zip(sums) {
            // Components are no codes: how many bits they would take, nobody says.
            let bits = (kind == DecompositionKind::FirstK).then(|| subject.tokenizer.bits(count));
            let start = [tokens_text(count).into(), kind.name().into(), bits.into()];
            table.row(start.into_iter().chain(sum.cells(&metrics)));
        }
    }
    for ((name, _), sum) in subject.series.iter().zip(&all.series) {
        table.row([name.as_str().into(), None.into(), None.into()].into_iter().chain(sum.cells(&metrics)));
    }
    let line = |(kind, sums): (DecompositionKind, &Vec<Sum>)| {
        let points = subject.counts.iter().zip(sums);
        Series::line(
            kind.name(),
            points.filter_map(|(&count, sum)| Some((count as f64, sum.mean(Metric::Psnr)?))),
        )
    };
    let figure = Figure {
        title: "How close images come back".into(),
        x: Axis::linear("tokens"),
        y: Axis::linear("PSNR, dB"),
        series: subject.rows(&all).map(line).collect(),
    };
    let most = tokens_text(subject.counts.last().copied().unwrap_or(0));
    let sentence = |(kind, sums): (DecompositionKind, &Vec<Sum>)| {
        let psnr = sums.last()?.mean(Metric::Psnr)?;
        Some(format!("From {most} ({kind}) images come back at {psnr:.1} dB."))
    };
    let mut protocol = subject.protocol(&decompositions);
    protocol.extend(metrics.iter().map(|metric| metric.protocol(&subject.perceptual)));
    Ok(Measured {
        images: all.images,
        protocol,
        sentences: subject.rows(&all).filter_map(sentence).collect(),
        tables: vec![table],
        figures: vec![figure],
    })
}

/// The mean spectrum of originals and of pictures from every count of tokens.
///
/// # Errors
/// As [`reconstruction`].
pub fn spectrum(subject: &QuantisedSubject, finished: &mut Finished, observe: Observer) -> Result<Measured> {
    let of = |_: &Pixels, pictures: &Pixels| power(&from_pixels(pictures));
    let (all, decompositions) =
        subject.measured(finished, observe, of, |sums: &mut Vec<f64>, more| add(sums, &more))?;
    let mean = |sums: &Vec<f64>| -> Vec<f64> { sums.iter().map(|sum| sum / all.images as f64).collect() };
    let original = mean(&all.original);
    let mut columns = vec!["pictures from"];
    columns.extend(subject.decompositions.iter().map(|kind| kind.name()));
    let mut table = Table::new("Distance of the mean spectrum from that of the originals, dB", &columns);
    let away = |sums: &Vec<f64>| distance(&mean(sums), &original);
    for (at, &count) in subject.counts.iter().enumerate() {
        let cells = all.decoded.iter().map(|sums| away(&sums[at]).into());
        table.row([tokens_text(count).into()].into_iter().chain(cells));
    }
    for ((name, _), sums) in subject.series.iter().zip(&all.series) {
        let nothing = subject.decompositions.iter().skip(1).map(|_| None.into());
        table.row([name.as_str().into(), away(sums).into()].into_iter().chain(nothing));
    }
    let of_kind = |(kind, sums): (DecompositionKind, &Vec<Vec<f64>>)| {
        let names = subject.counts.iter().map(|&count| tokens_text(count));
        let title = match kind {
            DecompositionKind::FirstK => "Spectrum from the first tokens",
            DecompositionKind::Pca => "Spectrum from principal components of tokens",
        };
        spectrum::figure(title, &original, names.zip(sums.iter().map(mean)))
    };
    let mut figures: Vec<Figure> = subject.rows(&all).map(of_kind).collect();
    if !subject.series.is_empty() {
        let names = subject.series.iter().map(|(name, _)| name.clone());
        let means = all.series.iter().map(mean);
        figures.push(spectrum::figure("Spectrum of other pictures", &original, names.zip(means)));
    }
    let tokens = subject.tokenizer.tokens();
    let nearest = (0..subject.counts.len()).min_by_key(|&at| subject.counts[at].abs_diff(tokens / 4));
    let sentence = |(kind, sums): (DecompositionKind, &Vec<Vec<f64>>)| {
        let at = nearest?;
        let away = away(&sums[at])?;
        Some(format!(
            "From {} of {} ({kind}) the mean spectrum is {away:.1} dB from that of the originals.",
            subject.counts[at],
            tokens_text(tokens),
        ))
    };
    let sentences = subject.rows(&all).filter_map(sentence).collect();
    let mut protocol = subject.protocol(&decompositions);
    protocol.extend(spectrum::PROTOCOL.map(String::from));
    Ok(Measured { images: all.images, protocol, sentences, tables: vec![table], figures })
}
