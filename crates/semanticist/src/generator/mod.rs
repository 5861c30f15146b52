//! ϵLlamaGen: a class becomes tokens, one after the other, each drawn by a diffusion head.

mod cache;
mod config;
mod head;
mod layers;
mod transformer;

pub mod guidance;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

pub use cache::KeysValues;
pub use config::{Condition, GeneratorConfig, HeadConfig, HeadProcess};
pub use guidance::{GuidanceSchedule, TokenGuidance};
pub use head::{Head, HeadPlan};
pub use transformer::Transformer;

use crate::diffusion::flow::{self, FlowPlan, FlowSampler};
use crate::diffusion::{
    DiffusionConfig, Guidance, Prediction, Process, SampleOptions, Sampler, SamplingPlan, Schedule,
};
use crate::error::{Error, Result};
use crate::noise::Noise;
use crate::spaces::Tokens;

/// The networks of a generator.
#[derive(Module, Debug)]
pub struct GeneratorNetworks {
    pub transformer: Transformer,
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
    pub config: GeneratorConfig,
    pub networks: GeneratorNetworks,
}

/// Everything drawn for the loss of N tokens.
#[derive(Debug, Clone)]
pub struct HeadDraws {
    /// Of a flow in `[0, 1]`, of Gaussian diffusion whole timesteps.
    pub times: Vec<f32>,
    /// `[N, D]`, standard normal.
    pub noise: Tensor<2>,
}

/// How a class becomes tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// How many of the first tokens are drawn.
    pub tokens: usize,
    pub guidance: TokenGuidance,
    /// How often the head is asked per token, about; see [`FlowPlan::evaluations`].
    pub steps: usize,
    /// Of a flow; Gaussian diffusion is sampled as published, by ancestral steps.
    pub sampler: FlowSampler,
    /// Multiplies the noise that stochastic samplers add on the way.
    pub temperature: f64,
}

impl GenerateOptions {
    /// # Errors
    /// Names the first option that this generator cannot follow.
    pub fn validate(&self, config: &GeneratorConfig) -> Result<()> {
        self.guidance.validate()?;
        let problem = if !(1..=config.tokens).contains(&self.tokens) {
            format!("{} tokens asked of a generator that draws 1 to {}", self.tokens, config.tokens)
        } else if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            format!("temperature {} is not a number of at least 0; 1 is usual", self.temperature)
        } else {
            return Ok(());
        };
        Err(Error::Config(problem))
    }
}

/// The process of a head that draws by Gaussian diffusion.
const DDPM: DiffusionConfig =
    DiffusionConfig { steps: 1000, schedule: Schedule::Cosine, prediction: Prediction::Noise };

impl Generator {
    /// Draws for the loss of `count` tokens.
    pub fn draws(&self, count: usize, noise: &mut Noise, device: &Device) -> HeadDraws {
        let times = match self.config.head.process {
            HeadProcess::Flow => noise.uniform(count),
            HeadProcess::Ddpm => noise.below(count, DDPM.steps).into_iter().map(|t| t as f32).collect(),
        };
        HeadDraws { times, noise: noise.normal([count, self.config.token_dim], device) }
    }

    /// The head's loss on tokens, each with what the transformer knows of it.
    ///
    /// # Shapes
    /// `tokens` `[N, D]`, `answers` `[N, width]` -> `[N]`
    pub fn head_loss(&self, tokens: Tensor<2>, answers: Tensor<2>, draws: HeadDraws) -> Tensor<1> {
        let [n, d] = tokens.dims();
        match self.config.head.process {
            HeadProcess::Flow => {
                let example = flow::interpolate(tokens, draws.noise, &draws.times);
                let found = self.networks.head.forward(example.noisy, &draws.times, answers);
                (found - example.velocity).square().mean_dim(1).reshape([n])
            }
            HeadProcess::Ddpm => {
                let process = Process::new(&DDPM).expect("the cosine schedule has 1000 steps");
                let timesteps: Vec<usize> = draws.times.iter().map(|&t| t as usize).collect();
                let (clean, noise) = (tokens.reshape([n, d, 1, 1]), draws.noise.reshape([n, d, 1, 1]));
                let example = process.add_noise(clean, noise, &timesteps);
                let noisy = example.noisy.clone().reshape([n, d]);
                let output = self.networks.head.forward(noisy, &draws.times, answers);
                let losses = process.training_loss(output.reshape([n, 2 * d, 1, 1]), &example);
                losses.mse + losses.vb
            }
        }
    }

