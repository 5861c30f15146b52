//! ϵLlamaGen: a class becomes tokens, one after the other, each drawn by a diffusion head.

mod cache;
mod config;
mod head;
mod layers;
mod options;
mod transformer;

pub mod guidance;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

pub use cache::KeysValues;
pub use config::{GeneratorConfig, HeadConditioning, HeadConfig, HeadProcess};
pub use guidance::{GuidanceSchedule, TokenGuidance};
pub use head::{Head, HeadPlan};
pub use options::{DrawOptions, GenerateOptions};
pub use transformer::Transformer;

use crate::diffusion::SamplingPlan;
use crate::diffusion::guidance::guide_halves;
use crate::error::{Error, Result};
use crate::noise::{Noise, Purpose, Seed};
use crate::precision::Precision;
use crate::progress::{Observer, Progress, Watcher, go_on, unobserved};
use crate::spaces::Tokens;

/// The networks of a generator.
#[derive(Module, Debug)]
pub struct GeneratorNetworks {
    /// What is known of a token from the class and the tokens before it.
    pub transformer: Transformer,
    /// Draws a token from that.
    pub head: Head,
}

impl GeneratorNetworks {
    /// Random weights.
    ///
    /// # Errors
    /// If the configuration is impossible.
    pub fn init(config: &GeneratorConfig, noise: &mut Noise, device: &Device) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            transformer: Transformer::init(config, noise, device),
            head: Head::init(config, noise, device),
        })
    }
}

/// A ready generator.
#[derive(Debug, Clone)]
pub struct Generator {
    /// Its sizes.
    pub config: GeneratorConfig,
    /// Its weights.
    pub networks: GeneratorNetworks,
}

/// Everything drawn for the loss of N tokens.
#[derive(Debug, Clone)]
pub struct HeadDraws {
    /// As the head's process has them.
    pub times: Vec<f32>,
    /// `[N, D]`, standard normal.
    pub noise: Tensor<2>,
}

