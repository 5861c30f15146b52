//! `evaluate spectrum`: do fewer tokens mean other frequencies? (paper, section 5.4, the semantic-spectrum coupling)

use semanticist::diffusion::Process;
use semanticist::image::{RgbImage, from_pixels, to_pixels};
use semanticist::{Pixels, Result};
use serde::{Deserialize, Serialize};

use super::{Batch, Components, Finished, Measured, Observer, Subject, tokens_text};
use crate::findings::Table;
use crate::plot::{Axis, Figure, Series};
use crate::spectrum::{distance, radial_power};

/// Sums of power over images; lists have an entry per count.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Part {
    images: usize,
    original: Vec<f64>,
    samples: Vec<Vec<f64>>,
    means: Vec<Vec<f64>>,
    components: Vec<Vec<f64>>,
    series: Vec<Vec<f64>>,
}

/// Measures the mean spectrum of originals and of pictures from every count of tokens.
///
/// # Errors
/// If images cannot be read or decoded.
pub fn measure(
    subject: &Subject,
    components: &Components,
    finished: &mut Finished,
    observe: Observer,
) -> Result<Measured> {
    subject.check_series()?;
    let process = Process::new(&subject.tokenizer.config.diffusion)?;
    let parts =
        subject.batches(finished, "images", |batch| part(subject, components, &process, batch, observe))?;
    let all = parts.into_iter().reduce(|mut a, b| {
        add(&mut a.original, &b.original);
        for (a, b) in [
            (&mut a.samples, b.samples),
            (&mut a.means, b.means),
            (&mut a.components, b.components),
            (&mut a.series, b.series),
        ] {
            a.iter_mut().zip(&b).for_each(|(a, b)| add(a, b));
        }
        Part { images: a.images + b.images, ..a }
    });
    Ok(report(subject, components, all.expect("there is a batch")))
}

pub(super) fn add(sums: &mut [f64], more: &[f64]) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// The sum of the spectra of pictures.
pub(super) fn power(images: &[RgbImage]) -> Vec<f64> {
    let mut sums = vec![0.0; images.first().map_or(0, |image| image.width() as usize / 2 + 1)];
    images.iter().for_each(|image| add(&mut sums, &radial_power(image)));
    sums
}

fn part(
    subject: &Subject,
    components: &Components,
    process: &Process,
    batch: &Batch,
    observe: Observer,
) -> Result<Part> {
    let pixels = to_pixels(&batch.images, subject.device);
    let tokens = subject.tokenizer.encode(&pixels, subject.tokenizer.config.tokens)?;
    let of = |pixels: &Pixels| power(&from_pixels(pixels));
    let (mut samples, mut means, mut of_components) = (vec![], vec![], vec![]);
    for &count in &subject.counts {
        samples.push(of(&subject.sample(batch, &tokens, count, observe)?));
        means.push(of(&subject.one_step_mean(process, batch, &tokens, count)?));
        of_components.push(of(&components.shown(&pixels, subject.numbers(count))));
        observe(batch.images.len());
    }
    let series = batch.series.iter().map(|pictures| power(pictures)).collect();
    let original = power(&batch.images);
    Ok(Part { images: batch.images.len(), original, samples, means, components: of_components, series })
}

fn report(subject: &Subject, components: &Components, all: Part) -> Measured {
    let images = all.images as f64;
    let mean = |sums: &[f64]| -> Vec<f64> { sums.iter().map(|sum| sum / images).collect() };
    let original = mean(&all.original);
    let away = |sums: &[f64]| distance(&mean(sums), &original);
    let mut table = Table::new(
        "Distance of the mean spectrum from that of the originals, dB",
        &["pictures from", "sampled", "one-step mean", "PCA, as many numbers"],
    );
    for (at, &count) in subject.counts.iter().enumerate() {
        let cells = [&all.samples, &all.means, &all.components].map(|sums| away(&sums[at]).into());
        table.row([tokens_text(count).into()].into_iter().chain(cells));
    }
    for ((name, _), sums) in subject.series.iter().zip(&all.series) {
        table.row([name.as_str().into(), away(sums).into(), None.into(), None.into()]);
    }
    let figure = |title: &str, of_counts: &[Vec<f64>]| {
        let names = subject.counts.iter().map(|&count| tokens_text(count));
        figure(title, &original, names.zip(of_counts.iter().map(|sums| mean(sums))))
    };
    let mut figures = vec![
        figure("Spectrum of samples", &all.samples),
        figure("Spectrum of the one-step mean", &all.means),
        figure("Spectrum of principal components, as many numbers", &all.components),
    ];
    if !subject.series.is_empty() {
        let names = subject.series.iter().map(|(name, _)| name.clone());
        let means = all.series.iter().map(|sums| mean(sums));
        figures.push(self::figure("Spectrum of other pictures", &original, names.zip(means)));
    }
    let quarter = subject.tokenizer.config.tokens / 4;
    let nearest =
        (0..subject.counts.len()).min_by_key(|&at| subject.counts[at].abs_diff(quarter)).unwrap_or(0);
    let shown =
        |sums: &[Vec<f64>]| away(&sums[nearest]).map_or("-".into(), |distance| format!("{distance:.1}"));
    let sentences = vec![format!(
        "From {} of {} the mean spectrum of samples is {} dB from that of the originals, that of the one-step mean {} dB, that \
         of as many principal components {} dB.",
        subject.counts[nearest],
        tokens_text(subject.tokenizer.config.tokens),
        shown(&all.samples),
        shown(&all.means),
        shown(&all.components),
    )];
    let mut protocol = PROTOCOL.map(String::from).to_vec();
    protocol.push(components.protocol());
    Measured { images: all.images, protocol, sentences, tables: vec![table], figures }
}

/// What power and its distance are.
pub(super) const PROTOCOL: [&str; 2] = [
    "Power is the squared magnitude of the Fourier transform of luminance, averaged over rings of frequencies, then over \
     images.",
    "The distance is the root mean square over rings, from 1 cycle per image on, of the difference in decibels.",
];

/// Mean spectra beside that of the originals.
pub(super) fn figure(
    title: &str,
    original: &[f64],
    others: impl Iterator<Item = (String, Vec<f64>)>,
) -> Figure {
    let line = |name: String, powers: Vec<f64>| {
        // Ring 0, the mean brightness, is no structure.
        let points = powers.into_iter().enumerate().skip(1).map(|(ring, power)| (ring as f64, power));
        Series::line(name, points)
    };
    let mut series = vec![line("originals".into(), original.to_vec())];
    series.extend(others.map(|(name, powers)| line(name, powers)));
    Figure {
        title: title.into(),
        x: Axis::logarithmic("cycles per image"),
        y: Axis::logarithmic("mean power"),
        series,
    }
}
