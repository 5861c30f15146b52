//! How data are noised, what is learned of it, and how it is undone: Gaussian diffusion and flows as one
//! process, for latents and single tokens alike.
//!
//! Nothing here knows the network: the loss takes its output, the samplers take it as a closure. Guidance
//! combines its outputs before a sampler sees them.

mod config;
mod process;

pub mod schedule;

mod average;
mod fitted;
mod flow;
mod gaussian;
mod loss;

pub mod guidance;

mod plan;
mod sampler;

pub use config::{
    DiffusionConfig, FlowConfig, FlowPrediction, GaussianConfig, Prediction, Schedule, TrainingTimes,
};
pub use fitted::FittedSampler;
pub use guidance::Guidance;
pub use plan::SamplingPlan;
pub use process::{Corrupted, Denoised, Losses, Process};
pub use sampler::{DecodeOptions, Sampler};
pub use schedule::{Respacing, Tables};

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
