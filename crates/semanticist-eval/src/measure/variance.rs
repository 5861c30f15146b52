//! `evaluate variance`: how much of the diffusion loss each token explains, beside principal components, and whether what
//! the tokens add is orthogonal (paper, Fig. 4 and appendix A).

use semanticist::Result;
use semanticist::image::to_pixels;
use serde::{Deserialize, Serialize};

use super::{Components, Finished, Measured, Observer, Subject};
use crate::findings::{Cell, Table};
use crate::plot::{Axis, Figure, Series};
use crate::variance::{Estimate, Losses, VarianceOptions, bootstrap, explained, gains, losses};

/// Timesteps and noise per image.
const DRAWS: usize = 4;

/// Times that images are drawn with replacement.
const RESAMPLES: usize = 1000;

/// What a batch gave.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    losses: Losses,
    /// For each count of numbers, of each image.
    pixels: Vec<Vec<f64>>,
    latents: Vec<Vec<f64>>,
}

/// How many passes `measure` makes per image.
pub fn passes(subject: &Subject) -> usize {
    subject.counts.len() * DRAWS
}

/// Every count up to all tokens if there are few, else none and powers of two.
pub fn default_counts(all: usize) -> Vec<usize> {
    const FEW: usize = 64;
    match all {
        0..=FEW => (0..=all).collect(),
        _ => [0].into_iter().chain(crate::generation::powers(all)).collect(),
    }
}

/// Measures the loss at every count, and what principal components leave.
///
/// # Errors
/// If there are fewer than two counts, or images cannot be read.
pub fn measure(
    subject: &Subject,
    components: &Components,
    finished: &mut Finished,
    observe: Observer,
) -> Result<Measured> {
    if subject.counts.len() < 2 {
        return Err(semanticist::Error::Input(
            "variance is explained between two numbers of tokens; give two or more".into(),
        ));
    }
    let numbers: Vec<usize> = subject.counts.iter().map(|&count| subject.numbers(count)).collect();
    let options = VarianceOptions { counts: subject.counts.clone(), draws: DRAWS, seed: subject.seed };
    let parts = subject.batches(finished, "images", |batch| {
        let pixels = to_pixels(&batch.images, subject.device);
        let latents = subject.tokenizer.autoencoder.encode(&pixels);
        let [of_pixels, of_latents] = components.residuals(&pixels, &latents, &numbers);
        let losses =
            losses(subject.tokenizer, &batch.images, batch.first, &options, subject.device, &mut *observe)?;
        Ok(Part { losses, pixels: of_pixels, latents: of_latents })
    })?;
    let all = parts.into_iter().reduce(|mut a, b| {
        let join =
            |a: &mut Vec<Vec<f64>>, b: Vec<Vec<f64>>| a.iter_mut().zip(b).for_each(|(a, b)| a.extend(b));
        join(&mut a.pixels, b.pixels);
        join(&mut a.latents, b.latents);
        Part { losses: a.losses.and(b.losses), ..a }
    });
    Ok(report(subject, components, &all.expect("there is a batch")))
}

