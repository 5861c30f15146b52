//! What is timed, step by step.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use semanticist::decoder::Decoder;
use semanticist::diffusion::guidance::guide_halves;
use semanticist::diffusion::{Process, SamplingPlan};
use semanticist::encoder::Encoder;
use semanticist::generator::{GeneratorConfig, Head};
use semanticist::tokenizer::Networks;
use semanticist::{Error, Latents, Noise, Pixels, Result, TokenizerConfig, Tokens};
use semanticist_ops::profile::{self, Timing};
use semanticist_train::gradients::Gradients;
use semanticist_train::objective::diffusion as objective;
use semanticist_train::optimizer::{AdamW, AdamWConfig};

use super::{Machine, Measured, Share, peak};

/// Runs `job` once for nothing, then `repeats` times, and the machine's peak before and after.
fn timed(repeats: usize, machine: Machine, mut job: impl FnMut()) -> Measured {
    let mut job = || {
        job();
        peak::finish(machine.device);
    };
    job();
    let before = peak::gflops(machine);
    profile::start();
    let all: Vec<f64> = (0..repeats).map(|_| seconds_of(&mut job)).collect();
    let operators = shares(profile::stop(), all.iter().sum(), repeats);
    let peak_gflops = Some(before.max(peak::gflops(machine)));
    Measured { seconds: median(all), peak_gflops, operators, ..Measured::default() }
}

/// What each operator takes of one run, the greatest first, and what is left for all else.
fn shares(timings: BTreeMap<&'static str, Timing>, total: f64, repeats: usize) -> Vec<Share> {
    let named = timings.into_iter().map(|(operator, Timing { calls, time })| Share {
        operator,
        calls: calls / repeats as u64,
        seconds: time.as_secs_f64() / repeats as f64,
    });
    let mut shares: Vec<Share> = named.collect();
    shares.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let rest = total / repeats as f64 - shares.iter().map(|share| share.seconds).sum::<f64>();
    shares.push(Share { operator: "all else", calls: 0, seconds: rest });
    shares
}

pub(super) fn seconds_of(job: &mut impl FnMut()) -> f64 {
    let begun = Instant::now();
    job();
    begun.elapsed().as_secs_f64()
}

pub(super) fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Images of this configuration, uniform noise.
fn images(config: &TokenizerConfig, batch: usize, noise: &mut Noise, device: &Device) -> Pixels {
    let side = config.image_size;
    let values = noise.uniform(batch * 3 * side * side);
    Pixels(Tensor::<1>::from_floats(values.as_slice(), device).reshape([batch, 3, side, side]))
}

/// The first `tokens` tokens of `batch` images.
pub fn encode(
    config: &TokenizerConfig,
    batch: usize,
    tokens: usize,
    repeats: usize,
    machine: Machine,
) -> Result<Measured> {
    config.validate()?;
    let Machine { device, precision } = machine;
    let mut noise = Noise::seeded(0);
    let (shape, epsilon) = (config.token_shape(), config.token_epsilon);
    let encoder = Encoder::init(&config.encoder, config.image_size, shape, epsilon, &mut noise, device);
    let encoder = precision.store(encoder);
    let images = images(config, batch, &mut noise, device);
    Ok(timed(repeats, machine, || {
        black_box(encoder.forward(&images, tokens, None).tokens);
    }))
}

/// One denoising step of `batch` images.
pub fn decode(config: &TokenizerConfig, batch: usize, repeats: usize, machine: Machine) -> Result<Measured> {
    config.validate()?;
    let Machine { device, precision } = machine;
    let mut noise = Noise::seeded(0);
    let latent = config.latent_shape()?;
    let decoder = Decoder::init(&config.decoder, latent, config.token_shape(), &mut noise, device);
    let decoder = precision.store(decoder);
    let noisy = noise.normal([batch, latent.channels, latent.side, latent.side], device);
    let tokens = Tokens(noise.normal([batch, config.tokens, config.token_dim], device));
    let condition = decoder.condition(&tokens, &vec![config.tokens; batch]);
    Ok(timed(repeats, machine, || {
        black_box(decoder.step(noisy.clone(), 500.0, 0.0, &condition));
    }))
}

/// Steps in which the head is timed, as published.
pub const HEAD_STEPS: usize = 250;

/// One token of `batch` images with guidance: each has a row with its class and one without. What the
/// tokens of an image share is prepared before.
pub fn head(config: &GeneratorConfig, batch: usize, repeats: usize, machine: Machine) -> Result<Measured> {
    config.validate()?;
    let Machine { device, precision } = machine;
    let mut noise = Noise::seeded(0);
    let head = precision.store(Head::init(config, &mut noise, device));
    let process = config.head.process;
    let sampling = SamplingPlan::new(process.process(), process.default_sampler(), HEAD_STEPS)?;
    let plan = head.plan(sampling.times());
    let answers = noise.normal([2 * batch, config.width], device);
    Ok(timed(repeats, machine, || {
        let condition = plan.condition(answers.clone());
        let start = noise.normal([batch, config.token_dim], device);
        black_box(sampling.run(start, &mut noise, |x, index| {
            let both = plan.forward(Tensor::cat(vec![x.clone(), x], 0), index, &condition);
            guide_halves(both, 3.0, config.token_dim)
        }));
    }))
}

/// One optimiser step on `batch` images, without the moving average.
pub fn train(config: &TokenizerConfig, batch: usize, repeats: usize, machine: Machine) -> Result<Measured> {
    let Machine { device, precision } = machine;
    let mut noise = Noise::seeded(0);
    let process = Process::new(&config.diffusion)?;
    let networks = Networks::init(config, &mut noise, &device.clone().autodiff())?;
    let mut networks = Some(precision.train(networks));
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let images = Pixels(Tensor::from_inner(images(config, batch, &mut noise, device).0));
    let latent = config.latent_shape()?;
    let shape = [batch, latent.channels, latent.side, latent.side];
    let latents = noise.normal(shape, device);
    Ok(timed(repeats, machine, || {
        let draws = objective::Draws {
            keep: noise.below(batch, config.tokens).into_iter().map(|k| k + 1).collect(),
            times: process.draw_times(batch, &mut noise),
            noise: Tensor::from_inner(noise.normal(shape, device)),
        };
        let current = networks.take().expect("put back below");
        let latents = Latents(Tensor::from_inner(latents.clone()));
        let tokens = current.encoder.forward(&images, config.tokens, None).tokens;
        let loss = objective::loss(&current, &process, &tokens, &latents, &draws).total.mean();
        let gradients = Gradients::collect(&current, &loss.backward());
        networks = Some(optimizer.step(current, &gradients, gradients.norm(), 1e-4));
    }))
}

/// A folder that is gone when it is no longer needed.
pub(super) struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("semanticist-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| Error::io(&path, "create the folder", error))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the system's own cleaning of its temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