impl Generator {
    /// The same generator with its products computed in `precision`. The weights are rounded for that, and
    /// nothing brings them back: asked for float32, a generator in bfloat16 stays as it is, and it cannot be
    /// saved.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { networks: precision.store(self.networks), ..self }
    }

    /// What its weights are stored in, and so its products computed in.
    pub fn precision(&self) -> Precision {
        Precision::stored(&self.networks)
    }

    /// Draws for the loss of `count` tokens.
    pub fn draws(&self, count: usize, noise: &mut Noise, device: &Device) -> HeadDraws {
        let times = self.config.head.process.process().draw_times(count, noise);
        HeadDraws { times, noise: noise.normal([count, self.config.token_dim], device) }
    }

    /// The head's loss on tokens, each with what the transformer knows of it, and as often as there are draws of it.
    ///
    /// # Shapes
    /// `tokens` `[G, M, D]`, `answers` `[G, M, width]`, G R M draws -> `[G R M]`: in each of G groups M tokens, R times
    /// after each other
    pub fn head_loss(&self, tokens: Tensor<3>, answers: Tensor<3>, draws: HeadDraws) -> Tensor<1> {
        let [groups, each, dim] = tokens.dims();
        let repeats = draws.times.len() / (groups * each);
        let tokens = head::repeated(tokens.reshape([groups * each, dim]), groups, repeats);
        let process = self.config.head.process.process();
        let example = process.corrupt(tokens, draws.noise, &draws.times);
        let output = self.networks.head.forward(example.noisy.clone(), &draws.times, answers);
        process.loss(output, &example).total
    }

    /// Draws tokens of classes; [`GeneratorConfig::no_class`] is any. Image i is drawn from the seed `seed + i`,
    /// whatever else is in the batch.
    ///
    /// # Shapes
    /// B labels → `[B, options.tokens, D]`
    ///
    /// # Errors
    /// If there is no label or no such class, or the options do not fit.
    pub fn generate(&self, labels: &[usize], options: &GenerateOptions, seed: u64) -> Result<Tokens> {
        let seeds = (0..labels.len() as u64).map(|image| Seed::new(seed.wrapping_add(image)));
        let mut noise = Noise::per_sample(seeds.map(|seed| seed.of(Purpose::Tokens)));
        self.generate_observed(labels, options, &mut noise, &mut unobserved)
    }

    /// [`Generator::generate`] with other draws; the observer is told of every token.
    ///
    /// # Errors
    /// As there, or if the observer ends it.
    pub fn generate_observed(
        &self,
        labels: &[usize],
        options: &GenerateOptions,
        noise: &mut Noise,
        observer: Observer,
    ) -> Result<Tokens> {
        self.continue_watched(labels, None, options, noise, &mut |progress, _| observer(progress))
    }

    /// Draws the tokens that follow those `given`, of which there may be none; the result begins with them. The
    /// watcher is told of every token, given or drawn, and can ask for all so far.
    ///
    /// # Shapes
    /// B labels, `given` `[B, k, D]` with k < options.tokens → `[B, options.tokens, D]`
    ///
    /// # Errors
    /// As [`Generator::generate`], if what is given does not fit, or if the watcher ends it.
    pub fn continue_watched(
        &self,
        labels: &[usize],
        given: Option<&Tokens>,
        options: &GenerateOptions,
        noise: &mut Noise,
        watcher: Watcher<Tokens>,
    ) -> Result<Tokens> {
        options.validate(&self.config)?;
        self.check_labels(labels)?;
        self.check_given(labels, given, options)?;
        let plan = DrawingPlan::new(self, &options.drawing)?;
        let transformer = &self.networks.transformer;
        let count = labels.len();
        let guidance = options.drawing.guidance;
        let guided = guidance.scale != 1.0;
        // Without and with a class, to go through the networks in one batch.
        let mut rows = if guided { vec![self.config.no_class(); count] } else { Vec::new() };
        rows.extend(labels);
        let mut cache = transformer.empty_cache();
        let mut input = transformer.class(&rows);
        let mut tokens: Vec<Tensor<3>> = Vec::with_capacity(options.tokens);
        for position in 0..options.tokens {
            let answers = transformer.step(input, position, &mut cache);
            let token = match given.filter(|given| position < given.count()) {
                Some(given) => given.0.clone().narrow(1, position, 1),
                None => {
                    let [rows, _, width] = answers.dims();
                    let scale = guidance.scale_of(position, self.config.tokens);
                    let drawn = plan.draw(answers.reshape([rows, width]), count, scale, noise);
                    drawn.reshape([count, 1, self.config.token_dim])
                }
            };
            let repeated = if guided { Tensor::cat(vec![token.clone(); 2], 0) } else { token.clone() };
            tokens.push(token);
            let so_far = || Tokens(Tensor::cat(tokens.clone(), 1));
            go_on(watcher(Progress { done: tokens.len(), total: options.tokens }, &so_far))?;
            input = transformer.token(repeated);
        }
        Ok(Tokens(Tensor::cat(tokens, 1)))
    }

    fn check_given(&self, labels: &[usize], given: Option<&Tokens>, options: &GenerateOptions) -> Result<()> {
        let Some([batch, count, dim]) = given.map(|given| given.0.dims()) else { return Ok(()) };
        let (images, most, expected) = (labels.len(), options.tokens - 1, self.config.token_dim);
        if batch == images && count <= most && dim == expected {
            return Ok(());
        }
        Err(Error::Input(format!(
            "{count} tokens of {dim} numbers are given for {batch} images; expected at most {most} of {expected}, \
             for {images}"
        )))
    }

    fn check_labels(&self, labels: &[usize]) -> Result<()> {
        let none = self.config.no_class();
        match labels.iter().find(|&&label| label > none) {
            Some(label) => Err(Error::Input(format!(
                "there is no class {label}; the classes are 0 to {}, and {none} is any",
                none - 1
            ))),
            None if labels.is_empty() => Err(Error::Input("no class is given; give one per image".into())),
            None => Ok(()),
        }
    }
}

/// How single tokens are drawn: the head, ready for all its steps.
struct DrawingPlan<'a> {
    head: HeadPlan<'a>,
    sampling: SamplingPlan,
    token_dim: usize,
}

impl<'a> DrawingPlan<'a> {
    fn new(generator: &'a Generator, drawing: &DrawOptions) -> Result<Self> {
        let sampling = drawing.plan(&generator.config.head)?;
        let head = generator.networks.head.plan(sampling.times());
        Ok(Self { head, sampling, token_dim: generator.config.token_dim })
    }

    /// One token per image, `[count, D]`, from answers with a class; if guided, as many without come first.
    fn draw(&self, answers: Tensor<2>, count: usize, scale: f64, noise: &mut Noise) -> Tensor<2> {
        let guided = answers.dims()[0] > count;
        let start = noise.normal([count, self.token_dim], &answers.device());
        let condition = self.head.condition(answers);
        self.sampling.run(start, noise, |x, index| {
            if !guided {
                return self.head.forward(x, index, &condition);
            }
            let both = self.head.forward(Tensor::cat(vec![x.clone(), x], 0), index, &condition);
            guide_halves(both, scale, self.token_dim)
        })
    }
}
