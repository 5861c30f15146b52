//! What a model takes of memory, estimated from its sizes before anything is loaded.

use std::collections::BTreeMap;

use burn::tensor::Device;
use serde::Serialize;

use crate::autoencoder::AutoencoderConfig;
use crate::encoder::EncoderConfig;
use crate::error::Result;
use crate::nn::BlockSize;
use crate::noise::Noise;
use crate::precision::{Precision, is_linear};
use crate::tokenizer::{Networks, TokenizerConfig};
use crate::weights;

/// What begins the names of an autoencoder's tensors.
const AUTOENCODER: &str = "autoencoder.";

const FLOAT: u64 = size_of::<f32>() as u64;

/// How many copies of its hidden states a network holds at most: those between its layers, those within
/// an MLP, and what the allocator keeps. Measured with `bench` at batches of 1 to 32 (BENCHMARKS.md).
const ENCODER_COPIES: u64 = 18;
const DECODER_COPIES: u64 = 36;
/// The same of what a refinement holds of the latent pixels, while the transformer's are gone.
const REFINEMENT_COPIES: u64 = 6;
/// The same of an autoencoder at its finest level.
const AUTOENCODER_COPIES: u64 = 8;

/// Pixels that the KL autoencoder computes at once: four images of 256×256.
const KL_PIXELS: u64 = 4 * 256 * 256;

/// Code, the built-in model, threads and images that are being read.
const PROGRAM: u64 = 96 << 20;

/// Bytes of memory; estimates, except for the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The weights, in 32 bits.
    pub weights: u64,
    /// What of them bfloat16 halves: those of the networks' linear layers, in 32 bits.
    pub linear: u64,
    /// What loading takes besides, for a while.
    pub loading: u64,
    /// What encoding takes per image.
    pub encode: u64,
    /// What decoding takes per image, without guidance.
    pub decode: u64,
    /// What the autoencoder takes at the end of decoding, however many images there are.
    pub autoencoder: u64,
}

/// What a command does at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Images that are encoded together.
    pub encode: usize,
    /// Images that go through the decoder together; with guidance, each counts twice.
    pub decode: usize,
    /// What products are computed in.
    pub precision: Precision,
}

impl Memory {
    /// Of a configuration.
    ///
    /// # Errors
    /// If it is impossible.
    pub fn of(config: &TokenizerConfig) -> Result<Self> {
        let shapes = shapes(config)?;
        let numbers = |shape: &Vec<usize>| shape.iter().product::<usize>() as u64;
        // The autoencoder stays as it is.
        let linear = |(name, shape): &(&String, &Vec<usize>)| {
            is_linear(name, shape.len()) && !name.starts_with(AUTOENCODER)
        };
        let largest = shapes.values().map(numbers).max().unwrap_or_default();
        let pixels = (config.image_size as u64).pow(2);
        let latent = config.latent_shape()?;
        let patches = (latent.side / config.decoder.patch_size).pow(2);
        let EncoderConfig { patch_size, ref blocks, .. } = config.encoder;
        let encoded = (config.image_size / patch_size).pow(2) + 1 + config.tokens;
        let transformer = DECODER_COPIES * hidden_states(&config.decoder.blocks, patches + config.tokens);
        let refined =
            config.decoder.refinement.map_or(0, |it| (latent.side.pow(2) * it.width) as u64 * FLOAT);
        Ok(Self {
            weights: shapes.values().map(numbers).sum::<u64>() * FLOAT,
            linear: shapes.iter().filter(linear).map(|(_, shape)| numbers(shape)).sum::<u64>() * FLOAT,
            // The tensor that is being placed, as the file has it.
            loading: largest * FLOAT,
            encode: ENCODER_COPIES * hidden_states(blocks, encoded) + 3 * pixels * FLOAT,
            decode: transformer.max(REFINEMENT_COPIES * refined) + 3 * pixels * FLOAT,
            autoencoder: autoencoder(&config.autoencoder, pixels),
        })
    }

    /// The weights as they are used in this precision.
    pub fn weights_in(&self, precision: Precision) -> u64 {
        match precision {
            Precision::Float32 => self.weights,
            Precision::Bfloat16 => self.weights - self.linear / 2,
        }
    }

