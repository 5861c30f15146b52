//! Whole sampling runs with recorded noise.

use semanticist::decoder::Decoder;
use semanticist::diffusion::guidance::guide;
use semanticist::diffusion::{DecodeOptions, DiffusionConfig, Guidance, Process, Sampler};
use semanticist::{Noise, Result, Tokens};

use super::comparison::Comparison;
use super::recording::Recording;
use super::sizes::DecoderSizes;
use super::tolerance::Kind;

pub(super) const FILE: &str = "sampling.safetensors";

pub(super) fn run(comparison: &mut Comparison) -> Result<()> {
    let mut recording = comparison.open(FILE)?;
    let (sizes, mut parameters) = DecoderSizes::read_for(comparison.folder, &recording)?;
    let [batch, ..] = recording.dims::<3>("tokens")?;
    let tokens = sizes.tokens(&mut recording, batch, comparison.device)?;
    // Latents are bounded by what is recorded before a decoder for them is built.
    let runs: Vec<Run> = recording.names().filter_map(Run::parse).collect();
    for run in &runs {
        if recording.dims(&run.tensor("start")).ok() != Some(sizes.latent(batch)) {
            let (start, expected) = (run.tensor("start"), sizes.latent(batch));
            return Err(recording.error(format!("{start} is not {expected:?}, as the config has it")));
        }
    }
    if runs.is_empty() {
        return Err(recording.error("holds no tensor with a name such as 10.cfg3.keep5.out"));
    }
    let decoder = sizes.build(&mut parameters, recording.path(), comparison.device)?;
    parameters.finish(recording.path())?;
    let decoder = comparison.precision.store(decoder);
    let subject = Subject { sizes, decoder, tokens };
    for run in &runs {
        if let Err(error) = run.compare(comparison, &mut recording, &subject) {
            comparison.unreadable(&run.tensor("out"), error.to_string());
        }
    }
    comparison.close(&recording);
    Ok(())
}

/// What all runs sample from.
struct Subject {
    sizes: DecoderSizes,
    decoder: Decoder,
    tokens: Tokens,
}

/// One sampling run: its name and what the name means.
struct Run {
    name: String,
    options: DecodeOptions,
    keep: usize,
}

impl Run {
    /// From the name of its result: `STEPS.cfgSCALE.keepCOUNT.out` or `ddimSTEPS.…`.
    fn parse(tensor: &str) -> Option<Self> {
        let name = tensor.strip_suffix(".out")?;
        let (steps, rest) = name.split_once(".cfg")?;
        let (scale, keep) = rest.split_once(".keep")?;
        let (sampler, steps) = match steps.strip_prefix("ddim") {
            Some(steps) => (Sampler::Ddim { eta: 0.0 }, steps),
            None => (Sampler::Ddpm, steps),
        };
        let guidance = Guidance::constant(scale.parse().ok()?);
        let options = DecodeOptions { steps: steps.parse().ok()?, sampler: Some(sampler), guidance };
        Some(Self { name: name.to_string(), options, keep: keep.parse().ok()? })
    }

    /// The name of one of its tensors.
    fn tensor(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    fn compare(
        &self,
        comparison: &mut Comparison,
        recording: &mut Recording,
        subject: &Subject,
    ) -> Result<()> {
        let Subject { sizes, decoder, tokens } = subject;
        let batch = tokens.batch();
        let shape @ [_, channels, height, width] = sizes.latent(batch);
        let DecodeOptions { steps, guidance, .. } = self.options;
        let plan = self.options.plan(&Process::new(&DiffusionConfig::default())?)?;
        if self.keep > sizes.tokens {
            let (keep, count) = (self.keep, sizes.tokens);
            return Err(recording.error(format!("{} keeps {keep} of {count} tokens", self.name)));
        }
        let start = recording.tensor(&self.tensor("start"), shape, comparison.device)?;
        let draws = recording.floats(&self.tensor("noise"), &[steps, batch, channels, height, width])?;
        let draws: Vec<f32> = draws.into_iter().map(|v| v as f32).collect();
        let mut noise = Noise::recorded(draws.chunks(draws.len() / steps).map(<[f32]>::to_vec));
        let result = plan.run(start, &mut noise, |x, index| {
            let times = vec![plan.times()[index]; batch];
            let ask = |keep: usize| decoder.forward(x.clone(), &times, tokens, &vec![keep; batch]);
            let with = ask(self.keep);
            if guidance.scale == 1.0 { with } else { guide(ask(0), with, guidance.scale, channels) }
        });
        comparison.compare(recording, &self.tensor("out"), result.into(), Kind::Guided(guidance.scale));
        Ok(())
    }
}