fn report(subject: &Subject, components: &Components, all: &Part) -> Measured {
    let (counts, images) = (&subject.counts, &all.losses.losses);
    let estimated = |statistic: fn(&[f64]) -> Vec<f64>| bootstrap(images, RESAMPLES, subject.seed, statistic);
    let (mean, share, gain) = (estimated(<[f64]>::to_vec), estimated(explained), estimated(gains));
    // Of components the share of all variance: they are 0 numbers to begin with, and could be as many as there are.
    let of_components = |residuals: &[Vec<f64>]| -> Vec<f64> {
        let sums: Vec<f64> = residuals.iter().map(|of_images| of_images.iter().sum()).collect();
        let (none, most) = (sums[0], sums[sums.len() - 1]);
        sums.iter().map(|sum| (none - sum) / (none - most)).collect()
    };
    let (pixels, latents) = (of_components(&all.pixels), of_components(&all.latents));
    let mut table = Table::new(
        "Loss and share of the way from the first count to the last",
        &[
            "tokens",
            "loss",
            "share",
            "95 % from",
            "to",
            "gain per token",
            "95 % from",
            "to",
            "PCA pixels",
            "PCA latents",
        ],
    );
    for (at, &count) in counts.iter().enumerate() {
        let per_token = at.checked_sub(1).map(|before| (gain[before], (count - counts[before]) as f64));
        let gained = |part: fn(&Estimate) -> f64| -> Cell {
            per_token.map(|(gain, tokens)| part(&gain) / tokens).into()
        };
        table.row([
            count.into(),
            mean[at].value.into(),
            share[at].value.into(),
            share[at].low.into(),
            share[at].high.into(),
            gained(|gain| gain.value),
            gained(|gain| gain.low),
            gained(|gain| gain.high),
            pixels[at].into(),
            latents[at].into(),
        ]);
    }
    let (orthogonality, sentence) = orthogonality(subject, &all.losses);
    let names = |wanted: &dyn Fn(&Estimate) -> bool| {
        let found: Vec<String> = gain
            .iter()
            .zip(&counts[1..])
            .filter(|(gain, _)| wanted(gain))
            .map(|(_, count)| count.to_string())
            .collect();
        found.join(", ")
    };
    let (unclear, worse) =
        (names(&|gain| gain.low <= 0.0 && gain.high >= 0.0), names(&|gain| gain.high < 0.0));
    let mut sentences = vec![match (unclear.as_str(), worse.as_str()) {
        ("", "") => "Every step to more tokens lowers the loss beyond noise.".to_string(),
        (unclear, "") => {
            format!(
                "Every step to more tokens lowers the loss beyond noise but those to {unclear}, where 0 is within the interval."
            )
        }
        ("", worse) => {
            format!("The steps to {worse} tokens raise the loss beyond noise; all others lower it.")
        }
        (unclear, worse) => {
            format!(
                "The steps to {worse} tokens raise the loss beyond noise; for those to {unclear} 0 is within the interval."
            )
        }
    }];
    sentences.extend(sentence);
    let line = |name: &str, values: &mut dyn Iterator<Item = f64>| {
        Series::line(name, counts.iter().map(|&count| count as f64).zip(values))
    };
    let interval = share.iter().map(|share| (share.low, share.high)).collect();
    let figure = Figure {
        title: "Share explained".into(),
        x: Axis::linear("tokens"),
        y: Axis::linear("share of the way from the first count to the last"),
        series: vec![
            line("tokens, diffusion loss", &mut share.iter().map(|share| share.value)).within(interval),
            line("PCA of pixels, as many numbers", &mut pixels.iter().copied()),
            line("PCA of latents, as many numbers", &mut latents.iter().copied()),
        ],
    };
    let protocol = vec![
        format!(
            "The loss is the squared error of the diffusion model's prediction, averaged over images and {DRAWS} draws of \
             timestep and noise for each; every count sees the same draws, and times lie evenly over the process."
        ),
        "The share explained is how far the loss has come from its value at the first count to that at the last.".into(),
        format!(
            "Intervals are 95 % percentile bootstrap intervals over images, {RESAMPLES} resamples: they say what other images \
             would give, not another training run."
        ),
        components.protocol(),
        "Of principal components the share is of what the components at the last count explain together.".into(),
    ];
    Measured {
        images: images.len(),
        protocol,
        sentences,
        tables: [vec![table], orthogonality].concat(),
        figures: vec![figure],
    }
}

/// Cosines between what different steps add to the prediction.
fn orthogonality(subject: &Subject, losses: &Losses) -> (Vec<Table>, Option<String>) {
    let steps = subject.counts.len() - 1;
    if steps < 2 {
        return (Vec::new(), None);
    }
    let draws = losses.draws as f64;
    let pairs: Vec<(usize, f64, f64)> = (0..steps * steps)
        .filter(|pair| pair / steps < pair % steps)
        .map(|pair| (pair % steps - pair / steps, losses.cosines[pair] / draws, losses.squares[pair] / draws))
        .collect();
    let of = |wanted: &dyn Fn(usize) -> bool| {
        let chosen: Vec<_> = pairs.iter().filter(|(apart, ..)| wanted(*apart)).collect();
        let count = chosen.len() as f64;
        let mean = chosen.iter().map(|(_, cosine, _)| cosine).sum::<f64>() / count;
        let root = (chosen.iter().map(|(.., square)| square).sum::<f64>() / count).sqrt();
        (mean, root)
    };
    let shape = subject.tokenizer.config.latent_shape().expect("the model is there");
    let chance = ((shape.channels * shape.side.pow(2)) as f64).sqrt().recip();
    let mut table = Table::new(
        "Cosines between what two steps add to the prediction",
        &["steps", "mean", "root of mean square"],
    );
    let (all, neighbours) = (of(&|_| true), of(&|apart| apart == 1));
    for (name, (mean, root)) in
        [("neighbours", neighbours), ("all pairs", all), ("random directions", (0.0, chance))]
    {
        table.row([name.into(), mean.into(), root.into()]);
    }
    let sentence = format!(
        "What two steps add to the prediction has a mean cosine of {:.3} (root of mean square {:.3}); random directions of as \
         many numbers would have {chance:.3}.",
        all.0, all.1
    );
    (vec![table], Some(sentence))
}