    /// The most that a command takes which does this work, the program itself included. All weights are
    /// loaded in float32 first and rounded then, one after the other.
    pub fn needed(&self, work: Work) -> u64 {
        let encode = self.encode.saturating_mul(work.encode as u64);
        let decode = match work.decode {
            0 => 0,
            images => self.decode.saturating_mul(images as u64).saturating_add(self.autoencoder),
        };
        // What the allocator loses between tensors was up to a fifteenth.
        let lost = self.weights / 16;
        let loading = self.weights.saturating_add(self.loading);
        let working = self.weights_in(work.precision).saturating_add(encode.max(decode));
        loading.max(working).saturating_add(lost).saturating_add(PROGRAM)
    }
}

/// The shape of every tensor in the file of a tokenizer, by name; nothing is allocated for them.
///
/// # Errors
/// If the configuration is impossible.
pub fn shapes(config: &TokenizerConfig) -> Result<BTreeMap<String, Vec<usize>>> {
    let device = Device::flex();
    let networks = Networks::init(config, &mut Noise::seeded(0), &device)?;
    let mut shapes = weights::shapes(&networks, "");
    shapes.extend(config.autoencoder.shapes(&device));
    Ok(shapes)
}

/// `[rows, width]`
fn hidden_states(blocks: &BlockSize, rows: usize) -> u64 {
    rows as u64 * blocks.width as u64 * FLOAT
}

fn autoencoder(config: &AutoencoderConfig, pixels: u64) -> u64 {
    match config {
        AutoencoderConfig::Pixel {} | AutoencoderConfig::Linear { .. } => 0,
        AutoencoderConfig::Kl(kl) => {
            AUTOENCODER_COPIES * KL_PIXELS.max(pixels) * kl.base_width as u64 * FLOAT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    fn memory(preset: &str) -> Memory {
        Memory::of(&presets::tokenizer(preset).unwrap()).unwrap()
    }

    #[test]
    fn weights_are_those_of_the_published_lists() {
        // ViT-B and DiT-L of tests/data/weights/tokenizer-DiT-L-2.json without the fixed positions, and the
        // 66.6 million numbers of KL-16.
        let published = include_str!("../../tests/data/weights/tokenizer-DiT-L-2.json");
        let published: BTreeMap<String, Vec<u64>> = serde_json::from_str(published).unwrap();
        let count = |(name, shape): (&String, &Vec<u64>)| {
            if name == weights::names::FROZEN_POSITIONS { 0 } else { shape.iter().product::<u64>() }
        };
        let networks: u64 = published.iter().map(count).sum();
        let autoencoder = memory("l-256x16").weights / FLOAT - networks;
        assert!((66_000_000..67_000_000).contains(&autoencoder), "{autoencoder}");
    }

    #[test]
    fn more_work_takes_more_and_the_greatest_part_counts() {
        let memory = Memory { weights: 100, linear: 80, loading: 7, encode: 2, decode: 3, autoencoder: 10 };
        let needed_in = |precision, encode, decode| memory.needed(Work { encode, decode, precision });
        let needed = |encode, decode| needed_in(Precision::Float32, encode, decode);
        let expected = |numbers: [u64; 3]| numbers.map(|number| number + 6 + PROGRAM);
        assert_eq!([needed(0, 0), needed(2, 0), needed(4, 0)], expected([107, 107, 108]));
        assert_eq!([needed(0, 1), needed(8, 1), needed(0, 4)], expected([113, 116, 122]));
        assert_eq!(needed(usize::MAX, 1), u64::MAX, "does not wrap");
        // In bfloat16 loading is the peak until the work is as large as what it saves.
        let rounded = |encode| needed_in(Precision::Bfloat16, encode, 0);
        assert_eq!([rounded(2), rounded(23), rounded(25)], expected([107, 107, 110]));
        let larger = TokenizerConfig { image_size: 512, ..presets::tokenizer("b-128x32").unwrap() };
        let larger = Memory::of(&larger).unwrap();
        let trained = self::memory("b-128x32");
        assert!(larger.encode > 2 * trained.encode && larger.autoencoder == trained.autoencoder);
    }
}
