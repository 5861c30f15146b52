//! Several optimiser steps of encoder and decoder on one batch: losses, gradient norms, and what
//! becomes of the parameters and their moving average.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist::diffusion::{DiffusionConfig, Process};
use semanticist::tokenizer::Networks;
use semanticist::weights::{self, Weights, names};
use semanticist::{Latents, Pixels, Result};
use semanticist_train::ema;
use semanticist_train::gradients::Gradients;
use semanticist_train::objective::diffusion as objective;
use semanticist_train::optimizer::{AdamW, AdamWConfig};
use serde::Deserialize;

use super::comparison::{Comparison, Values};
use super::decoder::{self, LAST_TIMESTEP};
use super::recording::Recording;
use super::sizes::{DecoderSizes, EncoderSizes};
use super::tolerance::Kind;

pub(super) const FILE: &str = "training_run.safetensors";

/// How the run was made.
#[derive(Debug, Deserialize)]
struct RunConfig {
    steps: usize,
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    clip_norm: f64,
    ema: f64,
}

pub(super) fn run(comparison: &mut Comparison) -> Result<()> {
    let mut recording = comparison.open(FILE)?;
    let config: RunConfig = recording.config()?;
    let device = comparison.device.clone().autodiff();
    let (encoder_sizes, mut encoder) = EncoderSizes::read(comparison.folder)?;
    let (decoder_sizes, mut decoder) = DecoderSizes::read(comparison.folder)?;
    let images = encoder_sizes.images(&mut recording, &device)?;
    let draws = Draws::read(&decoder_sizes, config.steps, &mut recording, &device)?;
    agree(&recording, "images and latents", images.0.dims()[0], draws.latents.dims()[0])?;
    agree(&recording, "tokens of encoder and decoder", encoder_sizes.tokens, decoder_sizes.tokens)?;
    agree(&recording, "token_dim of encoder and decoder", encoder_sizes.token_dim, decoder_sizes.token_dim)?;
    let networks = comparison.precision.train(Networks {
        encoder: encoder_sizes.build(&mut encoder, recording.path(), &device)?,
        decoder: decoder_sizes.build(&mut decoder, recording.path(), &device)?,
    });
    encoder.finish(recording.path())?;
    decoder.finish(recording.path())?;

    let course = train(networks, &images, &draws, &config)?;
    comparison.compare(&mut recording, "loss", Values::vector(course.losses), Kind::Course);
    comparison.compare(&mut recording, "grad_norm", Values::vector(course.norms), Kind::Course);
    compare_weights(comparison, &mut recording, "final.", &weights::collect(&course.networks, ""));
    compare_weights(comparison, &mut recording, "ema.", &weights::collect(&course.average, ""));
    comparison.close(&recording);
    Ok(())
}

fn agree(recording: &Recording, what: &str, left: usize, right: usize) -> Result<()> {
    if left == right {
        return Ok(());
    }
    Err(recording.error(format!("{what} differ: {left} and {right}, expected the same number")))
}

/// The latents and the random draws of every step.
struct Draws {
    latents: Tensor<4>,
    noise: Vec<Tensor<4>>,
    times: Vec<Vec<f32>>,
    keep: Vec<Vec<usize>>,
}

impl Draws {
    fn read(sizes: &DecoderSizes, steps: usize, recording: &mut Recording, device: &Device) -> Result<Self> {
        let latents = sizes.latents(recording, device)?;
        let shape @ [batch, channels, height, width] = latents.dims();
        let noise = recording.tensor("noise", [steps, batch, channels, height, width], device)?;
        let timesteps = recording.integers("timestep", &[steps, batch], LAST_TIMESTEP)?;
        let keep = recording.integers("keep", &[steps, batch], sizes.tokens)?;
        Ok(Self {
            latents,
            noise: (0..steps).map(|step| noise.clone().narrow(0, step, 1).reshape(shape)).collect(),
            times: decoder::times(timesteps).chunks(batch).map(<[f32]>::to_vec).collect(),
            keep: keep.chunks(batch).map(<[usize]>::to_vec).collect(),
        })
    }
}

/// What a run left behind.
struct Course {
    /// Of each step, before it.
    losses: Vec<f64>,
    /// Of each step, before clipping.
    norms: Vec<f64>,
    networks: Networks,
    average: Networks,
}

fn train(mut networks: Networks, images: &Pixels, draws: &Draws, config: &RunConfig) -> Result<Course> {
    let [beta1, beta2] = config.betas;
    let RunConfig { eps: epsilon, weight_decay, clip_norm, .. } = *config;
    let mut optimizer = AdamW::new(AdamWConfig { beta1, beta2, epsilon, weight_decay, clip_norm });
    let process = Process::new(&DiffusionConfig::default())?;
    let (mut losses, mut norms, mut average) = (Vec::new(), Vec::new(), networks.valid());
    for (step, noise) in draws.noise.iter().enumerate() {
        let drawn = objective::Draws {
            keep: draws.keep[step].clone(),
            times: draws.times[step].clone(),
            noise: noise.clone(),
        };
        let count = networks.encoder.concept_tokens.dims()[1];
        let tokens = networks.encoder.forward(images, count, None).tokens;
        let latents = Latents(draws.latents.clone());
        let loss = objective::loss(&networks, &process, &tokens, &latents, &drawn).total.mean();
        losses.extend(Values::from(loss.clone()).values);
        let gradients = Gradients::collect(&networks, &loss.backward());
        let norm = gradients.norm();
        norms.push(norm);
        networks = optimizer.step(networks, &gradients, norm, config.lr);
        average = ema::average(average, &networks, config.ema);
    }
    Ok(Course { losses, norms, networks, average })
}

/// Compares every recorded parameter whose name begins with `prefix`.
fn compare_weights(comparison: &mut Comparison, recording: &mut Recording, prefix: &str, found: &Weights) {
    let recorded: Vec<String> =
        recording.names().filter(|name| name.starts_with(prefix)).map(str::to_string).collect();
    for name in recorded {
        let ours = names::from_published(&name[prefix.len()..]);
        match ours.and_then(|ours| Values::from_host(found.get(&ours)?)) {
            Some(found) => comparison.compare(recording, &name, found, Kind::Moved),
            None => comparison.unreadable(&name, "the networks have no such parameter".into()),
        }
    }
}
