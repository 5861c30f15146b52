//! The training loop: the order of events, and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use semanticist::{Error, Result, files};
use semanticist_data::Position;
use serde_json::json;

use crate::changes::{self, OnChange};
use crate::checkpoint::{Checkpoint, State, fresh_optimizers};
use crate::config::RunConfig;
use crate::journal::{Journal, SkipRecord, StepRecord, ValidationRecord};
use crate::learner::{Learner, Outcome, StepNumbers};
use crate::lock::{RunLock, remove_leftovers};
use crate::memory::TrainingMemory;
use crate::objective::{Batches, Objective, Stage, Trainable};
use crate::optimizer::AdamW;
use crate::plan::Plan;

/// What training has to say while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step was made; not every one is in the journal.
    Stepped {
        /// As the journal has it.
        record: &'a StepRecord,
        /// Steps of the whole run.
        steps: u64,
    },
    /// The averaged weights were measured; in one line.
    Validated {
        /// Counted from 1.
        step: u64,
        /// Such as `validation loss 0.3100`.
        summary: &'a str,
    },
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

/// Where a run computes and writes, and who can stop it.
pub struct RunContext<'a> {
    /// The run's folder: `config.toml`, `journal.jsonl`, `checkpoints/`, `samples/`, `model.safetensors`.
    pub out: &'a Path,
    /// Where everything is computed, optimiser steps included.
    pub device: &'a Device,
    /// Set from outside to stop. A step of several parts is given up between them; a validation is ended first.
    pub interrupted: &'a AtomicBool,
}

/// A run between two steps.
pub struct Trainer<'a, O: Objective> {
    context: RunContext<'a>,
    learner: Learner<O>,
    state: State<O::Kind>,
    journal: Journal,
    /// The step of the last checkpoint.
    saved: Option<u64>,
    /// The step whose model was last written for others by this process.
    published: Option<u64>,
    /// Held as long as the run goes on.
    _lock: RunLock,
    /// To be told when it begins.
    warnings: Vec<String>,
}

/// Fails if a folder already holds a run, or another process is at work in it.
///
/// # Errors
/// As it says, or if the folder cannot be read.
pub fn check_fresh(out: &Path) -> Result<()> {
    RunLock::check_free(out)?;
    if crate::checkpoint::steps(&checkpoints(out))?.is_empty() {
        return Ok(());
    }
    Err(Error::RunExists { path: out.to_path_buf() })
}

/// What the model of a run in a folder takes of memory, before its weights are loaded.
///
/// # Errors
/// If there is no run, or its frozen part is damaged.
pub fn memory_of_run<O: Objective>(
    out: &Path,
    config: &RunConfig<O::Kind>,
    objective: &O,
    device: &Device,
) -> Result<TrainingMemory> {
    let folder = checkpoints(out);
    if crate::checkpoint::steps(&folder)?.is_empty() {
        return Err(Error::NoCheckpoint { path: folder });
    }
    let model = crate::checkpoint::unplaced::<O::Model>(&folder, &device.clone().autodiff())?;
    Ok(Plan::of(config, objective, &model).memory)
}

impl<'a, O: Objective> Trainer<'a, O> {
    /// A run from the start, of a model with the weights to start from on the device of training.
    ///
    /// # Errors
    /// If the folder already holds a run, another process is at work in it, or it cannot be written.
    pub fn start(
        config: RunConfig<O::Kind>,
        objective: O,
        model: O::Model,
        context: RunContext<'a>,
    ) -> Result<Self> {
        check_fresh(context.out)?;
        let mut warnings = Vec::new();
        let lock = RunLock::take(context.out, &mut |warning| warnings.push(warning))?;
        let average = without_gradients(&model);
        let state = State {
            step: 0,
            position: Position::default(),
            images: 0,
            seconds: 0.0,
            skipped: 0,
            checksums: BTreeMap::new(),
            optimizers: BTreeMap::new(),
            data: objective.fingerprint()?,
            config: config.clone(),
        };
        let optimizers = fresh_optimizers::<O::Model>(config.optimizer);
        let checkpoint = Checkpoint { state, model, average, optimizers };
        checkpoint.save_frozen(&checkpoints(context.out))?;
        let mut trainer = Self::assemble(config, objective, checkpoint, context, lock)?;
        trainer.warnings = warnings;
        Ok(trainer)
    }

