//! One optimiser step of any objective: losses of the parts of a batch, gradients, AdamW, the moving average.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use semanticist::{Noise, Purpose, Seed};

use crate::config::RunConfig;
use crate::ema;
use crate::gradients::Gradients;
use crate::objective::{Objective, Trainable};
use crate::optimizer::AdamW;

/// What learns, and all that a step changes.
pub(crate) struct Learner<O: Objective> {
    pub config: RunConfig<O::Kind>,
    pub objective: O,
    pub model: O::Model,
    pub average: O::Model,
    pub optimizers: Vec<AdamW>,
}

/// What became of a batch.
pub(crate) enum Outcome {
    /// The weights moved.
    Made(StepNumbers),
    /// A number was not finite; nothing changed.
    Skipped {
        /// Of what it was.
        what: &'static str,
        value: f64,
    },
    /// The run is to stop; nothing changed.
    Abandoned,
}

/// The numbers of a step.
pub(crate) struct StepNumbers {
    pub loss: f64,
    pub parts: BTreeMap<&'static str, f64>,
    pub gradient_norm: f64,
    pub other_gradient_norms: BTreeMap<String, f64>,
    pub learning_rate: f64,
}

impl<O: Objective> Learner<O> {
    /// Step `step`, counted from 1, on a batch; everything changes, or nothing does.
    pub fn step(&mut self, examples: &[O::Example], step: u64, stop: &AtomicBool) -> Outcome {
        let count = self.config.accumulate;
        let (mut gradients, mut loss, mut parts) = (Gradients::default(), 0.0, BTreeMap::new());
        let seed = Seed::new(self.config.seed).of(Purpose::Training).at(step);
        let size = examples.len() / count;
        for (part, examples) in examples.chunks(size).enumerate() {
            if stop.load(Ordering::Relaxed) {
                return Outcome::Abandoned;
            }
            // An example's draws belong to its place in the batch, in whatever parts that is computed.
            let places = (0..examples.len()).map(|i| seed.at((part * size + i) as u64));
            let mut noise = Noise::per_sample(places);
            let found = self.objective.loss(&self.model, examples, step, &mut noise);
            let total = found.total / count as f64;
            // Asked for after the backward pass, so that a device need not wait in between.
            let graph = total.backward();
            let value = f64::from(total.into_scalar::<f32>());
            loss += value;
            for (name, value) in found.parts {
                *parts.entry(name).or_default() += value / count as f64;
            }
            if !value.is_finite() {
                return Outcome::Skipped { what: "loss", value };
            }
            gradients.add(Gradients::collect(self.model.parameters(), &graph));
        }
        let norms = self.norms(&gradients);
        if let Some(value) = norms.iter().flatten().copied().find(|norm| !norm.is_finite()) {
            return Outcome::Skipped { what: "gradient", value };
        }
        let learning_rate = self.config.learning_rate.at(step, self.config.steps);
        self.update(&gradients, &norms, learning_rate);
        let gradient_norm = norms[0].unwrap_or_default();
        let apart = self.optimizers.iter().zip(norms).skip(1);
        let other_gradient_norms =
            apart.filter_map(|(optimizer, norm)| Some((optimizer.prefix().to_string(), norm?))).collect();
        Outcome::Made(StepNumbers { loss, parts, gradient_norm, other_gradient_norms, learning_rate })
    }

    fn update(&mut self, gradients: &Gradients, norms: &[Option<f64>], learning_rate: f64) {
        let mut moved = self.model.parameters().clone();
        for (optimizer, norm) in self.optimizers.iter_mut().zip(norms) {
            // A part that does not learn yet makes no step.
            if let Some(norm) = norm {
                moved = optimizer.step(moved, gradients, *norm, learning_rate);
            }
        }
        *self.average.parameters_mut() =
            ema::average(self.average.parameters().clone(), &moved, self.config.ema);
        *self.model.parameters_mut() = moved;
    }

    /// The norm of the gradients of each optimiser's parameters; none if none of them has one.
    fn norms(&self, gradients: &Gradients) -> Vec<Option<f64>> {
        let norm = |optimizer: &AdamW| {
            let own = gradients.under(optimizer.prefix());
            (!own.is_empty()).then(|| own.norm())
        };
        self.optimizers.iter().map(norm).collect()
    }
}
