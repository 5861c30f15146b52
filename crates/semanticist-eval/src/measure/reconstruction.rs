//! `evaluate reconstruction`: how close images come back, beside what bounds it and what else takes as many numbers or
//! bytes.

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use semanticist::diffusion::Process;
use semanticist::image::{RgbImage, to_pixels};
use semanticist::{Pixels, Result};
use serde::{Deserialize, Serialize};

use super::{Batch, Components, Finished, Measured, Observer, Subject, tokens_text};
use crate::findings::{Cell, Table};
use crate::plot::{Axis, Figure, Series};
use crate::quality;
use crate::reconstruction::batch_losses;

/// Bytes of a number of a token in half precision, as token files can store it.
const BYTES_PER_NUMBER: usize = 2;

/// Sums over images.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Sum {
    images: usize,
    psnr: f64,
    ssim: f64,
    /// Images too small for a window.
    without_ssim: usize,
}

impl Sum {
    fn of(originals: &Pixels, others: &Pixels) -> Self {
        let mut sum = Self::default();
        for found in quality::compare(originals, others) {
            sum.images += 1;
            // Equal images would be infinitely good; 8 bits can say no more than this.
            sum.psnr += found.psnr.min(100.0);
            sum.ssim += found.ssim.unwrap_or_default();
            sum.without_ssim += usize::from(found.ssim.is_none());
        }
        sum
    }

    fn add(&mut self, other: Self) {
        self.images += other.images;
        self.psnr += other.psnr;
        self.ssim += other.ssim;
        self.without_ssim += other.without_ssim;
    }

    fn psnr(&self) -> Option<f64> {
        (self.images > 0).then(|| self.psnr / self.images as f64)
    }

    fn ssim(&self) -> Option<f64> {
        (self.images > 0 && self.without_ssim == 0).then(|| self.ssim / self.images as f64)
    }
}

/// What a batch gave; lists have an entry per count.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Part {
    samples: Vec<Sum>,
    means: Vec<Sum>,
    components: Vec<Sum>,
    /// Of the images that JPEG could bring into so few bytes.
    jpegs: Vec<Sum>,
    losses: Vec<f64>,
    autoencoder: Sum,
    /// One per series.
    series: Vec<Sum>,
}

/// How many passes `measure` makes per image when a decoding takes `steps`.
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
    let tokens = tokenizer.encode(&pixels, tokenizer.config.tokens)?;
    let (mut samples, mut means, mut of_components, mut jpegs) = (vec![], vec![], vec![], vec![]);
    for &count in &subject.counts {
        samples.push(Sum::of(&pixels, &subject.sample(batch, &tokens, count, observe)?));
        means.push(Sum::of(&pixels, &subject.one_step_mean(process, batch, &tokens, count)?));
        of_components.push(Sum::of(&pixels, &components.shown(&pixels, subject.numbers(count))));
        jpegs.push(jpeg_sum(&batch.images, BYTES_PER_NUMBER * subject.numbers(count), subject)?);
        observe(batch.images.len());
    }
    let latents = tokenizer.autoencoder.encode(&pixels);
    let autoencoder = Sum::of(&pixels, &tokenizer.autoencoder.decode(&latents));
    let series = batch.series.iter().map(|pictures| Sum::of(&pixels, &to_pixels(pictures, device))).collect();
    let losses = batch_losses(tokenizer, process, (&pixels, &tokens), batch.first, &subject.counts);
    Ok(Part { samples, means, components: of_components, jpegs, losses, autoencoder, series })
}

fn jpeg_sum(images: &[RgbImage], bytes: usize, subject: &Subject) -> Result<Sum> {
    let mut sum = Sum::default();
    for image in images {
        if let Some(decoded) = within(image, bytes)? {
            let [original, other] =
                [image, &decoded].map(|image| to_pixels(std::slice::from_ref(image), subject.device));
            sum.add(Sum::of(&original, &other));
        }
    }
    Ok(sum)
}

/// The best JPEG of no more bytes, decoded; none if there is none.
fn within(image: &RgbImage, bytes: usize) -> Result<Option<RgbImage>> {
    let encoded = |quality: u8| {
        let mut file = Vec::new();
        let encoder = &mut JpegEncoder::new_with_quality(&mut file, quality);
        let (width, height) = image.dimensions();
        encoder.encode(image.as_raw(), width, height, ExtendedColorType::Rgb8).expect("memory takes a JPEG");
        file
    };
    if encoded(1).len() > bytes {
        return Ok(None);
    }
    // The largest quality that fits; sizes grow with it.
    let (mut fits, mut too_large) = (1u8, 101u8);
    while fits + 1 < too_large {
        let middle = fits.midpoint(too_large);
        if encoded(middle).len() <= bytes {
            fits = middle;
        } else {
            too_large = middle;
        }
    }
    semanticist::image::decode("a JPEG of our own", &encoded(fits)).map(Some)
}

