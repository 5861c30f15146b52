//! A straight line from noise to data, and how it is followed back: stochastic interpolants (Ma et al.,
//! 2024, SiT) with the linear path `t x + (1 − t) ε`, whose velocity `x − ε` is learned.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{Error, Noise, Result};

/// Where the published stochastic sampler ends its grid; one last step of the rest has no noise.
const LAST: f64 = 0.96;

/// Data on the way to noise, and what a network should say of it.
#[derive(Debug, Clone)]
pub struct FlowExample {
    /// `[N, D]`
    pub noisy: Tensor<2>,
    /// `[N, D]`
    pub velocity: Tensor<2>,
}

/// Mixes data with noise at times in `[0, 1]`: 0 is noise, 1 is data.
///
/// # Shapes
/// `data`, `noise`: `[N, D]`, N times
pub fn interpolate(data: Tensor<2>, noise: Tensor<2>, times: &[f32]) -> FlowExample {
    let t = Tensor::from_data(TensorData::new(times.to_vec(), [times.len(), 1]), &data.device());
    let noisy = t.clone() * data.clone() + (-t + 1.0) * noise.clone();
    FlowExample { noisy, velocity: data - noise }
}

/// Which way leads from noise to data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FlowSampler {
    /// Euler-Maruyama on the reverse stochastic equation with diffusion `1 − t`, as published.
    #[default]
    EulerMaruyama,
    /// Euler's method on the ordinary equation.
    Euler,
    /// Heun's: of second order, two evaluations per step.
    Heun,
}

impl fmt::Display for FlowSampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EulerMaruyama => "sde",
            Self::Euler => "euler",
            Self::Heun => "heun",
        })
    }
}

impl FromStr for FlowSampler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "sde" => Ok(Self::EulerMaruyama),
            "euler" => Ok(Self::Euler),
            "heun" => Ok(Self::Heun),
            _ => Err(Error::Config(format!(
                "unknown sampler \"{name}\"; use \"sde\" (as published), \"euler\" or \"heun\""
            ))),
        }
    }
}

impl TryFrom<String> for FlowSampler {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<FlowSampler> for String {
    fn from(sampler: FlowSampler) -> Self {
        sampler.to_string()
    }
}

/// A sampler with the times at which it asks the network.
#[derive(Debug, Clone)]
pub struct FlowPlan {
    sampler: FlowSampler,
    /// Every time asked at, in order.
    times: Vec<f32>,
}

impl FlowPlan {
    /// # Errors
    /// If there are fewer than 2 steps.
    pub fn new(sampler: FlowSampler, steps: usize) -> Result<Self> {
        if steps < 2 {
            return Err(Error::Config(format!("{steps} sampling steps; use at least 2")));
        }
        let even = |last: f64, count: usize| {
            (0..count).map(move |i| (last * i as f64 / (count - 1) as f64) as f32).collect::<Vec<_>>()
        };
        let times = match sampler {
            FlowSampler::EulerMaruyama => even(LAST, steps),
            FlowSampler::Euler => even(1.0 - 1.0 / steps as f64, steps),
            FlowSampler::Heun => even(1.0, steps + 1),
        };
        Ok(Self { sampler, times })
    }

    /// The times at which the network is asked.
    pub fn times(&self) -> &[f32] {
        &self.times
    }

    /// How often [`FlowPlan::run`] asks the network.
    pub fn evaluations(&self) -> usize {
        match self.sampler {
            FlowSampler::EulerMaruyama | FlowSampler::Euler => self.times.len(),
            FlowSampler::Heun => 2 * (self.times.len() - 1),
        }
    }

