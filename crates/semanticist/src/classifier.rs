//! A classifier: a plain vision transformer that tells classes apart by the mean of its patches.
//!
//! As "Better plain ViT baselines for ImageNet-1k" (Beyer et al., 2022, section 2) has it, because that learns more
//! in short runs than the original: fixed sine-cosine positions, the mean of all patches instead of a class token, a
//! single linear layer as the head, which starts as 0. What it sees of an image before that layer is a space to
//! compare images in.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist_ops::Visibility;
use serde::{Deserialize, Serialize};

use crate::encoder::EncoderBlock;
use crate::error::{Error, Result};
use crate::nn::{Activations, BlockSize, LayerNorm, Linear, PatchEmbed, sine_cosine_grid};
use crate::noise::Noise;
use crate::precision::Precision;
use crate::spaces::Pixels;

/// Everything that defines a classifier but its weights and the names of its classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Side of the square images, in pixels.
    pub image_size: usize,
    /// C, how many classes there are.
    pub classes: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// The transformer.
    pub blocks: BlockSize,
    /// Probability, in the last block, that a sample skips a residual branch in training; it grows linearly from 0
    /// in the first block.
    #[serde(default)]
    pub drop_path: f64,
}

impl ClassifierConfig {
    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// Names the first field that does not fit, and what would.
    pub fn validate(&self) -> Result<()> {
        let Self { image_size, classes, patch_size, blocks, drop_path } = self;
        blocks.validate("classifier")?;
        let problem = if *classes < 2 {
            format!("{classes} classes; at least 2 can be told apart")
        } else if *patch_size == 0 || *image_size == 0 || !image_size.is_multiple_of(*patch_size) {
            format!("image size {image_size} is not a multiple of patch size {patch_size}")
        } else if !blocks.width.is_multiple_of(4) {
            format!("the sine-cosine positions need a width that is a multiple of 4, found {}", blocks.width)
        } else if !(0.0..1.0).contains(drop_path) {
            format!("drop_path {drop_path} is not in [0, 1)")
        } else {
            return Ok(());
        };
        Err(Error::Config(format!("classifier: {problem}")))
    }
}

/// The parts that learn.
#[derive(Module, Debug)]
pub struct ClassifierNetwork {
    /// `[B, 3, H, W]` to N vectors of the width.
    pub patches: PatchEmbed,
    /// In the order in which they are passed.
    pub blocks: Vec<EncoderBlock>,
    /// Behind the last block.
    pub norm: LayerNorm,
    /// `[C, width]`
    pub head: Linear,
    /// `[1, N, width]`, fixed.
    positions: Tensor<3>,
    #[module(skip)]
    activations: Activations,
}

impl ClassifierNetwork {
    /// Random weights, but for the head: all classes start as equally probable.
    ///
    /// # Errors
    /// If the configuration is impossible.
    pub fn init(config: &ClassifierConfig, noise: &mut Noise, device: &Device) -> Result<Self> {
        config.validate()?;
        let ClassifierConfig { image_size, classes, patch_size, blocks: size, drop_path } = config;
        let last = (size.depth - 1).max(1) as f64;
        Ok(Self {
            patches: PatchEmbed::init(3, *patch_size, size.width, noise, device),
            blocks: (0..size.depth)
                .map(|i| EncoderBlock::init(size, drop_path * i as f64 / last, noise, device))
                .collect(),
            norm: LayerNorm::init(size.width, device),
            head: Linear::init_zero(size.width, *classes, device),
            positions: sine_cosine_grid(image_size / patch_size, size.width, device),
            activations: Activations::Kept,
        })
    }

    /// What becomes of the values within blocks in training from here on; at first they are kept.
    pub fn set_activations(&mut self, activations: Activations) {
        self.activations = activations;
    }

    /// What the transformer makes of every patch, row by row.
    ///
    /// `drop_path` is the source of the decisions which samples skip a branch: given in training, `None` in use.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` in `[0, 1]` -> `[B, N, width]`
    ///
    /// # Panics
    /// If the images are not of the trained size.
    pub fn patch_features(&self, images: &Pixels, mut drop_path: Option<&mut Noise>) -> Tensor<3> {
        let mut x = self.patches.forward(images.0.clone() * 2.0 - 1.0) + self.positions.clone(); // [B, N, width]
        for block in &self.blocks {
            x = block.forward(self.activations, x, Visibility::All, drop_path.as_deref_mut());
        }
        self.norm.forward(x)
    }

    /// The mean over the patches.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` in `[0, 1]` -> `[B, width]`
    ///
    /// # Panics
    /// If the images are not of the trained size.
    pub fn features(&self, images: &Pixels, drop_path: Option<&mut Noise>) -> Tensor<2> {
        self.patch_features(images, drop_path).mean_dim(1).squeeze_dim(1)
    }

    /// The logits of the classes: their softmax are the probabilities.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` in `[0, 1]` -> `[B, C]`
    ///
    /// # Panics
    /// If the images are not of the trained size.
    pub fn forward(&self, images: &Pixels, drop_path: Option<&mut Noise>) -> Tensor<2> {
        self.head.forward(self.features(images, drop_path))
    }
}

