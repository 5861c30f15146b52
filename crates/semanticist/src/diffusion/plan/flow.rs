//! Ways along a flow.

use burn::tensor::Tensor;

use crate::diffusion::flow::Flow;
use crate::diffusion::sampler::FLOW;
use crate::diffusion::{FlowPrediction, Sampler};
use crate::{Error, Noise, Result};

/// Where the published stochastic sampler ends its grid; one last step of the rest has no noise.
const LAST: f64 = 0.96;
/// How much closer together the shares that Adams and Bashforth's method visits are near noise, where the way bends most: an
/// even share t becomes `t / (t + SHIFT (1 − t))` (Esser et al. 2024, section 5.3.2). Chosen by docs/recipes.md.
const SHIFT: f64 = 2.0;

#[derive(Debug, Clone)]
pub(super) struct FlowPlan {
    flow: Flow,
    way: Way,
    /// Every share of the way that is visited, in order.
    shares: Vec<f32>,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    EulerMaruyama,
    Euler,
    AdamsBashforth,
    Heun,
    /// Heun's whose last step is Euler's. Where the network predicts the data it says nothing of the velocity at
    /// the end, where it is given them (as in JiT).
    HeunThenEuler,
}

impl FlowPlan {
    pub fn new(flow: &Flow, sampler: Sampler, steps: usize) -> Result<Self> {
        // The last of the stochastic steps only ends what those before it began.
        let least = if sampler == Sampler::EulerMaruyama { 2 } else { 1 };
        if steps < least {
            return Err(Error::Config(format!(
                "{steps} sampling steps of \"{sampler}\" asked of a flow; use at least {least}"
            )));
        }
        let even = |last: f64, count: usize| {
            let parts = count.saturating_sub(1).max(1) as f64;
            (0..count).map(|i| (last * i as f64 / parts) as f32).collect::<Vec<_>>()
        };
        let before_the_end = || even(1.0 - 1.0 / steps as f64, steps);
        let (way, shares) = match sampler {
            Sampler::EulerMaruyama => (Way::EulerMaruyama, even(LAST, steps)),
            Sampler::Euler => (Way::Euler, before_the_end()),
            Sampler::AdamsBashforth => {
                let shifted = |t: f32| (f64::from(t) / (f64::from(t) + SHIFT * (1.0 - f64::from(t)))) as f32;
                (Way::AdamsBashforth, before_the_end().into_iter().map(shifted).collect())
            }
            Sampler::Heun => match flow.prediction() {
                FlowPrediction::Velocity | FlowPrediction::AverageVelocity => {
                    (Way::Heun, even(1.0, steps + 1))
                }
                FlowPrediction::Clean => (Way::HeunThenEuler, before_the_end()),
            },
            Sampler::Fitted => unreachable!("a plan of its own"),
            Sampler::Ddpm | Sampler::Ddim { .. } | Sampler::DdimTrailing | Sampler::DpmSolverPlusPlus => {
                return Err(Error::Config(format!(
                    "the sampler \"{sampler}\" is one of Gaussian diffusion, and this is a flow; use {FLOW}"
                )));
            }
        };
        Ok(Self { flow: flow.clone(), way, shares })
    }

    pub fn times(&self) -> Vec<f32> {
        self.shares.iter().map(|&share| self.flow.time(share.into())).collect()
    }

    /// How far each answer reaches, as the network is told: all but Euler's method take velocities that are not
    /// averages.
    pub fn spans(&self) -> Vec<f32> {
        let averages = self.flow.prediction() == FlowPrediction::AverageVelocity;
        let span = match self.way {
            Way::Euler if averages => self.flow.time(self.length()),
            _ => 0.0,
        };
        vec![span; self.shares.len()]
    }

    pub fn evaluations(&self) -> usize {
        match self.way {
            Way::EulerMaruyama | Way::Euler | Way::AdamsBashforth => self.shares.len(),
            Way::Heun => 2 * (self.shares.len() - 1),
            Way::HeunThenEuler => 2 * self.shares.len() - 1,
        }
    }

