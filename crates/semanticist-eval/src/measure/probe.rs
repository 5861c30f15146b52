//! `evaluate probe`: how well a linear map tells the classes from the first tokens (paper, section 5.3).

use burn::tensor::Tensor;
use semanticist::image::{RgbImage, to_pixels};
use semanticist::{Error, Pixels, Result};
use semanticist_data::{Record, Source, transform};
use serde::{Deserialize, Serialize};

use super::{BATCH, Components, Finished, Measured, Observer, Subject, tokens_text};
use crate::findings::Table;
use crate::logistic::{Examples, Logistic, Standard};
use crate::plot::{Axis, Figure, Series};

/// Weight decays to choose from, the strongest first: each begins where the one before ended.
const DECAYS: [f64; 6] = [0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4];

/// Steps of each fit.
const STEPS: usize = 60;

/// Of so many training images one is held out to choose the decay.
const HELD_OUT: usize = 5;

/// The side that pixels are reduced to before they are probed.
const PIXELS: usize = 32;

/// What a probe of one representation gave.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Found {
    features: usize,
    decay: f64,
    top1: f64,
    top5: f64,
}

/// Images in every form that is probed.
struct Forms {
    /// `[N, K D]`
    tokens: Tensor<2>,
    /// `[N, W]`
    pooled: Tensor<2>,
    /// `[N, R]`
    components: Tensor<2>,
    /// `[N, 3 · 32 · 32]`
    pixels: Tensor<2>,
    labels: Vec<usize>,
}

/// How many images `measure` encodes, of which the observer is told.
pub fn passes(subject: &Subject, training_images: usize) -> usize {
    subject.expected() + training_images.min(subject.training.len())
}

/// Trains probes on labelled images of the training part and measures them on the subject's.
///
/// # Errors
/// If images have no class, or all the same.
pub fn measure(
    subject: &Subject,
    components: &Components,
    training_images: usize,
    finished: &mut Finished,
    observe: Observer,
) -> Result<Measured> {
    let training = forms(subject, components, subject.training, training_images, observe)?;
    let validation = forms(subject, components, subject.source, subject.images, observe)?;
    let classes = training.labels.iter().chain(&validation.labels).max().map_or(0, |most| most + 1);
    if training.labels.iter().all(|label| *label == training.labels[0]) {
        return Err(Error::Data(
            "all images to train a probe on are of one class; give data of two or more".into(),
        ));
    }
    let counts: Vec<usize> = subject.counts.iter().copied().filter(|&count| count > 0).collect();
    let mut probe = |name: String, of: &dyn Fn(&Forms) -> Tensor<2>| {
        finished.part(&name.clone(), || {
            Ok(probed(of(&training), of(&validation), &training, &validation, classes))
        })
    };
    let (mut of_tokens, mut of_components) = (Vec::new(), Vec::new());
    for &count in &counts {
        let numbers = subject.numbers(count);
        of_tokens.push(probe(format!("tokens {count}"), &|forms| first(&forms.tokens, numbers))?);
        of_components.push(probe(format!("components {count}"), &|forms| first(&forms.components, numbers))?);
    }
    let others = [
        ("mean of the encoder's features", probe("pooled".into(), &|forms| forms.pooled.clone())?),
        ("pixels, reduced", probe("pixels".into(), &|forms| forms.pixels.clone())?),
    ];
    let mut table = Table::new("Linear probes", &["what is seen", "numbers", "decay", "top-1 %", "top-5 %"]);
    let mut row = |name: String, found: &Found| {
        let Found { features, decay, top1, top5 } = *found;
        table.row([name.into(), features.into(), decay.into(), (100.0 * top1).into(), (100.0 * top5).into()]);
    };
    counts.iter().zip(&of_tokens).for_each(|(&count, found)| row(tokens_text(count), found));
    of_components.iter().for_each(|found| row(format!("{} components", found.features), found));
    others.iter().for_each(|(name, found)| row((*name).into(), found));
    let line = |name: &str, found: &[Found]| {
        let points = counts.iter().zip(found).map(|(&count, found)| (count as f64, 100.0 * found.top1));
        Series::line(name, points)
    };
    let figure = Figure {
        title: "Classes told by a linear probe".into(),
        x: Axis::linear("tokens"),
        y: Axis::linear("top-1, %"),
        series: vec![line("first tokens", &of_tokens), line("PCA, as many numbers", &of_components)],
    };
    let images = validation.labels.len();
    let sentences = peak(&counts, &of_tokens, images, subject.tokenizer.config.tokens);
    let protocol = vec![
        format!(
            "Multinomial logistic regression (L-BFGS, {STEPS} steps) on standardised numbers of {} training images; the weight \
             decay is chosen from {DECAYS:?} on every {HELD_OUT}th of them, then all are fitted.",
            training.labels.len()
        ),
        format!("Pixels are reduced to {PIXELS}×{PIXELS} by means of squares, where they are more."),
        components.protocol(),
    ];
    Ok(Measured { images, protocol, sentences, tables: vec![table], figures: vec![figure] })
}

