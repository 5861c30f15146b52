//! `evaluate zero-shot`: how often CLIP, which was not taught them, tells the classes of images, and of what is left of them.

use burn::tensor::{Tensor, TensorData};
use semanticist::image::{RgbImage, from_pixels, to_pixels};
use semanticist::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Batch, Finished, Measured, Observer, Subject, tokens_text};
use crate::classification::{Accuracy, AccuracyCount, Labels};
use crate::clip::{Clip, ClipTokenizer, TEMPLATES, class_embedding};
use crate::features::clip_features;
use crate::findings::{Cell, Table};
use crate::plot::{Axis, Figure, Series};

/// Who looks at pictures, and what they may show.
#[derive(Clone, Copy)]
pub struct ZeroShot<'a> {
    /// The network.
    pub network: &'a Clip,
    /// What the network is, as part of a sentence.
    pub described: &'a str,
    /// Of texts for it.
    pub tokenizer: &'a ClipTokenizer,
    /// What the classes are called, in the order of the labels.
    pub names: &'a [String],
}

/// What a batch gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Part {
    originals: AccuracyCount,
    autoencoder: AccuracyCount,
    /// One per count of tokens.
    samples: Vec<AccuracyCount>,
    /// One per series.
    series: Vec<AccuracyCount>,
}

/// How many pieces of work the observer is told of when a decoding takes `steps`: classes, images through every step, and
/// pictures through CLIP.
pub fn pieces(subject: &Subject, steps: usize, classes: usize) -> usize {
    let pictures = 2 + subject.counts.len() * (steps + 1) + subject.series.len();
    classes + pictures * subject.expected()
}

/// Measures how often CLIP knows the classes of images, of samples from every count of tokens, of what the autoencoder alone
/// leaves of them and of the pictures of every series.
///
/// # Errors
/// If images cannot be read or decoded, or have no class or one without a name.
pub fn measure(
    subject: &Subject,
    zero_shot: ZeroShot,
    finished: &mut Finished,
    observe: Observer,
) -> Result<Measured> {
    let ZeroShot { network, tokenizer, names, .. } = zero_shot;
    subject.check_series()?;
    tokenizer.check(network)?;
    let labels = labels(subject, names)?;
    // Asked before all classes are read.
    if let Some(record) = subject.source.records().next().transpose()? {
        labels.class(&record.name, record.label)?;
    }
    let mut classes = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let embedding: Vec<f32> = finished.part(&format!("class {number}"), || {
            Ok(class_embedding(network, tokenizer, name)?.into_data().iter().collect())
        })?;
        classes.extend(embedding);
        observe(1);
    }
    let shape = [names.len(), network.width()];
    let classes = Tensor::from_data(TensorData::new(classes, shape), subject.device);
    let all = subject
        .batches(finished, "images", |batch| part(subject, zero_shot, (&classes, &labels), batch, observe))?
        .into_iter()
        .reduce(together)
        .expect("there is a batch");
    report(subject, zero_shot, all)
}

/// What the labels of the data mean: their number is the line of a name.
fn labels(subject: &Subject, names: &[String]) -> Result<Labels> {
    if let Some(classes) = subject.source.classes().filter(|classes| classes.len() != names.len()) {
        return Err(Error::Data(format!(
            "{} names of classes, but the data has {} classes; give one name for each, in the order of the labels",
            names.len(),
            classes.len()
        )));
    }
    Labels::new(names.len(), &[], None)
}

fn part(
    subject: &Subject,
    zero_shot: ZeroShot,
    (classes, labels): (&Tensor<2>, &Labels),
    batch: &Batch,
    observe: Observer,
) -> Result<Part> {
    let Subject { tokenizer, device, .. } = subject;
    let right =
        batch.labels.iter().map(|label| labels.class("an image", *label)).collect::<Result<Vec<_>>>()?;
    // Pictures in 8 bits, as files have them.
    let count = |pictures: &[RgbImage], observe: Observer| {
        let features = clip_features(zero_shot.network, pictures, device);
        let mut count = AccuracyCount::default();
        count.count(zero_shot.network.logits(features, classes.clone()), &right);
        observe(pictures.len());
        count
    };
    let pixels = to_pixels(&batch.images, device);
    let tokens = tokenizer.encode(&pixels, tokenizer.config.tokens)?;
    let mut samples = Vec::new();
    for &keep in &subject.counts {
        let pictures = from_pixels(&subject.sample(batch, &tokens, keep, observe)?);
        samples.push(count(&pictures, observe));
    }
    let alone = tokenizer.autoencoder.decode(&tokenizer.autoencoder.encode(&pixels));
    Ok(Part {
        originals: count(&batch.images, observe),
        autoencoder: count(&from_pixels(&alone), observe),
        samples,
        series: batch.series.iter().map(|pictures| count(pictures, observe)).collect(),
    })
}