    pub fn run<const D: usize, E>(
        &self,
        start: Tensor<D>,
        temperature: f64,
        noise: &mut Noise,
        mut ask: impl FnMut(Tensor<D>, usize) -> Result<Tensor<D>, E>,
    ) -> Result<Tensor<D>, E> {
        let mut velocity = |x: Tensor<D>, index: usize| {
            let output = ask(x.clone(), index)?;
            Ok(self.flow.velocity(&x, output, self.shares[index].into()))
        };
        let last = self.shares.len() - 1;
        let length = self.length();
        let mut x = start;
        match self.way {
            Way::EulerMaruyama => return self.stochastic(x, temperature, noise, velocity),
            Way::Euler => {
                for index in 0..=last {
                    x = x.clone() + velocity(x, index)? * length;
                }
            }
            Way::AdamsBashforth => {
                // The velocity of the step before, and how long that was.
                let mut before: Option<(Tensor<D>, f64)> = None;
                for index in 0..=last {
                    let next = self.shares.get(index + 1).map_or(1.0, |&share| f64::from(share));
                    let length = next - f64::from(self.shares[index]);
                    let here = velocity(x.clone(), index)?;
                    let ahead = match before {
                        None => here.clone(),
                        Some((before, past)) => {
                            here.clone() + (here.clone() - before) * (length / (2.0 * past))
                        }
                    };
                    x = x + ahead * length;
                    before = Some((here, length));
                }
            }
            Way::Heun | Way::HeunThenEuler => {
                for index in 0..last {
                    let here = velocity(x.clone(), index)?;
                    let there = velocity(x.clone() + here.clone() * length, index + 1)?;
                    x = x + (here + there) * (length / 2.0);
                }
                if let Way::HeunThenEuler = self.way {
                    x = x.clone() + velocity(x, last)? * length;
                }
            }
        }
        Ok(x)
    }

    /// Euler-Maruyama, with the last step of the published head.
    fn stochastic<const D: usize, E>(
        &self,
        start: Tensor<D>,
        temperature: f64,
        noise: &mut Noise,
        mut velocity: impl FnMut(Tensor<D>, usize) -> Result<Tensor<D>, E>,
    ) -> Result<Tensor<D>, E> {
        let (last, length) = (self.shares.len() - 1, self.length());
        let mut x = start;
        for (index, &share) in self.shares.iter().enumerate() {
            let t = f64::from(share);
            let v = velocity(x.clone(), index)?;
            // Velocity plus score times diffusion: the score is (t v − x) / (1 − t).
            let drift = v.clone() + v * t - x.clone();
            if index == last {
                x = x + drift * (1.0 - LAST);
            } else {
                let drawn = noise.normal(x.dims(), &x.device());
                x = x + drift * length + drawn * (temperature * (2.0 * (1.0 - t) * length).sqrt());
            }
        }
        Ok(x)
    }

    /// Of a step of the other ways, all of which are alike; a single one is the whole way.
    fn length(&self) -> f64 {
        self.shares.get(1).map_or(1.0, |&second| f64::from(second) - f64::from(self.shares[0]))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::diffusion::{DiffusionConfig, FlowConfig, Process, SamplingPlan};

    const MEAN: f64 = 0.7;
    const VARIANCE: f64 = 0.25;
    const PREDICTIONS: [FlowPrediction; 2] = [FlowPrediction::Velocity, FlowPrediction::Clean];
    const SAMPLERS: [Sampler; 4] =
        [Sampler::EulerMaruyama, Sampler::Euler, Sampler::Heun, Sampler::AdamsBashforth];
    const DETERMINISTIC: [Sampler; 3] = [Sampler::Euler, Sampler::Heun, Sampler::AdamsBashforth];

    fn plan(prediction: FlowPrediction, sampler: Sampler, steps: usize) -> SamplingPlan {
        let config = FlowConfig { prediction, ..FlowConfig::default() };
        SamplingPlan::new(&Process::new(&DiffusionConfig::Flow(config)).unwrap(), sampler, steps).unwrap()
    }

    /// Samples with the exact velocity for data that are normal with [`MEAN`] and [`VARIANCE`].
    fn sample(prediction: FlowPrediction, sampler: Sampler, steps: usize) -> Tensor<2> {
        let plan = plan(prediction, sampler, steps);
        let mut noise = Noise::seeded(3);
        let start = noise.normal([4000, 2], &Device::flex());
        let mut asked = 0;
        let x = plan.run(start, &mut noise, |x, index| {
            asked += 1;
            let t = f64::from(plan.times()[index]) / 1000.0;
            // E[data − noise | x] of jointly normal data and noise.
            let total = t * t * VARIANCE + (1.0 - t) * (1.0 - t);
            let velocity = (x.clone() - t * MEAN) * ((t * VARIANCE - (1.0 - t)) / total) + MEAN;
            match prediction {
                FlowPrediction::Velocity | FlowPrediction::AverageVelocity => velocity,
                FlowPrediction::Clean => x + velocity * (1.0 - t),
            }
        });
        assert_eq!(asked, plan.evaluations(), "{sampler}");
        x
    }

    fn distance<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
        (a - b).abs().max().into_scalar()
    }

    /// Every deterministic sampler with a network that knows data and noise.
    #[track_caller]
    fn leads_to_the_data<const D: usize>(shape: [usize; D]) {
        let [data, start] = [8, 9].map(|seed| Noise::seeded(seed).normal(shape, &Device::flex()));
        let both = |sampler| PREDICTIONS.map(|prediction| (sampler, prediction));
        for (sampler, prediction) in DETERMINISTIC.into_iter().flat_map(both) {
            let answer = match prediction {
                FlowPrediction::Clean => data.clone(),
                _ => data.clone() - start.clone(),
            };
            for steps in [1, 8] {
                let plan = plan(prediction, sampler, steps);
                let found = plan.run(start.clone(), &mut Noise::recorded([]), |_, _| answer.clone());
                assert!(distance(found, data.clone()) < 1e-5, "{prediction:?} {sampler} {steps}");
            }
        }
    }

