//! A straight line from noise to data: stochastic interpolants (Ma et al., 2024, SiT) with the linear path
//! `t x + (1 − t) ε`, whose velocity is `x − ε`; rectified flow (Liu et al., 2023) by another name.

use burn::tensor::{Device, Tensor};

use super::process::{Corrupted, Denoised, Losses, mean_per_sample, per_sample};
use super::{FlowConfig, FlowPrediction, TrainingTimes};
use crate::{Noise, Result};

/// The least rest of the way, `1 − t`, that a clean prediction is divided by (JiT, arXiv 2511.13720, section
/// 4.3 and `denoiser.py`, `t_eps`): beyond it the velocity would say nothing but rounding.
const LEAST_REST: f64 = 0.05;

/// The formulas of a flow. `t` is the share of the way in `[0, 1]`, a time is what the network is told of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Flow {
    config: FlowConfig,
}

impl Flow {
    pub fn new(config: &FlowConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { config: *config })
    }

    pub fn prediction(&self) -> FlowPrediction {
        self.config.prediction
    }

    /// The time at a share of the way.
    pub fn time(&self, share: f64) -> f32 {
        (share * self.config.time_scale) as f32
    }

    pub fn draw_times(&self, count: usize, noise: &mut Noise) -> Vec<f32> {
        let shares = match self.config.times {
            TrainingTimes::Uniform {} => noise.uniform(count),
            TrainingTimes::LogitNormal { mean, deviation } => {
                let drawn = noise.normal([count], &Device::flex()).into_data();
                let drawn = drawn.try_to_vec::<f32>().expect("normal numbers are floats");
                let logistic = |z: f32| (1.0 + (-(mean + deviation * f64::from(z))).exp()).recip() as f32;
                drawn.into_iter().map(logistic).collect()
            }
        };
        shares.into_iter().map(|share| self.time(share.into())).collect()
    }

    pub fn corrupt<const D: usize>(&self, clean: Tensor<D>, noise: Tensor<D>, times: &[f32]) -> Tensor<D> {
        assert_eq!(clean.dims()[0], times.len(), "one time per sample");
        let t = self.shares(times, &clean.device());
        t.clone() * clean + (-t + 1.0) * noise
    }

    pub fn target<const D: usize>(&self, example: &Corrupted<D>) -> Tensor<D> {
        match self.config.prediction {
            FlowPrediction::Velocity | FlowPrediction::AverageVelocity => {
                example.clean.clone() - example.noise.clone()
            }
            FlowPrediction::Clean => example.clean.clone(),
        }
    }

    /// The error of the velocity, which an average one is over no distance; what the error of a clean prediction makes of it is that over `1 − t`.
    pub fn loss<const D: usize>(&self, output: Tensor<D>, example: &Corrupted<D>) -> Losses {
        let (found, expected) = (output.dims(), example.clean.dims());
        assert_eq!(found, expected, "a flow has one output per channel");
        let device = output.device();
        let error = output - self.target(example);
        let error = match self.config.prediction {
            FlowPrediction::Velocity | FlowPrediction::AverageVelocity => error,
            FlowPrediction::Clean => {
                let rest = |&time: &f32| (1.0 - self.share(time)).max(LEAST_REST).recip();
                error * per_sample(example.times.iter().map(rest), &device)
            }
        };
        let mse = mean_per_sample(error.square());
        Losses { mse: mse.clone(), vb: None, total: mse }
    }

    pub fn denoised<const D: usize>(
        &self,
        noisy: Tensor<D>,
        prediction: Tensor<D>,
        times: &[f32],
    ) -> Denoised<D> {
        let t: Tensor<D> = self.shares(times, &noisy.device());
        let rest = -t.clone() + 1.0;
        match self.config.prediction {
            FlowPrediction::Velocity | FlowPrediction::AverageVelocity => {
                Denoised { clean: noisy.clone() + rest * prediction.clone(), noise: noisy - t * prediction }
            }
            FlowPrediction::Clean => Denoised {
                noise: (noisy - t * prediction.clone()) / rest.clamp_min(LEAST_REST),
                clean: prediction,
            },
        }
    }

    /// The velocity that an output means at one share of the way, before its end.
    pub fn velocity<const D: usize>(&self, noisy: &Tensor<D>, output: Tensor<D>, share: f64) -> Tensor<D> {
        match self.config.prediction {
            FlowPrediction::Velocity | FlowPrediction::AverageVelocity => output,
            FlowPrediction::Clean => (output - noisy.clone()) / (1.0 - share),
        }
    }

    /// The share of the way at a time.
    pub fn share(&self, time: f32) -> f64 {
        f64::from(time) / self.config.time_scale
    }

    fn shares<const D: usize>(&self, times: &[f32], device: &Device) -> Tensor<D> {
        per_sample(times.iter().map(|&time| self.share(time)), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_line_are_noise_and_data() {
        let device = Device::flex();
        let flow = Flow::new(&FlowConfig::default()).unwrap();
        let (clean, noise) = (Tensor::<2>::ones([2, 3], &device), Tensor::<2>::ones([2, 3], &device) * 5.0);
        let noisy = flow.corrupt(clean, noise, &[0.0, 1000.0]);
        assert_eq!(noisy.into_data().try_to_vec::<f32>().unwrap(), [5.0, 5.0, 5.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn near_the_end_a_clean_prediction_costs_no_more_than_at_the_least_rest() {
        let device = Device::flex();
        let config =
            FlowConfig { prediction: FlowPrediction::Clean, time_scale: 1.0, ..FlowConfig::default() };
        let flow = Flow::new(&config).unwrap();
        let clean = Tensor::<2>::zeros([3, 2], &device);
        let (noise, times) = (clean.clone(), vec![0.5, 0.95, 1.0]);
        let example = Corrupted { noisy: clean.clone(), clean, noise, times };
        let losses = flow.loss(Tensor::ones([3, 2], &device), &example).total.into_data();
        let losses = losses.try_to_vec::<f32>().unwrap();
        for (found, expected) in losses.into_iter().zip([4.0, 400.0, 400.0]) {
            assert!((found / expected - 1.0).abs() < 1e-4, "{found} is not {expected}");
        }
    }
}
