//! The decoder: a diffusion transformer that removes noise from latents, told by the tokens what
//! the image shows.

mod estimate;
mod output;
mod refinement;

use std::fmt;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use semanticist_ops::{self as ops, Activation, Visibility};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

use crate::encoder::TokenShape;
use crate::error::{Error, Result};
use crate::nn::{
    Activations, Attention, BlockSize, Initial, Inputs, Linear, Mlp, NORM_EPSILON, PatchEmbed, TimestepEmbed,
    sine_cosine_grid, unpatchify,
};
use crate::noise::Noise;
use crate::spaces::{Tokens, present};

pub use estimate::LinearEstimate;
pub use output::OutputLayer;
pub use refinement::{Refinement, RefinementBlock, RefinementConfig};

/// The decoder's numbers; latent and token shapes belong to the tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Side of a patch in latent pixels.
    pub patch_size: usize,
    /// The transformer.
    pub blocks: BlockSize,
    /// Alignment with a teacher's features in training, if any.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "RepaConfig::or_off")]
    pub repa: Option<RepaConfig>,
    /// Whether the decoder also sees a linear estimate of the latents from the tokens ([`LinearEstimate`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub linear_estimate: bool,
    /// Whether what is predicted of a patch depends on the hidden states of its neighbours too, so that its edges are not
    /// seen; not in the paper.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overlap: bool,
    /// Convolutions over latent pixels behind the transformer, if any ([`Refinement`]); not in the paper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refinement: Option<RefinementConfig>,
}

/// Representation alignment (Yu et al., 2024): hidden states projected onto a teacher's features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepaConfig {
    /// After which block, counted from 1.
    pub layer: usize,
    /// Width of the teacher's features.
    pub teacher_width: usize,
    /// Hidden width of the projector.
    pub hidden: usize,
}

impl RepaConfig {
    /// A table, or `"off"` for none, so that a run can do without what a file asks for.
    fn or_off<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Self>, D::Error> {
        struct TableOrOff;
        impl<'de> Visitor<'de> for TableOrOff {
            type Value = Option<RepaConfig>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a table with layer, teacher_width and hidden, or \"off\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Self::Value, E> {
                if text == "off" { Ok(None) } else { Err(E::invalid_value(Unexpected::Str(text), &self)) }
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> std::result::Result<Self::Value, A::Error> {
                RepaConfig::deserialize(MapAccessDeserializer::new(table)).map(Some)
            }

            fn visit_unit<E: de::Error>(self) -> std::result::Result<Self::Value, E> {
                Ok(None)
            }
        }
        deserializer.deserialize_any(TableOrOff)
    }
}

/// The latent side of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentShape {
    /// Of the latents.
    pub channels: usize,
    /// Height and width.
    pub side: usize,
    /// How many numbers the decoder gives for each that it gets, as its process has it.
    pub outputs_per_channel: usize,
    /// Whether the decoder is told how far its answer reaches, as its process has it.
    pub told_span: bool,
}

impl DecoderConfig {
    /// Checks what must hold for latents of side `side`.
    pub fn validate(&self, side: usize) -> Result<()> {
        self.blocks.validate("decoder")?;
        if !self.blocks.width.is_multiple_of(4) {
            let width = self.blocks.width;
            return Err(Error::Config(format!(
                "decoder: the sine-cosine positions need a width that is a multiple of 4, found {width}"
            )));
        }
        if self.patch_size == 0 || !side.is_multiple_of(self.patch_size) {
            return Err(Error::Config(format!(
                "decoder: latent size {side} is not a multiple of patch size {}",
                self.patch_size
            )));
        }
        if let Some(repa) = &self.repa
            && !(1..=self.blocks.depth).contains(&repa.layer)
        {
            let depth = self.blocks.depth;
            return Err(Error::Config(format!("decoder: repa.layer {} is not in 1..={depth}", repa.layer)));
        }
        self.refinement.map_or(Ok(()), |refinement| refinement.validate())
    }
}

