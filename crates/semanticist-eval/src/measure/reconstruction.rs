//! `evaluate reconstruction`: how close images come back, beside what bounds it and what else takes as many numbers or
//! bytes.

use semanticist::diffusion::Process;
use semanticist::image::{RgbImage, to_pixels};
use semanticist::{Pixels, Result};
use serde::{Deserialize, Serialize};

use super::closeness::{Metric, Sum};
use super::codec::Codec;
use super::{Batch, Components, Finished, Measured, Observer, Subject, tokens_text};
use crate::findings::{Cell, Table};
use crate::plot::{Axis, Figure, Series};
use crate::reconstruction::batch_losses;

/// Bytes of a number of a token in half precision, as token files can store it.
const BYTES_PER_NUMBER: usize = 2;

/// What is shown of other ways with as many numbers or bytes.
const SHOWN: [Metric; 2] = [Metric::Psnr, Metric::Ssim];

/// What a batch gave; lists have an entry per count.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Part {
    samples: Vec<Sum>,
    means: Vec<Sum>,
    components: Vec<Sum>,
    /// For each codec, of the images that it could bring into so few bytes.
    files: [Vec<Sum>; Codec::ALL.len()],
    losses: Vec<f64>,
    autoencoder: Sum,
    /// One per series.
    series: Vec<Sum>,
}

/// How many passes this `measure` and that of spectra make per image when a decoding takes `steps`.
pub fn passes(subject: &Subject, steps: usize) -> usize {
    subject.counts.len() * (steps + 1)
}

/// Measures quality from every count of tokens.
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
    let all = parts.into_iter().reduce(together).expect("there is a batch");
    Ok(report(subject, components, &all))
}

fn part(
    subject: &Subject,
    components: &Components,
    process: &Process,
    batch: &Batch,
    observe: Observer,
) -> Result<Part> {
    let Subject { tokenizer, device, .. } = subject;
    let pixels = to_pixels(&batch.images, device);
    let sum = |pictures: &Pixels| Sum::of(&pixels, pictures, &subject.perceptual);
    let tokens = tokenizer.encode(&pixels, tokenizer.config.tokens)?;
    let (mut samples, mut means, mut of_components) = (vec![], vec![], vec![]);
    let mut files: [Vec<Sum>; Codec::ALL.len()] = Default::default();
    for &count in &subject.counts {
        samples.push(sum(&subject.sample(batch, &tokens, count, observe)?));
        means.push(sum(&subject.one_step_mean(process, batch, &tokens, count)?));
        of_components.push(sum(&components.shown(&pixels, subject.numbers(count))));
        for (sums, codec) in files.iter_mut().zip(Codec::ALL) {
            sums.push(file_sum(codec, &batch.images, BYTES_PER_NUMBER * subject.numbers(count), subject)?);
        }
        observe(batch.images.len());
    }
    let latents = tokenizer.autoencoder.encode(&pixels);
    let autoencoder = sum(&tokenizer.autoencoder.decode(&latents));
    let series = batch.series.iter().map(|pictures| sum(&to_pixels(pictures, device))).collect();
    let losses = batch_losses(tokenizer, process, (&pixels, &tokens), batch.first, &subject.counts);
    Ok(Part { samples, means, components: of_components, files, losses, autoencoder, series })
}

fn file_sum(codec: Codec, images: &[RgbImage], bytes: usize, subject: &Subject) -> Result<Sum> {
    let (mut originals, mut decoded) = (vec![], vec![]);
    for image in images {
        if let Some(picture) = codec.within(image, bytes)? {
            originals.push(image.clone());
            decoded.push(picture);
        }
    }
    if originals.is_empty() {
        return Ok(Sum::default());
    }
    let [originals, decoded] = [originals, decoded].map(|pictures| to_pixels(&pictures, subject.device));
    Ok(Sum::of(&originals, &decoded, &subject.perceptual))
}

fn together(mut a: Part, b: Part) -> Part {
    fn add(a: &mut [Sum], b: Vec<Sum>) {
        a.iter_mut().zip(b).for_each(|(a, b)| a.add(b));
    }
    add(&mut a.samples, b.samples);
    add(&mut a.means, b.means);
    add(&mut a.components, b.components);
    a.files.iter_mut().zip(b.files).for_each(|(a, b)| add(a, b));
    add(&mut a.series, b.series);
    a.losses.iter_mut().zip(b.losses).for_each(|(a, b)| *a += b);
    a.autoencoder.add(b.autoencoder);
    a
}

