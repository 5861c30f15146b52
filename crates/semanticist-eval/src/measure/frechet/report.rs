//! The numbers of sets of pictures under the names that papers have for them.

use super::super::{CROP, Measured};
use super::set::{Found, Nearness};
use super::{Customs, Decoder, FileReference, Pictures, TRAINING};
use crate::features::FeatureKind;
use crate::findings::{Cell, Table};
use crate::plot::{Axis, Figure, Series};
use crate::sliced::LINES;
use crate::statistics::Origin;

/// The number of pictures that what papers call rFID and gFID is of.
const CUSTOMARY: usize = 50_000;

type Column = (String, Box<dyn Fn(&Found) -> Cell>);

pub(super) fn report(pictures: &Pictures, decoder: Option<Decoder>, rows: &[(String, Found)]) -> Measured {
    let reconstructs = decoder.is_some_and(Decoder::reconstructs);
    let distance = distance_name(pictures, reconstructs, rows);
    let columns = columns(pictures.network.kind(), &distance);
    let mut names = vec!["pictures"];
    names.extend(columns.iter().map(|(name, _)| name.as_str()));
    let mut table = Table::new(title(pictures, reconstructs), &names);
    for (name, found) in rows {
        let cells = columns.iter().map(|(_, cell)| cell(found));
        table.row([Cell::from(name.as_str())].into_iter().chain(cells));
    }
    let figures = decoder.map(|decoder| figures(&distance, decoder, rows));
    let mut sentences = vec![how(pictures, rows)];
    sentences.extend(reference_note(pictures));
    let drawn = decoder.filter(|decoder| !decoder.reconstructs()).map(|decoder| decoder.lines().1);
    let drawn = drawn.into_iter().flatten().flat_map(|line| line.points).map(|(_, name)| name);
    let series = pictures.series.iter().map(|(name, _)| name.clone());
    sentences.extend(drawn.chain(series).filter_map(|name| of_pictures(&distance, &name, rows)));
    Measured {
        images: rows[0].1.images,
        protocol: protocol(pictures),
        sentences,
        tables: vec![table],
        figures: figures.unwrap_or_default(),
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
    add("sliced", Box::new(near(|it| it.sliced)));
    add("precision", Box::new(near(|it| it.precision)));
    add("recall", Box::new(near(|it| it.recall)));
    add("near training %", Box::new(move |found| percent(found.copied)));
    if kind == FeatureKind::Classifier {
        add("top-1 %", Box::new(move |found| percent(found.top1)));
        add("top-5 %", Box::new(move |found| percent(found.top5)));
    }
    columns
}

/// The distances, and where there are classes, how many are told.
fn figures(distance: &str, decoder: Decoder, rows: &[(String, Found)]) -> Vec<Figure> {
    let (axis, lines) = decoder.lines();
    let figure = |title: &str, y: &str, of: fn(&Found) -> Option<f64>| {
        let series: Vec<Series> = lines
            .iter()
            .map(|line| {
                let points = line.points.iter().filter_map(|(x, name)| {
                    let (_, found) = rows.iter().find(|(row, _)| row == name)?;
                    Some((*x, of(found)?))
                });
                Series::line(&line.name, points)
            })
            .collect();
        Figure { title: title.into(), x: Axis::linear(axis), y: Axis::linear(y), series }
    };
    let (title, y) = match distance {
        "distance" => ("Fréchet distance in the classifier's features", "squared distance"),
        name => (name, name),
    };
    let mut figures = vec![figure(title, y, |found| found.frechet)];
    if !decoder.reconstructs() && rows.iter().any(|(_, found)| found.top1.is_some()) {
        figures.push(figure("Classes that the classifier tells", "%", |found| {
            found.top1.map(|share| 100.0 * share)
        }));
    }
    figures
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

fn of_pictures(distance: &str, name: &str, rows: &[(String, Found)]) -> Option<String> {
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
    protocol.push(format!(
        "Sliced: the squared Wasserstein distance of the features along a random line, the mean of {LINES} lines, times the number \
         of features. Few pictures serve, as no covariance is estimated (MIND, Berthet et al., 2026, is of this kind; its scale may \
         differ): compare sets of equal size."
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