/// A transformer on noisy latents and tokens.
#[derive(Module, Debug)]
pub struct Decoder {
    /// From noisy latent patches to the width.
    pub patches: PatchEmbed,
    /// From a time to the width.
    pub time: TimestepEmbed,
    /// From how far the answer reaches to the width, added to the time's, if its process tells that (MeanFlow,
    /// arXiv 2505.13447, section 4.3, "embed(t, t − r)").
    pub span: Option<TimestepEmbed>,
    /// From token space to the transformer's width.
    pub tokens: Linear,
    /// `[1, K, D]`: what stands for a token that is not there.
    pub null_tokens: Param<Tensor<3>>,
    /// The transformer.
    pub blocks: Vec<DecoderBlock>,
    /// From the width to what is predicted of each patch.
    pub output: OutputLayer,
    /// Of what is predicted, across the edges of patches, if the configuration asks for one.
    pub refinement: Option<Refinement>,
    /// Onto a teacher's features, if it is trained with one.
    pub projector: Option<Projector>,
    /// Of the latents from the tokens, if the configuration asks for one.
    pub estimate: Option<LinearEstimate>,
    /// `[1, N, W]`, fixed.
    positions: Tensor<3>,
    #[module(skip)]
    grid: Grid,
    #[module(skip)]
    activations: Activations,
}

/// The tokens of a batch as every denoising step sees them.
#[derive(Debug, Clone)]
pub struct DecoderCondition {
    /// Projected to the transformer's width, null tokens in their places: `[B, K, W]`.
    tokens: Tensor<3>,
    /// What the linear estimate adds to the patches, if there is one: `[B, N, W]`.
    patches: Option<Tensor<3>>,
}

/// How latents are cut into patches, and after which block the projector looks.
#[derive(Debug, Clone, Copy)]
struct Grid {
    side: usize,
    patch: usize,
    projected_block: usize,
}

impl Decoder {
    /// Random weights; the blocks start as the identity, the output as 0.
    pub fn init(
        config: &DecoderConfig,
        latent: LatentShape,
        tokens: TokenShape,
        noise: &mut Noise,
        device: &Device,
    ) -> Self {
        let width = config.blocks.width;
        let side = latent.side / config.patch_size;
        let channels = [latent.channels, latent.outputs_per_channel * latent.channels];
        let outputs = config.patch_size.pow(2) * channels[1];
        Self {
            patches: PatchEmbed::init(latent.channels, config.patch_size, width, noise, device),
            time: TimestepEmbed::init(width, noise, device),
            span: latent.told_span.then(|| TimestepEmbed::init(width, noise, device)),
            tokens: Linear::init(tokens.dim, width, noise, device),
            null_tokens: Initial::Normal(0.02).parameter([1, tokens.count, tokens.dim], noise, device),
            blocks: (0..config.blocks.depth)
                .map(|_| DecoderBlock::init(&config.blocks, noise, device))
                .collect(),
            output: OutputLayer::init(width, outputs, config.overlap, device),
            projector: config.repa.map(|repa| Projector::init(&repa, width, noise, device)),
            estimate: config
                .linear_estimate
                .then(|| LinearEstimate::init(latent, tokens, [config.patch_size, width], noise, device)),
            refinement: config
                .refinement
                .map(|it| Refinement::init(it, channels, [width, config.patch_size], noise, device)),
            positions: sine_cosine_grid(side, width, device),
            grid: Grid {
                side,
                patch: config.patch_size,
                projected_block: config.repa.map_or(0, |repa| repa.layer),
            },
            activations: Activations::Kept,
        }
    }

    /// What becomes of the values within blocks in training from here on; at first they are kept.
    pub fn set_activations(&mut self, activations: Activations) {
        self.activations = activations;
    }

    /// The same decoder for latents of another side, a multiple of the patch size: its fixed positions
    /// are computed anew.
    pub fn resized(mut self, latent_side: usize) -> Self {
        let [_, _, width] = self.positions.dims();
        self.grid.side = latent_side / self.grid.patch;
        self.positions = sine_cosine_grid(self.grid.side, width, &self.positions.device());
        self
    }

    /// What the network makes of noisy latents: the prediction and, if its process learns a variance, the
    /// logits of that.
    ///
    /// Sample i sees its first `keep[i]` tokens; null tokens stand in for the others. `tokens` may
    /// hold fewer than K per image.
    ///
    /// # Shapes
    /// - `noisy`: `[B, C, h, w]`
    /// - `times`, `keep`: B numbers
    /// - `tokens`: `[B, k, D]` with k <= K
    /// - result: `[B, outputs C, h, w]`
    ///
    /// # Panics
    /// If the sizes do not agree.
    pub fn forward(&self, noisy: Tensor<4>, times: &[f32], tokens: &Tokens, keep: &[usize]) -> Tensor<4> {
        self.run(noisy, self.moment(times, &[0.0]), &self.condition(tokens, keep), |_, _| ())
    }

