//! Reading a model file of full size, made of random weights without ever holding them all.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;

use burn::tensor::Device;
use semanticist::files::write_atomically;
use semanticist::model::{shapes, tokenizer_metadata};
use semanticist::weights::Dtype;
use semanticist::weights::header::{self, Entry};
use semanticist::{ModelFile, Noise, Result, TokenizerConfig};

use super::Measured;
use super::jobs::{Scratch, median, seconds_of};

/// Reading a model of this size from a file in float32: into `kept`, which is written if it is not
/// there and stays, or into a file that is gone afterwards.
///
/// Every run counts. The first also waits for the system's memory, and for the disk if the file is not
/// in the system's cache; the median of three or more does not.
pub fn load(
    config: &TokenizerConfig,
    kept: Option<&Path>,
    repeats: usize,
    device: &Device,
) -> Result<Measured> {
    let folder = Scratch::new()?;
    let path = kept.map_or_else(|| folder.0.join("model.safetensors"), Path::to_path_buf);
    let shapes = shapes(config)?;
    if !path.exists() {
        write(&path, config, &shapes)?;
    }
    let mut outcome = Ok(());
    let mut job = || match ModelFile::open(&path).and_then(|file| file.into_tokenizer()?.load(device)) {
        Ok(model) => drop(black_box(model)),
        Err(error) => outcome = Err(error),
    };
    let seconds = median((0..repeats).map(|_| seconds_of(&mut job)).collect());
    outcome?;
    let numbers: usize = shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
    let model_bytes = Some((numbers * size_of::<f32>()) as u64);
    Ok(Measured { seconds, model_bytes, ..Measured::default() })
}

fn write(path: &Path, config: &TokenizerConfig, shapes: &BTreeMap<String, Vec<usize>>) -> Result<()> {
    let entry = |(name, shape): (&String, &Vec<usize>)| Entry {
        name: name.clone(),
        dtype: Dtype::F32,
        shape: shape.clone(),
    };
    let header = header::write(&shapes.iter().map(entry).collect::<Vec<_>>(), &tokenizer_metadata(config), 0);
    let mut noise = Noise::seeded(0);
    write_atomically(path, |file| {
        file.write_all(&header)?;
        for shape in shapes.values() {
            for value in noise.uniform(shape.iter().product()) {
                // Small and positive, as the scales of a linear autoencoder must be.
                file.write_all(&(0.01 + 0.04 * value).to_le_bytes())?;
            }
        }
        Ok(())
    })
}
