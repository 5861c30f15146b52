//! The training loop: the order of events, and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use semanticist::noise::derive_seed;
use semanticist::{Error, Noise, Result, files};
use serde_json::json;

use crate::checkpoint::{Checkpoint, State};
use crate::config::{Kind, RunConfig};
use crate::data::Position;
use crate::ema;
use crate::gradients::Gradients;
use crate::journal::{Journal, StepRecord, ValidationRecord};
use crate::objective::{Objective, Trainable};
use crate::optimizer::AdamW;

/// What training has to say while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step was made; not every one is in the journal.
    Stepped { step: u64, steps: u64, loss: f64, images_per_second: f64 },
    /// The averaged weights were measured; in one line.
    Validated { step: u64, summary: &'a str },
    /// A checkpoint is on the disk.
    Saved(&'a Path),
    /// Something to know that does not stop the run.
    Note(String),
}

/// How a run ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All steps were made.
    Complete,
    /// It was asked to stop, and saved.
    Interrupted,
}

/// Where a run writes, and who can stop it.
pub struct Surroundings<'a> {
    /// The run's folder: `config.toml`, `journal.jsonl`, `checkpoints/`, `samples/`, `model.safetensors`.
    pub out: &'a Path,
    pub device: &'a Device,
    /// Set from outside to stop after the current step.
    pub interrupted: &'a AtomicBool,
}

/// A run between two steps.
pub struct Trainer<'a, O: Objective> {
    surroundings: Surroundings<'a>,
    config: RunConfig<O::Kind>,
    objective: O,
    state: State<O::Kind>,
    model: O::Model,
    average: O::Model,
    optimizer: AdamW,
    journal: Journal,
}

/// Fails if a folder already holds a run.
///
/// # Errors
/// As it says, or if the folder cannot be read.
pub fn check_fresh(out: &Path) -> Result<()> {
    if crate::checkpoint::steps(&checkpoints(out))?.is_empty() {
        return Ok(());
    }
    Err(Error::file(out, "already holds a run; go on with --resume, or give another --out"))
}

impl<'a, O: Objective> Trainer<'a, O> {
    /// A run from the start, of a model with the weights to start from on the device of training.
    ///
    /// # Errors
    /// If the folder already holds a run, or cannot be written.
    pub fn start(
        config: RunConfig<O::Kind>,
        objective: O,
        model: O::Model,
        surroundings: Surroundings<'a>,
    ) -> Result<Self> {
        check_fresh(surroundings.out)?;
        let average = without_gradients(&model);
        let state =
            State { step: 0, position: Position::default(), images: 0, seconds: 0.0, config: config.clone() };
        let optimizer = AdamW::new(config.optimizer);
        Self::assemble(config, objective, Checkpoint { state, model, average, optimizer }, surroundings)
    }

    /// Goes on from the last checkpoint of a run.
    ///
    /// # Errors
    /// If there is none, or `config` changes what the steps so far depended on.
    pub fn resume(config: RunConfig<O::Kind>, objective: O, surroundings: Surroundings<'a>) -> Result<Self> {
        let device = surroundings.device.clone().autodiff();
        let checkpoint = Checkpoint::load_last(&checkpoints(surroundings.out), &device)?;
        refuse_changes(&checkpoint.state.config, &config)?;
        Self::assemble(config, objective, checkpoint, surroundings)
    }

    fn assemble(
        config: RunConfig<O::Kind>,
        objective: O,
        checkpoint: Checkpoint<O::Kind, O::Model>,
        surroundings: Surroundings<'a>,
    ) -> Result<Self> {
        let Checkpoint { mut state, model, average, optimizer } = checkpoint;
        let out = surroundings.out;
        std::fs::create_dir_all(out).map_err(|error| Error::io(out, "create the folder", error))?;
        let text = config.to_toml();
        files::write_atomically(&out.join("config.toml"), |file| {
            std::io::Write::write_all(file, text.as_bytes())
        })?;
        let journal = Journal::open(&out.join("journal.jsonl"), state.step)?;
        state.config = config.clone();
        Ok(Self { surroundings, config, objective, state, model, average, optimizer, journal })
    }

    /// Trains to the last step, or until interrupted; either way the last step made is saved.
    ///
    /// # Errors
    /// If a loss or gradient is not finite (the weights are then those of the step before), or the
    /// data or the disk fails. The last checkpoint stays.
    pub fn run(mut self, observe: &mut dyn FnMut(Event)) -> Result<Ending> {
        let mut batches = self.objective.batches(self.state.position);
        let mut pace = Pace::new();
        let mut saved = self.state.step;
        while self.state.step < self.config.steps {
            if self.surroundings.interrupted.load(Ordering::Relaxed) {
                self.save(observe)?;
                return Ok(Ending::Interrupted);
            }
            let (examples, next) = batches.next()?;
            batches.take_warnings().into_iter().for_each(|warning| observe(Event::Note(warning)));
            let started = Instant::now();
            let record = self.train_step(&examples, next.epoch)?;
            self.state.seconds += started.elapsed().as_secs_f64();
            self.state.images += examples.len() as u64;
            self.state.position = next;
            let record = StepRecord { images_per_second: pace.after(examples.len()), ..record };
            self.report(&record, &mut pace, observe)?;
            if due(self.state.step, self.config.log.validate_every) {
                self.validate(observe)?;
                pace = Pace::new();
            }
            if due(self.state.step, self.config.log.checkpoint_every) {
                self.save(observe)?;
                saved = self.state.step;
                pace = Pace::new();
            }
        }
        if saved < self.state.step {
            self.save(observe)?;
        }
        Ok(Ending::Complete)
    }

