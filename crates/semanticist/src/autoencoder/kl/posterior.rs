//! What the encoder of a KL autoencoder says of an image: a normal distribution over its latents.

use burn::tensor::Tensor;

use crate::noise::Noise;

/// Independent normal distributions, one per number of the latents, before they are scaled.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// `[B, C, h, w]`
    pub mean: Tensor<4>,
    /// `[B, C, h, w]`, in `[-30, 20]`
    pub log_variance: Tensor<4>,
}

impl Posterior {
    /// The two halves of `moments` `[B, 2 C, h, w]`.
    pub(super) fn new(moments: Tensor<4>) -> Self {
        let channels = moments.dims()[1] / 2;
        Self {
            mean: moments.clone().narrow(1, 0, channels),
            log_variance: moments.narrow(1, channels, channels).clamp(-30.0, 20.0),
        }
    }

    /// One draw per number: `[B, C, h, w]`.
    pub fn sample(&self, noise: &mut Noise) -> Tensor<4> {
        let draw = noise.normal(self.mean.dims(), &self.mean.device());
        self.mean.clone() + (self.log_variance.clone() * 0.5).exp() * draw
    }

    /// The Kullback-Leibler divergence from standard normal latents, in nats, per image: `[B]`.
    pub fn divergence(&self) -> Tensor<1> {
        let [b, c, h, w] = self.mean.dims();
        let variance = self.log_variance.clone().exp();
        let each = self.mean.clone().square() + variance - 1.0 - self.log_variance.clone();
        each.reshape([b, c * h * w]).sum_dim(1).reshape([b]) * 0.5
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Mean 3 and log-variance `log_variance` everywhere.
    fn posterior(log_variance: f64) -> Posterior {
        let shape = [1, 1, 100, 100];
        let (mean, log) = (Tensor::ones(shape, &Device::flex()), Tensor::ones(shape, &Device::flex()));
        Posterior::new(Tensor::cat(vec![mean * 3.0, log * log_variance], 1))
    }

    #[test]
    fn samples_have_the_mean_and_variance_of_the_moments() {
        let samples = posterior(-2.0).sample(&mut Noise::seeded(0));
        let mean = samples.clone().mean().into_scalar::<f32>();
        let variance = (samples - 3.0).square().mean().into_scalar::<f32>();
        assert!((mean - 3.0).abs() < 0.02 && (variance - (-2.0f32).exp()).abs() < 0.01, "{mean} {variance}");
    }

    #[test]
    fn the_divergence_of_the_standard_normal_is_zero_and_variances_are_bounded() {
        let zero = Posterior::new(Tensor::zeros([2, 4, 3, 3], &Device::flex()));
        assert_eq!(zero.divergence().into_data().try_to_vec::<f32>().unwrap(), [0.0, 0.0]);
        // (9 + e^-2 - 1 + 2) / 2 per number.
        let found = posterior(-2.0).divergence().into_scalar::<f32>() / 1e4;
        assert!((found - (10.0 + (-2.0f32).exp()) / 2.0).abs() < 1e-3, "{found}");
        let largest = |posterior: Posterior| posterior.log_variance.max().into_scalar::<f32>();
        assert_eq!((largest(posterior(1e9)), largest(posterior(-1e9))), (20.0, -30.0));
    }
}
