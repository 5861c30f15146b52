//! Gaussian diffusion on tensors of any rank: adding noise, reading the network's output, the posterior.
//!
//! `positions` are indices into the tables, one per sample. In training they are the timesteps themselves.

use burn::tensor::{Device, Tensor};

use super::process::{Corrupted, Denoised, per_sample};
use super::{GaussianConfig, Prediction, Respacing, Tables};
use crate::Result;

/// The formulas of Gaussian diffusion on its tables, whole or on some of the timesteps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gaussian {
    pub tables: Tables,
    /// What the network predicts besides the variance.
    prediction: Prediction,
}

/// The network's output as prediction and variance logits, of `channels` each.
///
/// # Shapes
/// `[N, 2 C, ..]` → `[N, C, ..]`, `[N, C, ..]`.
///
/// # Panics
/// If it has another number of channels.
pub(super) fn split<const D: usize>(output: Tensor<D>, channels: usize) -> (Tensor<D>, Tensor<D>) {
    let found = output.dims()[1];
    assert_eq!(found, 2 * channels, "{found} output channels are not prediction and variance of {channels}");
    (output.clone().narrow(1, 0, channels), output.narrow(1, channels, channels))
}

impl Gaussian {
    pub fn new(config: &GaussianConfig) -> Result<Self> {
        Ok(Self { tables: Tables::new(config)?, prediction: config.prediction })
    }

    /// The same on some of its timesteps, as a sampler sees it.
    pub fn respaced(&self, respacing: Respacing) -> Result<Self> {
        Ok(Self { tables: self.tables.respaced(respacing)?, prediction: self.prediction })
    }

    /// Times of the whole process as positions.
    pub fn positions(&self, times: &[f32]) -> Vec<usize> {
        let last = self.tables.steps() - 1;
        let position = |&time: &f32| {
            let whole = time.fract() == 0.0 && (0.0..=last as f32).contains(&time);
            assert!(whole, "{time} is not one of the timesteps 0 to {last}");
            time as usize
        };
        times.iter().map(position).collect()
    }

    /// Source: Ho et al. 2020, eq. 4; guided-diffusion `q_sample`.
    pub fn corrupt<const D: usize>(
        &self,
        clean: Tensor<D>,
        noise: Tensor<D>,
        positions: &[usize],
    ) -> Tensor<D> {
        assert_eq!(clean.dims()[0], positions.len(), "one time per sample");
        let device = clean.device();
        self.signal(positions, &device) * clean + self.noise_level(positions, &device) * noise
    }

    pub fn target<const D: usize>(&self, example: &Corrupted<D>) -> Tensor<D> {
        let Corrupted { clean, noise, times, .. } = example;
        let (device, positions) = (clean.device(), self.positions(times));
        match self.prediction {
            Prediction::Noise => noise.clone(),
            Prediction::Velocity => {
                self.signal(&positions, &device) * noise.clone()
                    - self.noise_level(&positions, &device) * clean.clone()
            }
        }
    }

    /// What a prediction says the clean data and the noise are.
    ///
    /// Sources: guided-diffusion `_predict_xstart_from_eps`; Salimans & Ho 2022, appendix D.
    ///
    /// # Shapes
    /// `noisy`, `prediction`: `[N, C, ..]`; `positions`: N.
    pub fn denoised<const D: usize>(
        &self,
        noisy: Tensor<D>,
        prediction: Tensor<D>,
        positions: &[usize],
    ) -> Denoised<D> {
        let device = noisy.device();
        match self.prediction {
            Prediction::Noise => {
                let whole =
                    self.per_sample(positions, &device, |i| self.tables.alphas_cumprod[i].recip().sqrt());
                let excess = self
                    .per_sample(positions, &device, |i| (self.tables.alphas_cumprod[i].recip() - 1.0).sqrt());
                Denoised { clean: whole * noisy - excess * prediction.clone(), noise: prediction }
            }
            Prediction::Velocity => {
                let (signal, level) = (self.signal(positions, &device), self.noise_level(positions, &device));
                Denoised {
                    clean: signal.clone() * noisy.clone() - level.clone() * prediction.clone(),
                    noise: signal * prediction + level * noisy,
                }
            }
        }
    }

