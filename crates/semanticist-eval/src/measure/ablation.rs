//! `evaluate ablation`: what steps, samplers and guidance do to the same weights, and what they cost.

use std::time::Instant;

use semanticist::Result;
use semanticist::diffusion::DecodeOptions;
use semanticist::image::to_pixels;
use serde::{Deserialize, Serialize};

use super::closeness::{Metric, Sum};
use super::{Finished, Measured, Observer, Subject, tokens_text};
use crate::findings::Table;
use crate::plot::{Axis, Figure, Series};

/// How much less quality is as good, in dB.
const NEARLY: f64 = 0.1;

/// A way to decode.
#[derive(Debug, Clone)]
pub struct Decoding {
    /// What it is called.
    pub name: String,
    /// What it is.
    pub options: DecodeOptions,
}

/// What images gave that were decoded in one way from one number of tokens.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Found {
    sum: Sum,
    seconds: f64,
}

impl Found {
    fn psnr(&self) -> f64 {
        self.sum.mean(Metric::Psnr).unwrap_or(f64::NAN)
    }

    fn seconds(&self) -> f64 {
        self.seconds / self.sum.images() as f64
    }
}

/// Decodes the same images from the same noise in every way from every count of tokens.
///
/// # Errors
/// If images cannot be read or decoded.
pub fn measure(
    subject: &Subject,
    decodings: &[Decoding],
    finished: &mut Finished,
    observe: Observer,
) -> Result<Measured> {
    let tokenizer = subject.tokenizer;
    let parts = subject.batches(finished, "images", |batch| {
        let pixels = to_pixels(&batch.images, subject.device);
        let tokens = tokenizer.encode(&pixels, tokenizer.config.tokens)?;
        let mut found = Vec::new();
        for Decoding { options, .. } in decodings {
            let decoded = Subject {
                counts: subject.counts.clone(),
                sampling: options.clone(),
                series: Vec::new(),
                perceptual: Default::default(),
                ..*subject
            };
            for &count in &subject.counts {
                let begun = Instant::now();
                let pictures = decoded.sample(batch, &tokens, count, observe)?;
                let seconds = begun.elapsed().as_secs_f64();
                found.push(Found { sum: Sum::of(&pixels, &pictures, &subject.perceptual), seconds });
            }
        }
        Ok(found)
    })?;
    let mut all = vec![Found::default(); decodings.len() * subject.counts.len()];
    for part in parts {
        for (all, part) in all.iter_mut().zip(part) {
            all.sum.add(part.sum);
            all.seconds += part.seconds;
        }
    }
    Ok(report(subject, decodings, &all))
}

fn report(subject: &Subject, decodings: &[Decoding], all: &[Found]) -> Measured {
    let counts = &subject.counts;
    let ways = || decodings.iter().zip(all.chunks(counts.len()));
    let metrics = subject.metrics();
    let names = metrics.iter().map(|metric| metric.name());
    let columns: Vec<&str> =
        ["decoding", "tokens"].into_iter().chain(names).chain(["seconds per image"]).collect();
    let mut table = Table::new("Ways to decode", &columns);
    for (Decoding { name, .. }, found) in ways() {
        for (&count, found) in counts.iter().zip(found) {
            let quality = found.sum.cells(&metrics);
            table.row(
                [name.as_str().into(), count.into()]
                    .into_iter()
                    .chain(quality)
                    .chain([found.seconds().into()]),
            );
        }
    }
    let figure = |title: &str, value: fn(&Found) -> f64| Figure {
        title: title.into(),
        x: Axis::linear("tokens"),
        y: Axis::linear(title),
        series: ways()
            .map(|(Decoding { name, .. }, found)| {
                Series::line(
                    name.as_str(),
                    counts.iter().map(|&count| count as f64).zip(found.iter().map(value)),
                )
            })
            .collect(),
    };
    let last: Vec<&Found> = all.chunks(counts.len()).filter_map(<[Found]>::last).collect();
    let numbers = || 0..decodings.len();
    let best = numbers().max_by(|&a, &b| last[a].psnr().total_cmp(&last[b].psnr()));
    let sentence = best.map(|best| {
        let good = |way: &usize| last[*way].psnr() >= last[best].psnr() - NEARLY;
        let quickest =
            numbers().filter(good).min_by(|&a, &b| last[a].seconds().total_cmp(&last[b].seconds()));
        let shown = |way: usize| {
            let (psnr, seconds) = (last[way].psnr(), last[way].seconds());
            format!("{} with {psnr:.2} dB at {seconds:.3} seconds per image", decodings[way].name)
        };
        let all = tokens_text(counts.last().copied().unwrap_or(0));
        match quickest.filter(|quickest| *quickest != best) {
            None => {
                format!("From {all} {} comes closest, and none is quicker within {NEARLY} dB.", shown(best))
            }
            Some(quick) => format!(
                "From {all} {} comes closest; the quickest within {NEARLY} dB of it is {}.",
                shown(best),
                shown(quick)
            ),
        }
    });
    let mut protocol = vec![
        "All decode the same tokens from the same noise; quality is the mean over images.".into(),
        "Seconds are those of this machine with all else that ran on it, of batches of up to 64 images."
            .into(),
    ];
    protocol.extend(subject.metrics_protocol());
    Measured {
        images: all[0].sum.images(),
        protocol,
        sentences: sentence.into_iter().collect(),
        tables: vec![table],
        figures: vec![figure("PSNR, dB", Found::psnr), figure("Seconds per image", Found::seconds)],
    }
}
