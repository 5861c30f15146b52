//! The encoder: a vision transformer with learned concept tokens behind the patches.
//!
//! Patches and class token attend to each other only, concept token i to them and to concept tokens
//! up to i. So the first k tokens do not depend on how many are computed.

mod linear;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use semanticist_ops::{Activation, Visibility};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::nn::{
    Activations, Attention, BlockSize, Initial, Inputs, LayerNorm, Linear, Mlp, PatchEmbed, resize_grid,
};
use crate::noise::Noise;
use crate::spaces::{Pixels, Tokens};

pub use linear::{LINEAR_SIDE, LinearProjection, reduced};

/// The encoder's numbers; image size and token shape belong to the tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// The transformer.
    pub blocks: BlockSize,
    /// Probability, in the last block, that a sample skips a residual branch in training; it grows
    /// linearly from 0 in the first block.
    #[serde(default)]
    pub drop_path: f64,
    /// Standard deviation of the initial positions: 0.02 as published. That is a thirtieth of what the
    /// embedded patches have beside them, so that a short training run hardly learns to tell one place
    /// from another; with 1 it does from the first step.
    #[serde(default = "published_position_deviation", skip_serializing_if = "is_published_deviation")]
    pub position_deviation: f64,
    /// Whether a linear path from pixels to tokens stands beside the transformer ([`LinearProjection`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub linear_projection: bool,
}

/// As the published trainer draws positions.
pub const POSITION_DEVIATION: f64 = 0.02;

fn published_position_deviation() -> f64 {
    POSITION_DEVIATION
}

fn is_published_deviation(deviation: &f64) -> bool {
    *deviation == POSITION_DEVIATION
}

impl EncoderConfig {
    /// Checks what must hold for images of `image_size`.
    pub fn validate(&self, image_size: usize) -> Result<()> {
        self.blocks.validate("encoder")?;
        if self.patch_size == 0 || !image_size.is_multiple_of(self.patch_size) {
            return Err(Error::Config(format!(
                "encoder: image size {image_size} is not a multiple of patch size {}",
                self.patch_size
            )));
        }
        if !(0.0..1.0).contains(&self.drop_path) {
            return Err(Error::Config(format!("encoder: drop_path {} is not in [0, 1)", self.drop_path)));
        }
        if !(self.position_deviation.is_finite() && self.position_deviation >= 0.0) {
            return Err(Error::Config(format!(
                "encoder: position_deviation {} is not a number of 0 or more",
                self.position_deviation
            )));
        }
        if self.linear_projection && !image_size.is_multiple_of(LINEAR_SIDE) {
            return Err(Error::Config(format!(
                "encoder: linear_projection reduces images to {LINEAR_SIDE}×{LINEAR_SIDE} pixels, of which image \
                 size {image_size} is not a multiple"
            )));
        }
        Ok(())
    }
}

/// The token side of an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenShape {
    /// K, how many tokens an image has.
    pub count: usize,
    /// D, the numbers per token.
    pub dim: usize,
}

/// A vision transformer that answers with concept tokens.
#[derive(Module, Debug)]
pub struct Encoder {
    /// `[B, 3, H, W]` to N vectors of width W.
    pub patches: PatchEmbed,
    /// `[1, 1, W]`
    pub class_token: Param<Tensor<3>>,
    /// `[1, 1 + N + K, W]`: class token, patches, concept tokens
    pub positions: Param<Tensor<3>>,
    /// `[1, K, W]`
    pub concept_tokens: Param<Tensor<3>>,
    /// In the order in which they are passed.
    pub blocks: Vec<EncoderBlock>,
    /// Behind the last block; only concept tokens pass it.
    pub norm: LayerNorm,
    /// `[D, W]`
    pub projection: Linear,
    /// From pixels past the transformer, if the configuration asks for it.
    pub linear: Option<LinearProjection>,
    #[module(skip)]
    token_epsilon: f64,
    #[module(skip)]
    activations: Activations,
}

