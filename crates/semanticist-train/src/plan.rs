//! What a run will take, found out before it is started: nothing is written.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use burn::tensor::Device;
use semanticist::{Error, Result, weights};
use semanticist_data::{Position, Share};
use serde::Serialize;

use crate::checkpoint::fresh_optimizers;
use crate::collective::Alone;
use crate::config::RunConfig;
use crate::learner::{Learner, Outcome};
use crate::memory::TrainingMemory;
use crate::objective::{Objective, Trainable};

const FLOAT: u64 = size_of::<f32>() as u64;
/// Bytes of a number in `model.safetensors` at most.
const PUBLISHED: u64 = FLOAT;
/// Steps that are timed; the one before them is not, as memory is taken in it.
const TIMED: usize = 3;

/// A run in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// How many numbers learn, by part of the model.
    pub parameters: BTreeMap<String, u64>,
    /// What training takes of memory.
    pub memory: TrainingMemory,
    /// Examples in an epoch.
    pub examples: usize,
    /// Examples of a step.
    pub batch: usize,
    /// Steps of the run.
    pub steps: u64,
    /// Passes over the data.
    pub epochs: f64,
    /// What the checkpoints take of the disk.
    pub disk: Disk,
}

/// Bytes on the disk, without samples and journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// One checkpoint.
    pub checkpoint: u64,
    /// Checkpoints that are kept.
    pub kept: u64,
    /// The most at once: those kept and one that is being written, what is frozen, and the model twice.
    pub needed: u64,
}

/// How fast steps are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Speed {
    /// Steps that were timed.
    pub steps: usize,
    /// Seconds of a step of the whole batch. If that is computed in parts, steps of one part and of two were timed,
    /// and the others are taken to last as long as the second.
    pub seconds_per_step: f64,
    /// Seconds in which the data for a step is prepared, beside the step before.
    pub seconds_of_data: f64,
    /// Examples per second, of whichever is the slower.
    pub images_per_second: f64,
    /// Hours of all steps, without validation.
    pub hours: f64,
}

impl Plan {
    /// Of a run with this model; nothing is allocated for weights that are yet to be drawn.
    pub fn of<O: Objective>(config: &RunConfig<O::Kind>, objective: &O, model: &O::Model) -> Self {
        let (parameters, frozen) = (parameters(model), model.frozen_bytes());
        let learnt = parameters.values().sum::<u64>();
        let RunConfig { batch, accumulate, steps, .. } = *config;
        let (examples, at_once) = (objective.examples(), batch / accumulate);
        let imitated = model.imitated_bytes();
        let not_learnt = frozen + imitated + objective.teacher_bytes();
        let memory = TrainingMemory::new(learnt, not_learnt, objective.activations(), at_once, accumulate)
            .rounding(config.precision);
        let (checkpoint, kept) = (4 * learnt * FLOAT, config.log.keep_checkpoints as u64);
        let model_file = learnt * PUBLISHED + frozen;
        Self {
            parameters,
            memory,
            examples,
            batch,
            steps,
            epochs: steps as f64 * batch as f64 / examples.max(1) as f64,
            disk: Disk {
                checkpoint,
                kept,
                needed: (kept + 1) * checkpoint + frozen + imitated + 2 * model_file,
            },
        }
    }
}

/// Makes a few real steps, of which nothing stays, and times them.
///
/// # Errors
/// If the data cannot be read, or a loss is not finite.
pub fn measure<O: Objective>(
    config: &RunConfig<O::Kind>,
    objective: O,
    mut model: O::Model,
    device: &Device,
) -> Result<Speed> {
    *model.parameters_mut() = config.precision.train(model.parameters().clone());
    model.set_activations(config.activations());
    let mut average = model.clone();
    *average.parameters_mut() = burn::module::Module::valid(model.parameters());
    let (batch, parts) = (config.batch, config.accumulate);
    let part = batch / parts;
    let mut batches = objective.batches(Position::default(), Share::WHOLE);
    batches.next()?;
    // Nothing else is done meanwhile, and the first batch is not waited for.
    let begun = Instant::now();
    let (examples, _) = batches.next()?;
    let seconds_of_data = begun.elapsed().as_secs_f64();
    let optimizers = fresh_optimizers::<O::Model>(config.optimizer);
    let mut learner = Learner { config: config.clone(), objective, model, average, optimizers };
    let mut step = 0;
    let mut timed = |parts: usize| -> Result<f64> {
        step += 1;
        learner.config.accumulate = parts;
        let begun = Instant::now();
        let made = learner.step(&examples[..parts * part], step, &AtomicBool::new(false), &Alone)?;
        let _ = device.sync();
        match made {
            Outcome::Made(_) => Ok(begun.elapsed().as_secs_f64()),
            Outcome::Skipped { what, value } => Err(Error::Training(format!(
                "the {what} of the first steps is {value}; nothing can be learnt so"
            ))),
            Outcome::Abandoned => unreachable!("nobody stops these steps"),
        }
    };
    timed(1)?;
    let one = median((0..TIMED).map(|_| timed(1)).collect::<Result<_>>()?);
    let another = if parts > 1 { (timed(2)? - one).max(0.0) } else { 0.0 };
    let seconds_per_step = one + another * (parts - 1) as f64;
    let slower = seconds_per_step.max(seconds_of_data);
    Ok(Speed {
        steps: step as usize,
        seconds_per_step,
        seconds_of_data,
        images_per_second: batch as f64 / slower,
        hours: slower * config.steps as f64 / 3600.0,
    })
}

/// How many numbers of each part learn: the first two names of a parameter's path say its part.
fn parameters<M: Trainable>(model: &M) -> BTreeMap<String, u64> {
    let mut parts = BTreeMap::new();
    for (name, shape) in weights::shapes(model.parameters(), "") {
        let names: Vec<&str> = name.split('.').collect();
        let part = names[..names.len().saturating_sub(1).min(2)].join(".");
        *parts.entry(part).or_default() += shape.iter().product::<usize>() as u64;
    }
    parts
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
