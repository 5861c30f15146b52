//! `semanticist evaluate generation`: whether generated pictures look like images, to a network.

use std::path::PathBuf;

use anyhow::Result;
use semanticist_eval::findings::Made;
use semanticist_eval::measure::{self, frechet};
use serde_json::json;

use super::compared::{Asked, Compared};
use super::data::{Data, NamedData};
use super::keep::{self, Work};
use crate::args::{Comparing, Images};
use crate::failure;

pub fn run(
    on: &Images,
    comparing: &Comparing,
    (series, size): (&[(String, PathBuf)], Option<usize>),
    seed: u64,
) -> Result<()> {
    if on.plot.is_some() {
        return Err(failure::usage(
            "--plot: sets of pictures have numbers, but nothing to draw; leave it out",
        ));
    }
    let precision = on.machine.precision();
    let device = on.machine.start(precision)?;
    let compared = Compared::open(comparing, &device)?;
    let data = Data::validation(&on.data)?;
    let training = Data::training(&on.training, &on.data)?;
    let series = NamedData::open(series)?;
    let size = side(&compared, size, &series)?;
    let asked = Asked { size, images: on.images, series: series.sources(), seed };
    let pictures = compared.pictures(&data, &training, asked, &device);
    let made = Made {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        version: env!("CARGO_PKG_VERSION").into(),
        model: None,
        data: data.fingerprint.clone(),
        training: training.fingerprint.clone(),
        images: on.images,
        image_size: size,
        crop: measure::CROP.into(),
        precision: precision.to_string(),
        options: json!({ "series": series.options(), "features": compared.options(), "seed": seed }),
        seconds: 0.0,
    };
    let all = [&data, &training].into_iter().chain(series.0.iter().map(|(_, data)| data)).collect();
    let work = Work {
        kind: "generation",
        made,
        data: all,
        pieces: pictures.pieces(0),
        takes_earlier: pictures.save.is_none(),
    };
    keep::show(on, |kept| {
        work.findings(kept, |finished, observe| frechet::measure(&pictures, None, finished, observe))
    })
}

/// Side of the squares that are compared.
fn side(compared: &Compared, asked: Option<usize>, series: &NamedData) -> Result<usize> {
    match (compared.network.image_size(), asked) {
        (Some(found), Some(asked)) if found != asked => Err(failure::usage(format!(
            "--size {asked}: the classifier sees {found}×{found} pixels and nothing else; leave it out"
        ))),
        (Some(size), _) | (None, Some(size)) => Ok(size),
        (None, None) => {
            let first = series.0.first().and_then(|(_, data)| data.source.records().next());
            let Some(first) = first.transpose()? else {
                return Err(failure::usage(
                    "--size: without pictures in --series, say of which size images are to be, such as --size 256",
                ));
            };
            let picture = semanticist::image::decode(&first.name, &first.bytes)?;
            Ok(picture.width().min(picture.height()) as usize)
        }
    }
}