    #[test]
    fn a_perfect_network_leads_to_the_data_at_any_rank() {
        leads_to_the_data([3, 5]);
        leads_to_the_data([2, 3, 4, 4]);
    }

    #[test]
    fn every_sampler_finds_the_distribution() {
        for (sampler, steps) in SAMPLERS.into_iter().zip([250, 100, 20, 40]) {
            let [a, b] = PREDICTIONS.map(|prediction| sample(prediction, sampler, steps));
            let mean = f64::from(a.clone().mean().into_scalar::<f32>());
            let variance = f64::from((a.clone() - mean).square().mean().into_scalar::<f32>());
            assert!((mean - MEAN).abs() < 0.03, "{sampler}: mean {mean}");
            assert!((variance - VARIANCE).abs() < 0.02, "{sampler}: variance {variance}");
            // Heun's last step differs.
            let tolerance = if sampler == Sampler::Heun { 0.05 } else { 1e-3 };
            assert!(distance(a, b) < tolerance, "{sampler}");
        }
    }

    #[test]
    fn heun_and_adams_bashforth_are_at_least_of_second_order() {
        let limit = sample(FlowPrediction::Velocity, Sampler::Heun, 640);
        for sampler in [Sampler::Heun, Sampler::AdamsBashforth] {
            let error = |steps| distance(sample(FlowPrediction::Velocity, sampler, steps), limit.clone());
            let ratio = error(20) / error(40);
            assert!(ratio > 3.2, "{sampler}: {ratio}");
        }
    }

    #[test]
    fn adams_and_bashforth_lose_nothing_of_a_steady_bend_but_in_their_first_step() {
        let plan = plan(FlowPrediction::Velocity, Sampler::AdamsBashforth, 4);
        let shares = plan.times().iter().map(|time| f64::from(time / 1000.0)).collect::<Vec<_>>();
        for (found, expected) in shares.iter().zip([0.0, 1.0 / 7.0, 1.0 / 3.0, 0.6]) {
            assert!((found - expected).abs() < 1e-6, "{shares:?}");
        }
        let start = Tensor::<1>::from_floats([7.0], &Device::flex());
        let found =
            plan.run(start, &mut Noise::recorded([]), |x, index| x * 0.0 + (3.0 + 4.0 * shares[index]));
        // From 7 with velocity 3 + 4 t; Euler's first step takes that at its start for the whole.
        let expected = 7.0 + 3.0 + 2.0 - 4.0 / (2.0 * 49.0);
        assert!((f64::from(found.into_scalar::<f32>()) - expected).abs() < 1e-5);
    }

    #[test]
    fn one_step_of_an_average_velocity_is_the_whole_way() {
        let start = Noise::seeded(4).normal([3, 5], &Device::flex());
        let velocity = Noise::seeded(5).normal([3, 5], &Device::flex());
        let plan = plan(FlowPrediction::AverageVelocity, Sampler::Euler, 1);
        assert_eq!((plan.times(), plan.spans()), (&[0.0][..], &[1000.0][..]));
        let found = plan.run(start.clone(), &mut Noise::recorded([]), |_, _| velocity.clone());
        assert_eq!(found.into_data(), (start + velocity).into_data());
    }

    #[test]
    fn averages_are_taken_over_the_steps_of_euler_alone() {
        let spans = |prediction, sampler| plan(prediction, sampler, 4).spans().to_vec();
        let average = FlowPrediction::AverageVelocity;
        assert_eq!(spans(average, Sampler::Euler), [250.0; 4]);
        assert_eq!(spans(average, Sampler::Heun), [0.0; 5]);
        assert_eq!(spans(average, Sampler::EulerMaruyama), [0.0; 4]);
        assert_eq!(spans(average, Sampler::AdamsBashforth), [0.0; 4]);
        assert_eq!(spans(FlowPrediction::Velocity, Sampler::Euler), [0.0; 4]);
    }

    #[test]
    fn others_and_a_single_stochastic_step_are_refused() {
        let process = Process::new(&DiffusionConfig::Flow(FlowConfig::default())).unwrap();
        let message = |sampler, steps| SamplingPlan::new(&process, sampler, steps).unwrap_err().to_string();
        let ddim = message(Sampler::Ddim { eta: 0.0 }, 25);
        assert!(ddim.contains("\"ddim\" is one of Gaussian diffusion") && ddim.contains("\"ab2\""), "{ddim}");
        assert!(message(Sampler::EulerMaruyama, 1).contains("\"sde\" asked of a flow; use at least 2"));
        assert!(message(Sampler::Euler, 0).contains("use at least 1"));
    }
}