    fn report(&mut self, record: &StepRecord, pace: &mut Pace, observe: &mut dyn FnMut(Event)) -> Result<()> {
        observe(Event::Stepped {
            step: record.step,
            steps: self.config.steps,
            loss: record.loss,
            images_per_second: record.images_per_second,
        });
        if due(record.step, self.config.log.every) {
            self.journal.write(record)?;
            *pace = Pace::new();
        }
        Ok(())
    }

    /// One optimiser step; the weights change only if every number was finite.
    fn train_step(&mut self, examples: &[O::Example], epoch: u64) -> Result<StepRecord> {
        let step = self.state.step + 1;
        let count = self.config.accumulate;
        let (mut gradients, mut loss, mut parts) = (Gradients::default(), 0.0, BTreeMap::new());
        for (part, examples) in examples.chunks(examples.len() / count).enumerate() {
            // Every draw comes from (seed, step, part), so that there is no state to save.
            let mut noise = Noise::seeded(derive_seed(self.config.seed, &[step, part as u64]));
            let found = self.objective.loss(&self.model, examples, step, &mut noise);
            let total = found.total / count as f64;
            // Asked for after the backward pass, so that a device need not wait in between.
            let graph = total.backward();
            let value = f64::from(total.into_scalar::<f32>());
            loss += value;
            for (name, value) in found.parts {
                *parts.entry(name).or_default() += value / count as f64;
            }
            self.check_finite("loss", value, step)?;
            gradients.add(Gradients::collect(self.model.parameters(), &graph));
        }
        let gradient_norm = gradients.norm();
        self.check_finite("gradient norm", gradient_norm, step)?;
        let learning_rate = self.config.learning_rate.at(step, self.config.steps);
        let parameters = self.model.parameters().clone();
        let moved = self.optimizer.step(parameters, &gradients, gradient_norm, learning_rate);
        *self.average.parameters_mut() =
            ema::average(self.average.parameters().clone(), &moved, self.config.ema);
        *self.model.parameters_mut() = moved;
        self.state.step = step;
        Ok(StepRecord { step, loss, parts, gradient_norm, learning_rate, images_per_second: 0.0, epoch })
    }

    fn check_finite(&self, what: &str, value: f64, step: u64) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        Err(Error::Training(format!(
            "the {what} of step {step} is {value}; the weights are those of step {}. \
             Resume from the last checkpoint with a lower learning_rate.peak",
            step - 1
        )))
    }

    fn validate(&mut self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let step = self.state.step;
        let samples = self.surroundings.out.join("samples");
        std::fs::create_dir_all(&samples).map_err(|e| Error::io(&samples, "create the folder", e))?;
        let sheet = samples.join(format!("step-{step:08}.png"));
        let found = self.objective.validate(&self.average, &sheet)?;
        self.journal.write(&ValidationRecord { step, measures: found.measures })?;
        observe(Event::Validated { step, summary: &found.summary });
        Ok(())
    }

    /// Writes the checkpoint, and the averaged model for others to use.
    fn save(&self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            model: without_gradients(&self.model),
            average: self.average.clone(),
            optimizer: self.optimizer.clone(),
        };
        let path = checkpoint.save(&checkpoints(self.surroundings.out), self.config.log.keep_checkpoints)?;
        let history = json!({
            "steps": self.state.step,
            "images": self.state.images,
            "seconds": self.state.seconds.round(),
            "epochs": self.state.position.epoch,
            "training_images": self.objective.examples(),
            "config": self.config,
        });
        self.objective.publish(&self.average, &self.surroundings.out.join("model.safetensors"), &history)?;
        observe(Event::Saved(&path));
        Ok(())
    }
}

/// The same weights on the device without autodiff.
fn without_gradients<M: Trainable>(model: &M) -> M {
    let mut plain = model.clone();
    *plain.parameters_mut() = model.parameters().valid();
    plain
}

fn checkpoints(out: &Path) -> PathBuf {
    out.join("checkpoints")
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// What a checkpoint's past depended on must not change.
fn refuse_changes<K: Kind>(before: &RunConfig<K>, now: &RunConfig<K>) -> Result<()> {
    let data = K::changed_data(&before.data, &now.data).map(|name| format!("data.{name}"));
    let changed = [
        ("seed", before.seed != now.seed),
        ("model", before.model != now.model),
        ("batch", before.batch != now.batch),
    ];
    let changed = changed.iter().find(|(_, changed)| *changed).map(|(name, _)| (*name).to_string());
    match changed.or(data) {
        None => Ok(()),
        Some(name) => Err(Error::Config(format!(
            "{name} differs from the run that is to be resumed; give the same configuration, or start \
             another run with another --out"
        ))),
    }
}

/// Images per second since the last line of the journal.
struct Pace {
    since: Instant,
    images: usize,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), images: 0 }
    }

    fn after(&mut self, images: usize) -> f64 {
        self.images += images;
        self.images as f64 / self.since.elapsed().as_secs_f64().max(1e-9)
    }
}
