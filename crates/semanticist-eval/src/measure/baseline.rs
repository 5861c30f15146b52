//! Principal components of whole images: what as many numbers as tokens are can say without a network.

use burn::tensor::Tensor;
use semanticist::image::to_pixels;
use semanticist::{Latents, Pixels, Result};

use super::Subject;
use crate::principal::PrincipalComponents;
use crate::reconstruction;

/// Images that components are fitted to at most.
const IMAGES: usize = 5000;

/// Numbers in all those images together at most: half a gigabyte of them is in memory at once.
const NUMBERS: usize = 1 << 27;

/// Of pixels and of latents.
pub struct Components {
    /// Of pixels in `[0, 1]`.
    pub pixels: PrincipalComponents,
    /// Of the autoencoder's latents.
    pub latents: PrincipalComponents,
    /// How many images they were fitted to.
    pub images: usize,
}

impl Components {
    /// As many components as all tokens have numbers, or as there can be.
    ///
    /// # Errors
    /// If the training images cannot be read, or are fewer than two.
    pub fn fit(subject: &Subject) -> Result<Self> {
        let size = subject.size();
        let wanted = subject.counts.iter().max().copied().unwrap_or(0);
        let wanted = subject.numbers(wanted).max(1);
        let count = IMAGES.min(NUMBERS / (3 * size * size)).max(2);
        let (mut pixels, mut latents) = (Vec::new(), Vec::new());
        let mut images = reconstruction::images(subject.training, count, size);
        loop {
            let batch = images.by_ref().take(super::BATCH).collect::<Result<Vec<_>>>()?;
            if batch.is_empty() {
                break;
            }
            let batch = to_pixels(&batch, subject.device);
            latents.push(rows(subject.tokenizer.autoencoder.encode(&batch).0));
            pixels.push(rows(batch.0));
        }
        let found: usize = pixels.iter().map(|part: &Tensor<2>| part.dims()[0]).sum();
        if found == 0 {
            return Err(semanticist::Error::Data(
                "no image to fit principal components to could be decoded".into(),
            ));
        }
        Ok(Self {
            pixels: PrincipalComponents::fit(Tensor::cat(pixels, 0), wanted)?,
            latents: PrincipalComponents::fit(Tensor::cat(latents, 0), wanted)?,
            images: found,
        })
    }

    /// Images as the first `numbers` components of their pixels show them.
    pub fn shown(&self, images: &Pixels, numbers: usize) -> Pixels {
        let scores = self.pixels.scores(rows(images.0.clone()));
        Pixels(self.pixels.rows(&scores, numbers).reshape(images.0.dims()))
    }

    /// For each count of numbers, of each image the squared error of its pixels and of its latents.
    pub fn residuals(&self, pixels: &Pixels, latents: &Latents, numbers: &[usize]) -> [Vec<Vec<f64>>; 2] {
        [
            self.pixels.residuals(rows(pixels.0.clone()), numbers),
            self.latents.residuals(rows(latents.0.clone()), numbers),
        ]
    }

    /// How they were fitted, in a sentence.
    pub fn protocol(&self) -> String {
        format!(
            "Principal components were fitted to {} images of the training part, without whitening.",
            self.images
        )
    }
}

/// `[B, C, H, W]` → `[B, C H W]`
fn rows(x: Tensor<4>) -> Tensor<2> {
    x.flatten(1, 3)
}
