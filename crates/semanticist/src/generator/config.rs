//! The numbers that make a generator.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::DrawOptions;
use crate::diffusion::{
    DecodeOptions, DiffusionConfig, FlowConfig, GaussianConfig, Prediction, Process, Sampler, Schedule,
};
use crate::error::{Error, Result};

/// Everything that defines a generator but its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorConfig {
    /// K, tokens per image that it draws.
    pub tokens: usize,
    /// D, numbers per token.
    pub token_dim: usize,
    /// How many classes there are, "none" not counted.
    pub classes: usize,
    /// Width of every position of the transformer.
    pub width: usize,
    /// Layers of the transformer.
    pub depth: usize,
    /// Attention heads per layer.
    pub heads: usize,
    /// The network that draws a token.
    pub head: HeadConfig,
    /// How many tokens are drawn unless another number is asked for, all if not given: where the decoder knows better than
    /// the generator what the first ones leave open, fewer look more like photos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawn_tokens: Option<usize>,
    /// How each of them is drawn unless it is said otherwise; how strongly the class is to be over-weighted, and how many steps
    /// are enough, differs from generator to generator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawing: Option<DrawOptions>,
    /// How what it draws is decoded unless it is said otherwise, if not as the tokenizer decodes photos: that may be in
    /// few steps, near to a photo, where what is drawn has none to be near to and can as well be a sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding: Option<DecodeOptions>,
}

/// The diffusion head: the network that draws one token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Of its hidden states.
    pub width: usize,
    /// Residual blocks.
    pub depth: usize,
    /// How the transformer's answer enters.
    #[serde(default)]
    pub condition: HeadConditioning,
    /// How a token is noised and drawn.
    #[serde(default)]
    pub process: HeadProcess,
}

/// How the transformer's answer enters the head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadConditioning {
    /// Joined to the input of every block, as published.
    #[default]
    Concat,
    /// Added to the timestep's embedding, from which all modulations come.
    Add,
}

/// How a token is noised and drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadProcess {
    /// A straight line from noise to the token, whose velocity is learned (stochastic interpolants).
    #[default]
    Flow,
    /// Gaussian diffusion with cosine betas and learned variance.
    Ddpm,
}

impl GeneratorConfig {
    /// # Errors
    /// Names the first field that does not fit.
    pub fn validate(&self) -> Result<()> {
        let Self { tokens, token_dim, classes, width, depth, heads, head, drawn_tokens, drawing, decoding } =
            self;
        let all = [*tokens, *token_dim, *classes, *width, *depth, *heads, head.width, head.depth];
        if all.contains(&0) {
            return Err(Error::Config("the generator: every number must be positive".into()));
        }
        if let Some(drawn) = drawn_tokens
            && !(1..=*tokens).contains(drawn)
        {
            return Err(Error::Config(format!(
                "the generator: drawn_tokens {drawn} is not in 1..={tokens}; use one of these, or leave it out"
            )));
        }
        if let Some(drawing) = drawing {
            drawing.validate(head)?;
        }
        if decoding.as_ref().is_some_and(|decoding| decoding.steps == 0) {
            return Err(Error::Config("the generator: decoding takes at least 1 step".into()));
        }
        if !width.is_multiple_of(*heads) {
            return Err(Error::Config(format!(
                "the generator: {heads} heads do not divide a width of {width}; use a divisor such as {}",
                (1..=*heads).rev().find(|h| width.is_multiple_of(*h)).unwrap_or(1)
            )));
        }
        Ok(())
    }

    /// How many tokens are drawn unless another number is asked for.
    pub fn usual_tokens(&self) -> usize {
        self.drawn_tokens.unwrap_or(self.tokens)
    }

    /// How each token is drawn unless it is said otherwise.
    pub fn draw_options(&self) -> DrawOptions {
        self.drawing.clone().unwrap_or_default()
    }

    /// How tokens that it draws are decoded unless it is said otherwise, by a tokenizer that decodes photos as in `usual`.
    pub fn decode_options(&self, usual: DecodeOptions) -> DecodeOptions {
        self.decoding.clone().unwrap_or(usual)
    }

    /// The label of no class.
    pub fn no_class(&self) -> usize {
        self.classes
    }

    /// Hidden width of the gated linear units: two thirds of four times the width, rounded up to a
    /// multiple of 256 (LlamaGen).
    pub fn hidden(&self) -> usize {
        (2 * 4 * self.width / 3).next_multiple_of(256)
    }
}

impl HeadConfig {
    /// Numbers that the head gives per number of a token: the velocity, or noise and variance.
    pub fn outputs(&self) -> usize {
        self.process.process().outputs_per_channel()
    }
}

/// Told the bare share of the way, as published.
static FLOW: LazyLock<Process> = LazyLock::new(|| {
    let config = DiffusionConfig::Flow(FlowConfig { time_scale: 1.0, ..FlowConfig::default() });
    Process::new(&config).expect("a time scale of 1 is allowed")
});

static DDPM: LazyLock<Process> = LazyLock::new(|| {
    let config = GaussianConfig { steps: 1000, schedule: Schedule::Cosine, prediction: Prediction::Noise };
    Process::new(&DiffusionConfig::Gaussian(config)).expect("the cosine schedule has 1000 steps")
});

impl HeadProcess {
    /// What a token goes through; built once, as there are no others.
    pub fn process(self) -> &'static Process {
        match self {
            Self::Flow => &FLOW,
            Self::Ddpm => &DDPM,
        }
    }

    /// How tokens are drawn unless it is said otherwise, and as published.
    pub fn default_sampler(self) -> Sampler {
        match self {
            Self::Flow => Sampler::EulerMaruyama,
            Self::Ddpm => Sampler::Ddpm,
        }
    }
}