/// A ready classifier.
#[derive(Debug, Clone)]
pub struct Classifier {
    /// Its sizes.
    pub config: ClassifierConfig,
    /// Its weights.
    pub network: ClassifierNetwork,
}

impl Classifier {
    /// The same classifier with its products computed in `precision`. The weights are rounded for that, and
    /// nothing brings them back: asked for float32, a classifier in bfloat16 stays as it is, and it cannot be
    /// saved.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { network: precision.store(self.network), ..self }
    }

    /// The logits of the classes.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` -> `[B, C]`, with H = W = the configured size
    ///
    /// # Errors
    /// If the images are of another size.
    pub fn logits(&self, images: &Pixels) -> Result<Tensor<2>> {
        self.check(images)?;
        Ok(self.network.forward(images, None))
    }

    /// Images as vectors, those of similar content close to each other: what the head sees.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` -> `[B, width]`, with H = W = the configured size
    ///
    /// # Errors
    /// If the images are of another size.
    pub fn features(&self, images: &Pixels) -> Result<Tensor<2>> {
        self.check(images)?;
        Ok(self.network.features(images, None))
    }

    /// The same before the mean, patch by patch, row by row: what a decoder can be aligned with.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` -> `[B, N, width]`, with H = W = the configured size
    ///
    /// # Errors
    /// If the images are of another size.
    pub fn patch_features(&self, images: &Pixels) -> Result<Tensor<3>> {
        self.check(images)?;
        Ok(self.network.patch_features(images, None))
    }

    fn check(&self, images: &Pixels) -> Result<()> {
        let (size, dims) = (self.config.image_size, images.0.dims());
        if dims[1..] == [3, size, size] {
            return Ok(());
        }
        Err(Error::Input(format!(
            "the images are {dims:?}, but the classifier takes [B, 3, {size}, {size}]; crop or resize them"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classifier() -> Classifier {
        let config = ClassifierConfig {
            image_size: 8,
            classes: 3,
            patch_size: 4,
            blocks: BlockSize { width: 16, depth: 2, heads: 2, mlp_ratio: 2 },
            drop_path: 0.5,
        };
        let network = ClassifierNetwork::init(&config, &mut Noise::seeded(1), &Device::flex()).unwrap();
        Classifier { config, network }
    }

    fn images(count: usize) -> Pixels {
        Pixels(Noise::seeded(2).normal([count, 3, 8, 8], &Device::flex()).clamp(-1.0, 1.0) * 0.5 + 0.5)
    }

    fn largest(x: Tensor<2>) -> f32 {
        x.abs().max().into_scalar()
    }

    #[test]
    fn all_classes_start_as_equally_probable_and_features_are_the_mean_of_patches() {
        let classifier = classifier();
        assert_eq!(largest(classifier.logits(&images(2)).unwrap()), 0.0);
        let patches = classifier.patch_features(&images(2)).unwrap();
        assert_eq!(patches.dims(), [2, 4, 16]);
        let features = classifier.features(&images(2)).unwrap();
        assert!(largest(patches.sum_dim(1).squeeze_dim::<2>(1) / 4.0 - features) < 1e-6);
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch_and_its_parts_have_places() {
        let (classifier, images) = (classifier(), images(3));
        let all = classifier.features(&images).unwrap();
        let alone = classifier.features(&Pixels(images.0.clone().narrow(0, 1, 1))).unwrap();
        assert!(largest(all.clone().narrow(0, 1, 1) - alone) < 1e-5);
        // Left and right half exchanged: the same patches in other places.
        let halves = [images.0.clone().narrow(3, 4, 4), images.0.narrow(3, 0, 4)];
        let exchanged = classifier.features(&Pixels(Tensor::cat(halves.to_vec(), 3))).unwrap();
        assert!(largest(all - exchanged) > 1e-3);
    }

    #[test]
    fn drop_path_is_of_training_alone() {
        let (classifier, images) = (classifier(), images(1));
        let features = |noise: Option<&mut Noise>| classifier.network.features(&images, noise);
        let dropped = (0..8).map(|seed| features(Some(&mut Noise::seeded(seed))));
        assert!(dropped.map(|dropped| largest(dropped - features(None))).fold(0.0, f32::max) > 1e-3);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let config = classifier().config;
        let wide = BlockSize { width: 18, ..config.blocks };
        for (wrong, part) in [
            (ClassifierConfig { classes: 1, ..config.clone() }, "1 classes"),
            (ClassifierConfig { patch_size: 3, ..config.clone() }, "8 is not a multiple of patch size 3"),
            (ClassifierConfig { blocks: wide, ..config.clone() }, "multiple of 4, found 18"),
            (ClassifierConfig { drop_path: 1.0, ..config.clone() }, "drop_path 1"),
        ] {
            let error = wrong.validate().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let small = Pixels(Tensor::zeros([1, 3, 4, 4], &Device::flex()));
        let error = classifier().logits(&small).unwrap_err().to_string();
        assert!(error.contains("[1, 3, 4, 4]") && error.contains("[B, 3, 8, 8]"), "{error}");
    }
}