/// Where the probe is best, and whether that is below all tokens.
fn peak(counts: &[usize], found: &[Found], images: usize, all: usize) -> Vec<String> {
    let best = (0..counts.len()).max_by(|&a, &b| found[a].top1.total_cmp(&found[b].top1));
    let Some(best) = best else { return Vec::new() };
    let (top, last) = (found[best].top1, found[found.len() - 1].top1);
    // Of the difference of two shares of the same images, at most.
    let noise = (2.0 * top * (1.0 - top) / images as f64).sqrt();
    let mut text = format!("The probe is best on {} with {:.1} %", tokens_text(counts[best]), 100.0 * top);
    if counts[best] < all && counts.last() == Some(&all) {
        let beyond = if top - last > 2.0 * noise { "beyond noise" } else { "within noise" };
        text += &format!(", below all {all} tokens with {:.1} %, {beyond}", 100.0 * last);
    }
    vec![text + "."]
}

fn first(rows: &Tensor<2>, numbers: usize) -> Tensor<2> {
    let there = rows.dims()[1];
    rows.clone().narrow(1, 0, numbers.min(there))
}

fn probed(
    training: Tensor<2>,
    validation: Tensor<2>,
    of_training: &Forms,
    of_validation: &Forms,
    classes: usize,
) -> Found {
    let ([n, features], device) = (training.dims(), training.device());
    let standard = Standard::of(&training);
    let [training, validation] = [training, validation].map(|rows| standard.apply(rows));
    let held: Vec<usize> = (0..n).step_by(HELD_OUT).collect();
    let fitted: Vec<usize> = (0..n).filter(|row| row % HELD_OUT != 0).collect();
    let some = |rows: &[usize]| {
        let numbers: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let numbers = Tensor::from_data(numbers.as_slice(), &device);
        let labels: Vec<usize> = rows.iter().map(|&row| of_training.labels[row]).collect();
        Examples::new(training.clone().select(0, numbers), &labels, classes)
    };
    let (held, fitted) = (some(&held), some(&fitted));
    let mut model = Logistic::new(features, classes, &device);
    let mut best: Option<(f64, f64, Logistic)> = None;
    for decay in DECAYS {
        model = model.fit(&fitted, decay, STEPS);
        let [share, _] = model.accuracy(&held);
        if best.as_ref().is_none_or(|(most, ..)| share > *most) {
            best = Some((share, decay, model.clone()));
        }
    }
    let (_, decay, model) = best.expect("there are decays");
    let all = Examples::new(training, &of_training.labels, classes);
    let validation = Examples::new(validation, &of_validation.labels, classes);
    let [top1, top5] = model.fit(&all, decay, STEPS).accuracy(&validation);
    Found { features, decay, top1, top5 }
}

/// Up to `count` labelled images spread over a source, in every form.
fn forms(
    subject: &Subject,
    components: &Components,
    source: &Source,
    count: usize,
    observe: Observer,
) -> Result<Forms> {
    let mut labels = Vec::new();
    let mut parts: [Vec<Tensor<2>>; 4] = Default::default();
    let mut images = labelled(source, count, subject.size());
    loop {
        let batch = images.by_ref().take(BATCH).collect::<Result<Vec<_>>>()?;
        if batch.is_empty() {
            break;
        }
        let (pictures, of_batch): (Vec<RgbImage>, Vec<usize>) = batch.into_iter().unzip();
        labels.extend(of_batch);
        let pixels = to_pixels(&pictures, subject.device);
        let config = &subject.tokenizer.config;
        let output = subject.tokenizer.networks.encoder.forward(&pixels, config.tokens, None);
        parts[0].push(output.tokens.0.flatten(1, 2));
        parts[1].push(output.features.mean_dim(1).squeeze_dim(1));
        parts[2].push(components.pixels.scores(pixels.0.clone().flatten(1, 3)));
        parts[3].push(reduced(&pixels));
        observe(pictures.len());
    }
    if labels.is_empty() {
        return Err(Error::Data("no image to probe could be decoded".into()));
    }
    let [tokens, pooled, components, pixels] = parts.map(|part| Tensor::cat(part, 0));
    Ok(Forms { tokens, pooled, components, pixels, labels })
}

fn labelled(
    source: &Source,
    count: usize,
    size: usize,
) -> impl Iterator<Item = Result<(RgbImage, usize)>> + '_ {
    let decoded = move |Record { name, label, bytes }| {
        let image = semanticist::image::decode(&name, &bytes)?;
        let label = label.and_then(|label| usize::try_from(label).ok()).ok_or_else(|| {
            Error::Data(format!(
                "{name}: has no class, but a probe tells classes apart; expected folders of class folders, or Parquet files \
                 with a column `label`"
            ))
        })?;
        Ok((transform::evaluation(&image, size), label))
    };
    source.spread_records(count).filter_map(move |record| match record.and_then(decoded) {
        Err(Error::Image { .. }) => None,
        found => Some(found),
    })
}

/// Means of squares of pixels, as many squares as divide the image.
fn reduced(pixels: &Pixels) -> Tensor<2> {
    let [b, c, side, _] = pixels.0.dims();
    let new = (1..=PIXELS.min(side)).rev().find(|new| side.is_multiple_of(*new)).unwrap_or(side);
    let step = side / new;
    let squares = pixels.0.clone().reshape([b, c, new, step, new, step]);
    squares.mean_dim(5).mean_dim(3).reshape([b, c * new * new])
}
