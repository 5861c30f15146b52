//! The way from data to noise, whatever its kind.
//!
//! Tensors have any rank: the first axis counts samples, the second channels, which of a token are its
//! numbers. A time is what the network is told. In Gaussian diffusion it is a whole timestep, 0 beside the
//! data and the last beside pure noise. In a flow it grows the other way, as in the published head: 0 is
//! noise, `time_scale` data.

use burn::tensor::{Device, Tensor, TensorData};

use super::flow::Flow;
use super::gaussian::Gaussian;
use super::{DiffusionConfig, FittedSampler, FlowPrediction, Guidance, Sampler};
use crate::{Error, Noise, Result};

/// A noising process, ready to compute with.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    pub(super) kind: Kind,
    /// Samplers that were fitted to the network.
    pub(super) fitted: Vec<FittedSampler>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Gaussian(Gaussian),
    Flow(Flow),
}

/// Data with noise in them, and how they came about.
#[derive(Debug, Clone)]
pub struct Corrupted<const D: usize> {
    /// `[N, C, ..]`, without noise.
    pub clean: Tensor<D>,
    /// `[N, C, ..]`, standard normal.
    pub noise: Tensor<D>,
    /// `[N, C, ..]`, both at once.
    pub noisy: Tensor<D>,
    /// N, the time of each sample.
    pub times: Vec<f32>,
}

/// What a prediction says about noisy data.
#[derive(Debug, Clone)]
pub struct Denoised<const D: usize> {
    /// `[N, C, ..]`, the data without noise.
    pub clean: Tensor<D>,
    /// `[N, C, ..]`, the noise in them.
    pub noise: Tensor<D>,
}

/// The terms of the training loss, per sample.
#[derive(Debug, Clone)]
pub struct Losses {
    /// `[N]`, mean squared error: of the prediction in Gaussian diffusion, of the velocity in a flow.
    pub mse: Tensor<1>,
    /// `[N]`, variational bound of the step in bits per dimension, not rescaled, where a variance is learned.
    /// Its gradient reaches only the variance logits.
    pub vb: Option<Tensor<1>>,
    /// `[N]`, the sum, whose mean training minimises.
    pub total: Tensor<1>,
}

impl Process {
    /// # Errors
    /// If there is no such process.
    pub fn new(config: &DiffusionConfig) -> Result<Self> {
        let kind = match config {
            DiffusionConfig::Gaussian(config) => Kind::Gaussian(Gaussian::new(config)?),
            DiffusionConfig::Flow(config) => Kind::Flow(Flow::new(config)?),
        };
        Ok(Self { kind, fitted: Vec::new() })
    }

    /// The same with samplers that were fitted to the network that learnt it.
    ///
    /// # Errors
    /// If one of them does not fit the process, or two take as many steps.
    pub fn with_fitted(self, samplers: &[FittedSampler]) -> Result<Self> {
        for (i, sampler) in samplers.iter().enumerate() {
            sampler.validate(&self)?;
            let steps = sampler.steps();
            if samplers[..i].iter().any(|other| other.steps() == steps) {
                return Err(Error::Config(format!(
                    "two fitted samplers take {steps} steps; leave one of them"
                )));
            }
        }
        Ok(Self { fitted: samplers.to_vec(), ..self })
    }

    /// How many numbers the network gives per channel: the prediction, and the variance if one is learned.
    pub fn outputs_per_channel(&self) -> usize {
        match &self.kind {
            Kind::Gaussian(_) => 2,
            Kind::Flow(_) => 1,
        }
    }

    /// What the network predicts, without the variance if one is learned.
    ///
    /// # Shapes
    /// `[N, outputs C, ..]` → `[N, C, ..]`, with C = `channels`
    pub fn prediction<const D: usize>(&self, output: Tensor<D>, channels: usize) -> Tensor<D> {
        output.narrow(1, 0, channels)
    }

    /// The sampler that is used where none was fitted: one question per step, and no noise on the way. In a flow it is
    /// of second order, except where the network's answers are averages over Euler's steps.
    pub fn default_sampler(&self) -> Sampler {
        match &self.kind {
            Kind::Gaussian(_) => Sampler::Ddim { eta: 0.0 },
            Kind::Flow(flow) if flow.prediction() == FlowPrediction::AverageVelocity => Sampler::Euler,
            Kind::Flow(_) => Sampler::AdamsBashforth,
        }
    }

