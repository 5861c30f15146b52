//! The tokenizer: encoder, decoder and autoencoder put together, with its two verbs.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::autoencoder::{Autoencoder, AutoencoderConfig};
use crate::decoder::{Decoder, DecoderCondition, DecoderConfig, LatentShape};
use crate::diffusion::guidance::{Guidance, guide_halves};
use crate::diffusion::{DecodeOptions, DiffusionConfig, FittedSampler, Process};
use crate::encoder::{Encoder, EncoderConfig, TokenShape};
use crate::error::{Error, Result};
use crate::noise::{Noise, Purpose, Seed};
use crate::precision::Precision;
use crate::progress::{Observer, Progress, Watcher, go_on, unobserved};
use crate::spaces::{Latents, Pixels, Tokens};

/// Everything that defines a tokenizer but its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// Side of the square images, in pixels.
    pub image_size: usize,
    /// K, tokens per image.
    pub tokens: usize,
    /// D, numbers per token.
    pub token_dim: usize,
    /// Added to a token's variance when it is normalised: 0 as published, 1e-12 by default, which
    /// changes no ordinary float32 result and keeps a constant token finite.
    #[serde(default = "default_token_epsilon")]
    pub token_epsilon: f64,
    /// From pixels to tokens.
    pub encoder: EncoderConfig,
    /// From noisy latents and tokens to clean latents.
    pub decoder: DecoderConfig,
    /// Between pixels and latents.
    pub autoencoder: AutoencoderConfig,
    /// How latents are noised, and what the decoder predicts.
    #[serde(default)]
    pub diffusion: DiffusionConfig,
    /// How it is decoded unless it is said otherwise, if that is not [`DecodeOptions::default`]: what a model that
    /// learnt few steps learnt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding: Option<DecodeOptions>,
    /// Samplers of few steps that were fitted to this decoder; training it further makes them stale.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fitted_samplers: Vec<FittedSampler>,
}

fn default_token_epsilon() -> f64 {
    1e-12
}

impl TokenizerConfig {
    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// Names the first field that does not fit, and what would.
    pub fn validate(&self) -> Result<()> {
        if self.tokens == 0 || self.token_dim < 2 {
            return Err(Error::Config(format!(
                "{} tokens of {} dimensions: at least 1 token of 2 dimensions is needed",
                self.tokens, self.token_dim
            )));
        }
        self.encoder.validate(self.image_size)?;
        self.autoencoder.validate()?;
        self.diffusion.validate()?;
        let process = self.process()?;
        if let Some(decoding) = &self.decoding {
            decoding.plan(&process)?;
        }
        self.decoder.validate(self.autoencoder.latent_size(self.image_size)?)
    }

    /// The same for square images of another size.
    ///
    /// # Errors
    /// If the patches or the autoencoder's stride do not divide it, or a part is made for one size only.
    pub fn resized(&self, image_size: usize) -> Result<Self> {
        if self.decoder.linear_estimate && image_size != self.image_size {
            return Err(Error::Config(format!(
                "decoder.linear_estimate has a weight for every pixel of {0}×{0}, and none for {image_size}×{image_size}; \
                 use images of {0}×{0}",
                self.image_size
            )));
        }
        let config = Self { image_size, ..self.clone() };
        config.validate()?;
        Ok(config)
    }

    /// K and D.
    pub fn token_shape(&self) -> TokenShape {
        TokenShape { count: self.tokens, dim: self.token_dim }
    }

    /// How latents are noised, with the samplers that were fitted to undo it.
    ///
    /// # Errors
    /// If there is no such process, or a sampler does not fit it.
    pub fn process(&self) -> Result<Process> {
        Process::new(&self.diffusion)?.with_fitted(&self.fitted_samplers)
    }

    /// How it is decoded unless it is said otherwise.
    pub fn decode_options(&self) -> DecodeOptions {
        self.decoding.clone().unwrap_or_default()
    }

    /// The shape of one image's latents, and what the decoder makes of them.
    ///
    /// # Errors
    /// If the autoencoder's stride does not divide the image size.
    pub fn latent_shape(&self) -> Result<LatentShape> {
        let side = self.autoencoder.latent_size(self.image_size)?;
        let outputs_per_channel = self.diffusion.outputs_per_channel();
        let told_span = self.diffusion.tells_span();
        Ok(LatentShape { channels: self.autoencoder.channels(), side, outputs_per_channel, told_span })
    }
}

/// The parts that learn.
#[derive(Module, Debug)]
pub struct Networks {
    /// From pixels to tokens.
    pub encoder: Encoder,
    /// From noisy latents and tokens to clean latents.
    pub decoder: Decoder,
}

impl Networks {
    /// Random weights.
    ///
    /// # Errors
    /// If the configuration is impossible.
    pub fn init(config: &TokenizerConfig, noise: &mut Noise, device: &Device) -> Result<Self> {
        config.validate()?;
        let (tokens, epsilon) = (config.token_shape(), config.token_epsilon);
        Ok(Self {
            encoder: Encoder::init(&config.encoder, config.image_size, tokens, epsilon, noise, device),
            decoder: Decoder::init(&config.decoder, config.latent_shape()?, tokens, noise, device),
        })
    }
}

