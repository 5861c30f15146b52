//! The training loss of Gaussian diffusion: squared error of the prediction plus the variational bound of
//! the variance.
//!
//! Source: Nichol & Dhariwal 2021, section 3.1; guided-diffusion `gaussian_diffusion.py`,
//! `training_losses` with `ModelVarType.LEARNED_RANGE` and `LossType.MSE`.

use std::f64::consts::{FRAC_2_PI, LN_2};

use burn::tensor::{Bool, Device, Tensor, TensorData};

use super::gaussian::{Gaussian, split};
use super::process::{Corrupted, Losses, mean_per_sample};

impl Gaussian {
    pub fn loss<const D: usize>(&self, output: Tensor<D>, example: &Corrupted<D>) -> Losses {
        let (prediction, logits) = split(output, example.clean.dims()[1]);
        let vb = self.variational_bound(prediction.clone().detach(), logits, example);
        let mse = mean_per_sample((prediction - self.target(example)).square());
        Losses { total: mse.clone() + vb.clone(), mse, vb: Some(vb) }
    }

    /// Bits per dimension by which the model's step misses the true one: `[N]`.
    ///
    /// Source: guided-diffusion `_vb_terms_bpd`, `clip_denoised=False`.
    fn variational_bound<const D: usize>(
        &self,
        prediction: Tensor<D>,
        logits: Tensor<D>,
        example: &Corrupted<D>,
    ) -> Tensor<1> {
        let Corrupted { clean, noisy, times, .. } = example;
        let (device, positions) = (clean.device(), self.positions(times));
        let predicted_clean = self.denoised(noisy.clone(), prediction, &positions).clean;
        let model = Normal {
            mean: self.posterior_mean(predicted_clean, noisy.clone(), &positions),
            log_variance: self.learned_log_variance(logits, &positions),
        };
        let truth = Normal {
            mean: self.posterior_mean(clean.clone(), noisy.clone(), &positions),
            log_variance: self.posterior_log_variance(&positions, &device),
        };
        let divergence = mean_per_sample(truth.divergence_to(&model)) / LN_2;
        if positions.iter().all(|&position| position != 0) {
            return divergence;
        }
        // The last step of sampling, to the data themselves, has no posterior to compare with.
        let surprise = -mean_per_sample(model.discretized_log_likelihood(clean.clone())) / LN_2;
        divergence.mask_where(at_first(&positions, &device), surprise)
    }
}

/// Independent normal distributions.
struct Normal<const D: usize> {
    /// `[N, C, ..]`.
    mean: Tensor<D>,
    /// Natural logarithm, broadcasts to `[N, C, ..]`.
    log_variance: Tensor<D>,
}

impl<const D: usize> Normal<D> {
    /// Kullback-Leibler divergence in nats: `[N, C, ..]`.
    ///
    /// Source: guided-diffusion `losses.py`, `normal_kl`.
    fn divergence_to(&self, other: &Self) -> Tensor<D> {
        let difference = other.log_variance.clone() - self.log_variance.clone();
        let distance =
            (self.mean.clone() - other.mean.clone()).square() * (-other.log_variance.clone()).exp();
        (difference.clone() + (-difference).exp() + distance - 1.0) * 0.5
    }

