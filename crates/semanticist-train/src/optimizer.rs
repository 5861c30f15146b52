//! AdamW with decay groups and global-norm clipping, its state kept by parameter name.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use semanticist::weights::{HostTensor, Place, Weights};
use semanticist_ops::{self as ops, AdamWStep};
use serde::{Deserialize, Serialize};

use crate::gradients::Gradients;

/// AdamW's numbers (Loshchilov and Hutter, 2019).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay of parameters with two or more dimensions; the others have none.
    pub weight_decay: f64,
    /// The norm that the gradient of all parameters together is clipped to; 0 clips nothing.
    pub clip_norm: f64,
}

impl Default for AdamWConfig {
    /// As the paper trains (C.1).
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0, clip_norm: 3.0 }
    }
}

/// The optimiser of the parameters whose names begin with a prefix, and their moments.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: AdamWConfig,
    prefix: String,
    steps: u64,
    moments: BTreeMap<String, [Tensor<1>; 2]>,
}

impl AdamW {
    /// An optimiser of all parameters that has made no step.
    pub fn new(config: AdamWConfig) -> Self {
        Self::of(config, "")
    }

    /// An optimiser of the parameters whose names begin with `prefix` that has made no step.
    pub fn of(config: AdamWConfig, prefix: &str) -> Self {
        Self { config, prefix: prefix.to_string(), steps: 0, moments: BTreeMap::new() }
    }

    /// Goes on with other numbers.
    pub fn configure(&mut self, config: AdamWConfig) {
        self.config = config;
    }

    /// Whose parameters it moves.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Steps made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Moves every parameter of its own that has a gradient; `norm` is the gradients' norm before clipping.
    pub fn step<M: Module>(&mut self, module: M, gradients: &Gradients, norm: f64, learning_rate: f64) -> M {
        self.steps += 1;
        let AdamWConfig { beta1, beta2, epsilon, clip_norm, .. } = self.config;
        // torch.nn.utils.clip_grad_norm_ adds 1e-6 as well.
        let clip = if clip_norm > 0.0 { (clip_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let steps = self.steps as f64;
        let step = AdamWStep {
            gradient_factor: clip,
            beta1,
            beta2,
            step_size: learning_rate / (1.0 - beta1.powf(steps)),
            second_correction: (1.0 - beta2.powf(steps)).sqrt(),
            epsilon,
            decay: 1.0,
        };
        module.map(&mut Updater { place: Place::default(), optimizer: self, gradients, step, learning_rate })
    }

    /// The moments, as `first.NAME` and `second.NAME`; of every parameter of its own once it has made a step.
    pub fn state(&self) -> Weights {
        let mut state = Weights::new();
        for (name, moments) in &self.moments {
            for (kind, moment) in KINDS.iter().zip(moments) {
                let values = moment.to_data().iter::<f32>().collect::<Vec<_>>();
                state.insert(format!("{kind}.{name}"), HostTensor::from_f32(&[values.len()], &values));
            }
        }
        state
    }

    /// Takes its moments after `steps` steps out of `state`, which [`AdamW::state`] gave.
    ///
    /// # Errors
    /// Names the first parameter of `module` whose moments are missing or of another size.
    pub fn restore<M: Module>(&mut self, steps: u64, module: &M, state: &mut Weights) -> Result<(), String> {
        let mut reader = Reader { place: Place::default(), optimizer: self, state, problem: None };
        // Before its first step an optimiser has none.
        if steps > 0 {
            module.visit(&mut reader);
        }
        match reader.problem {
            Some(problem) => Err(problem),
            None => {
                self.steps = steps;
                Ok(())
            }
        }
    }
}

const KINDS: [&str; 2] = ["first", "second"];

/// Takes the moments of every parameter.
struct Reader<'a> {
    place: Place,
    optimizer: &'a mut AdamW,
    state: &'a mut Weights,
    problem: Option<String>,
}

impl Reader<'_> {
    fn moment(&mut self, kind: &str, name: &str, count: usize) -> Option<Vec<f32>> {
        let stored = format!("{kind}.{name}");
        let values = self.state.remove(&stored).and_then(|moment| moment.to_f32());
        let problem = match values {
            Some(values) if values.len() == count => return Some(values),
            Some(values) => format!("{stored} has {} numbers, expected {count}", values.len()),
            None => format!("{stored} is missing"),
        };
        self.problem.get_or_insert(problem);
        None
    }
}

impl ModuleVisitor for Reader<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.place.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.place.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.place.name();
        if !name.starts_with(&self.optimizer.prefix) {
            return;
        }
        let count = param.shape().num_elements();
        let [first, second] = KINDS.map(|kind| self.moment(kind, &name, count));
        if let (Some(first), Some(second)) = (first, second) {
            let device = param.device().without_autodiff();
            let moments = [first, second].map(|values| Tensor::from_floats(values.as_slice(), &device));
            self.optimizer.moments.insert(name, moments);
        }
    }
}

struct Updater<'a> {
    place: Place,
    optimizer: &'a mut AdamW,
    gradients: &'a Gradients,
    step: AdamWStep,
    learning_rate: f64,
}

impl ModuleMapper for Updater<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.place.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.place.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.place.name();
        if !name.starts_with(&self.optimizer.prefix) {
            return param;
        }
        let count = param.shape().num_elements();
        let device = param.device().without_autodiff();
        let Some(gradient) = self.gradients.get(&name) else {
            // Its moments are 0 and said to be so, so that one that is missing from a file is found.
            let zeros = || [(); 2].map(|()| Tensor::zeros([count], &device));
            self.optimizer.moments.entry(name).or_insert_with(zeros);
            return param;
        };
        let weight_decay = if D >= 2 { self.optimizer.config.weight_decay } else { 0.0 };
        let step = AdamWStep { decay: 1.0 - self.learning_rate * weight_decay, ..self.step };
        let moments = self
            .optimizer
            .moments
            .remove(&name)
            .unwrap_or_else(|| [gradient.zeros_like(), gradient.zeros_like()]);
        param.map(|value| {
            let required = value.is_require_grad();
            let shape = value.dims();
            let flat = value.inner().reshape([gradient.shape().num_elements()]);
            let (flat, moments) = ops::adamw(flat, gradient.clone(), moments, step);
            self.optimizer.moments.insert(name, moments);
            let value = Tensor::from_inner(flat.reshape(shape));
            if required { value.require_grad() } else { value }
        })
    }
}
