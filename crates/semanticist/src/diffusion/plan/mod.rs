//! Sampling: from noise to data by evaluating the network a number of times.

mod flow;
mod gaussian;

use std::convert::Infallible;

use burn::tensor::Tensor;

use self::flow::FlowPlan;
use self::gaussian::GaussianPlan;
use super::process::Kind;
use super::{Process, Sampler};
use crate::{Noise, Result};

/// A sampler with the times it will visit: checked, ready to run any number of times.
#[derive(Debug, Clone)]
pub struct SamplingPlan {
    walk: Walk,
    /// In the order in which they are first visited.
    times: Vec<f32>,
    /// Multiplies the noise that is added on the way.
    temperature: f64,
}

#[derive(Debug, Clone)]
enum Walk {
    Gaussian(GaussianPlan),
    Flow(FlowPlan),
}

impl SamplingPlan {
    /// # Errors
    /// If the sampler does not fit the process, which then has others; if there are fewer than 2 steps, or
    /// more than the process has.
    pub fn new(process: &Process, sampler: Sampler, steps: usize) -> Result<Self> {
        let (walk, times) = match &process.0 {
            Kind::Gaussian(gaussian) => {
                let plan = GaussianPlan::new(gaussian, sampler, steps)?;
                let times = plan.times();
                (Walk::Gaussian(plan), times)
            }
            Kind::Flow(flow) => {
                let plan = FlowPlan::new(flow, sampler, steps)?;
                let times = plan.times();
                (Walk::Flow(plan), times)
            }
        };
        Ok(Self { walk, times, temperature: 1.0 })
    }

    /// The same with the noise that is added on the way multiplied.
    pub fn with_temperature(self, temperature: f64) -> Self {
        Self { temperature, ..self }
    }

    /// The times at which the network is evaluated, in order, as it is told them.
    pub fn times(&self) -> &[f32] {
        &self.times
    }

    /// How often [`SamplingPlan::run`] evaluates the network.
    pub fn evaluations(&self) -> usize {
        match &self.walk {
            Walk::Gaussian(_) => self.times.len(),
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
        }
    }
}