    /// Leads `start` to data.
    ///
    /// `velocity` is the network, guidance included: asked for `[N, D]` at one of [`FlowPlan::times`], by
    /// its number. `temperature` multiplies the noise that a stochastic sampler adds on the way.
    ///
    /// # Shapes
    /// `start`: `[N, D]`, standard normal → `[N, D]`.
    pub fn run(
        &self,
        start: Tensor<2>,
        temperature: f64,
        noise: &mut Noise,
        mut velocity: impl FnMut(Tensor<2>, usize) -> Tensor<2>,
    ) -> Tensor<2> {
        let last = self.times.len() - 1;
        let length = f64::from(self.times[1]) - f64::from(self.times[0]);
        let mut x = start;
        match self.sampler {
            FlowSampler::EulerMaruyama => {
                for number in 0..=last {
                    let t = f64::from(self.times[number]);
                    let v = velocity(x.clone(), number);
                    // Velocity plus score times diffusion: the score is (t v − x) / (1 − t).
                    let drift = v.clone() + v * t - x.clone();
                    if number == last {
                        x = x + drift * (1.0 - LAST);
                    } else {
                        let drawn = noise.normal(x.dims(), &x.device());
                        x = x + drift * length + drawn * (temperature * (2.0 * (1.0 - t) * length).sqrt());
                    }
                }
            }
            FlowSampler::Euler => {
                for number in 0..=last {
                    x = x.clone() + velocity(x, number) * length;
                }
            }
            FlowSampler::Heun => {
                for number in 0..last {
                    let here = velocity(x.clone(), number);
                    let there = velocity(x.clone() + here.clone() * length, number + 1);
                    x = x + (here + there) * (length / 2.0);
                }
            }
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    const MEAN: f64 = 0.7;
    const VARIANCE: f64 = 0.25;

    /// The exact velocity for data that are normal with [`MEAN`] and [`VARIANCE`].
    fn ideal(x: Tensor<2>, t: f64) -> Tensor<2> {
        // E[data − noise | x] of jointly normal data and noise.
        let total = t * t * VARIANCE + (1.0 - t) * (1.0 - t);
        (x - t * MEAN) * ((t * VARIANCE - (1.0 - t)) / total) + MEAN
    }

    fn sample(sampler: FlowSampler, steps: usize) -> Tensor<2> {
        let plan = FlowPlan::new(sampler, steps).unwrap();
        let times = plan.times().to_vec();
        let mut noise = Noise::seeded(3);
        let start = noise.normal([4000, 2], &Device::flex());
        let mut asked = 0;
        let x = plan.run(start, 1.0, &mut noise, |x, number| {
            asked += 1;
            ideal(x, times[number].into())
        });
        assert_eq!(asked, plan.evaluations(), "{sampler}");
        x
    }

    #[test]
    fn every_sampler_finds_the_distribution() {
        for (sampler, steps) in
            [(FlowSampler::EulerMaruyama, 250), (FlowSampler::Euler, 100), (FlowSampler::Heun, 20)]
        {
            let x = sample(sampler, steps);
            let mean = f64::from(x.clone().mean().into_scalar::<f32>());
            let variance = f64::from((x - mean).square().mean().into_scalar::<f32>());
            assert!((mean - MEAN).abs() < 0.03, "{sampler}: mean {mean}");
            assert!((variance - VARIANCE).abs() < 0.02, "{sampler}: variance {variance}");
        }
    }

    #[test]
    fn heun_is_of_second_order() {
        let limit = sample(FlowSampler::Heun, 640);
        let error = |steps| {
            let difference = (sample(FlowSampler::Heun, steps) - limit.clone()).abs().max();
            f64::from(difference.into_scalar::<f32>())
        };
        let ratio = error(20) / error(40);
        assert!((3.2..4.8).contains(&ratio), "{ratio}");
    }

    #[test]
    fn the_ends_of_the_line_are_noise_and_data() {
        let device = Device::flex();
        let (data, noise) = (Tensor::<2>::ones([2, 3], &device), Tensor::<2>::ones([2, 3], &device) * 5.0);
        let example = interpolate(data, noise, &[0.0, 1.0]);
        assert_eq!(example.noisy.into_data().try_to_vec::<f32>().unwrap(), [5.0, 5.0, 5.0, 1.0, 1.0, 1.0]);
        assert_eq!(example.velocity.into_data().try_to_vec::<f32>().unwrap(), [-4.0; 6]);
    }

    #[test]
    fn names_come_back_and_others_are_refused() {
        for sampler in [FlowSampler::EulerMaruyama, FlowSampler::Euler, FlowSampler::Heun] {
            assert_eq!(sampler.to_string().parse::<FlowSampler>().unwrap(), sampler);
        }
        assert!("rk4".parse::<FlowSampler>().unwrap_err().to_string().contains("\"heun\""));
        assert!(FlowPlan::new(FlowSampler::Euler, 1).is_err());
    }
}