fn report(subject: &Subject, components: &Components, all: &Part) -> Measured {
    let images = all.autoencoder.images();
    let metrics = subject.metrics();
    let names = metrics.iter().map(|metric| metric.name().to_string());
    let of_mean = metrics.iter().map(|metric| format!("mean {}", metric.name()));
    let columns: Vec<String> = ["images from".to_string()]
        .into_iter()
        .chain(names)
        .chain(of_mean)
        .chain(["loss".to_string()])
        .collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new("Reconstruction", &columns);
    for (at, &count) in subject.counts.iter().enumerate() {
        let [sample, mean] = [&all.samples, &all.means].map(|sums| sums[at].cells(&metrics));
        let loss = (all.losses[at] / images as f64).into();
        table.row([tokens_text(count).into()].into_iter().chain(sample).chain(mean).chain([loss]));
    }
    let singles = subject.series.iter().map(|(name, _)| name.as_str()).zip(&all.series);
    for (name, sum) in [("the autoencoder alone", &all.autoencoder)].into_iter().chain(singles) {
        let nothing = vec![None.into(); metrics.len() + 1];
        table.row([name.into()].into_iter().chain(sum.cells(&metrics)).chain(nothing));
    }
    let others = others(subject, all);
    let line = |name: &str, sums: &[Sum]| {
        let points = subject
            .counts
            .iter()
            .zip(sums)
            .filter_map(|(&count, sum)| Some((count as f64, sum.mean(Metric::Psnr)?)));
        Series::line(name, points)
    };
    let ends = [0, subject.counts.last().copied().unwrap_or(1)];
    let floor = ends.map(|count| (count as f64, all.autoencoder.mean(Metric::Psnr).unwrap_or_default()));
    let mut series = vec![
        line("sampled", &all.samples),
        line("one-step mean", &all.means),
        line("PCA, as many numbers", &all.components),
        Series::line("autoencoder alone", floor),
    ];
    // A mean over those images alone that are easy to compress would be too good.
    let complete = |sums: &[Sum]| -> Vec<Sum> {
        sums.iter().map(|sum| if sum.images() == images { *sum } else { Sum::default() }).collect()
    };
    for (sums, codec) in all.files.iter().zip(Codec::ALL) {
        series.push(line(&format!("{}, as many bytes", codec.name()), &complete(sums)));
    }
    series.retain(|series| !series.points.is_empty());
    let figure = Figure {
        title: "How close images come back".into(),
        x: Axis::linear("tokens"),
        y: Axis::linear("PSNR, dB"),
        series,
    };
    let last = subject.counts.len() - 1;
    let best = |sums: &[Sum]| sums[last].mean(Metric::Psnr).unwrap_or_default();
    let sentences = vec![format!(
        "From {} images come back at {:.1} dB when sampled and {:.1} dB as the one-step mean; {} components of whole \
         images give {:.1} dB.",
        tokens_text(subject.counts[last]),
        best(&all.samples),
        best(&all.means),
        subject.numbers(subject.counts[last]),
        best(&all.components),
    )];
    let mut protocol = subject.metrics_protocol();
    protocol.extend([
        "The one-step mean is what the decoder takes the image to be at pure noise, without guidance: the mean of all \
         that it may be. A perfect sample has twice its squared error."
            .into(),
        "Loss is the squared error of the diffusion model's prediction, the same noise and times for every count.".into(),
        components.protocol(),
        format!(
            "JPEG and WebP (libwebp, lossy) have the best quality of no more bytes than the tokens take in half precision \
             ({BYTES_PER_NUMBER} bytes a number), header included, of those images that fit; their number is beside them, and \
             the plot shows them where all fit."
        ),
    ]);
    Measured { images, protocol, sentences, tables: vec![table, others], figures: vec![figure] }
}

/// What else takes as many numbers or bytes.
fn others(subject: &Subject, all: &Part) -> Table {
    let mut columns: Vec<String> =
        ["tokens", "numbers", "PCA dB", "PCA SSIM", "bytes"].map(ToString::to_string).to_vec();
    for codec in Codec::ALL {
        columns.extend(["dB", "SSIM", "images"].map(|what| format!("{} {what}", codec.name())));
    }
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new("Other ways with as many numbers or bytes", &columns);
    for (at, &count) in subject.counts.iter().enumerate() {
        let numbers = subject.numbers(count);
        let mut row: Vec<Cell> = vec![count.into(), numbers.into()];
        row.extend(all.components[at].cells(&SHOWN));
        row.push((BYTES_PER_NUMBER * numbers).into());
        for sums in &all.files {
            row.extend(sums[at].cells(&SHOWN));
            row.push(sums[at].images().into());
        }
        table.row(row);
    }
    table
}