fn together(mut a: Part, b: Part) -> Part {
    a.originals.join(b.originals);
    a.autoencoder.join(b.autoencoder);
    a.samples.iter_mut().zip(b.samples).for_each(|(a, b)| a.join(b));
    a.series.iter_mut().zip(b.series).for_each(|(a, b)| a.join(b));
    a
}

fn report(subject: &Subject, zero_shot: ZeroShot, all: Part) -> Result<Measured> {
    let shares = |counts: Vec<AccuracyCount>| {
        counts.into_iter().map(AccuracyCount::finish).collect::<Result<Vec<Accuracy>>>()
    };
    let (originals, autoencoder) = (all.originals.finish()?, all.autoencoder.finish()?);
    let (samples, series) = (shares(all.samples)?, shares(all.series)?);
    let mut table =
        Table::new("Classes that CLIP tells without being taught", &["pictures", "top-1 %", "top-5 %"]);
    let mut row = |name: Cell, found: &Accuracy| {
        table.row([name, (100.0 * found.top1).into(), (100.0 * found.top5).into()]);
    };
    row("the images".into(), &originals);
    row("the autoencoder alone".into(), &autoencoder);
    for (&count, found) in subject.counts.iter().zip(&samples) {
        row(tokens_text(count).into(), found);
    }
    for ((name, _), found) in subject.series.iter().zip(&series) {
        row(name.as_str().into(), found);
    }
    let line = |name: &str, share: fn(&Accuracy) -> f64| {
        let points =
            subject.counts.iter().zip(&samples).map(|(&count, found)| (count as f64, 100.0 * share(found)));
        Series::line(name, points)
    };
    let ends = [0, subject.counts.last().copied().unwrap_or(1)];
    let level = |name: &str, share: f64| Series::line(name, ends.map(|count| (count as f64, 100.0 * share)));
    let figure = Figure {
        title: "Classes that CLIP tells".into(),
        x: Axis::linear("tokens"),
        y: Axis::linear("right, %"),
        series: vec![
            line("top-1", |found| found.top1),
            line("top-5", |found| found.top5),
            level("images, top-1", originals.top1),
            level("images, top-5", originals.top5),
            level("autoencoder alone, top-1", autoencoder.top1),
        ],
    };
    let sentence = samples.iter().zip(&subject.counts).next_back().map(|(found, &count)| {
        format!(
            "CLIP tells the class of {:.1} % of the images among {}, and of {:.1} % of them from {} ({:.1} % by the autoencoder \
             alone).",
            100.0 * originals.top1,
            zero_shot.names.len(),
            100.0 * found.top1,
            tokens_text(count),
            100.0 * autoencoder.top1
        )
    });
    Ok(Measured {
        images: originals.images,
        protocol: protocol(subject, zero_shot),
        sentences: sentence.into_iter().collect(),
        tables: vec![table],
        figures: vec![figure],
    })
}

fn protocol(subject: &Subject, zero_shot: ZeroShot) -> Vec<String> {
    let (size, side) = (subject.size(), zero_shot.network.image_size());
    vec![
        format!("Zero-shot classification (Radford et al., 2021) by {}.", zero_shot.described),
        format!(
            "A class is the mean direction of its name in {} sentences (openai/CLIP, Prompt_Engineering_for_ImageNet.ipynb); a \
             picture is of the class whose direction is nearest to its own.",
            TEMPLATES.lines().count()
        ),
        format!(
            "Originals are the squares of {size} pixels that the tokenizer sees, and all pictures are in 8 bits, as files have them; \
             they are resized from {size} to {side} pixels (bicubic as Pillow). Numbers of papers, whose originals are larger \
             photos, are higher."
        ),
        "Samples are decoded as the model is used: its steps, sampler and guidance, from the same noise for every number of tokens."
            .into(),
    ]
}
