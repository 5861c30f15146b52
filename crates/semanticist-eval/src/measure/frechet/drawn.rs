//! Pictures that a generator draws at several scales of guidance.

use semanticist::diffusion::DecodeOptions;
use semanticist::generator::GenerateOptions;
use semanticist::model::GeneratorModel;
use semanticist::{Result, Tokenizer};

use super::super::Observer;
use super::decoder::Row;
use crate::generation::ImageDecoding;

/// Images that are drawn together.
const TOGETHER: usize = 32;

/// A generator, and how it draws: the same seeds at every scale.
#[derive(Clone)]
pub struct GuidanceSweep<'a> {
    /// What draws tokens.
    pub generator: &'a GeneratorModel,
    /// What decodes them.
    pub tokenizer: &'a Tokenizer,
    /// Scales of guidance.
    pub scales: Vec<f64>,
    /// How tokens are drawn, but for the scale.
    pub options: GenerateOptions,
    /// How they are decoded.
    pub sampling: DecodeOptions,
    /// How many images at each scale: of the classes in turn.
    pub images: usize,
    /// Of the first image; the next ones follow.
    pub seed: u64,
}

impl GuidanceSweep<'_> {
    /// How many pictures there are for each image.
    pub fn passes(&self) -> usize {
        self.scales.len()
    }

    /// What the row of a scale is called.
    pub(super) fn name(scale: f64) -> String {
        format!("guidance {scale}")
    }

    pub(super) fn draw(&self, observe: Observer, row: Row) -> Result<()> {
        for &scale in &self.scales {
            let mut options = self.options.clone();
            options.drawing.guidance.scale = scale;
            row(Self::name(scale), &mut |take| {
                let classes = self.generator.generator.config.classes;
                let all: Vec<usize> = (0..self.images).collect();
                for numbers in all.chunks(TOGETHER) {
                    let labels: Vec<usize> = numbers.iter().map(|number| number % classes).collect();
                    let seeds: Vec<u64> =
                        numbers.iter().map(|&number| self.seed.wrapping_add(number as u64)).collect();
                    let tokens = self.generator.generator.generate(&labels, &options, seeds[0])?;
                    let decoding = ImageDecoding { options: self.sampling.clone(), seeds };
                    let pictures = decoding.decode(self.tokenizer, &tokens, options.tokens, |_| ())?;
                    observe(numbers.len());
                    let labels: Vec<_> = labels.iter().map(|&label| Some(label as i64)).collect();
                    take(pictures, &labels)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
