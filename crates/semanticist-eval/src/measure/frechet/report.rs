//! The numbers of sets of pictures under the names that papers have for them.

use semanticist_data::Source;

use super::super::{CROP, Measured, tokens_text};
use super::set::{Found, Nearness};
use super::{Customs, Decoder, FileReference, Pictures, TRAINING};
use crate::features::FeatureKind;
use crate::findings::{Cell, Table};
use crate::plot::{Axis, Figure, Series};
use crate::statistics::Origin;

/// The number of pictures that what papers call rFID and gFID is of.
const CUSTOMARY: usize = 50_000;

type Column = (String, Box<dyn Fn(&Found) -> Cell>);

pub(super) fn report(pictures: &Pictures, tokenizer: Option<Decoder>, rows: &[(String, Found)]) -> Measured {
    let distance = distance_name(pictures, tokenizer.is_some(), rows);
    let columns = columns(pictures.network.kind(), &distance);
    let mut names = vec!["pictures"];
    names.extend(columns.iter().map(|(name, _)| name.as_str()));
    let mut table = Table::new(title(pictures, tokenizer.is_some()), &names);
    for (name, found) in rows {
        let cells = columns.iter().map(|(_, cell)| cell(found));
        table.row([Cell::from(name.as_str())].into_iter().chain(cells));
    }
    let figure = tokenizer.map(|decoder| figure(&distance, decoder, rows));
    let mut sentences = vec![how(pictures, rows)];
    sentences.extend(reference_note(pictures));
    sentences.extend(pictures.series.iter().filter_map(|series| of_series(&distance, series, rows)));
    Measured {
        images: rows[0].1.images,
        protocol: protocol(pictures),
        sentences,
        tables: vec![table],
        figures: figure.into_iter().collect(),
    }
}

fn title(pictures: &Pictures, reconstructs: bool) -> &'static str {
    let kind = pictures.network.kind();
    match (kind, reconstructs) {
        (FeatureKind::Classifier, _) => {
            "Distance from the images in the classifier's features, and classes that it knows"
        }
        (FeatureKind::DinoV2, _) => "Distance from the images in the features of DINOv2",
        (FeatureKind::Clip | FeatureKind::ClipGelu, _) => "Distance from the images in the features of CLIP",
        (_, true) => "Reconstructions in the features of Inception-v3",
        (_, false) => "Pictures in the features of Inception-v3",
    }
}

/// What the Fréchet distance is called: rFID and gFID are of 50,000 pictures, and fewer give larger ones.
fn distance_name(pictures: &Pictures, reconstructs: bool, rows: &[(String, Found)]) -> String {
    let kind = pictures.network.kind();
    if !kind.is_inception() {
        return match kind {
            FeatureKind::DinoV2 => "FD-DINOv2".into(),
            _ if kind.is_clip() => "FD-CLIP".into(),
            _ => "distance".into(),
        };
    }
    let counts = || rows.iter().filter(|(_, found)| found.frechet.is_some()).map(|(_, found)| found.images);
    let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
    if least >= CUSTOMARY || pictures.customs == Customs::Overruled {
        return if reconstructs { "rFID".into() } else { "gFID".into() };
    }
    if least == most { format!("FID of {most} images") } else { format!("FID of {least} to {most} images") }
}

fn columns(kind: FeatureKind, distance: &str) -> Vec<Column> {
    let near =
        |part: fn(&Nearness) -> f64| move |found: &Found| Cell::from(found.nearness.as_ref().map(part));
    let percent = |share: Option<f64>| Cell::from(share.map(|share| 100.0 * share));
    let mut columns: Vec<Column> = Vec::new();
    let mut add = |name: &str, cell: Box<dyn Fn(&Found) -> Cell>| columns.push((name.into(), cell));
    add("how many", Box::new(|found| found.images.into()));
    add(distance, Box::new(|found| found.frechet.into()));
    if kind.is_inception() {
        add("sFID", Box::new(|found| found.spatial.into()));
        add("IS", Box::new(|found| found.score.map(|score| score.mean).into()));
        add("IS ±", Box::new(|found| found.score.map(|score| score.deviation).into()));
        add("KID × 1000", Box::new(near(|it| 1000.0 * it.kernel)));
    } else {
        add("kernel × 1000", Box::new(near(|it| 1000.0 * it.kernel)));
    }
    add("±", Box::new(near(|it| 1000.0 * it.kernel_deviation)));
    add("precision", Box::new(near(|it| it.precision)));
    add("recall", Box::new(near(|it| it.recall)));
    add("near training %", Box::new(move |found| percent(found.copied)));
    if kind == FeatureKind::Classifier {
        add("top-1 %", Box::new(move |found| percent(found.top1)));
        add("top-5 %", Box::new(move |found| percent(found.top5)));
    }
    columns
}