/// A ready tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    /// Its sizes.
    pub config: TokenizerConfig,
    /// Its weights that learn.
    pub networks: Networks,
    /// Between pixels and latents.
    pub autoencoder: Autoencoder,
}

impl Tokenizer {
    /// The same tokenizer for square images of another size. It was not trained for them: the further
    /// from its own size, the worse.
    ///
    /// # Errors
    /// If the patches of encoder or decoder, or the autoencoder's stride, do not divide it.
    pub fn resized(self, image_size: usize) -> Result<Self> {
        let config = self.config.resized(image_size)?;
        let Networks { encoder, decoder } = self.networks;
        let networks = Networks {
            encoder: encoder.resized(image_size / config.encoder.patch_size),
            decoder: decoder.resized(config.latent_shape()?.side),
        };
        Ok(Self { config, networks, autoencoder: self.autoencoder })
    }

    /// The same tokenizer with the products of encoder and decoder computed in `precision`; the autoencoder
    /// stays in float32. The weights are rounded for that, and nothing brings them back: asked for float32, a
    /// tokenizer in bfloat16 stays as it is, and it cannot be saved.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { networks: precision.store(self.networks), ..self }
    }

    /// What its weights are stored in, and so its products computed in.
    pub fn precision(&self) -> Precision {
        Precision::stored(&self.networks)
    }

    /// The first `count` tokens of every image.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` → `[B, count, D]`, with H = W = the configured size
    ///
    /// # Errors
    /// If the images are of another size, or there are not that many tokens.
    pub fn encode(&self, images: &Pixels, count: usize) -> Result<Tokens> {
        let TokenizerConfig { image_size: size, tokens, .. } = self.config;
        let dims = images.0.dims();
        if dims[1..] != [3, size, size] {
            return Err(Error::Input(format!(
                "the images are {dims:?}, but the tokenizer takes [B, 3, {size}, {size}]; crop or resize them"
            )));
        }
        if !(1..=tokens).contains(&count) {
            return Err(Error::Input(format!("{count} tokens asked of a tokenizer that has 1 to {tokens}")));
        }
        Ok(self.networks.encoder.forward(images, count, None).tokens)
    }

    /// Reconstructs images from all the given tokens, which may be the first few of each
    /// ([`Tokens::prefix`]): what a token stands for is known to the decoder by its place.
    ///
    /// An image depends on its tokens, the options and the seed, not on the others of its batch.
    ///
    /// # Shapes
    /// `[B, k, D]` with k ≤ K → `[B, 3, H, W]`
    ///
    /// # Errors
    /// If there are more tokens than the decoder knows, of another width, or the sampler cannot run with these
    /// options.
    pub fn decode(&self, tokens: &Tokens, options: &DecodeOptions, seed: u64) -> Result<Pixels> {
        let latents = Seed::new(seed).of(Purpose::Latents);
        let mut noise = Noise::per_sample(vec![latents; tokens.batch()]);
        let keep = vec![tokens.count(); tokens.batch()];
        self.decode_observed(tokens, &keep, options, &mut noise, &mut unobserved)
    }

    /// Reconstructs each image from its first `keep[i]` tokens, 0 for none. The observer is told of every
    /// evaluation of the decoder.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`], if there is not one entry of `keep` per image, or if the observer ends it.
    pub fn decode_observed(
        &self,
        tokens: &Tokens,
        keep: &[usize],
        options: &DecodeOptions,
        noise: &mut Noise,
        observer: Observer,
    ) -> Result<Pixels> {
        self.decode_watched(tokens, keep, options, noise, &mut |progress, _| observer(progress))
    }

    /// [`Tokenizer::decode_observed`] with an observer that can ask at every evaluation what the images look
    /// like so far: what the decoder then takes for the clean images.
    ///
    /// # Errors
    /// As there.
    pub fn decode_watched(
        &self,
        tokens: &Tokens,
        keep: &[usize],
        options: &DecodeOptions,
        noise: &mut Noise,
        watcher: Watcher<Pixels>,
    ) -> Result<Pixels> {
        let LatentShape { channels, side, .. } = self.config.latent_shape()?;
        let start = noise.normal([tokens.batch(), channels, side, side], &tokens.0.device());
        let latents = self.denoise(tokens, keep, options, start, noise, watcher)?;
        Ok(self.autoencoder.decode(&latents))
    }

    /// How many evaluations of the decoder an image takes under these options.
    ///
    /// # Errors
    /// If the options do not fit the process.
    pub fn evaluations(&self, options: &DecodeOptions) -> Result<usize> {
        Ok(options.plan(&self.config.process()?)?.evaluations())
    }

    /// [`Tokenizer::decode_observed`] from the noise `start` to the latents; `noise` gives what the sampler adds on
    /// the way.
    ///
    /// A guidance scale combines what the decoder says with and without tokens at the same time. Of a decoder that
    /// gives average velocities these are the averages over the same step: their combination is the average of the
    /// guided velocity up to how far the guided way leaves the others, and the longer the step, the less exact.
    ///
    /// # Shapes
    /// `tokens`: `[B, k, D]`, `keep`: B numbers, `start`: `[B, C, h, w]`, standard normal → the same
    ///
    /// # Errors
    /// As [`Tokenizer::decode_observed`].
    pub fn decode_latents(
        &self,
        tokens: &Tokens,
        keep: &[usize],
        options: &DecodeOptions,
        start: Tensor<4>,
        noise: &mut Noise,
        observer: Observer,
    ) -> Result<Latents> {
        self.denoise(tokens, keep, options, start, noise, &mut |progress, _| observer(progress))
    }

    fn denoise(
        &self,
        tokens: &Tokens,
        keep: &[usize],
        options: &DecodeOptions,
        start: Tensor<4>,
        noise: &mut Noise,
        watcher: Watcher<Pixels>,
    ) -> Result<Latents> {
        self.check_tokens(tokens, keep)?;
        let process = self.config.process()?;
        let plan = options.plan(&process)?;
        let [b, channels, ..] = start.dims();
        let guided = GuidedDecoder::new(&self.networks.decoder, tokens, keep, options.guidance);
        let mut progress = Progress { done: 0, total: plan.evaluations() };
        let latents = plan.try_run(start, noise, |x, index| {
            let (time, span) = (plan.times()[index], plan.spans()[index]);
            let noisy = x.clone();
            let output = guided.step(x, time, span);
            progress.done += 1;
            let so_far = || {
                let prediction = output.clone().narrow(1, 0, channels);
                let clean = process.denoised(noisy.clone(), prediction, &vec![time; b]).clean;
                self.autoencoder.decode(&Latents(clean))
            };
            go_on(watcher(progress, &so_far)).map(|()| output)
        })?;
        Ok(Latents(latents))
    }

    /// Fits a sampler of `steps` steps to the decoder, as it decodes these tokens, of which each image has its first `keep[i]`,
    /// with this guidance scale and from `noise`. The observer is told of every evaluation of the decoder.
    ///
    /// # Shapes
    /// `tokens`: `[B, k, D]`, `keep`: B numbers; 64 images are plenty
    ///
    /// # Errors
    /// As [`FittedSampler::fit`] and [`Tokenizer::decode`], or if the observer ends it.
    pub fn fit_sampler(
        &self,
        steps: usize,
        guidance: f64,
        (tokens, keep): (&Tokens, &[usize]),
        noise: &mut Noise,
        observer: Observer,
    ) -> Result<FittedSampler> {
        self.check_tokens(tokens, keep)?;
        let guidance = Guidance::constant(guidance);
        guidance.validate()?;
        let LatentShape { channels, side, .. } = self.config.latent_shape()?;
        let start = noise.normal([tokens.batch(), channels, side, side], &tokens.0.device());
        let guided = GuidedDecoder::new(&self.networks.decoder, tokens, keep, guidance);
        let mut progress = Progress { done: 0, total: FittedSampler::evaluations_to_fit(steps) };
        FittedSampler::fit(&Process::new(&self.config.diffusion)?, steps, guidance.scale, start, |x, time| {
            let output = guided.step(x, time, 0.0);
            progress.done += 1;
            go_on(observer(progress)).map(|()| output)
        })
    }

    fn check_tokens(&self, tokens: &Tokens, keep: &[usize]) -> Result<()> {
        let TokenizerConfig { tokens: most, token_dim, .. } = self.config;
        let [batch, count, dim] = tokens.0.dims();
        let problem = if count > most || dim != token_dim {
            format!("{count} tokens of {dim} numbers; the decoder takes at most {most} of {token_dim}")
        } else if keep.len() != batch {
            format!("{} numbers of tokens to keep for {batch} images; give one for each", keep.len())
        } else {
            return Ok(());
        };
        Err(Error::Input(problem))
    }
}

