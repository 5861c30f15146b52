//! The training loss: squared error of the prediction plus the variational bound of the variance.
//!
//! Source: Nichol & Dhariwal 2021, section 3.1; guided-diffusion `gaussian_diffusion.py`,
//! `training_losses` with `ModelVarType.LEARNED_RANGE` and `LossType.MSE`.

use std::f64::consts::{FRAC_2_PI, LN_2};

use burn::tensor::{Bool, Device, Tensor, TensorData};

use super::{NoisyLatents, Process, split};

/// The terms of the training loss.
#[derive(Debug, Clone)]
pub struct Losses {
    /// `[B]`, mean squared error of the prediction.
    pub mse: Tensor<1>,
    /// `[B]`, variational bound of the step in bits per dimension, not rescaled. Its gradient
    /// reaches only the variance logits.
    pub vb: Tensor<1>,
    /// `[1]`, mean over the batch of `mse + vb`: what training minimises.
    pub total: Tensor<1>,
}

impl Process {
    /// The loss of the network's output on noisy latents.
    ///
    /// # Shapes
    /// `output`: `[B, 2C, H, W]`, prediction and variance logits.
    pub fn training_loss(&self, output: Tensor<4>, example: &NoisyLatents) -> Losses {
        let (prediction, logits) = split(output);
        let vb = self.variational_bound(prediction.clone().detach(), logits, example);
        let mse = mean_per_sample((prediction - self.target(example)).square());
        let total = (mse.clone() + vb.clone()).mean();
        Losses { mse, vb, total }
    }

    /// Bits per dimension by which the model's step misses the true one: `[B]`.
    ///
    /// Source: guided-diffusion `_vb_terms_bpd`, `clip_denoised=False`.
    fn variational_bound(
        &self,
        prediction: Tensor<4>,
        logits: Tensor<4>,
        example: &NoisyLatents,
    ) -> Tensor<1> {
        let NoisyLatents { clean, noisy, positions, .. } = example;
        let device = clean.device();
        let predicted_clean = self.denoised(noisy.clone(), prediction, positions).clean;
        let model = Gaussian {
            mean: self.posterior_mean(predicted_clean, noisy.clone(), positions),
            log_variance: self.learned_log_variance(logits, positions),
        };
        let truth = Gaussian {
            mean: self.posterior_mean(clean.clone(), noisy.clone(), positions),
            log_variance: self.posterior_log_variance(positions, &device),
        };
        let divergence = mean_per_sample(truth.divergence_to(&model)) / LN_2;
        if positions.iter().all(|&position| position != 0) {
            return divergence;
        }
        // The last step of sampling, to the latents themselves, has no posterior to compare with.
        let surprise = -mean_per_sample(model.discretized_log_likelihood(clean.clone())) / LN_2;
        divergence.mask_where(at_first(positions, &device), surprise)
    }
}

/// Independent normal distributions.
struct Gaussian {
    /// `[B, C, H, W]`.
    mean: Tensor<4>,
    /// Natural logarithm, broadcasts to `[B, C, H, W]`.
    log_variance: Tensor<4>,
}

impl Gaussian {
    /// Kullback-Leibler divergence in nats: `[B, C, H, W]`.
    ///
    /// Source: guided-diffusion `losses.py`, `normal_kl`.
    fn divergence_to(&self, other: &Self) -> Tensor<4> {
        let difference = other.log_variance.clone() - self.log_variance.clone();
        let distance =
            (self.mean.clone() - other.mean.clone()).square() * (-other.log_variance.clone()).exp();
        (difference.clone() + (-difference).exp() + distance - 1.0) * 0.5
    }

    /// Log probability in nats of the bin of width 2/255 around each value; the outermost bins of
    /// `[-1, 1]` reach to infinity: `[B, C, H, W]`.
    ///
    /// Source: guided-diffusion `losses.py`, `discretized_gaussian_log_likelihood`.
    fn discretized_log_likelihood(&self, x: Tensor<4>) -> Tensor<4> {
        let centered = x.clone() - self.mean.clone();
        let inverse_deviation = (self.log_variance.clone() * -0.5).exp();
        let below_upper = normal_cdf(inverse_deviation.clone() * (centered.clone() + 1.0 / 255.0));
        let below_lower = normal_cdf(inverse_deviation * (centered - 1.0 / 255.0));
        let inside = floored_log(below_upper.clone() - below_lower.clone());
        let above = floored_log(-below_lower + 1.0);
        inside
            .mask_where(x.clone().greater_elem(0.999), above)
            .mask_where(x.lower_elem(-0.999), floored_log(below_upper))
    }
}

/// A logarithm without −∞; where it is floored its gradient is 0.
fn floored_log(probability: Tensor<4>) -> Tensor<4> {
    probability.clamp_min(1e-12).log()
}

/// The distribution function of the standard normal, approximately.
///
/// Source: guided-diffusion `losses.py`, `approx_standard_normal_cdf`. Exactness would differ from
/// the published loss.
fn normal_cdf(x: Tensor<4>) -> Tensor<4> {
    let cube = x.clone() * x.clone() * x.clone();
    (((x + cube * 0.044715) * FRAC_2_PI.sqrt()).tanh() + 1.0) * 0.5
}

