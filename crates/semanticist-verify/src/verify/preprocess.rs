//! The evaluation crop, pixel by pixel.

use std::path::Path;

use semanticist::image::{RgbImage, center_crop, open};
use semanticist::{Error, Result};
use serde::Deserialize;

use super::comparison::Comparison;
use super::tolerance::Kind;

pub(super) const FILE: &str = "preprocess/cases.json";

#[derive(Debug, Deserialize)]
struct Crops {
    cases: Vec<Crop>,
}

/// File names are relative to the file of the cases.
#[derive(Debug, Deserialize)]
struct Crop {
    image: String,
    size: usize,
    expected: String,
}

pub(super) fn run(comparison: &mut Comparison) -> Result<()> {
    for crop in read(comparison.folder)?.cases {
        match crop.pixels(comparison.folder) {
            Ok([recorded, found]) => comparison.record(&crop.expected, &recorded, &found, Kind::Exact),
            Err(error) => comparison.unreadable(&crop.expected, error.to_string()),
        }
    }
    Ok(())
}

/// The images that the cases name, relative to the folder; none if they cannot be read.
pub(super) fn images(folder: &Path) -> Vec<String> {
    let crops = read(folder).map(|crops| crops.cases).unwrap_or_default();
    let names = crops.into_iter().flat_map(|crop| [crop.image, crop.expected]);
    names.map(|name| format!("preprocess/{name}")).collect()
}

fn read(folder: &Path) -> Result<Crops> {
    let path = folder.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, "read", error))?;
    serde_json::from_str(&text).map_err(|error| Error::file(&path, error.to_string()))
}

impl Crop {
    /// As recorded, and as cropped here.
    fn pixels(&self, folder: &Path) -> Result<[Vec<f64>; 2]> {
        let inside = |name: &str| folder.join("preprocess").join(name);
        let path = inside(&self.expected);
        let recorded = open(&path)?;
        let (width, height) = recorded.dimensions();
        // The size is a true one only if the recorded crop has it.
        if [width, height].map(|side| side as usize) != [self.size; 2] {
            let problem = format!("is {width}x{height}, expected {0}x{0} by {FILE}", self.size);
            return Err(Error::file(path, problem));
        }
        let found = center_crop(&open(&inside(&self.image))?, self.size);
        Ok([recorded, found].map(levels))
    }
}

fn levels(image: RgbImage) -> Vec<f64> {
    image.into_raw().into_iter().map(f64::from).collect()
}
