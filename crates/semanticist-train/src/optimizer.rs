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

/// The optimiser and its moments.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    moments: BTreeMap<String, [Tensor<1>; 2]>,
}

impl AdamW {
    /// An optimiser that has made no step.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, steps: 0, moments: BTreeMap::new() }
    }

    /// Moves every parameter that has a gradient; `norm` is the gradients' norm before clipping.
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

    /// The moments, as `first.NAME` and `second.NAME`.
    pub fn state(&self) -> Weights {
        let mut state = Weights::new();
        for (name, moments) in &self.moments {
            for (kind, moment) in ["first", "second"].iter().zip(moments) {
                let values = moment.to_data().iter::<f32>().collect::<Vec<_>>();
                state.insert(format!("{kind}.{name}"), HostTensor::from_f32(&[values.len()], &values));
            }
        }
        state
    }

    /// An optimiser that goes on from [`AdamW::state`] after `steps` steps of `module`.
    ///
    /// Takes out of `state` what belongs to a parameter; what does not fit one stays for its `finish`
    /// to report.
    pub fn restore<M: Module>(config: AdamWConfig, steps: u64, module: &M, state: &mut Weights) -> Self {
        let [first, second] = ["first", "second"].map(|kind| moments_of(module, kind, state));
        let moments =
            first.into_iter().zip(second).map(|((name, first), (_, second))| (name, [first, second]));
        Self { config, steps, moments: moments.collect() }
    }
}

/// The moments named `KIND.NAME` of every parameter of a module, flattened.
fn moments_of<M: Module>(module: &M, kind: &str, state: &mut Weights) -> BTreeMap<String, Tensor<1>> {
    struct Reader<'a> {
        place: Place,
        kind: &'a str,
        state: &'a mut Weights,
        moments: BTreeMap<String, Tensor<1>>,
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
            let stored = format!("{}.{name}", self.kind);
            let count = param.shape().num_elements();
            let fits = self.state.get(&stored).is_some_and(|moment| moment.shape() == [count]);
            let moment = fits.then(|| self.state.remove(&stored)).flatten();
            // A parameter without a moment never had a gradient: its moment is 0.
            let values = moment.and_then(|moment| moment.to_f32()).unwrap_or_else(|| vec![0.0; count]);
            let device = param.device().without_autodiff();
            self.moments.insert(name, Tensor::from_floats(values.as_slice(), &device));
        }
    }
    let mut reader = Reader { place: Place::default(), kind, state, moments: BTreeMap::new() };
    module.visit(&mut reader);
    reader.moments
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
        let Some(gradient) = self.gradients.get(&name) else {
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