    /// Log probability in nats of the bin of width 2/255 around each value; the outermost bins of
    /// `[-1, 1]` reach to infinity: `[N, C, ..]`.
    ///
    /// Source: guided-diffusion `losses.py`, `discretized_gaussian_log_likelihood`.
    fn discretized_log_likelihood(&self, x: Tensor<D>) -> Tensor<D> {
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
fn floored_log<const D: usize>(probability: Tensor<D>) -> Tensor<D> {
    probability.clamp_min(1e-12).log()
}

/// The distribution function of the standard normal, approximately.
///
/// Source: guided-diffusion `losses.py`, `approx_standard_normal_cdf`. Exactness would differ from
/// the published loss.
fn normal_cdf<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let cube = x.clone() * x.clone() * x.clone();
    (((x + cube * 0.044715) * FRAC_2_PI.sqrt()).tanh() + 1.0) * 0.5
}

/// Which samples stand at the first step: `[N]`.
fn at_first(positions: &[usize], device: &Device) -> Tensor<1, Bool> {
    let first: Vec<bool> = positions.iter().map(|&position| position == 0).collect();
    Tensor::from_data(TensorData::new(first, [positions.len()]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Noise;
    use crate::diffusion::{DiffusionConfig, GaussianConfig, Process, golden};

    fn published() -> Process {
        Process::new(&DiffusionConfig::default()).unwrap()
    }

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
        let batch = |name: &str| golden::<4>(&format!("training.{name}"), &device);
        let example = published().corrupt(batch("latents"), batch("noise"), &[0.0, 417.0, 999.0]);
        let losses = published().loss(batch("output"), &example);
        assert_close(values(losses.mse), &values(golden("training.mse", &device)), 1e-5);
        assert_close(values(losses.vb.unwrap()), &values(golden("training.vb", &device)), 1e-4);
        assert_close(values(losses.total.mean()), &[2.341_180_6], 1e-5);
    }

    /// With equal means the divergence is `(d + e^-d - 1) / 2` nats, `d = ln β − ln β̃`.
    #[test]
    fn a_wrong_variance_costs_its_divergence() {
        let device = Device::flex();
        let gaussian = Gaussian::new(&GaussianConfig::default()).unwrap();
        let zeros = Tensor::<4>::zeros([1, 1, 2, 2], &device);
        let example = published().corrupt(zeros.clone(), zeros.clone(), &[1.0]);
        let output = Tensor::cat(vec![zeros.clone(), zeros + 1.0], 1);
        let difference = gaussian.tables.betas[1].ln() - gaussian.tables.posterior_variance[1].ln();
        let expected = 0.5 * (difference + (-difference).exp() - 1.0) / LN_2;
        assert_close(values(gaussian.loss(output, &example).vb.unwrap()), &[expected as f32], 1e-4);
    }

    #[test]
    fn the_bound_teaches_only_the_variance_and_never_breaks() {
        let device = Device::flex().autodiff();
        let mut noise = Noise::seeded(3);
        // Latents far outside [-1, 1], so that every branch of the likelihood is floored somewhere.
        let clean = noise.normal([2, 4, 8, 8], &device) * 20.0;
        let example = published().corrupt(clean, noise.normal([2, 4, 8, 8], &device), &[0.0, 999.0]);
        let output = (noise.normal([2, 8, 8, 8], &device) * 30.0).require_grad();
        let vb = published().loss(output.clone(), &example).vb.unwrap();
        let (prediction, logits) = split(output.grad(&vb.sum().backward()).unwrap(), 4);
        assert_eq!(prediction.abs().max().into_scalar::<f32>(), 0.0);
        let logits: Vec<f32> = logits.into_data().try_to_vec().unwrap();
        assert!(logits.iter().all(|g| g.is_finite()) && logits.iter().any(|&g| g != 0.0));
    }

    #[test]
    fn the_total_teaches_prediction_and_variance() {
        let device = Device::flex().autodiff();
        let mut noise = Noise::seeded(4);
        let clean = noise.normal([2, 1, 2, 2], &device);
        let example = published().corrupt(clean, noise.normal([2, 1, 2, 2], &device), &[0.0, 500.0]);
        let output = noise.normal([2, 2, 2, 2], &device).require_grad();
        let gradients = published().loss(output.clone(), &example).total.mean().backward();
        let (found, _) = split(output.grad(&gradients).unwrap().inner(), 1);
        let (prediction, _) = split(output.inner(), 1);
        // Mean over 2 samples of the mean over 4 values: the derivative of a square is 2 / 8.
        let expected = (prediction - example.noise.inner()) * 0.25;
        assert!((found - expected).abs().max().into_scalar::<f32>() < 1e-6);
    }
}
