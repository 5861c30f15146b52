//! Ways back through Gaussian diffusion.

use burn::tensor::Tensor;

use crate::diffusion::gaussian::{Gaussian, split};
use crate::diffusion::sampler::GAUSSIAN;
use crate::diffusion::{Denoised, Respacing, Sampler};
use crate::{Error, Noise, Result};

#[derive(Debug, Clone)]
pub(super) struct GaussianPlan {
    /// On the timesteps that are visited.
    gaussian: Gaussian,
    way: Way,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Ancestral,
    Implicit { eta: f64 },
    Multistep,
}

impl GaussianPlan {
    pub fn new(whole: &Gaussian, sampler: Sampler, steps: usize) -> Result<Self> {
        let all = whole.tables.steps();
        // Of all but one sampler, a single step would stand at the timestep where almost no noise is left.
        let least = if sampler == Sampler::DdimTrailing { 1 } else { 2 };
        if !(least..=all).contains(&steps) {
            let advice =
                if steps == 1 { "; a single step is one of the sampler \"ddim-trailing\"" } else { "" };
            return Err(Error::Config(format!(
                "{steps} sampling steps of \"{sampler}\" asked of a diffusion process with {all}; \
                 use {least} to {all}{advice}"
            )));
        }
        let (way, respacing) = match sampler {
            Sampler::Ddpm => (Way::Ancestral, Respacing::Even(steps)),
            Sampler::Ddim { eta } if Respacing::Ddim(steps).timesteps(all).is_ok() => {
                (Way::Implicit { eta }, Respacing::Ddim(steps))
            }
            Sampler::Ddim { eta } => (Way::Implicit { eta }, Respacing::Even(steps)),
            Sampler::DdimTrailing => (Way::Implicit { eta: 0.0 }, Respacing::Trailing(steps)),
            Sampler::DpmSolverPlusPlus => (Way::Multistep, Respacing::Quadratic(steps)),
            Sampler::Fitted => unreachable!("a plan of its own"),
            Sampler::EulerMaruyama | Sampler::Euler | Sampler::Heun | Sampler::AdamsBashforth => {
                return Err(Error::Config(format!(
                    "the sampler \"{sampler}\" is one of flows, and this is Gaussian diffusion; use {GAUSSIAN}"
                )));
            }
        };
        Ok(Self { gaussian: whole.respaced(respacing)?, way })
    }

    /// From the highest down, as they are visited.
    pub fn times(&self) -> Vec<f32> {
        self.gaussian.tables.timesteps.iter().rev().map(|&timestep| timestep as f32).collect()
    }

    pub fn run<const D: usize, E>(
        &self,
        start: Tensor<D>,
        temperature: f64,
        noise: &mut Noise,
        mut ask: impl FnMut(Tensor<D>, usize) -> Result<Tensor<D>, E>,
    ) -> Result<Tensor<D>, E> {
        let [samples, channels] = [start.dims()[0], start.dims()[1]];
        let mut x = start;
        let mut previous = None;
        for (index, position) in (0..self.gaussian.tables.steps()).rev().enumerate() {
            let (prediction, logits) = split(ask(x.clone(), index)?, channels);
            let denoised = self.gaussian.denoised(x.clone(), prediction, &vec![position; samples]);
            let step = Step { position, x, denoised, logits };
            x = match self.way {
                Way::Ancestral => self.ancestral(step, temperature, noise),
                Way::Implicit { eta } => self.implicit(step, (eta, temperature), noise),
                Way::Multistep => {
                    let clean = step.denoised.clean.clone();
                    self.multistep(step, previous.replace(clean))
                }
            };
        }
        Ok(x)
    }

    /// Source: guided-diffusion `p_sample`, `clip_denoised=False`. Noise is drawn at the last step
    /// too, where it is not used, so that recorded draws line up.
    fn ancestral<const D: usize>(&self, step: Step<D>, temperature: f64, noise: &mut Noise) -> Tensor<D> {
        let Step { position, x, denoised, logits } = step;
        let positions = vec![position; x.dims()[0]];
        let drawn = noise.normal(x.dims(), &x.device());
        let mean = self.gaussian.posterior_mean(denoised.clean, x, &positions);
        if position == 0 {
            return mean;
        }
        let deviation = (self.gaussian.learned_log_variance(logits, &positions) * 0.5).exp();
        mean + deviation * drawn * temperature
    }