    /// Draws tokens of classes; [`GeneratorConfig::no_class`] is any. `observe` is called after every
    /// token with how many there are.
    ///
    /// # Errors
    /// If the options do not fit.
    ///
    /// # Panics
    /// If there is no label, or no such class.
    pub fn generate(
        &self,
        labels: &[usize],
        options: &GenerateOptions,
        noise: &mut Noise,
        mut observe: impl FnMut(usize),
    ) -> Result<Tokens> {
        options.validate(&self.config)?;
        let plan = DrawingPlan::new(self, options)?;
        let transformer = &self.networks.transformer;
        let count = labels.len();
        let guided = options.guidance.scale != 1.0;
        // Without a class behind with one, to go through the networks in one batch.
        let mut rows = labels.to_vec();
        if guided {
            rows.resize(2 * count, self.config.no_class());
        }
        let mut cache = transformer.empty_cache();
        let mut input = transformer.class(&rows);
        let mut tokens: Vec<Tensor<3>> = Vec::with_capacity(options.tokens);
        for position in 0..options.tokens {
            let answers = transformer.step(input, position, &mut cache);
            let [rows, _, width] = answers.dims();
            let scale = options.guidance.scale_of(position, self.config.tokens);
            let drawn = plan.draw(answers.reshape([rows, width]), (count, scale), noise);
            let drawn = drawn.reshape([count, 1, self.config.token_dim]);
            let repeated = if guided { Tensor::cat(vec![drawn.clone(); 2], 0) } else { drawn.clone() };
            tokens.push(drawn);
            observe(tokens.len());
            input = transformer.token(repeated);
        }
        Ok(Tokens(Tensor::cat(tokens, 1)))
    }
}

/// How single tokens are drawn: the head, ready for all its steps.
struct DrawingPlan<'a> {
    head: HeadPlan<'a>,
    steps: Steps,
    temperature: f64,
    token_dim: usize,
}

enum Steps {
    Flow(FlowPlan),
    Ddpm(SamplingPlan),
}

impl<'a> DrawingPlan<'a> {
    fn new(generator: &'a Generator, options: &GenerateOptions) -> Result<Self> {
        let (steps, times) = match generator.config.head.process {
            HeadProcess::Flow => {
                let plan = FlowPlan::new(options.sampler, options.steps)?;
                let times = plan.times().to_vec();
                (Steps::Flow(plan), times)
            }
            HeadProcess::Ddpm => {
                let sampling =
                    SampleOptions { steps: options.steps, sampler: Sampler::Ddpm, guidance: Guidance::NONE };
                let plan = SamplingPlan::new(&DDPM, &sampling)?.with_temperature(options.temperature);
                let times = plan.timesteps().iter().map(|&t| t as f32).collect();
                (Steps::Ddpm(plan), times)
            }
        };
        let head = generator.networks.head.plan(&times);
        let token_dim = generator.config.token_dim;
        Ok(Self { head, steps, temperature: options.temperature, token_dim })
    }

    /// One token per image, `[count, D]`, from answers with a class and, if guided, as many without.
    fn draw(&self, answers: Tensor<2>, (count, scale): (usize, f64), noise: &mut Noise) -> Tensor<2> {
        let guided = answers.dims()[0] > count;
        let start = noise.normal([count, self.token_dim], &answers.device());
        let condition = self.head.condition(answers);
        let ask = |x: Tensor<2>, number: usize| {
            let rows = if guided { Tensor::cat(vec![x.clone(), x], 0) } else { x };
            self.head.forward(rows, number, &condition)
        };
        match &self.steps {
            Steps::Flow(plan) => plan.run(start, self.temperature, noise, |x, number| {
                let velocity = ask(x, number);
                if !guided {
                    return velocity;
                }
                let (with, without) =
                    (velocity.clone().narrow(0, 0, count), velocity.narrow(0, count, count));
                without.clone() + (with - without) * scale
            }),
            Steps::Ddpm(plan) => {
                let d = self.token_dim;
                let latents = plan.run(start.reshape([count, d, 1, 1]), noise, |x, timestep| {
                    let number = plan.timesteps().binary_search(&timestep);
                    let number = number.expect("the sampler asks at its own timesteps");
                    let output = ask(x.reshape([count, d]), number);
                    let rows = output.dims()[0];
                    let output = output.reshape([rows, 2 * d, 1, 1]);
                    if !guided {
                        return output;
                    }
                    let (with, without) =
                        (output.clone().narrow(0, 0, count), output.narrow(0, count, count));
                    Guidance::constant(scale).apply(without, with)
                });
                latents.reshape([count, d])
            }
        }
    }
}