fn together(mut a: Part, b: Part) -> Part {
    fn add(a: &mut [Sum], b: Vec<Sum>) {
        a.iter_mut().zip(b).for_each(|(a, b)| a.add(b));
    }
    add(&mut a.samples, b.samples);
    add(&mut a.means, b.means);
    add(&mut a.components, b.components);
    add(&mut a.jpegs, b.jpegs);
    add(&mut a.series, b.series);
    a.losses.iter_mut().zip(b.losses).for_each(|(a, b)| *a += b);
    a.autoencoder.add(b.autoencoder);
    a
}

fn report(subject: &Subject, components: &Components, all: &Part) -> Measured {
    let images = all.autoencoder.images;
    let mut table = Table::new(
        "Reconstruction",
        &[
            "images from",
            "numbers",
            "PSNR dB",
            "SSIM",
            "mean PSNR dB",
            "mean SSIM",
            "loss",
            "PCA dB",
            "JPEG dB",
            "JPEGs",
        ],
    );
    for (at, &count) in subject.counts.iter().enumerate() {
        let (sample, mean) = (all.samples[at], all.means[at]);
        table.row([
            tokens_text(count).into(),
            subject.numbers(count).into(),
            sample.psnr().into(),
            sample.ssim().into(),
            mean.psnr().into(),
            mean.ssim().into(),
            (all.losses[at] / images as f64).into(),
            all.components[at].psnr().into(),
            all.jpegs[at].psnr().into(),
            all.jpegs[at].images.into(),
        ]);
    }
    let alone = |name: &str, sum: Sum| {
        let mut row: Vec<Cell> = vec![name.into(), None.into(), sum.psnr().into(), sum.ssim().into()];
        row.resize_with(10, || None.into());
        row
    };
    table.row(alone("the autoencoder alone", all.autoencoder));
    for ((name, _), sum) in subject.series.iter().zip(&all.series) {
        table.row(alone(name, *sum));
    }
    let line = |name: &str, sums: &[Sum]| {
        let points =
            subject.counts.iter().zip(sums).filter_map(|(&count, sum)| Some((count as f64, sum.psnr()?)));
        Series::line(name, points)
    };
    let ends = [0, subject.counts.last().copied().unwrap_or(1)];
    let floor = ends.map(|count| (count as f64, all.autoencoder.psnr().unwrap_or_default()));
    let mut series = vec![
        line("sampled", &all.samples),
        line("one-step mean", &all.means),
        line("PCA, as many numbers", &all.components),
        line("JPEG, as many bytes", &all.jpegs),
        Series::line("autoencoder alone", floor),
    ];
    series.retain(|series| !series.points.is_empty());
    let figure = Figure {
        title: "How close images come back".into(),
        x: Axis::linear("tokens"),
        y: Axis::linear("PSNR, dB"),
        series,
    };
    let last = subject.counts.len() - 1;
    let best = |sums: &[Sum]| sums[last].psnr().unwrap_or_default();
    let sentences = vec![format!(
        "From {} images come back at {:.1} dB when sampled and {:.1} dB as the one-step mean; {} components of whole \
         images give {:.1} dB.",
        tokens_text(subject.counts[last]),
        best(&all.samples),
        best(&all.means),
        subject.numbers(subject.counts[last]),
        best(&all.components),
    )];
    let protocol = vec![
        "PSNR and SSIM are computed per image on values clamped to [0, 1] and averaged over images.".into(),
        "The one-step mean is what the decoder takes the image to be at pure noise, without guidance: the mean of all \
         that it may be. A perfect sample has twice its squared error."
            .into(),
        "Loss is the squared error of the diffusion model's prediction, the same noise and times for every count.".into(),
        components.protocol(),
        format!(
            "JPEG is the best quality of no more bytes than the tokens take in half precision ({BYTES_PER_NUMBER} bytes a \
             number), header included; the last column says of how many images there is one."
        ),
    ];
    Measured { images, protocol, sentences, tables: vec![table], figures: vec![figure] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_jpeg_that_fits_is_taken() {
        let image =
            RgbImage::from_fn(32, 32, |x, y| image::Rgb([(x * 8) as u8, (y * 8) as u8, ((x ^ y) * 8) as u8]));
        assert!(within(&image, 100).unwrap().is_none(), "a header alone is larger");
        let error = |other: &RgbImage| -> f64 {
            let pairs = image.as_raw().iter().zip(other.as_raw());
            pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
        };
        let [small, large] = [900, 3000].map(|bytes| error(&within(&image, bytes).unwrap().unwrap()));
        assert!(large < small, "{large} {small}");
    }
}