    /// The sampler of so many steps with this guidance that is used unless another is asked for: one that was fitted to the
    /// network with it, else [`Process::default_sampler`].
    pub fn usual_sampler(&self, steps: usize, guidance: &Guidance) -> Sampler {
        let fits = |fitted: &FittedSampler| {
            fitted.steps() == steps && *guidance == Guidance::constant(fitted.guidance)
        };
        if self.fitted.iter().any(fits) { Sampler::Fitted } else { self.default_sampler() }
    }

    /// The sampler that ends nearest to where the way without noise leads, the more steps the nearer: of second order.
    pub fn exact_sampler(&self) -> Sampler {
        match &self.kind {
            Kind::Gaussian(_) => Sampler::DpmSolverPlusPlus,
            Kind::Flow(_) => Sampler::AdamsBashforth,
        }
    }

    /// The sampler whose steps a network can learn, even a single one: each leads straight on from one answer, without
    /// noise on the way.
    pub fn few_step_sampler(&self) -> Sampler {
        match &self.kind {
            Kind::Gaussian(_) => Sampler::DdimTrailing,
            Kind::Flow(_) => Sampler::Euler,
        }
    }

    /// The times of `count` samples of training.
    pub fn draw_times(&self, count: usize, noise: &mut Noise) -> Vec<f32> {
        match &self.kind {
            Kind::Gaussian(gaussian) => {
                noise.below(count, gaussian.tables.steps()).into_iter().map(|t| t as f32).collect()
            }
            Kind::Flow(flow) => flow.draw_times(count, noise),
        }
    }

    /// The time of pure noise, and one that is beyond all that the network is asked at.
    pub(super) fn ends(&self) -> [f64; 2] {
        match &self.kind {
            Kind::Gaussian(gaussian) => [gaussian.tables.steps() as f64 - 1.0, -1.0],
            Kind::Flow(flow) => [0.0, flow.time(1.0).into()],
        }
    }

    /// How many places [`Process::time_of_place`] spreads over the process.
    pub fn places(&self) -> usize {
        match &self.kind {
            Kind::Gaussian(gaussian) => gaussian.tables.steps(),
            Kind::Flow(_) => 1000,
        }
    }

    /// The time of one of the [`Process::places`], which lie evenly, for losses without chance.
    pub fn time_of_place(&self, place: usize) -> f32 {
        match &self.kind {
            Kind::Gaussian(_) => place as f32,
            Kind::Flow(flow) => flow.time((place as f64 + 0.5) / self.places() as f64),
        }
    }

    /// Puts noise on data.
    ///
    /// # Shapes
    /// `clean`, `noise`: `[N, C, ..]`, N times
    ///
    /// # Panics
    /// If there are not N times, or the process has no such time.
    pub fn corrupt<const D: usize>(&self, clean: Tensor<D>, noise: Tensor<D>, times: &[f32]) -> Corrupted<D> {
        let noisy = match &self.kind {
            Kind::Gaussian(gaussian) => {
                gaussian.corrupt(clean.clone(), noise.clone(), &gaussian.positions(times))
            }
            Kind::Flow(flow) => flow.corrupt(clean.clone(), noise.clone(), times),
        };
        Corrupted { clean, noise, noisy, times: times.to_vec() }
    }

    /// What the network should predict about `example`: `[N, C, ..]`.
    pub fn target<const D: usize>(&self, example: &Corrupted<D>) -> Tensor<D> {
        match &self.kind {
            Kind::Gaussian(gaussian) => gaussian.target(example),
            Kind::Flow(flow) => flow.target(example),
        }
    }

    /// The loss of the network's output on noisy data.
    ///
    /// # Shapes
    /// `output`: `[N, outputs C, ..]`, see [`Process::outputs_per_channel`]
    ///
    /// # Panics
    /// If the output has another number of channels.
    pub fn loss<const D: usize>(&self, output: Tensor<D>, example: &Corrupted<D>) -> Losses {
        match &self.kind {
            Kind::Gaussian(gaussian) => gaussian.loss(output, example),
            Kind::Flow(flow) => flow.loss(output, example),
        }
    }

