//! Samplers: from noise to latents by asking the network a number of times.

use std::{fmt, str::FromStr};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Denoised, DiffusionConfig, Guidance, Process, Respacing, split};
use crate::{Error, Noise, Result};

/// Which way leads from noise to latents.
///
/// Written as `ddpm`, `ddim` (η = 0), `ddim:0.5` (η = 0.5) or `dpm++`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Sampler {
    /// Ancestral sampling with the learned variance (Nichol & Dhariwal 2021): the published one.
    Ddpm,
    /// Implicit sampling (Song et al. 2021). The timesteps are an integer stride apart if a stride
    /// gives that many steps, as in guided-diffusion, and otherwise evenly spaced.
    Ddim {
        /// Share of the ancestral noise, in `[0, 1]`; 0 draws none at all.
        eta: f64,
    },
    /// Second-order multistep solver (DPM-Solver++ 2M, Lu et al. 2022), deterministic. The timesteps
    /// are spaced quadratically: on even ones its last steps are so long in log signal-to-noise
    /// ratio that 20 of them are less exact than 20 of DDIM.
    DpmSolverPlusPlus,
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ddpm => f.write_str("ddpm"),
            Self::Ddim { eta: 0.0 } => f.write_str("ddim"),
            Self::Ddim { eta } => write!(f, "ddim:{eta}"),
            Self::DpmSolverPlusPlus => f.write_str("dpm++"),
        }
    }
}

impl FromStr for Sampler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let eta = |text: &str| text.parse().ok().filter(|eta| (0.0..=1.0).contains(eta));
        match name {
            "ddpm" => Some(Self::Ddpm),
            "ddim" => Some(Self::Ddim { eta: 0.0 }),
            "dpm++" => Some(Self::DpmSolverPlusPlus),
            _ => name.strip_prefix("ddim:").and_then(eta).map(|eta| Self::Ddim { eta }),
        }
        .ok_or_else(|| {
            Error::Config(format!(
                "unknown sampler \"{name}\"; use \"ddpm\", \"ddim\", \"ddim:ETA\" with ETA from 0 to 1, or \"dpm++\""
            ))
        })
    }
}

impl TryFrom<String> for Sampler {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Sampler> for String {
    fn from(sampler: Sampler) -> Self {
        sampler.to_string()
    }
}

/// How to decode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SampleOptions {
    /// How often the network is asked, at least 2.
    pub steps: usize,
    /// In which way.
    pub sampler: Sampler,
    /// How strongly the tokens are over-weighted.
    pub guidance: Guidance,
}

impl Default for SampleOptions {
    /// DPM-Solver++ with 25 steps (Lu et al. 2022 converge at 15 to 20 with guidance); guidance as
    /// in the paper's evaluation.
    fn default() -> Self {
        Self { steps: 25, sampler: Sampler::DpmSolverPlusPlus, guidance: Guidance::constant(3.0) }
    }
}

impl SampleOptions {
    /// As the published evaluation: 250 ancestral steps, guidance 3.
    pub fn published() -> Self {
        Self { steps: 250, sampler: Sampler::Ddpm, guidance: Guidance::constant(3.0) }
    }
}

/// A sampler on the timesteps it will visit: checked, ready to run any number of times.
#[derive(Debug, Clone)]
pub struct SamplingPlan {
    process: Process,
    sampler: Sampler,
    /// Multiplies the noise of ancestral steps.
    temperature: f64,
}

impl SamplingPlan {
    /// # Errors
    /// If the process does not have that many steps, or fewer than 2 are asked for: a single one
    /// would stand at the timestep where almost no noise is left.
    pub fn new(config: &DiffusionConfig, options: &SampleOptions) -> Result<Self> {
        let SampleOptions { steps, sampler, ref guidance } = *options;
        guidance.validate()?;
        if !(2..=config.steps).contains(&steps) {
            return Err(Error::Config(format!(
                "{steps} sampling steps asked of a diffusion process with {}; use 2 to {}",
                config.steps, config.steps
            )));
        }
        let respacing = match sampler {
            Sampler::Ddim { .. } if Respacing::Ddim(steps).timesteps(config.steps).is_ok() => {
                Respacing::Ddim(steps)
            }
            Sampler::Ddim { .. } | Sampler::Ddpm => Respacing::Even(steps),
            Sampler::DpmSolverPlusPlus => Respacing::Quadratic(steps),
        };
        Ok(Self { process: Process::respaced(config, respacing)?, sampler, temperature: 1.0 })
    }