/// Everything the encoder computes of the concept tokens.
#[derive(Debug, Clone)]
pub struct EncoderOutput {
    /// `[B, k, W]`, after the last norm.
    pub features: Tensor<3>,
    /// `[B, k, D]`, projected.
    pub raw: Tensor<3>,
    /// `[B, k, D]`, projected and normalised.
    pub tokens: Tokens,
}

impl Encoder {
    /// Random weights.
    pub fn init(
        config: &EncoderConfig,
        image_size: usize,
        tokens: TokenShape,
        token_epsilon: f64,
        noise: &mut Noise,
        device: &Device,
    ) -> Self {
        let width = config.blocks.width;
        let patches = (image_size / config.patch_size).pow(2);
        let last = (config.blocks.depth - 1).max(1) as f64;
        let normal = |deviation, noise: &mut Noise, n| {
            Initial::Normal(deviation).parameter([1, n, width], noise, device)
        };
        Self {
            patches: PatchEmbed::init(3, config.patch_size, width, noise, device),
            class_token: normal(0.02, noise, 1),
            positions: normal(config.position_deviation, noise, 1 + patches + tokens.count),
            concept_tokens: normal(0.02, noise, tokens.count),
            blocks: (0..config.blocks.depth)
                .map(|i| {
                    EncoderBlock::init(&config.blocks, config.drop_path * i as f64 / last, noise, device)
                })
                .collect(),
            norm: LayerNorm::init(width, device),
            projection: Linear::init(width, tokens.dim, noise, device),
            linear: config.linear_projection.then(|| LinearProjection::init(tokens, noise, device)),
            token_epsilon,
            activations: Activations::Kept,
        }
    }

    /// What becomes of the values within blocks in training from here on; at first they are kept.
    pub fn set_activations(&mut self, activations: Activations) {
        self.activations = activations;
    }

    /// The same encoder for images of `patches` × `patches` patches: their positions are interpolated,
    /// those of the class token and the concept tokens stay.
    pub fn resized(mut self, patches: usize) -> Self {
        let positions = self.positions.val(); // [1, 1 + N + K, W]
        let [_, all, _] = positions.dims();
        let concepts = self.concept_tokens.lazy_shape()[1];
        let count = all - 1 - concepts;
        let of_patches = positions.clone().narrow(1, 1, count);
        let resized = resize_grid(of_patches, count.isqrt(), patches);
        let class_token = positions.clone().narrow(1, 0, 1);
        let of_concepts = positions.narrow(1, 1 + count, concepts);
        self.positions = Param::from_tensor(Tensor::cat(vec![class_token, resized, of_concepts], 1));
        self
    }

    /// The first `count` concept tokens of every image.
    ///
    /// `drop_path` is the source of the decisions which samples skip a branch: given in training,
    /// `None` in use.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` in `[0, 1]` -> `[B, count, ..]`
    ///
    /// # Panics
    /// If the images are not of the trained size, or there are fewer than `count` tokens.
    pub fn forward(&self, images: &Pixels, count: usize, drop_path: Option<&mut Noise>) -> EncoderOutput {
        let x = self.hidden(images, count, drop_path);
        let open = x.dims()[1] - count;
        let features = self.norm.forward(x.narrow(1, open, count)); // [B, k, W]
        let raw = self.projection.forward(features.clone()); // [B, k, D]
        let raw = match &self.linear {
            Some(linear) => {
                let dim = raw.dims()[2];
                raw + linear.forward(images, count, dim)
            }
            None => raw,
        };
        let tokens = Tokens(normalise(raw.clone(), self.token_epsilon));
        EncoderOutput { features, raw, tokens }
    }

    /// What the transformer makes of every patch, row by row, normalised as concept tokens are: what another decoder can
    /// be aligned with.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` in `[0, 1]` -> `[B, N, W]`
    ///
    /// # Panics
    /// If the images are not of the trained size.
    pub fn patch_features(&self, images: &Pixels) -> Tensor<3> {
        let x = self.hidden(images, 0, None);
        let patches = x.dims()[1] - 1;
        self.norm.forward(x.narrow(1, 1, patches))
    }

