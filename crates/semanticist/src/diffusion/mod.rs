//! The formulas of Gaussian diffusion: how latents are noised, what is learned, how it is undone.
//!
//! Nothing here knows the network: the loss takes its output, the samplers take it as a closure.

pub mod schedule;

pub mod gaussian;
pub mod loss;

pub mod guidance;
pub mod sampler;

pub mod flow;

use serde::{Deserialize, Serialize};

pub use gaussian::{Denoised, NoisyLatents, split};
pub use guidance::Guidance;
pub use loss::Losses;
pub use sampler::{SampleOptions, Sampler, SamplingPlan};
pub use schedule::{Process, Respacing};

/// What the noising process is and what the network predicts about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiffusionConfig {
    /// How many steps lead from clean latents to noise.
    pub steps: usize,
    /// How the noise grows over the steps.
    pub schedule: Schedule,
    /// What the first half of the network's output channels means.
    pub prediction: Prediction,
}

impl Default for DiffusionConfig {
    /// The process of the published checkpoints: 1000 steps, linear, noise prediction.
    fn default() -> Self {
        Self { steps: 1000, schedule: Schedule::Linear, prediction: Prediction::Noise }
    }
}

/// How the noise grows over the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Betas linear from 1e-4 to 0.02 at 1000 steps (Ho et al. 2020, section 4).
    Linear,
    /// Cumulative signal as a squared cosine (Nichol & Dhariwal 2021, eq. 17).
    Cosine,
}

/// What the network predicts besides the variance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// The noise ε that was added.
    Noise,
    /// The velocity `√ᾱ ε − √(1 − ᾱ) x₀` (Salimans & Ho 2022, appendix D).
    Velocity,
}

/// A recorded tensor. Inputs, random draws, losses and ends of sampling are the published PyTorch
/// code's; the network outputs in between were computed in `f64` from the same weights.
#[cfg(test)]
fn golden<const D: usize>(name: &str, device: &burn::tensor::Device) -> burn::tensor::Tensor<D> {
    const FILE: &[u8] = include_bytes!("../../tests/data/diffusion.safetensors");
    let file = safetensors::SafeTensors::deserialize(FILE).unwrap();
    let view = file.tensor(name).unwrap();
    let values: Vec<f32> =
        view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    burn::tensor::Tensor::from_data(burn::tensor::TensorData::new(values, view.shape()), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_reads_kebab_case_and_refuses_unknown_fields() {
        let read = serde_json::from_str::<DiffusionConfig>;
        let config = read(r#"{"steps": 50, "schedule": "cosine", "prediction": "velocity"}"#).unwrap();
        assert_eq!(
            config,
            DiffusionConfig { steps: 50, schedule: Schedule::Cosine, prediction: Prediction::Velocity }
        );
        assert_eq!(read("{}").unwrap(), DiffusionConfig::default());
        assert!(read(r#"{"step": 50}"#).is_err());
    }
}