    /// The same with the noise of ancestral steps multiplied.
    pub fn with_temperature(self, temperature: f64) -> Self {
        Self { temperature, ..self }
    }

    /// The training timesteps at which the network is asked, from the lowest.
    pub fn timesteps(&self) -> &[usize] {
        &self.process.timesteps
    }

    /// How often [`SamplingPlan::run`] asks the network.
    pub fn steps(&self) -> usize {
        self.process.steps()
    }

    /// Leads `start` to latents.
    ///
    /// `denoise` is the network, guidance included: from noisy latents `[B, C, H, W]` at a training
    /// timestep to prediction and variance logits `[B, 2C, H, W]`. It is called once per step, from
    /// the highest timestep down, so progress can be counted in it.
    ///
    /// # Shapes
    /// `start`: `[B, C, H, W]`, standard normal → `[B, C, H, W]`.
    pub fn run(
        &self,
        start: Tensor<4>,
        noise: &mut Noise,
        mut denoise: impl FnMut(Tensor<4>, usize) -> Tensor<4>,
    ) -> Tensor<4> {
        let mut x = start;
        let mut previous = None;
        for position in (0..self.steps()).rev() {
            let (prediction, logits) = split(denoise(x.clone(), self.process.timesteps[position]));
            let denoised = self.process.denoised(x.clone(), prediction, &vec![position; x.dims()[0]]);
            let step = Step { position, x, denoised, logits };
            x = match self.sampler {
                Sampler::Ddpm => self.ancestral(step, noise),
                Sampler::Ddim { eta } => self.implicit(step, eta, noise),
                Sampler::DpmSolverPlusPlus => {
                    let clean = step.denoised.clean.clone();
                    self.multistep(step, previous.replace(clean))
                }
            };
        }
        x
    }

    /// Source: guided-diffusion `p_sample`, `clip_denoised=False`. Noise is drawn at the last step
    /// too, where it is not used, so that recorded draws line up.
    fn ancestral(&self, step: Step, noise: &mut Noise) -> Tensor<4> {
        let Step { position, x, denoised, logits } = step;
        let positions = vec![position; x.dims()[0]];
        let drawn = noise.normal(x.dims(), &x.device());
        let mean = self.process.posterior_mean(denoised.clean, x, &positions);
        if position == 0 {
            return mean;
        }
        let deviation = (self.process.learned_log_variance(logits, &positions) * 0.5).exp();
        mean + deviation * drawn * self.temperature
    }

    /// Source: Song et al. 2021, eq. 12 and 16; guided-diffusion `ddim_sample`.
    fn implicit(&self, step: Step, eta: f64, noise: &mut Noise) -> Tensor<4> {
        let Denoised { clean, noise: predicted } = step.denoised;
        let now = self.process.alphas_cumprod[step.position];
        let next = self.process.alphas_cumprod_prev[step.position];
        let deviation = eta * ((1.0 - next) / (1.0 - now)).sqrt() * (1.0 - now / next).sqrt();
        let mean = clean * next.sqrt() + predicted * (1.0 - next - deviation * deviation).max(0.0).sqrt();
        if eta == 0.0 {
            return mean;
        }
        mean.clone() + noise.normal(mean.dims(), &mean.device()) * deviation
    }