    /// Class token, patches and the first `count` concept tokens behind the last block: `[B, 1 + N + k, W]`.
    fn hidden(&self, images: &Pixels, count: usize, mut drop_path: Option<&mut Noise>) -> Tensor<3> {
        let patches = self.patches.forward(images.0.clone()); // [B, N, W]
        let [b, n, width] = patches.dims();
        let open = n + 1;
        assert_eq!(
            open + self.concept_tokens.dims()[1],
            self.positions.dims()[1],
            "images of another size than the encoder was built for"
        );
        let mut parts = vec![self.class_token.val().expand([b, 1, width]), patches];
        if count > 0 {
            parts.push(self.concept_tokens.val().narrow(1, 0, count).expand([b, count, width]));
        }
        let positions = self.positions.val().narrow(1, 0, open + count);
        let mut x = Tensor::cat(parts, 1) + positions; // [B, 1 + N + k, W]
        for block in &self.blocks {
            x = block.forward(self.activations, x, Visibility::Ordered { open }, drop_path.as_deref_mut());
        }
        x
    }
}

/// Each token less its mean, over its unbiased standard deviation.
///
/// `epsilon` is added to the variance: 0 as published, where a constant token becomes NaN.
///
/// # Shapes
/// `[B, k, D]` -> the same
pub fn normalise(raw: Tensor<3>, epsilon: f64) -> Tensor<3> {
    let dim = raw.dims()[2];
    let centred = raw.clone() - raw.mean_dim(2);
    let variance = centred.clone().square().sum_dim(2) / (dim - 1) as f64;
    centred / (variance + epsilon).sqrt()
}

/// A pre-norm transformer block.
#[derive(Module, Debug)]
pub struct EncoderBlock {
    /// Before the attention.
    pub norm1: LayerNorm,
    /// Of every position to those it sees.
    pub attention: Attention,
    /// Before the MLP.
    pub norm2: LayerNorm,
    /// With the exact GELU.
    pub mlp: Mlp,
    #[module(skip)]
    drop_path: f64,
}

impl EncoderBlock {
    /// Random weights; `drop_path` is the probability that a sample skips a branch in training.
    pub(crate) fn init(size: &BlockSize, drop_path: f64, noise: &mut Noise, device: &Device) -> Self {
        Self {
            norm1: LayerNorm::init(size.width, device),
            attention: Attention::init(size, noise, device),
            norm2: LayerNorm::init(size.width, device),
            mlp: Mlp::init(size, noise, device),
            drop_path,
        }
    }

    /// # Shapes
    /// `[B, N, width]` -> the same
    pub(crate) fn forward(
        &self,
        activations: Activations,
        x: Tensor<3>,
        visibility: Visibility,
        drop_path: Option<&mut Noise>,
    ) -> Tensor<3> {
        let inputs = Inputs { x, condition: None };
        activations.forward(self, inputs, drop_path, move |block, inputs, drop_path| {
            block.answer(inputs.x, visibility, drop_path)
        })
    }

    fn answer(&self, x: Tensor<3>, visibility: Visibility, mut drop_path: Option<&mut Noise>) -> Tensor<3> {
        let branch = self.attention.forward(self.norm1.forward(x.clone()), visibility);
        let x = x + self.dropped(branch, drop_path.as_deref_mut());
        let branch = self.mlp.forward(self.norm2.forward(x.clone()), Activation::Gelu);
        x + self.dropped(branch, drop_path)
    }

    /// Stochastic depth (Huang et al., 2016): a sample's branch is dropped, or scaled up to keep its
    /// expectation.
    fn dropped(&self, branch: Tensor<3>, noise: Option<&mut Noise>) -> Tensor<3> {
        let Some(noise) = noise.filter(|_| self.drop_path > 0.0) else {
            return branch;
        };
        let b = branch.dims()[0];
        let kept = (1.0 - self.drop_path) as f32;
        let factors = noise.uniform(b).into_iter().map(|u| if u < kept { 1.0 / kept } else { 0.0 });
        let factors = TensorData::new(factors.collect::<Vec<_>>(), [b, 1, 1]);
        let factors = Tensor::from_data(factors, &branch.device());
        branch * factors
    }
}
