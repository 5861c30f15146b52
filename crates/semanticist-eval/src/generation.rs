//! Images of tokens that an encoder gave or a generator drew.

use std::ops::ControlFlow;

use semanticist::diffusion::DecodeOptions;
use semanticist::image::{RgbImage, from_pixels};
use semanticist::model::GeneratorModel;
use semanticist::{Noise, Purpose, Result, Seed, Tokenizer, Tokens};

use crate::sheet::Cell;

/// Images that go through the decoder together.
const TOGETHER: usize = 16;

/// How tokens become images.
#[derive(Debug, Clone)]
pub struct ImageDecoding {
    /// Steps, sampler and guidance of the decoder.
    pub options: DecodeOptions,
    /// The seed of the noise that each image starts from, whatever the number of tokens.
    pub seeds: Vec<u64>,
}

impl ImageDecoding {
    /// The images of the first `keep` of the tokens; later ones are the null tokens.
    /// `after_step` is called for every step of every batch, with the images in it.
    ///
    /// # Errors
    /// If the sampler cannot run.
    ///
    /// # Panics
    /// If there are not as many seeds as images, or fewer than `keep` tokens.
    pub fn decode(
        &self,
        tokenizer: &Tokenizer,
        tokens: &Tokens,
        keep: usize,
        mut after_step: impl FnMut(usize),
    ) -> Result<Vec<RgbImage>> {
        let mut images = Vec::with_capacity(self.seeds.len());
        for (number, seeds) in self.seeds.chunks(TOGETHER).enumerate() {
            let tokens = Tokens(tokens.0.clone().narrow(0, number * TOGETHER, seeds.len()));
            let seeds_of_latents = seeds.iter().map(|&seed| Seed::new(seed).of(Purpose::Latents));
            let mut noise = Noise::per_sample(seeds_of_latents);
            let keep = vec![keep; seeds.len()];
            let mut observe = |_| {
                after_step(seeds.len());
                ControlFlow::Continue(())
            };
            let decoded =
                tokenizer.decode_observed(&tokens, &keep, &self.options, &mut noise, &mut observe)?;
            images.extend(from_pixels(&decoded));
        }
        Ok(images)
    }

    /// A row per image: what is decoded after its first, second, fourth … token, and after all.
    ///
    /// # Errors
    /// If the sampler cannot run.
    pub fn progressive(
        &self,
        tokenizer: &Tokenizer,
        tokens: &Tokens,
        names: &[String],
        mut after_step: impl FnMut(usize),
    ) -> Result<Vec<Vec<Cell>>> {
        let mut rows: Vec<Vec<Cell>> = vec![Vec::new(); names.len()];
        for count in powers(tokens.count()) {
            let images = self.decode(tokenizer, tokens, count, &mut after_step)?;
            for ((row, picture), name) in rows.iter_mut().zip(images).zip(names) {
                row.push(Cell::decoded(picture, count).with_detail(name.clone()));
            }
        }
        Ok(rows)
    }
}

/// 1, 2, 4 … and `all`.
pub fn powers(all: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1), |count| Some(count * 2));
    powers.take_while(|&count| count < all).chain([all]).collect()
}

/// The first name of a class, or its number.
pub fn class_name(model: &GeneratorModel, label: usize) -> String {
    match model.classes.get(label) {
        Some(name) => name.split(',').next().unwrap_or_default().trim().to_string(),
        None => format!("class {label}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_end_with_all() {
        assert_eq!(powers(32), [1, 2, 4, 8, 16, 32]);
        assert_eq!(powers(6), [1, 2, 4, 6]);
        assert_eq!(powers(1), [1]);
    }
}
