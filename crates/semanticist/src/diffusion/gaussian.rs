//! Gaussian diffusion on tensors: adding noise, reading the network's output, the posterior.
//!
//! `positions` are indices into the tables of a [`Process`], one per sample. In training they are
//! the timesteps themselves.

use burn::tensor::{Device, Tensor, TensorData};

use super::{Prediction, Process};

/// Latents with noise on them, and how they came about.
#[derive(Debug, Clone)]
pub struct NoisyLatents {
    /// `[B, C, H, W]`, without noise (`x₀`).
    pub clean: Tensor<4>,
    /// `[B, C, H, W]`, standard normal (ε).
    pub noise: Tensor<4>,
    /// `[B, C, H, W]`, `√ᾱ x₀ + √(1 − ᾱ) ε` (`x_t`).
    pub noisy: Tensor<4>,
    /// `[B]`, the position of each sample.
    pub positions: Vec<usize>,
}

/// What a prediction says about noisy latents.
#[derive(Debug, Clone)]
pub struct Denoised {
    /// `[B, C, H, W]`, the latents without noise (`x₀`).
    pub clean: Tensor<4>,
    /// `[B, C, H, W]`, the noise in them (ε).
    pub noise: Tensor<4>,
}

/// The network's output as prediction and variance logits.
///
/// # Shapes
/// `[B, 2C, H, W]` → `[B, C, H, W]`, `[B, C, H, W]`.
///
/// # Panics
/// If the number of channels is odd.
pub fn split(output: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let channels = output.dims()[1];
    assert!(
        channels.is_multiple_of(2),
        "{channels} output channels do not split into prediction and variance"
    );
    let half = channels / 2;
    (output.clone().narrow(1, 0, half), output.narrow(1, half, half))
}

impl Process {
    /// Puts noise on latents.
    ///
    /// Source: Ho et al. 2020, eq. 4; guided-diffusion `q_sample`.
    ///
    /// # Shapes
    /// `clean`, `noise`: `[B, C, H, W]`; `positions`: `[B]`, each below [`Process::steps`].
    pub fn add_noise(&self, clean: Tensor<4>, noise: Tensor<4>, positions: &[usize]) -> NoisyLatents {
        let device = clean.device();
        let noisy = self.signal(positions, &device) * clean.clone()
            + self.noise_level(positions, &device) * noise.clone();
        NoisyLatents { clean, noise, noisy, positions: positions.to_vec() }
    }

    /// What the network should predict about `example`: `[B, C, H, W]`.
    pub fn target(&self, example: &NoisyLatents) -> Tensor<4> {
        let NoisyLatents { clean, noise, positions, .. } = example;
        let device = clean.device();
        match self.prediction {
            Prediction::Noise => noise.clone(),
            Prediction::Velocity => {
                self.signal(positions, &device) * noise.clone()
                    - self.noise_level(positions, &device) * clean.clone()
            }
        }
    }