    /// Source: Lu et al. 2022 (DPM-Solver++), Algorithm 2. Of first order are the first step, which
    /// has no predecessor, and for stability the last two: the very last, to no noise at all, has
    /// infinite length and gives the clean latents themselves.
    fn multistep(&self, step: Step, previous: Option<Tensor<4>>) -> Tensor<4> {
        let Step { position, x, denoised: Denoised { clean, .. }, .. } = step;
        if position == 0 {
            return clean;
        }
        let (from, to) = (self.signal_to_noise(position), self.signal_to_noise(position - 1));
        let length = to.log_ratio - from.log_ratio;
        let direction = match previous {
            Some(previous) if position > 1 => {
                let before = self.signal_to_noise(position + 1);
                let weight = length / (2.0 * (from.log_ratio - before.log_ratio));
                clean * (1.0 + weight) - previous * weight
            }
            _ => clean,
        };
        x * (to.noise / from.noise) - direction * (to.signal * (-length).exp_m1())
    }

    fn signal_to_noise(&self, position: usize) -> SignalToNoise {
        let share = self.process.alphas_cumprod[position];
        let (signal, noise) = (share.sqrt(), (1.0 - share).sqrt());
        SignalToNoise { signal, noise, log_ratio: (signal / noise).ln() }
    }
}

/// Where a run stands, and what the network says there.
struct Step {
    /// Index into the tables of the process.
    position: usize,
    /// `[B, C, H, W]`, the noisy latents.
    x: Tensor<4>,
    denoised: Denoised,
    /// `[B, C, H, W]`, the variance logits.
    logits: Tensor<4>,
}

/// Signal and noise in noisy latents, as the solver's paper parameterises time.
struct SignalToNoise {
    /// `√ᾱ` (there: α).
    signal: f64,
    /// `√(1 − ᾱ)` (there: σ).
    noise: f64,
    /// `ln(signal / noise)` (there: λ).
    log_ratio: f64,
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::diffusion::{Prediction, Schedule, golden};

    const MEAN: f64 = 0.7;
    const DEVIATION: f64 = 0.5;
    const SHAPE: [usize; 4] = [16, 4, 8, 8];

    /// The best possible network for latents that are normal with [`MEAN`] and [`DEVIATION`].
    fn ideal(config: &DiffusionConfig) -> impl Fn(Tensor<4>, usize) -> Tensor<4> {
        let (process, prediction) = (Process::new(config).unwrap(), config.prediction);
        move |x, timestep| {
            let share = process.alphas_cumprod[timestep];
            let (signal, level) = (share.sqrt(), (1.0 - share).sqrt());
            let variance = share * DEVIATION * DEVIATION + 1.0 - share;
            let noise = (x.clone() - signal * MEAN) * (level / variance);
            let clean = (x - noise.clone() * level) / signal;
            let prediction = match prediction {
                Prediction::Noise => noise,
                Prediction::Velocity => noise * signal - clean * level,
            };
            let logits = prediction.zeros_like();
            Tensor::cat(vec![prediction, logits], 1)
        }
    }

    fn sample(config: &DiffusionConfig, sampler: &str, steps: usize) -> Tensor<4> {
        let options = SampleOptions { steps, sampler: sampler.parse().unwrap(), guidance: Guidance::NONE };
        let mut noise = Noise::seeded(5);
        let start = noise.normal(SHAPE, &Device::flex());
        SamplingPlan::new(config, &options).unwrap().run(start, &mut noise, ideal(config))
    }

    fn distance(a: Tensor<4>, b: Tensor<4>) -> f32 {
        (a - b).abs().max().into_scalar()
    }

    #[test]
    fn every_sampler_finds_the_distribution() {
        for (sampler, steps) in [("ddpm", 250), ("ddim", 100), ("ddim:1", 250), ("dpm++", 30)] {
            let x = sample(&DiffusionConfig::default(), sampler, steps);
            let mean = f64::from(x.clone().mean().into_scalar::<f32>());
            let deviation = f64::from((x - mean).square().mean().sqrt().into_scalar::<f32>());
            assert!((mean - MEAN).abs() < 0.03, "{sampler}: mean {mean}");
            assert!((deviation - DEVIATION).abs() < 0.03, "{sampler}: deviation {deviation}");
        }
    }