/// `[B, C, H, W]` → `[B]`.
fn mean_per_sample(values: Tensor<4>) -> Tensor<1> {
    values.flatten::<2>(1, 3).mean_dim(1).flatten(0, 1)
}

/// Which samples stand at the first step: `[B]`.
fn at_first(positions: &[usize], device: &Device) -> Tensor<1, Bool> {
    let first: Vec<bool> = positions.iter().map(|&position| position == 0).collect();
    Tensor::from_data(TensorData::new(first, [positions.len()]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Noise,
        diffusion::{DiffusionConfig, Prediction, golden},
    };

    fn values(tensor: Tensor<1>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[track_caller]
    fn assert_close(found: Vec<f32>, expected: &[f32], tolerance: f32) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() <= tolerance * expected.abs().max(1e-2),
                "{found} is not {expected}"
            );
        }
    }

    /// One batch through the published network: timesteps 0, 417 and 999.
    #[test]
    fn losses_equal_the_published_ones() {
        let device = Device::flex();
        let process = Process::new(&DiffusionConfig::default()).unwrap();
        let batch = |name: &str| golden::<4>(&format!("training.{name}"), &device);
        let example = process.add_noise(batch("latents"), batch("noise"), &[0, 417, 999]);
        let losses = process.training_loss(batch("output"), &example);
        assert_close(values(losses.mse), &values(golden("training.mse", &device)), 1e-5);
        assert_close(values(losses.vb), &values(golden("training.vb", &device)), 1e-4);
        assert_close(values(losses.total), &[2.341_180_6], 1e-5);
    }

    #[test]
    fn a_perfect_network_pays_nothing_but_the_last_bin() {
        let device = Device::flex();
        for prediction in [Prediction::Noise, Prediction::Velocity] {
            let process =
                Process::new(&DiffusionConfig { prediction, ..DiffusionConfig::default() }).unwrap();
            let mut noise = Noise::seeded(2);
            let example = process.add_noise(
                noise.normal([2, 4, 4, 4], &device),
                noise.normal([2, 4, 4, 4], &device),
                &[1, 800],
            );
            let logits = Tensor::full([2, 4, 4, 4], -1.0, &device);
            let losses =
                process.training_loss(Tensor::cat(vec![process.target(&example), logits], 1), &example);
            assert_eq!(values(losses.mse), [0.0, 0.0]);
            assert!(values(losses.vb.clone()).iter().all(|vb| vb.abs() < 1e-5), "{}", losses.vb);
        }
    }

    /// With equal means the divergence is `(d + e^-d - 1) / 2` nats, `d = ln β − ln β̃`.
    #[test]
    fn a_wrong_variance_costs_its_divergence() {
        let device = Device::flex();
        let process = Process::new(&DiffusionConfig::default()).unwrap();
        let example = process.add_noise(
            Tensor::zeros([1, 1, 2, 2], &device),
            Tensor::zeros([1, 1, 2, 2], &device),
            &[1],
        );
        let output =
            Tensor::cat(vec![Tensor::zeros([1, 1, 2, 2], &device), Tensor::ones([1, 1, 2, 2], &device)], 1);
        let difference = process.betas[1].ln() - process.posterior_variance[1].ln();
        let expected = 0.5 * (difference + (-difference).exp() - 1.0) / LN_2;
        assert_close(values(process.training_loss(output, &example).vb), &[expected as f32], 1e-4);
    }

    #[test]
    fn the_bound_teaches_only_the_variance_and_never_breaks() {
        let device = Device::flex().autodiff();
        let process = Process::new(&DiffusionConfig::default()).unwrap();
        let mut noise = Noise::seeded(3);
        // Latents far outside [-1, 1], so that every branch of the likelihood is floored somewhere.
        let clean = noise.normal([2, 4, 8, 8], &device) * 20.0;
        let example = process.add_noise(clean, noise.normal([2, 4, 8, 8], &device), &[0, 999]);
        let output = (noise.normal([2, 8, 8, 8], &device) * 30.0).require_grad();
        let gradients = process.training_loss(output.clone(), &example).vb.sum().backward();
        let (prediction, logits) = split(output.grad(&gradients).unwrap());
        assert_eq!(prediction.abs().max().into_scalar::<f32>(), 0.0);
        let logits: Vec<f32> = logits.into_data().try_to_vec().unwrap();
        assert!(logits.iter().all(|g| g.is_finite()) && logits.iter().any(|&g| g != 0.0));
    }

    #[test]
    fn the_total_teaches_prediction_and_variance() {
        let device = Device::flex().autodiff();
        let process = Process::new(&DiffusionConfig::default()).unwrap();
        let mut noise = Noise::seeded(4);
        let example = process.add_noise(
            noise.normal([2, 1, 2, 2], &device),
            noise.normal([2, 1, 2, 2], &device),
            &[0, 500],
        );
        let output = noise.normal([2, 2, 2, 2], &device).require_grad();
        let gradients = process.training_loss(output.clone(), &example).total.backward();
        let (found, _) = split(output.grad(&gradients).unwrap().inner());
        let (prediction, _) = split(output.inner());
        // Mean over 2 samples of the mean over 4 values: the derivative of a square is 2 / 8.
        let expected = (prediction - example.noise.inner()) * 0.25;
        assert!((found - expected).abs().max().into_scalar::<f32>() < 1e-6);
    }
}