    /// What a prediction says the clean latents and the noise are.
    ///
    /// Sources: guided-diffusion `_predict_xstart_from_eps`; Salimans & Ho 2022, appendix D.
    ///
    /// # Shapes
    /// `noisy`, `prediction`: `[B, C, H, W]`; `positions`: `[B]`.
    pub fn denoised(&self, noisy: Tensor<4>, prediction: Tensor<4>, positions: &[usize]) -> Denoised {
        let device = noisy.device();
        match self.prediction {
            Prediction::Noise => {
                let whole = self.per_sample(positions, &device, |i| self.alphas_cumprod[i].recip().sqrt());
                let excess =
                    self.per_sample(positions, &device, |i| (self.alphas_cumprod[i].recip() - 1.0).sqrt());
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
    /// `clean`, `noisy`: `[B, C, H, W]`; `positions`: `[B]`.
    pub fn posterior_mean(&self, clean: Tensor<4>, noisy: Tensor<4>, positions: &[usize]) -> Tensor<4> {
        let device = noisy.device();
        self.per_sample(positions, &device, |i| self.posterior_mean_clean[i]) * clean
            + self.per_sample(positions, &device, |i| self.posterior_mean_noisy[i]) * noisy
    }

    /// Log variance of `q(x_{t−1} | x_t, x₀)`, clipped at the first step: `[B, 1, 1, 1]`.
    pub fn posterior_log_variance(&self, positions: &[usize], device: &Device) -> Tensor<4> {
        self.per_sample(positions, device, |i| self.posterior_log_variance_clipped[i])
    }

    /// Log variance of a step, between the posterior's (logits −1) and beta (logits 1).
    ///
    /// Source: Nichol & Dhariwal 2021, eq. 15; guided-diffusion `p_mean_variance`, `LEARNED_RANGE`.
    ///
    /// # Shapes
    /// `logits`: `[B, C, H, W]`; `positions`: `[B]`.
    pub fn learned_log_variance(&self, logits: Tensor<4>, positions: &[usize]) -> Tensor<4> {
        let device = logits.device();
        let upper = self.per_sample(positions, &device, |i| self.betas[i].ln());
        let lower = self.posterior_log_variance(positions, &device);
        let share = (logits + 1.0) / 2.0;
        share.clone() * upper + (-share + 1.0) * lower
    }

    /// `√ᾱ` of every sample: `[B, 1, 1, 1]`.
    fn signal(&self, positions: &[usize], device: &Device) -> Tensor<4> {
        self.per_sample(positions, device, |i| self.alphas_cumprod[i].sqrt())
    }

    /// `√(1 − ᾱ)` of every sample: `[B, 1, 1, 1]`.
    fn noise_level(&self, positions: &[usize], device: &Device) -> Tensor<4> {
        self.per_sample(positions, device, |i| (1.0 - self.alphas_cumprod[i]).sqrt())
    }

    /// A number per position, computed in `f64`, as a tensor that broadcasts over a sample: `[B, 1, 1, 1]`.
    fn per_sample(&self, positions: &[usize], device: &Device, value: impl Fn(usize) -> f64) -> Tensor<4> {
        let values: Vec<f32> = positions.iter().map(|&position| value(position) as f32).collect();
        Tensor::from_data(TensorData::new(values, [positions.len(), 1, 1, 1]), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Noise, diffusion::DiffusionConfig};

    #[track_caller]
    fn assert_close(found: Tensor<4>, expected: &Tensor<4>, tolerance: f64) {
        let difference = (found - expected.clone()).abs().max().into_scalar::<f32>();
        assert!(f64::from(difference) <= tolerance, "differs by {difference}");
    }

    #[test]
    fn the_target_as_prediction_gives_back_clean_latents_and_noise() {
        let device = Device::flex();
        for prediction in [Prediction::Noise, Prediction::Velocity] {
            let process =
                Process::new(&DiffusionConfig { prediction, ..DiffusionConfig::default() }).unwrap();
            let mut noise = Noise::seeded(1);
            let clean = noise.normal([3, 4, 8, 8], &device);
            let example = process.add_noise(clean, noise.normal([3, 4, 8, 8], &device), &[0, 100, 500]);
            let denoised =
                process.denoised(example.noisy.clone(), process.target(&example), &example.positions);
            assert_close(denoised.clean, &example.clean, 1e-5);
            assert_close(denoised.noise, &example.noise, 1e-5);
        }
    }

    #[test]
    fn first_step_keeps_the_latents_and_last_step_hides_them() {
        let device = Device::flex();
        let process = Process::new(&DiffusionConfig::default()).unwrap();
        let (ones, zeros) = (Tensor::ones([2, 1, 1, 1], &device), Tensor::zeros([2, 1, 1, 1], &device));
        let noisy = process.add_noise(ones, zeros, &[0, 999]).noisy.into_data().try_to_vec::<f32>().unwrap();
        assert!((noisy[0] - (1.0f32 - 1e-4).sqrt()).abs() < 1e-7 && noisy[1] < 0.01, "{noisy:?}");
    }

    #[test]
    fn variance_logits_span_the_posterior_and_beta() {
        let device = Device::flex();
        let process = Process::new(&DiffusionConfig::default()).unwrap();
        let at = |logit: f32| {
            let logits = Tensor::full([1, 1, 1, 1], logit, &device);
            f64::from(process.learned_log_variance(logits, &[300]).into_scalar::<f32>())
        };
        assert!((at(-1.0) - process.posterior_variance[300].ln()).abs() < 1e-5);
        assert!((at(1.0) - process.betas[300].ln()).abs() < 1e-5);
    }

    #[test]
    fn output_channels_split_in_halves() {
        let output = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0], &Device::flex()).reshape([1, 4, 1, 1]);
        let (prediction, logits) = split(output);
        assert_eq!(prediction.into_data().try_to_vec::<f32>().unwrap(), [1.0, 2.0]);
        assert_eq!(logits.into_data().try_to_vec::<f32>().unwrap(), [3.0, 4.0]);
    }
}
