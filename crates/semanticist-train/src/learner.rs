//! One optimiser step of any objective: losses of the parts of a batch, gradients, AdamW, the moving average. Where several
//! ranks share a batch, they agree on what becomes of it, and make the same step.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use semanticist::{Error, Noise, Purpose, Result, Seed};

use crate::collective::Collective;
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

/// What a rank found in its share of a batch; of the loss, as much as the share adds to that of the batch.
enum Found {
    Finite { loss: f64, parts: BTreeMap<&'static str, f64>, gradients: Gradients },
    NotFinite(f64),
    Abandoned,
}

impl<O: Objective> Learner<O> {
    /// Step `step`, counted from 1, on this rank's share of a batch; everything changes, or nothing does.
    ///
    /// # Errors
    /// If another rank has ended.
    pub fn step(
        &mut self,
        share: &[O::Example],
        step: u64,
        stop: &AtomicBool,
        ranks: &dyn Collective,
    ) -> Result<Outcome> {
        let found = self.backward(share, step, stop, ranks);
        let (loss, parts, gradients) = match agreed(found, ranks)? {
            Found::Finite { loss, parts, gradients } => (loss, parts, gradients),
            Found::NotFinite(value) => return Ok(Outcome::Skipped { what: "loss", value }),
            Found::Abandoned => return Ok(Outcome::Abandoned),
        };
        let gradients = match ranks.ranks() {
            1 => gradients,
            _ => gradients.summed(ranks, self.config.wire)?,
        };
        let norms = self.norms(&gradients);
        if let Some(value) = norms.iter().flatten().copied().find(|norm| !norm.is_finite()) {
            return Ok(Outcome::Skipped { what: "gradient", value });
        }
        let learning_rate = self.config.learning_rate.at(step, self.config.steps);
        self.update(&gradients, &norms, learning_rate);
        let gradient_norm = norms[0].unwrap_or_default();
        let apart = self.optimizers.iter().zip(norms).skip(1);
        let other_gradient_norms =
            apart.filter_map(|(optimizer, norm)| Some((optimizer.prefix().to_string(), norm?))).collect();
        Ok(Outcome::Made(StepNumbers { loss, parts, gradient_norm, other_gradient_norms, learning_rate }))
    }

    /// Losses and gradients of the parts of a share.
    fn backward(&self, share: &[O::Example], step: u64, stop: &AtomicBool, ranks: &dyn Collective) -> Found {
        let (mut gradients, mut loss, mut parts) = (Gradients::default(), 0.0, BTreeMap::new());
        let seed = Seed::new(self.config.seed).of(Purpose::Training).at(step);
        let (first, size) = (ranks.rank() * share.len(), share.len() / self.config.accumulate);
        let count = (self.config.accumulate * ranks.ranks()) as f64;
        for (part, examples) in share.chunks(size).enumerate() {
            if stop.load(Ordering::Relaxed) {
                return Found::Abandoned;
            }
            // An example's draws belong to its place in the batch, in whatever parts that is computed.
            let places = (0..examples.len()).map(|i| seed.at((first + part * size + i) as u64));
            let mut noise = Noise::per_sample(places);
            let found = self.objective.loss(&self.model, examples, step, &mut noise);
            let total = found.total / count;
            // Asked for after the backward pass, so that a device need not wait in between.
            let graph = total.backward();
            let value = f64::from(total.into_scalar::<f32>());
            loss += value;
            for (name, value) in found.parts {
                *parts.entry(name).or_default() += value / count;
            }
            if !value.is_finite() {
                return Found::NotFinite(value);
            }
            gradients.add(Gradients::collect(self.model.parameters(), &graph));
        }
        Found::Finite { loss, parts, gradients }
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

/// What all ranks found together, with this rank's gradients; the same on all of them.
fn agreed(own: Found, ranks: &dyn Collective) -> Result<Found> {
    const FINITE: f64 = 0.0;
    const NOT_FINITE: f64 = 1.0;
    const ABANDONED: f64 = 2.0;
    let told = match &own {
        Found::Finite { loss, parts, gradients } => [FINITE, f64::from(gradients.layout()), *loss]
            .into_iter()
            .chain(parts.values().copied())
            .collect(),
        Found::NotFinite(value) => vec![NOT_FINITE, *value],
        Found::Abandoned => vec![ABANDONED],
    };
    let told = ranks.gather(&told)?;
    if told.iter().any(|rank| rank[0] == ABANDONED) {
        return Ok(Found::Abandoned);
    }
    if let Some(rank) = told.iter().find(|rank| rank[0] == NOT_FINITE) {
        return Ok(Found::NotFinite(rank[1]));
    }
    let Found::Finite { parts, gradients, .. } = own else {
        unreachable!("this rank has said so, and all were heard");
    };
    if let Some(other) = told.iter().position(|rank| rank.len() != told[0].len() || rank[1] != told[0][1]) {
        return Err(Error::Training(format!(
            "rank {other} has gradients of other parameters than rank 0; this is a bug, please report it"
        )));
    }
    let sum = |place: usize| told.iter().map(|rank| rank[place]).sum::<f64>();
    let parts = parts.into_keys().enumerate().map(|(i, name)| (name, sum(3 + i))).collect();
    Ok(Found::Finite { loss: sum(2), parts, gradients })
}