    /// What a prediction says the clean data and the noise are.
    ///
    /// # Shapes
    /// `noisy`, `prediction`: `[N, C, ..]`, N times
    pub fn denoised<const D: usize>(
        &self,
        noisy: Tensor<D>,
        prediction: Tensor<D>,
        times: &[f32],
    ) -> Denoised<D> {
        match &self.kind {
            Kind::Gaussian(gaussian) => gaussian.denoised(noisy, prediction, &gaussian.positions(times)),
            Kind::Flow(flow) => flow.denoised(noisy, prediction, times),
        }
    }
}

/// A number per sample, computed in `f64`, as a tensor that broadcasts over it: `[N, 1, ..]`.
pub(super) fn per_sample<const D: usize>(values: impl Iterator<Item = f64>, device: &Device) -> Tensor<D> {
    let values: Vec<f32> = values.map(|value| value as f32).collect();
    let mut shape = [1; D];
    shape[0] = values.len();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// `[N, C, ..]` → `[N]`.
pub(super) fn mean_per_sample<const D: usize>(values: Tensor<D>) -> Tensor<1> {
    let count = values.dims()[0];
    let each = values.shape().num_elements() / count;
    values.reshape([count, each]).mean_dim(1).reshape([count])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{
        FlowConfig, FlowPrediction, GaussianConfig, Prediction, SamplingPlan, TrainingTimes,
    };

    const SHAPE: [usize; 4] = [3, 4, 8, 8];

    fn gaussian(prediction: Prediction) -> Process {
        let config = GaussianConfig { prediction, ..GaussianConfig::default() };
        Process::new(&DiffusionConfig::Gaussian(config)).unwrap()
    }

    fn flow(prediction: FlowPrediction) -> Process {
        let config = FlowConfig { prediction, ..FlowConfig::default() };
        Process::new(&DiffusionConfig::Flow(config)).unwrap()
    }

    /// Every process with three times that it has.
    fn all() -> [(Process, [f32; 3]); 4] {
        [
            (gaussian(Prediction::Noise), [0.0, 100.0, 500.0]),
            (gaussian(Prediction::Velocity), [0.0, 100.0, 500.0]),
            (flow(FlowPrediction::Velocity), [0.0, 300.0, 1000.0]),
            (flow(FlowPrediction::Clean), [0.0, 300.0, 900.0]),
        ]
    }

    fn example(process: &Process, times: &[f32]) -> Corrupted<4> {
        let (device, mut noise) = (Device::flex(), Noise::seeded(1));
        let clean = noise.normal(SHAPE, &device);
        process.corrupt(clean, noise.normal(SHAPE, &device), times)
    }

    fn values(tensor: Tensor<1>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[track_caller]
    fn assert_close<const D: usize>(found: Tensor<D>, expected: Tensor<D>, tolerance: f32) {
        let difference = (found - expected).abs().max().into_scalar::<f32>();
        assert!(difference <= tolerance, "differs by {difference}");
    }

    #[test]
    fn the_target_as_prediction_gives_back_data_and_noise() {
        for (process, times) in all() {
            let example = example(&process, &times);
            let denoised = process.denoised(example.noisy.clone(), process.target(&example), &times);
            assert_close(denoised.clean, example.clean, 1e-5);
            assert_close(denoised.noise, example.noise, 1e-5);
        }
    }

    #[test]
    fn a_perfect_network_pays_nothing() {
        for (process, times) in all() {
            // The Gaussian's first step has no posterior; its bins cost something.
            let times = times.map(|t| t.max(1.0));
            let example = example(&process, &times);
            let target = process.target(&example);
            let output = match process.outputs_per_channel() {
                1 => target,
                _ => Tensor::cat(vec![target, Tensor::full(SHAPE, -1.0, &Device::flex())], 1),
            };
            let losses = process.loss(output, &example);
            assert_eq!(values(losses.mse), [0.0; 3]);
            assert!(values(losses.total).iter().all(|loss| loss.abs() < 1e-5));
            assert_eq!(losses.vb.is_some(), process.outputs_per_channel() == 2);
        }
    }

    /// The numbers of a token and the channels of a latent pixel are the same thing.
    #[test]
    fn rank_two_is_rank_four_reshaped() {
        let (device, mut noise) = (Device::flex(), Noise::seeded(2));
        let [n, d] = [3, 6];
        for (process, times) in all() {
            let outputs = process.outputs_per_channel() * d;
            let [clean, drawn] = [0, 1].map(|_| noise.normal([n, d], &device));
            let output = noise.normal([n, outputs], &device);
            let flat = process.corrupt(clean.clone(), drawn.clone(), &times);
            let tall = process.corrupt(clean.reshape([n, d, 1, 1]), drawn.reshape([n, d, 1, 1]), &times);
            assert_eq!(flat.noisy.clone().into_data(), tall.noisy.clone().reshape([n, d]).into_data());
            let losses = process.loss(output.clone(), &flat);
            let expected = process.loss(output.clone().reshape([n, outputs, 1, 1]), &tall);
            assert_eq!(values(losses.total), values(expected.total));

            let plan = SamplingPlan::new(&process, process.default_sampler(), 4).unwrap();
            let start = noise.normal([n, d], &device);
            let flat = plan.run(start.clone(), &mut Noise::seeded(0), |_, _| output.clone());
            let tall = plan.run(start.reshape([n, d, 1, 1]), &mut Noise::seeded(0), |_, _| {
                output.clone().reshape([n, outputs, 1, 1])
            });
            assert_eq!(flat.into_data(), tall.reshape([n, d]).into_data());
        }
    }

    #[test]
    fn clean_predictions_and_their_velocities_cost_and_mean_the_same() {
        let [clean, velocity] = [FlowPrediction::Clean, FlowPrediction::Velocity].map(flow);
        // Up to 0.95 of the way the clamped rest is the rest.
        let times = [0.0, 500.0, 940.0];
        let example = example(&clean, &times);
        let guess = Noise::seeded(7).normal(SHAPE, &Device::flex());
        let rest: Tensor<4> = per_sample([1.0, 0.5, 0.06].into_iter(), &Device::flex());
        let as_velocity = (guess.clone() - example.noisy.clone()) / rest;
        let (a, b) = (clean.loss(guess.clone(), &example), velocity.loss(as_velocity.clone(), &example));
        for (a, b) in values(a.total).iter().zip(values(b.total)) {
            assert!((a / b - 1.0).abs() < 1e-3, "{a} and {b}");
        }
        let a = clean.denoised(example.noisy.clone(), guess, &times);
        let b = velocity.denoised(example.noisy, as_velocity, &times);
        assert_close(a.clean, b.clean, 1e-4);
        assert_close(a.noise, b.noise, 1e-3);
    }

    #[test]
    fn times_are_the_process_s_own() {
        let mut noise = Noise::seeded(0);
        let gaussian = gaussian(Prediction::Noise);
        assert!(gaussian.draw_times(64, &mut noise).iter().all(|t| t.fract() == 0.0 && *t < 1000.0));
        let drawn = flow(FlowPrediction::Velocity).draw_times(512, &mut noise);
        assert!(drawn.iter().all(|t| (0.0..=1000.0).contains(t)) && drawn.iter().any(|t| *t > 900.0));
        assert_eq!([0, 999].map(|place| gaussian.time_of_place(place)), [0.0, 999.0]);
        let flow = flow(FlowPrediction::Velocity);
        assert_eq!([0, 999].map(|place| flow.time_of_place(place)), [0.5, 999.5]);
    }

    #[test]
    fn logit_normal_times_have_their_median_at_the_logistic_function_of_the_mean() {
        let times = TrainingTimes::LogitNormal { mean: -0.8, deviation: 0.8 };
        let config = FlowConfig { times, time_scale: 1.0, ..FlowConfig::default() };
        let process = Process::new(&DiffusionConfig::Flow(config)).unwrap();
        let mut drawn = process.draw_times(4001, &mut Noise::seeded(3));
        drawn.sort_by(f32::total_cmp);
        assert!((drawn[2000] - 0.31).abs() < 0.02, "{}", drawn[2000]);
        assert!(drawn[0] > 0.0 && drawn[4000] < 1.0);
    }

    #[test]
    #[should_panic(expected = "0.5 is not one of the timesteps 0 to 999")]
    fn gaussian_diffusion_has_whole_timesteps() {
        let x = Tensor::<2>::zeros([1, 2], &Device::flex());
        gaussian(Prediction::Noise).corrupt(x.clone(), x, &[0.5]);
    }
}