    /// Source: Song et al. 2021, eq. 12 and 16; guided-diffusion `ddim_sample`.
    fn implicit<const D: usize>(
        &self,
        step: Step<D>,
        (eta, temperature): (f64, f64),
        noise: &mut Noise,
    ) -> Tensor<D> {
        let Denoised { clean, noise: predicted } = step.denoised;
        let now = self.gaussian.tables.alphas_cumprod[step.position];
        let next = self.gaussian.tables.alphas_cumprod_prev[step.position];
        let deviation = eta * ((1.0 - next) / (1.0 - now)).sqrt() * (1.0 - now / next).sqrt();
        let mean = clean * next.sqrt() + predicted * (1.0 - next - deviation * deviation).max(0.0).sqrt();
        if eta == 0.0 {
            return mean;
        }
        mean.clone() + noise.normal(mean.dims(), &mean.device()) * (deviation * temperature)
    }

    /// Source: Lu et al. 2022 (DPM-Solver++), Algorithm 2. Of first order are the first step, which
    /// has no predecessor, and for stability the last two: the very last, to no noise at all, has
    /// infinite length and gives the clean data themselves.
    fn multistep<const D: usize>(&self, step: Step<D>, previous: Option<Tensor<D>>) -> Tensor<D> {
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
        let share = self.gaussian.tables.alphas_cumprod[position];
        let (signal, noise) = (share.sqrt(), (1.0 - share).sqrt());
        SignalToNoise { signal, noise, log_ratio: (signal / noise).ln() }
    }
}

/// Where a run stands, and what the network says there.
struct Step<const D: usize> {
    /// Index into the tables.
    position: usize,
    /// `[N, C, ..]`, the noisy data.
    x: Tensor<D>,
    denoised: Denoised<D>,
    /// `[N, C, ..]`, the variance logits.
    logits: Tensor<D>,
}