    /// [`Decoder::forward`] of a decoder that is told how far each answer reaches, in the units of the times: the
    /// average velocity from `times[i]` to `times[i] + spans[i]`.
    ///
    /// # Panics
    /// If the decoder is not told so, or the sizes do not agree.
    pub fn forward_average(
        &self,
        noisy: Tensor<4>,
        (times, spans): (&[f32], &[f32]),
        tokens: &Tokens,
        keep: &[usize],
    ) -> Tensor<4> {
        assert!(self.span.is_some(), "the decoder was built without averages");
        self.run(noisy, self.moment(times, spans), &self.condition(tokens, keep), |_, _| ())
    }

    /// The tokens of a batch as every denoising step sees them.
    ///
    /// # Shapes
    /// As [`Decoder::forward`].
    ///
    /// # Panics
    /// If the sizes do not agree.
    pub fn condition(&self, tokens: &Tokens, keep: &[usize]) -> DecoderCondition {
        let patches = self.estimate(tokens, keep);
        let patches = patches.zip(self.estimate.as_ref()).map(|(latents, it)| it.patches.forward(latents));
        DecoderCondition { tokens: self.tokens.forward(self.visible_tokens(tokens, keep)), patches }
    }

    /// The linear estimate of the latents, if the decoder makes one.
    ///
    /// # Shapes
    /// `[B, C, h, w]` for tokens and counts as in [`Decoder::forward`]
    pub fn estimate(&self, tokens: &Tokens, keep: &[usize]) -> Option<Tensor<4>> {
        let side = self.grid.side * self.grid.patch;
        self.estimate.as_ref().map(|estimate| estimate.latents(tokens, keep, side))
    }

    /// [`Decoder::forward`] with one time for all samples, and one span, 0 unless the decoder gives averages:
    /// what depends on them alone is computed once.
    ///
    /// `condition` may be of several times as many samples as `noisy`, which are then the same
    /// latents under other tokens, such as the halves of guidance.
    ///
    /// # Shapes
    /// `noisy`: `[B, C, h, w]`, result: `[n B, outputs C, h, w]` for a condition of n B samples
    ///
    /// # Panics
    /// If the condition's samples are not a multiple of B.
    pub fn step(&self, noisy: Tensor<4>, time: f32, span: f32, condition: &DecoderCondition) -> Tensor<4> {
        self.run(noisy, self.moment(&[time], &[span]), condition, |_, _| ())
    }

    /// What the network is told of the time, `[1 or B, W]`.
    fn moment(&self, times: &[f32], spans: &[f32]) -> Tensor<2> {
        let time = self.time.forward(times);
        match &self.span {
            Some(span) => time + span.forward(spans),
            None => time,
        }
    }

    /// [`Decoder::forward`] with the hidden states projected onto the teacher's space,
    /// `[B, N, teacher width]`.
    ///
    /// # Panics
    /// If the decoder has no projector.
    pub fn forward_projected(
        &self,
        noisy: Tensor<4>,
        times: &[f32],
        tokens: &Tokens,
        keep: &[usize],
    ) -> (Tensor<4>, Tensor<3>) {
        let projector = self.projector.as_ref().expect("the decoder was built without a projector");
        let patches = self.grid.side.pow(2);
        let mut projection = None;
        let moment = self.moment(times, &[0.0]);
        let output = self.run(noisy, moment, &self.condition(tokens, keep), |block, x| {
            if block == self.grid.projected_block {
                projection = Some(projector.forward(x.clone().narrow(1, 0, patches)));
            }
        });
        (output, projection.expect("validate() keeps the layer within the blocks"))
    }

    /// The forward pass; one moment is that of all samples. `observe` sees the hidden states after
    /// each block, counted from 1.
    fn run(
        &self,
        noisy: Tensor<4>,
        moment: Tensor<2>,
        condition: &DecoderCondition,
        mut observe: impl FnMut(usize, &Tensor<3>),
    ) -> Tensor<4> {
        let patches = self.patches.forward(noisy.clone()) + self.positions.clone(); // [B, N, W]
        let [batch, count, _] = patches.dims();
        let samples = condition.tokens.dims()[0];
        assert!(samples.is_multiple_of(batch), "{batch} latents for {samples} samples");
        let copies = samples / batch;
        let patches = if copies == 1 { patches } else { patches.repeat_dim(0, copies) };
        let patches = match &condition.patches {
            Some(estimated) => patches + estimated.clone(),
            None => patches,
        };
        let mut x = Tensor::cat(vec![patches, condition.tokens.clone()], 1); // [n B, N + K, W]
        let time = ops::silu(moment); // [1 or n B, W]
        for (index, block) in self.blocks.iter().enumerate() {
            let inputs = Inputs { x, condition: Some(time.clone()) };
            x = self.activations.forward(block, inputs, None, |block: &DecoderBlock, inputs, _| {
                block.forward(inputs.x, inputs.condition.expect("it is given"))
            });
            observe(index + 1, &x);
        }
        let Grid { side, patch, .. } = self.grid;
        let x = x.narrow(1, 0, count);
        let out = self.output.forward(x.clone(), time.clone(), side); // [n B, N, p² outputs C]
        let prediction = unpatchify(out, side, patch);
        let Some(refinement) = &self.refinement else { return prediction };
        let noisy = if copies == 1 { noisy } else { noisy.repeat_dim(0, copies) };
        refinement.forward(prediction, noisy, x, time, side)
    }

