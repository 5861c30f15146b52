//! The decoder: noisy latents to prediction and variance logits, with all, some and guiding tokens.

use burn::tensor::{Device, Tensor};
use semanticist::decoder::Decoder;
use semanticist::diffusion::guidance::guide;
use semanticist::weights::HostTensor;
use semanticist::{Result, Tokens};

use super::comparison::{Comparison, Values};
use super::recording::Recording;
use super::sizes::DecoderSizes;
use super::tolerance::Kind;

pub(super) const FILE: &str = "decoder.safetensors";

/// Timesteps of the published diffusion process.
pub(super) const LAST_TIMESTEP: usize = 999;

/// What the decoder is asked.
pub(super) struct Question {
    pub latents: Tensor<4>,
    pub tokens: Tokens,
    pub times: Vec<f32>,
    pub keep: Vec<usize>,
}

impl Question {
    /// Takes the recorded inputs.
    pub fn read(sizes: &DecoderSizes, recording: &mut Recording, device: &Device) -> Result<Self> {
        let latents = sizes.latents(recording, device)?;
        let batch = latents.dims()[0];
        Ok(Self {
            latents,
            tokens: sizes.tokens(recording, batch, device)?,
            times: times(recording.integers("timestep", &[batch], LAST_TIMESTEP)?),
            keep: recording.integers("keep", &[batch], sizes.tokens)?,
        })
    }

    /// The decoder's answer when each sample keeps `keep` tokens.
    pub fn ask(&self, decoder: &Decoder, keep: &[usize]) -> Tensor<4> {
        decoder.forward(self.latents.clone(), &self.times, &self.tokens, keep)
    }
}

/// Recorded timesteps as the network is told them.
pub(super) fn times(timesteps: Vec<usize>) -> Vec<f32> {
    timesteps.into_iter().map(|timestep| timestep as f32).collect()
}

pub(super) fn run(comparison: &mut Comparison) -> Result<()> {
    let mut recording = comparison.open(FILE)?;
    let sizes = DecoderSizes::of(&recording)?;
    let question = Question::read(&sizes, &mut recording, comparison.device)?;
    let published = recording.parameters()?;
    let mut parameters = published.weights;
    let decoder = sizes.build(&mut parameters, recording.path(), comparison.device)?;
    parameters.finish(recording.path())?;
    let decoder = comparison.precision.store(decoder);

    let batch = question.keep.len();
    let all = question.ask(&decoder, &vec![sizes.tokens; batch]);
    let none = question.ask(&decoder, &vec![0; batch]);
    let kept = question.ask(&decoder, &question.keep);
    comparison.compare(&mut recording, "out_all_tokens", all.into(), Kind::Output);
    comparison.compare(&mut recording, "out_kept", kept.clone().into(), Kind::Output);
    const SCALE: f64 = 3.0;
    let guided = guide(none, kept, SCALE, sizes.latent(batch)[1]);
    comparison.compare(&mut recording, "out_cfg3", guided.into(), Kind::Guided(SCALE));
    if sizes.repa().is_some() {
        let Question { latents, times, tokens, keep } = &question;
        let (_, projection) = decoder.forward_projected(latents.clone(), times, tokens, keep);
        comparison.compare(&mut recording, "repa_projection", projection.into(), Kind::Output);
    }
    if let Some(positions) = published.positions {
        compare_positions(comparison, &decoder, &positions);
    }
    comparison.close(&recording);
    Ok(())
}

/// A file may hold the frozen positions: they must be those that we compute.
pub(super) fn compare_positions(comparison: &mut Comparison, decoder: &Decoder, recorded: &HostTensor) {
    const QUANTITY: &str = "dit.pos_embed";
    let found = Values::from(decoder.positions());
    match Values::from_host(recorded) {
        Some(recorded) if recorded.shape == found.shape => {
            comparison.record(QUANTITY, &recorded.values, &found.values, Kind::Unrounded);
        }
        _ => {
            let (dtype, shape) = (recorded.dtype(), recorded.shape());
            let reason = format!("is {dtype} {shape:?}, expected floats {:?}", found.shape);
            comparison.unreadable(QUANTITY, reason);
        }
    }
}