/// Signal and noise in noisy data, as the solver's paper parameterises time.
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
    use crate::diffusion::{
        DiffusionConfig, GaussianConfig, Prediction, Process, SamplingPlan, Schedule, Tables, golden,
    };

    const MEAN: f64 = 0.7;
    const DEVIATION: f64 = 0.5;
    const SHAPE: [usize; 4] = [16, 4, 8, 8];

    /// The best possible network for latents that are normal with [`MEAN`] and [`DEVIATION`].
    fn ideal(config: GaussianConfig) -> impl Fn(Tensor<4>, f32) -> Tensor<4> {
        let tables = Tables::new(&config).unwrap();
        move |x, timestep| {
            let share = tables.alphas_cumprod[timestep as usize];
            let (signal, level) = (share.sqrt(), (1.0 - share).sqrt());
            let variance = share * DEVIATION * DEVIATION + 1.0 - share;
            let noise = (x.clone() - signal * MEAN) * (level / variance);
            let clean = (x - noise.clone() * level) / signal;
            let prediction = match config.prediction {
                Prediction::Noise => noise,
                Prediction::Velocity => noise * signal - clean * level,
            };
            let logits = prediction.zeros_like();
            Tensor::cat(vec![prediction, logits], 1)
        }
    }

    fn plan(config: GaussianConfig, sampler: &str, steps: usize) -> Result<SamplingPlan> {
        let process = Process::new(&DiffusionConfig::Gaussian(config))?;
        SamplingPlan::new(&process, sampler.parse()?, steps)
    }

    fn sample(config: GaussianConfig, sampler: &str, steps: usize) -> Tensor<4> {
        let (plan, network) = (plan(config, sampler, steps).unwrap(), ideal(config));
        let mut noise = Noise::seeded(5);
        let start = noise.normal(SHAPE, &Device::flex());
        plan.run(start, &mut noise, |x, index| network(x, plan.times()[index]))
    }

    fn distance(a: Tensor<4>, b: Tensor<4>) -> f32 {
        (a - b).abs().max().into_scalar()
    }

    #[test]
    fn every_sampler_finds_the_distribution() {
        for (sampler, steps) in [("ddpm", 250), ("ddim", 100), ("ddim:1", 250), ("dpm++", 30)] {
            let x = sample(GaussianConfig::default(), sampler, steps);
            let mean = f64::from(x.clone().mean().into_scalar::<f32>());
            let deviation = f64::from((x - mean).square().mean().sqrt().into_scalar::<f32>());
            assert!((mean - MEAN).abs() < 0.03, "{sampler}: mean {mean}");
            assert!((deviation - DEVIATION).abs() < 0.03, "{sampler}: deviation {deviation}");
        }
    }

    #[test]
    fn the_solver_is_closer_to_the_limit_than_ddim_at_as_many_steps() {
        for schedule in [Schedule::Linear, Schedule::Cosine] {
            let config = GaussianConfig { schedule, ..GaussianConfig::default() };
            let limit = sample(config, "ddim", 1000);
            let solver = distance(sample(config, "dpm++", 20), limit.clone());
            let ddim = distance(sample(config, "ddim", 20), limit);
            assert!(solver < ddim / 3.0, "{schedule:?}: {solver} and {ddim}");
        }
    }

    #[test]
    fn predictions_of_noise_and_velocity_lead_to_the_same_latents() {
        let velocity = GaussianConfig { prediction: Prediction::Velocity, ..GaussianConfig::default() };
        for sampler in ["ddpm", "ddim", "dpm++"] {
            let (a, b) = (sample(GaussianConfig::default(), sampler, 20), sample(velocity, sampler, 20));
            assert!(distance(a, b) < 1e-3, "{sampler}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let config = GaussianConfig::default();
        for sampler in ["ddpm", "ddim:0.5", "dpm++"] {
            let bytes = || sample(config, sampler, 4).into_data().try_to_vec::<f32>().unwrap();
            assert_eq!(bytes(), bytes());
        }
    }

    /// The loops of the published code on its own network's outputs, which are replayed here.
    #[test]
    fn loops_equal_the_published_ones() {
        let device = Device::flex();
        let rows = |name: String| golden::<4>(&name, &device).split(1, 0).into_iter();
        for (run, sampler, steps) in [("10", "ddpm", 10), ("ddim5", "ddim", 5)] {
            let mut noise = match sampler {
                "ddim" => Noise::recorded([]),
                _ => Noise::recorded(
                    rows(format!("{run}.noise")).map(|draw| draw.into_data().try_to_vec::<f32>().unwrap()),
                ),
            };
            let mut outputs = rows(format!("{run}.outputs"));
            let plan = plan(GaussianConfig::default(), sampler, steps).unwrap();
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
    fn too_many_and_too_few_steps_and_other_samplers_are_refused() {
        let message =
            |sampler, steps| plan(GaussianConfig::default(), sampler, steps).unwrap_err().to_string();
        for steps in [0, 1, 1001] {
            assert!(message("ddim", steps).contains("use 2 to 1000"), "{}", message("ddim", steps));
        }
        assert!(message("ddim", 1).contains("one of the sampler \"ddim-trailing\""));
        assert!(message("ddim-trailing", 0).contains("use 1 to 1000"));
        let euler = message("euler", 25);
        assert!(euler.contains("\"euler\" is one of flows") && euler.contains("\"dpm++\""), "{euler}");
    }

    /// The ideal network at the last timestep knows nothing but the mean: one step gives that.
    #[test]
    fn a_single_trailing_step_gives_the_mean_of_the_data() {
        let velocity = GaussianConfig { prediction: Prediction::Velocity, ..GaussianConfig::default() };
        for config in [GaussianConfig::default(), velocity] {
            let plan = plan(config, "ddim-trailing", 1).unwrap();
            assert_eq!((plan.times(), plan.evaluations()), (&[999.0][..], 1));
            let mean = Tensor::full(SHAPE, MEAN, &Device::flex());
            let found = distance(sample(config, "ddim-trailing", 1), mean);
            assert!(found < 0.01, "{config:?}: {found}");
        }
    }

    #[test]
    fn ddim_strides_where_it_can_and_spaces_evenly_elsewhere() {
        let first = |steps| plan(GaussianConfig::default(), "ddim", steps).unwrap().times()[0];
        assert_eq!((first(25), first(300)), (960.0, 999.0));
    }
}
