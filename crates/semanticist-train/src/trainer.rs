//! The training loop: the order of events, and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use semanticist::{Error, Noise, Purpose, Result, Seed, files};
use semanticist_data::Position;
use serde_json::json;

use crate::changes::{self, OnChange};
use crate::checkpoint::{Checkpoint, State, fresh_optimizers};
use crate::config::RunConfig;
use crate::ema;
use crate::gradients::Gradients;
use crate::journal::{Journal, StepRecord, ValidationRecord};
use crate::objective::{Objective, Stage, Trainable};
use crate::optimizer::AdamW;

/// What training has to say while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step was made; not every one is in the journal.
    Stepped {
        /// Counted from 1.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
        /// Mean over the batch, before the step.
        loss: f64,
        /// Since the last logged step.
        images_per_second: f64,
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
    /// Set from outside to stop after the current step.
    pub interrupted: &'a AtomicBool,
}

/// A run between two steps.
pub struct Trainer<'a, O: Objective> {
    context: RunContext<'a>,
    config: RunConfig<O::Kind>,
    objective: O,
    state: State<O::Kind>,
    model: O::Model,
    average: O::Model,
    optimizers: Vec<AdamW>,
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
    Err(Error::RunExists { path: out.to_path_buf() })
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
        context: RunContext<'a>,
    ) -> Result<Self> {
        check_fresh(context.out)?;
        let average = without_gradients(&model);
        let state = State {
            step: 0,
            position: Position::default(),
            images: 0,
            seconds: 0.0,
            optimizers: BTreeMap::new(),
            data: objective.fingerprint()?,
            config: config.clone(),
        };
        let optimizers = fresh_optimizers::<O::Model>(config.optimizer);
        let checkpoint = Checkpoint { state, model, average, optimizers };
        checkpoint.save_frozen(&checkpoints(context.out))?;
        Self::assemble(config, objective, checkpoint, context)
    }

    /// Goes on from the last checkpoint of a run.
    ///
    /// # Errors
    /// If there is none, or configuration or data differ from those it was started with in what its result
    /// depends on, unless that is accepted.
    pub fn resume(
        config: RunConfig<O::Kind>,
        objective: O,
        context: RunContext<'a>,
        on_change: OnChange,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Self> {
        let device = context.device.clone().autodiff();
        let mut checkpoint: Checkpoint<O::Kind, O::Model> =
            Checkpoint::load_last(&checkpoints(context.out), &device)?;
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
        Self::assemble(config, objective, checkpoint, context)
    }

    fn assemble(
        config: RunConfig<O::Kind>,
        objective: O,
        checkpoint: Checkpoint<O::Kind, O::Model>,
        context: RunContext<'a>,
    ) -> Result<Self> {
        let Checkpoint { mut state, mut model, mut average, optimizers } = checkpoint;
        for model in [&mut model, &mut average] {
            *model.parameters_mut() = config.precision.train(model.parameters().clone());
        }
        let out = context.out;
        std::fs::create_dir_all(out).map_err(|error| Error::io(out, "create the folder", error))?;
        let text = config.to_toml();
        files::write_atomically(&out.join("config.toml"), |file| {
            std::io::Write::write_all(file, text.as_bytes())
        })?;
        let journal = Journal::open(&out.join("journal.jsonl"), state.step)?;
        state.config = config.clone();
        Ok(Self { context, config, objective, state, model, average, optimizers, journal })
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
            if self.context.interrupted.load(Ordering::Relaxed) {
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
        let seed = Seed::new(self.config.seed).of(Purpose::Training).at(step);
        let size = examples.len() / count;
        for (part, examples) in examples.chunks(size).enumerate() {
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
            self.check_finite("loss", value, step)?;
            gradients.add(Gradients::collect(self.model.parameters(), &graph));
        }
        let norms = self.norms(&gradients, step)?;
        let learning_rate = self.config.learning_rate.at(step, self.config.steps);
        let mut moved = self.model.parameters().clone();
        for (optimizer, norm) in self.optimizers.iter_mut().zip(&norms) {
            // A part that does not learn yet makes no step.
            if let Some(norm) = norm {
                moved = optimizer.step(moved, &gradients, *norm, learning_rate);
            }
        }
        *self.average.parameters_mut() =
            ema::average(self.average.parameters().clone(), &moved, self.config.ema);
        *self.model.parameters_mut() = moved;
        self.state.step = step;
        let gradient_norm = norms[0].unwrap_or_default();
        let apart = self.optimizers.iter().zip(norms).skip(1);
        let other_gradient_norms =
            apart.filter_map(|(optimizer, norm)| Some((optimizer.prefix().to_string(), norm?))).collect();
        Ok(StepRecord {
            step,
            loss,
            parts,
            gradient_norm,
            other_gradient_norms,
            learning_rate,
            images_per_second: 0.0,
            epoch,
        })
    }

    /// The norm of the gradients of each optimiser's parameters; none if none of them has one.
    fn norms(&self, gradients: &Gradients, step: u64) -> Result<Vec<Option<f64>>> {
        let norm = |optimizer: &AdamW| {
            let own = gradients.under(optimizer.prefix());
            let norm = (!own.is_empty()).then(|| own.norm());
            norm.map_or(Ok(()), |norm| self.check_finite("gradient norm", norm, step))?;
            Ok(norm)
        };
        self.optimizers.iter().map(norm).collect()
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
        let samples = self.context.out.join("samples");
        std::fs::create_dir_all(&samples).map_err(|e| Error::io(&samples, "create the folder", e))?;
        let sheet = samples.join(format!("step-{step:08}.png"));
        // What is rounded whenever it is used is rounded once here.
        let mut average = self.average.clone();
        *average.parameters_mut() = self.average.parameters().clone().materialize();
        let found = self.objective.validate(&average, &sheet)?;
        self.journal.write(&ValidationRecord { step, measures: found.measures })?;
        observe(Event::Validated { step, summary: &found.summary });
        Ok(())
    }

    /// Writes the checkpoint, and the averaged model for others to use.
    fn save(&self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let steps = |optimizer: &AdamW| (optimizer.prefix().to_string(), optimizer.steps());
        let optimizers = self.optimizers.iter().map(steps).collect();
        let checkpoint = Checkpoint {
            state: State { optimizers, ..self.state.clone() },
            model: without_gradients(&self.model),
            average: self.average.clone(),
            optimizers: self.optimizers.clone(),
        };
        let path = checkpoint.save(&checkpoints(self.context.out), self.config.log.keep_checkpoints)?;
        let history = json!({
            "steps": self.state.step,
            "images": self.state.images,
            "seconds": self.state.seconds.round(),
            "epochs": self.state.position.epoch,
            "training_images": self.objective.examples(),
            "config": self.config,
        });
        let stage = if self.state.step < self.config.steps { Stage::Underway } else { Stage::Complete };
        let file = self.context.out.join("model.safetensors");
        self.objective.publish(&self.average, &file, &history, stage)?;
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