    /// Goes on from the last checkpoint of a run that is whole.
    ///
    /// # Errors
    /// If there is none, another process is at work in the folder, or configuration or data differ from those it
    /// was started with in what its result depends on, unless that is accepted.
    pub fn resume(
        config: RunConfig<O::Kind>,
        objective: O,
        context: RunContext<'a>,
        on_change: OnChange,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Self> {
        let device = context.device.clone().autodiff();
        let folder = checkpoints(context.out);
        if crate::checkpoint::steps(&folder)?.is_empty() {
            return Err(Error::NoCheckpoint { path: folder });
        }
        let lock = RunLock::take(context.out, &mut |warning| observe(Event::Note(warning)))?;
        let mut checkpoint: Checkpoint<O::Kind, O::Model> =
            Checkpoint::load_last(&folder, &device, &mut |warning| observe(Event::Note(warning)))?;
        let state = &mut checkpoint.state;
        let data = objective.fingerprint()?;
        let mut found = changes::between(&state.config, &config);
        found.extend(changes::of_data(&state.data, &data));
        for change in changes::allowed(found, on_change)? {
            observe(Event::Note(format!("changed since the run was started: {change}")));
        }
        state.data = data;
        if state.position.index >= objective.examples() {
            // There is less data than there was.
            state.position = Position { epoch: state.position.epoch + 1, index: 0 };
        }
        for optimizer in &mut checkpoint.optimizers {
            optimizer.configure(config.optimizer);
        }
        Self::assemble(config, objective, checkpoint, context, lock)
    }

    fn assemble(
        config: RunConfig<O::Kind>,
        objective: O,
        checkpoint: Checkpoint<O::Kind, O::Model>,
        context: RunContext<'a>,
        lock: RunLock,
    ) -> Result<Self> {
        let Checkpoint { mut state, mut model, mut average, optimizers } = checkpoint;
        for model in [&mut model, &mut average] {
            *model.parameters_mut() = config.precision.train(model.parameters().clone());
            model.set_activations(config.activations());
        }
        let out = context.out;
        remove_leftovers(out)?;
        let text = config.to_toml();
        files::write_atomically(&out.join("config.toml"), |file| {
            std::io::Write::write_all(file, text.as_bytes())
        })?;
        let journal = Journal::open(&out.join("journal.jsonl"), state.step)?;
        state.config = config.clone();
        let saved = (state.step > 0).then_some(state.step);
        let learner = Learner { config, objective, model, average, optimizers };
        let warnings = Vec::new();
        Ok(Self { context, learner, state, journal, saved, published: None, _lock: lock, warnings })
    }

    /// Trains to the last step, or until interrupted; either way the last step made is saved.
    ///
    /// # Errors
    /// If too many batches in a row have a loss or gradient that is not finite, or the data or the disk fails.
    /// The last checkpoint stays; if the data failed, that is of the last step made.
    pub fn run(mut self, observe: &mut dyn FnMut(Event)) -> Result<Ending> {
        self.warnings.drain(..).for_each(|warning| observe(Event::Note(warning)));
        let ending = self.steps(observe);
        ending.map_err(|source| Error::RunStopped {
            path: self.context.out.to_path_buf(),
            step: self.state.step,
            saved: self.saved,
            source: Box::new(source),
        })
    }

    fn steps(&mut self, observe: &mut dyn FnMut(Event)) -> Result<Ending> {
        let mut batches = self.learner.objective.batches(self.state.position);
        if due(self.state.step, self.learner.config.log.validate_every)
            && !self.journal.validated(self.state.step)
        {
            self.validate(observe)?;
        }
        let mut pace = Pace::new();
        while self.state.step < self.learner.config.steps {
            let Some(record) = self.next_step(batches.as_mut(), &mut pace, observe)? else {
                self.save(observe)?;
                return Ok(Ending::Interrupted);
            };
            observe(Event::Stepped { record: &record, steps: self.learner.config.steps });
            let log = &self.learner.config.log;
            let [told, validated, saved] =
                [log.every, log.validate_every, log.checkpoint_every].map(|every| due(record.step, every));
            if told {
                self.journal.write(&record)?;
                pace = Pace::new();
            }
            // A run that is to stop saves at once; it is validated when it goes on.
            if validated && !self.interrupted() {
                self.validate(observe)?;
                pace = Pace::new();
            }
            if saved {
                self.save(observe)?;
                pace = Pace::new();
            }
        }
        self.save(observe)?;
        Ok(Ending::Complete)
    }

    fn interrupted(&self) -> bool {
        self.context.interrupted.load(Ordering::Relaxed)
    }

    /// Makes a step of the next batch that has one; none if the run is to stop. What a step changes, it changes
    /// at its end.
    fn next_step(
        &mut self,
        batches: &mut dyn Batches<Example = O::Example>,
        pace: &mut Pace,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Option<StepRecord>> {
        let step = self.state.step + 1;
        let limit = self.learner.config.skips_in_a_row;
        for skipped in 0..=limit {
            if self.interrupted() {
                return Ok(None);
            }
            let waited = Instant::now();
            let batch = batches.next();
            pace.waited += waited.elapsed().as_secs_f64();
            batches.take_warnings().into_iter().for_each(|warning| observe(Event::Note(warning)));
            let (examples, next) = match batch {
                Ok(batch) => batch,
                Err(error) => return Err(self.saved_before(error, observe)),
            };
            let started = Instant::now();
            match self.learner.step(&examples, step, self.context.interrupted) {
                Outcome::Made(numbers) => {
                    self.state.seconds += started.elapsed().as_secs_f64();
                    self.state.images += examples.len() as u64;
                    self.state.skipped += skipped;
                    (self.state.step, self.state.position) = (step, next);
                    return Ok(Some(record(step, numbers, next.epoch, pace.after(examples.len()))));
                }
                Outcome::Abandoned => return Ok(None),
                Outcome::Skipped { what, value } => {
                    let skip =
                        SkipRecord { step, skipped: what, value: value.to_string(), epoch: next.epoch };
                    self.journal.write(&skip)?;
                    observe(Event::Note(format!("step {step}: left out a batch whose {what} is {value}")));
                }
            }
        }
        Err(Error::Training(format!(
            "{} batches in a row had a loss or gradient that is not finite, more than skips_in_a_row = {limit}; go \
             on with a lower learning_rate.peak, or remove the last checkpoints if they are spoilt already",
            limit + 1
        )))
    }

    /// Saves what was learnt before the data failed.
    fn saved_before(&mut self, failure: Error, observe: &mut dyn FnMut(Event)) -> Error {
        if self.state.step > 0
            && let Err(error) = self.save(observe)
        {
            observe(Event::Note(format!("the last step could not be saved: {error}")));
        }
        failure
    }

    fn validate(&mut self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let step = self.state.step;
        let samples = self.context.out.join("samples");
        std::fs::create_dir_all(&samples).map_err(|e| Error::io(&samples, "create the folder", e))?;
        let sheet = samples.join(format!("step-{step:08}.png"));
        // What is rounded whenever it is used is rounded once here.
        let mut average = self.learner.average.clone();
        *average.parameters_mut() = self.learner.average.parameters().clone().materialize();
        let found = self.learner.objective.validate(&average, &sheet)?;
        self.journal.write(&ValidationRecord { step, measures: found.measures })?;
        observe(Event::Validated { step, summary: &found.summary });
        Ok(())
    }

    /// Writes the checkpoint of this step, and the averaged model for others to use, unless that was done.
    fn save(&mut self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let step = self.state.step;
        if self.saved != Some(step) {
            let path = self.save_checkpoint()?;
            self.saved = Some(step);
            observe(Event::Saved(&path));
        }
        if self.published != Some(step) {
            self.publish()?;
            self.published = Some(step);
        }
        Ok(())
    }

    fn save_checkpoint(&self) -> Result<PathBuf> {
        let Learner { config, model, average, optimizers, .. } = &self.learner;
        let steps = |optimizer: &AdamW| (optimizer.prefix().to_string(), optimizer.steps());
        let checkpoint = Checkpoint {
            state: State { optimizers: optimizers.iter().map(steps).collect(), ..self.state.clone() },
            model: without_gradients(model),
            average: average.clone(),
            optimizers: optimizers.clone(),
        };
        checkpoint.save(&checkpoints(self.context.out), config.log.keep_checkpoints)
    }

    fn publish(&self) -> Result<()> {
        let Learner { config, objective, average, .. } = &self.learner;
        let history = json!({
            "steps": self.state.step,
            "images": self.state.images,
            "seconds": self.state.seconds.round(),
            "epochs": self.state.position.epoch,
            "training_images": objective.examples(),
            "config": config,
        });
        let stage = if self.state.step < config.steps { Stage::Underway } else { Stage::Complete };
        objective.publish(average, &self.context.out.join("model.safetensors"), &history, stage)
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

fn record(
    step: u64,
    numbers: StepNumbers,
    epoch: u64,
    (images_per_second, data_wait): (f64, f64),
) -> StepRecord {
    let StepNumbers { loss, parts, gradient_norm, other_gradient_norms, learning_rate } = numbers;
    StepRecord {
        step,
        loss,
        parts,
        gradient_norm,
        other_gradient_norms,
        learning_rate,
        images_per_second,
        data_wait,
        epoch,
    }
}

/// What happened since the last line of the journal.
struct Pace {
    since: Instant,
    images: usize,
    /// Seconds in which there was no batch.
    waited: f64,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), images: 0, waited: 0.0 }
    }

    /// Images per second, and the share of the time that was waited for them.
    fn after(&mut self, images: usize) -> (f64, f64) {
        self.images += images;
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        (self.images as f64 / seconds, self.waited / seconds)
    }
}