fn figure(distance: &str, decoder: Decoder, rows: &[(String, Found)]) -> Figure {
    let line = |kind: &str| {
        let points = decoder.counts().iter().filter_map(|&count| {
            let name = format!("{}, {kind}", tokens_text(count));
            let found = rows.iter().find(|(row, _)| *row == name)?.1;
            Some((count as f64, found.frechet?))
        });
        Series::line(kind, points)
    };
    let (title, y) = match distance {
        "distance" => ("Fréchet distance in the classifier's features", "squared distance"),
        name => (name, name),
    };
    Figure {
        title: title.into(),
        x: Axis::linear("tokens"),
        y: Axis::linear(y),
        series: decoder.ways().into_iter().map(line).collect(),
    }
}

/// All that a reader has to know to compare the numbers with others.
fn how(pictures: &Pictures, rows: &[(String, Found)]) -> String {
    let size = pictures.size;
    let reference = match pictures.reference {
        None => format!("the {} images themselves", rows[0].1.images),
        Some(FileReference { path, statistics, hash }) => {
            let of = match &statistics.origin {
                Some(Origin { images, data, .. }) => format!("{images} images of the data {data}"),
                None => "it does not say of how many images".into(),
            };
            format!("{} (SHA-256 {}; {of})", path.display(), &hash[..12])
        }
    };
    format!(
        "Measured with {}; pictures in 8 bits, as files have them, in squares of {size} pixels ({CROP}); Fréchet distances are from \
         {reference}.",
        pictures.network.described(size)
    )
}

/// What does not go together, but cannot be known to be wrong.
fn reference_note(pictures: &Pictures) -> Option<String> {
    let statistics = &pictures.reference?.statistics;
    let adm = statistics.origin.is_none() && statistics.spatial.is_some();
    (adm && pictures.network.kind() == FeatureKind::Inception).then(|| {
        "The reference has the layout of ADM, whose evaluator resizes as TensorFlow 1 does: --features inception-tf=FILE measures \
         like it."
            .into()
    })
}

fn of_series(distance: &str, (name, _): &(String, &Source), rows: &[(String, Found)]) -> Option<String> {
    let of = |name: &str| rows.iter().find(|(row, _)| row == name).map(|(_, found)| found);
    let found = of(name)?;
    let (frechet, near) = (found.frechet?, found.nearness?);
    let what = if distance == "distance" { "a squared distance" } else { distance };
    let shares = format!("precision {:.2}, recall {:.2}", near.precision, near.recall);
    let learnt = of(TRAINING).and_then(|training| training.frechet).zip(found.copied);
    Some(match learnt {
        Some((training, copied)) => format!(
            "{name}: {what} of {frechet:.3}, where as many training images are at {training:.3}; {shares}; {:.1} % lie nearer to a \
             training image than 99 % of the images do, where 1 % would without copying.",
            100.0 * copied
        ),
        None => format!("{name}: {what} of {frechet:.3}; {shares}."),
    })
}

fn protocol(pictures: &Pictures) -> Vec<String> {
    let (kind, width) = (pictures.network.kind(), pictures.network.width());
    let mut protocol = vec![match kind {
        FeatureKind::Classifier => format!(
            "The squared Fréchet distance between normal distributions of {width} features (the mean of a classifier's patches \
             before its last layer): not FID, which is of Inception-v3, and to be compared within this table alone."
        ),
        FeatureKind::DinoV2 => format!(
            "FD-DINOv2: the squared Fréchet distance between normal distributions of {width} features of DINOv2 (the class token \
             behind the last norm; Stein et al., 2023, have those of ViT-L/14, 1024)."
        ),
        FeatureKind::Clip | FeatureKind::ClipGelu => format!(
            "FD-CLIP: the squared Fréchet distance between normal distributions of {width} features of CLIP (`encode_image`, not \
             normalised)."
        ),
        FeatureKind::Inception | FeatureKind::InceptionTensorFlow => format!(
            "FID: the squared Fréchet distance between normal distributions of {width} features of Inception-v3 (Heusel et al., \
             2017). It falls with more pictures: what has fewer than {CUSTOMARY} is called FID of so many, and neither rFID nor gFID."
        ),
    }];
    if kind.is_inception() {
        protocol.push(
            "sFID: the same of the first 7 channels at all 17×17 places of an inner layer, as in ADM's evaluator; it takes more than \
             2023 pictures. IS: the Inception score, its mean and deviation over ten parts of the pictures in a random order, from \
             logits without bias."
                .into(),
        );
    }
    let kernel =
        if kind.is_inception() { "KID" } else { "The kernel distance is KID's, in the same features" };
    protocol.push(format!(
        "{kernel}: the mean over 50 pairs of subsets of up to 1000 pictures or half of them, and its deviation, from the measured \
         images. It takes sets for independent: those made of the images themselves lie a little below."
    ));
    protocol.push(
        "Precision and recall: the share of pictures that are as near to a measured image as its third neighbour, and the reverse."
            .into(),
    );
    match pictures.training {
        Some((training, _)) => {
            protocol.push(format!(
                "Near training: nearer to one of {} training images than 99 of 100 measured images are.",
                pictures.training_images.min(training.len())
            ));
            protocol.push(
                "Training images are as many real ones as are measured: what a perfect set of other images would have."
                    .into(),
            );
        }
        None => protocol.push(
            "Whether pictures are copies is not measured: the data has no training part, and no other images are given with \
             --training."
                .into(),
        ),
    }
    protocol
}