    /// Mean of `q(x_{t−1} | x_t, x₀)`.
    ///
    /// Source: Ho et al. 2020, eq. 7; guided-diffusion `q_posterior_mean_variance`.
    ///
    /// # Shapes
    /// `clean`, `noisy`: `[N, C, ..]`; `positions`: N.
    pub fn posterior_mean<const D: usize>(
        &self,
        clean: Tensor<D>,
        noisy: Tensor<D>,
        positions: &[usize],
    ) -> Tensor<D> {
        let device = noisy.device();
        self.per_sample(positions, &device, |i| self.tables.posterior_mean_clean[i]) * clean
            + self.per_sample(positions, &device, |i| self.tables.posterior_mean_noisy[i]) * noisy
    }

    /// Log variance of `q(x_{t−1} | x_t, x₀)`, clipped at the first step: `[N, 1, ..]`.
    pub fn posterior_log_variance<const D: usize>(&self, positions: &[usize], device: &Device) -> Tensor<D> {
        self.per_sample(positions, device, |i| self.tables.posterior_log_variance_clipped[i])
    }

    /// Log variance of a step, between the posterior's (logits −1) and beta (logits 1).
    ///
    /// Source: Nichol & Dhariwal 2021, eq. 15; guided-diffusion `p_mean_variance`, `LEARNED_RANGE`.
    ///
    /// # Shapes
    /// `logits`: `[N, C, ..]`; `positions`: N.
    pub fn learned_log_variance<const D: usize>(&self, logits: Tensor<D>, positions: &[usize]) -> Tensor<D> {
        let device = logits.device();
        let upper = self.per_sample(positions, &device, |i| self.tables.betas[i].ln());
        let lower = self.posterior_log_variance(positions, &device);
        let share = (logits + 1.0) / 2.0;
        share.clone() * upper + (-share + 1.0) * lower
    }

    /// `√ᾱ` of every sample: `[N, 1, ..]`.
    fn signal<const D: usize>(&self, positions: &[usize], device: &Device) -> Tensor<D> {
        self.per_sample(positions, device, |i| self.tables.alphas_cumprod[i].sqrt())
    }

    /// `√(1 − ᾱ)` of every sample: `[N, 1, ..]`.
    fn noise_level<const D: usize>(&self, positions: &[usize], device: &Device) -> Tensor<D> {
        self.per_sample(positions, device, |i| (1.0 - self.tables.alphas_cumprod[i]).sqrt())
    }

    fn per_sample<const D: usize>(
        &self,
        positions: &[usize],
        device: &Device,
        value: impl Fn(usize) -> f64,
    ) -> Tensor<D> {
        per_sample(positions.iter().map(|&position| value(position)), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> Gaussian {
        Gaussian::new(&GaussianConfig::default()).unwrap()
    }

    #[test]
    fn first_step_keeps_the_data_and_last_step_hides_them() {
        let device = Device::flex();
        let (ones, zeros) = (Tensor::<4>::ones([2, 1, 1, 1], &device), Tensor::zeros([2, 1, 1, 1], &device));
        let noisy = published().corrupt(ones, zeros, &[0, 999]).into_data().try_to_vec::<f32>().unwrap();
        assert!((noisy[0] - (1.0f32 - 1e-4).sqrt()).abs() < 1e-7 && noisy[1] < 0.01, "{noisy:?}");
    }

    #[test]
    fn variance_logits_span_the_posterior_and_beta() {
        let (device, gaussian) = (Device::flex(), published());
        let at = |logit: f32| {
            let logits = Tensor::<4>::full([1, 1, 1, 1], logit, &device);
            f64::from(gaussian.learned_log_variance(logits, &[300]).into_scalar::<f32>())
        };
        assert!((at(-1.0) - gaussian.tables.posterior_variance[300].ln()).abs() < 1e-5);
        assert!((at(1.0) - gaussian.tables.betas[300].ln()).abs() < 1e-5);
    }

    #[test]
    fn output_channels_split_in_halves() {
        let output = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0], &Device::flex()).reshape([1, 4, 1, 1]);
        let (prediction, logits) = split::<4>(output, 2);
        assert_eq!(prediction.into_data().try_to_vec::<f32>().unwrap(), [1.0, 2.0]);
        assert_eq!(logits.into_data().try_to_vec::<f32>().unwrap(), [3.0, 4.0]);
    }
}