    #[test]
    fn the_solver_is_closer_to_the_limit_than_ddim_at_as_many_steps() {
        for schedule in [Schedule::Linear, Schedule::Cosine] {
            let config = DiffusionConfig { schedule, ..DiffusionConfig::default() };
            let limit = sample(&config, "ddim", 1000);
            let solver = distance(sample(&config, "dpm++", 20), limit.clone());
            let ddim = distance(sample(&config, "ddim", 20), limit);
            assert!(solver < ddim / 3.0, "{schedule:?}: {solver} and {ddim}");
        }
    }

    #[test]
    fn predictions_of_noise_and_velocity_lead_to_the_same_latents() {
        let velocity = DiffusionConfig { prediction: Prediction::Velocity, ..DiffusionConfig::default() };
        for sampler in ["ddpm", "ddim", "dpm++"] {
            let (a, b) = (sample(&DiffusionConfig::default(), sampler, 20), sample(&velocity, sampler, 20));
            assert!(distance(a, b) < 1e-3, "{sampler}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let config = DiffusionConfig::default();
        for sampler in ["ddpm", "ddim:0.5", "dpm++"] {
            let bytes = || sample(&config, sampler, 4).into_data().try_to_vec::<f32>().unwrap();
            assert_eq!(bytes(), bytes());
        }
    }

    /// The loops of the published code on its own network's outputs, which are replayed here.
    #[test]
    fn loops_equal_the_published_ones() {
        let device = Device::flex();
        let rows = |name: String| golden::<4>(&name, &device).split(1, 0).into_iter();
        for (run, sampler, steps) in [("10", "ddpm", 10), ("ddim5", "ddim", 5)] {
            let options =
                SampleOptions { steps, sampler: sampler.parse().unwrap(), guidance: Guidance::NONE };
            let mut noise = match sampler {
                "ddim" => Noise::recorded([]),
                _ => Noise::recorded(
                    rows(format!("{run}.noise")).map(|draw| draw.into_data().try_to_vec::<f32>().unwrap()),
                ),
            };
            let mut outputs = rows(format!("{run}.outputs"));
            let plan = SamplingPlan::new(&DiffusionConfig::default(), &options).unwrap();
            let end = plan
                .run(golden(&format!("{run}.start"), &device), &mut noise, |_, _| outputs.next().unwrap());
            let expected = golden::<4>(&format!("{run}.end"), &device);
            let scale = expected.clone().abs().max().into_scalar::<f32>();
            let difference = distance(end, expected) / scale;
            assert!(difference < 3e-5, "{run}: differs by {difference} of {scale}");
            assert!(outputs.next().is_none());
        }
    }

    #[test]
    fn names_lead_to_samplers_and_back() {
        for name in ["ddpm", "ddim", "ddim:0.5", "ddim:1", "dpm++"] {
            assert_eq!(name.parse::<Sampler>().unwrap().to_string(), name);
        }
        for name in ["", "DDPM", "ddim:", "ddim:2", "ddim:-0.1", "ddim:nan", "dpm"] {
            assert!(name.parse::<Sampler>().unwrap_err().to_string().contains("\"dpm++\""), "{name}");
        }
        let options = SampleOptions { sampler: Sampler::Ddim { eta: 0.5 }, ..SampleOptions::published() };
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(text, r#"{"steps":250,"sampler":"ddim:0.5","guidance":{"scale":3.0}}"#);
        assert_eq!(serde_json::from_str::<SampleOptions>(&text).unwrap(), options);
    }

    #[test]
    fn too_many_and_too_few_steps_are_refused() {
        for steps in [0, 1, 1001] {
            let options = SampleOptions { steps, ..SampleOptions::default() };
            let message = SamplingPlan::new(&DiffusionConfig::default(), &options).unwrap_err().to_string();
            assert!(message.contains("use 2 to 1000"), "{message}");
        }
    }

    #[test]
    fn ddim_strides_where_it_can_and_spaces_evenly_elsewhere() {
        let last = |steps| {
            let options =
                SampleOptions { steps, sampler: Sampler::Ddim { eta: 0.0 }, ..SampleOptions::default() };
            *SamplingPlan::new(&DiffusionConfig::default(), &options)
                .unwrap()
                .process
                .timesteps
                .last()
                .unwrap()
        };
        assert_eq!((last(25), last(300)), (960, 999));
    }
}
