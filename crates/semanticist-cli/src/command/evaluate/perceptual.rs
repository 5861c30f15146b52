//! LPIPS and DISTS, if their weights are given.

use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::Device;
use semanticist_eval::features::file_hash;
use semanticist_eval::perceptual::{Dists, Lpips, PerceptualMeasures};
use serde_json::{Value, json};

use crate::args::PerceptualFiles;

/// The measures, and which weights they have.
#[derive(Default)]
pub struct Perceptual {
    pub measures: PerceptualMeasures,
    /// SHA-256 of the files: what of them decides what is found.
    pub hashes: Value,
}

impl Perceptual {
    /// For squares of `size` pixels.
    pub fn open(files: &PerceptualFiles, size: usize, device: &Device) -> Result<Self> {
        let PerceptualFiles { lpips, dists } = files;
        let hashes =
            |files: &[PathBuf]| files.iter().map(|file| file_hash(file)).collect::<Result<Vec<_>, _>>();
        let measures = PerceptualMeasures {
            lpips: (!lpips.is_empty()).then(|| Lpips::load(lpips, device)).transpose()?,
            dists: (!dists.is_empty()).then(|| Dists::load(dists, device)).transpose()?,
        };
        measures.check_size(size)?;
        Ok(Self { measures, hashes: json!({ "lpips": hashes(lpips)?, "dists": hashes(dists)? }) })
    }
}