    /// Sample i's first `keep[i]` tokens, null tokens after them: `[B, K, D]`.
    fn visible_tokens(&self, tokens: &Tokens, keep: &[usize]) -> Tensor<3> {
        let [_, count, dim] = self.null_tokens.dims();
        let [b, given, _] = tokens.0.dims();
        assert_eq!(keep.len(), b, "one number of kept tokens per sample");
        assert!(given <= count, "{given} tokens given to a decoder of {count}");
        let device = tokens.0.device();
        let tokens = match count - given {
            0 => tokens.0.clone(),
            missing => Tensor::cat(vec![tokens.0.clone(), Tensor::zeros([b, missing, dim], &device)], 1),
        };
        let kept = present(keep.iter().map(|&keep| keep.min(given)), count, &device);
        let null = self.null_tokens.val() * (kept.clone().neg() + 1.0);
        tokens * kept + null
    }

    /// The fixed positions, for comparison with those of a published file: `[1, N, W]`.
    pub fn positions(&self) -> Tensor<3> {
        self.positions.clone()
    }
}

/// A transformer block steered by the time (adaLN-Zero; Peebles and Xie, 2023).
#[derive(Module, Debug)]
pub struct DecoderBlock {
    /// `[6 W, W]`: shift, scale and gate of the attention, then of the MLP
    pub modulation: Linear,
    /// Over patches and tokens together.
    pub attention: Attention,
    /// Position by position.
    pub mlp: Mlp,
}

impl DecoderBlock {
    fn init(size: &BlockSize, noise: &mut Noise, device: &Device) -> Self {
        Self {
            modulation: Linear::init_zero(size.width, 6 * size.width, device),
            attention: Attention::init(size, noise, device),
            mlp: Mlp::init(size, noise, device),
        }
    }

    /// # Shapes
    /// `x`: `[B, N + K, W]`, `time`: `[1 or B, W]`
    fn forward(&self, x: Tensor<3>, time: Tensor<2>) -> Tensor<3> {
        let [shift1, scale1, gate1, shift2, scale2, gate2] = parts(self.modulation.forward(time));
        let normal = modulated_norm(x.clone(), shift1, scale1);
        let x = ops::gated_add(x, self.attention.forward(normal, Visibility::All), gate1);
        let normal = modulated_norm(x.clone(), shift2, scale2);
        ops::gated_add(x, self.mlp.forward(normal, Activation::GeluTanh), gate2)
    }
}

/// `[B, P W]` -> P times `[B, W]`.
fn parts<const P: usize>(x: Tensor<2>) -> [Tensor<2>; P] {
    let width = x.dims()[1] / P;
    std::array::from_fn(|i| x.clone().narrow(1, i * width, width))
}

fn modulated_norm(x: Tensor<3>, shift: Tensor<2>, scale: Tensor<2>) -> Tensor<3> {
    ops::layer_norm(x, scale + 1.0, shift, NORM_EPSILON)
}

/// Three linear layers from hidden states to a teacher's features.
#[derive(Module, Debug)]
pub struct Projector {
    /// `[hidden, W]`
    pub first: Linear,
    /// `[hidden, hidden]`
    pub second: Linear,
    /// `[teacher width, hidden]`
    pub third: Linear,
}

impl Projector {
    fn init(config: &RepaConfig, width: usize, noise: &mut Noise, device: &Device) -> Self {
        Self {
            first: Linear::init(width, config.hidden, noise, device),
            second: Linear::init(config.hidden, config.hidden, noise, device),
            third: Linear::init(config.hidden, config.teacher_width, noise, device),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = ops::silu(self.first.forward_as_weight(x));
        Linear::mlp(&self.second, &self.third, x, Activation::Silu)
    }
}