/// A decoder with the tokens of all its steps.
struct GuidedDecoder<'a> {
    decoder: &'a Decoder,
    guidance: Guidance,
    with_tokens: DecoderCondition,
    /// Without and with tokens, to go through the network in one batch.
    both: Option<DecoderCondition>,
}

impl<'a> GuidedDecoder<'a> {
    fn new(decoder: &'a Decoder, tokens: &Tokens, keep: &[usize], guidance: Guidance) -> Self {
        let both = (guidance.scale != 1.0).then(|| {
            let twice = Tokens(Tensor::cat(vec![tokens.0.clone(), tokens.0.clone()], 0)); // [2 B, k, D]
            decoder.condition(&twice, &[vec![0; keep.len()], keep.to_vec()].concat())
        });
        Self { decoder, guidance, with_tokens: decoder.condition(tokens, keep), both }
    }

    /// `[B, C, h, w]` at a time → `[B, outputs C, h, w]`
    fn step(&self, x: Tensor<4>, time: f32, span: f32) -> Tensor<4> {
        let channels = x.dims()[1];
        match &self.both {
            Some(both) if self.guidance.is_active(time) => {
                let output = self.decoder.step(x, time, span, both);
                guide_halves(output, self.guidance.scale, channels)
            }
            _ => self.decoder.step(x, time, span, &self.with_tokens),
        }
    }
}
