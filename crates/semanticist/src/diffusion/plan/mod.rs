//! Sampling: from noise to data by evaluating the network a number of times.

mod flow;
mod gaussian;

use std::convert::Infallible;

use burn::tensor::Tensor;

use self::flow::FlowPlan;
use self::gaussian::GaussianPlan;
use super::process::Kind;
use super::{FittedSampler, Process, Sampler};
use crate::{Error, Noise, Result};

/// A sampler with the times it will visit: checked, ready to run any number of times.
#[derive(Debug, Clone)]
pub struct SamplingPlan {
    walk: Walk,
    /// In the order in which they are first visited.
    times: Vec<f32>,
    /// One per time.
    spans: Vec<f32>,
    /// Multiplies the noise that is added on the way.
    temperature: f64,
}

#[derive(Debug, Clone)]
enum Walk {
    Gaussian(GaussianPlan),
    Flow(FlowPlan),
    Fitted(FittedSampler),
}

impl SamplingPlan {
    /// # Errors
    /// If the sampler does not fit the process, which then has others; if there are fewer steps than the
    /// sampler needs, 1 or 2, or more than the process has, or none was fitted that takes as many.
    pub fn new(process: &Process, sampler: Sampler, steps: usize) -> Result<Self> {
        if sampler == Sampler::Fitted {
            let fitted = fitted(process, steps)?;
            let (times, spans) = (fitted.times.clone(), vec![0.0; steps]);
            return Ok(Self { walk: Walk::Fitted(fitted), times, spans, temperature: 1.0 });
        }
        let (walk, times, spans) = match &process.kind {
            Kind::Gaussian(gaussian) => {
                let plan = GaussianPlan::new(gaussian, sampler, steps)?;
                let times = plan.times();
                let spans = vec![0.0; times.len()];
                (Walk::Gaussian(plan), times, spans)
            }
            Kind::Flow(flow) => {
                let plan = FlowPlan::new(flow, sampler, steps)?;
                let (times, spans) = (plan.times(), plan.spans());
                (Walk::Flow(plan), times, spans)
            }
        };
        Ok(Self { walk, times, spans, temperature: 1.0 })
    }

    /// The same with the noise that is added on the way multiplied.
    pub fn with_temperature(self, temperature: f64) -> Self {
        Self { temperature, ..self }
    }

    /// The times at which the network is evaluated, in order, as it is told them.
    pub fn times(&self) -> &[f32] {
        &self.times
    }

    /// How far the network's answer at each of the times is to reach, as it is told: the length of the step if
    /// it gives average velocities and the sampler takes them, else 0.
    pub fn spans(&self) -> &[f32] {
        &self.spans
    }

    /// How often [`SamplingPlan::run`] evaluates the network.
    pub fn evaluations(&self) -> usize {
        match &self.walk {
            Walk::Gaussian(_) | Walk::Fitted(_) => self.times.len(),
            Walk::Flow(plan) => plan.evaluations(),
        }
    }

    /// Leads `start` to data.
    ///
    /// `ask` is the network, guidance included: from noisy data `[N, C, ..]` at one of the times, given by
    /// its index in [`SamplingPlan::times`], to `[N, outputs C, ..]`. Progress can be counted in it.
    ///
    /// # Shapes
    /// `start`: `[N, C, ..]`, standard normal → `[N, C, ..]`.
    pub fn run<const D: usize>(
        &self,
        start: Tensor<D>,
        noise: &mut Noise,
        mut ask: impl FnMut(Tensor<D>, usize) -> Tensor<D>,
    ) -> Tensor<D> {
        let Ok(data) = self.try_run(start, noise, |x, index| Ok::<_, Infallible>(ask(x, index)));
        data
    }

    /// [`SamplingPlan::run`], ended by the first error of the network.
    ///
    /// # Errors
    /// That one.
    pub fn try_run<const D: usize, E>(
        &self,
        start: Tensor<D>,
        noise: &mut Noise,
        ask: impl FnMut(Tensor<D>, usize) -> Result<Tensor<D>, E>,
    ) -> Result<Tensor<D>, E> {
        match &self.walk {
            Walk::Gaussian(plan) => plan.run(start, self.temperature, noise, ask),
            Walk::Flow(plan) => plan.run(start, self.temperature, noise, ask),
            Walk::Fitted(sampler) => sampler.run(start, ask),
        }
    }
}

/// The sampler of so many steps that was fitted to the network.
fn fitted(process: &Process, steps: usize) -> Result<FittedSampler> {
    process.fitted.iter().find(|sampler| sampler.steps() == steps).cloned().ok_or_else(|| {
        let there = process.fitted.iter().map(|sampler| sampler.steps().to_string()).collect::<Vec<_>>();
        let there = match there.is_empty() {
            true => "none was fitted to it".to_string(),
            false => format!("those that were fitted to it take {}", there.join(", ")),
        };
        Error::Config(format!("this model has no fitted sampler of {steps} steps: {there}"))
    })
}
