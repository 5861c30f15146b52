//! The training loop: the order of events, and nothing else. Of several ranks all make it in step; one writes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use semanticist::{Error, Result};
use semanticist_data::Position;

use crate::changes::{self, OnChange};
use crate::checkpoint::{self, Checkpoint, State, fresh_optimizers};
use crate::collective::{Collective, check_same, same_parameters};
use crate::config::RunConfig;
use crate::journal::{SkipRecord, StepRecord};
use crate::keeper::{Keeper, checkpoints, without_gradients};
use crate::learner::{Learner, Outcome, StepNumbers};
use crate::lock::RunLock;
use crate::memory::TrainingMemory;
use crate::objective::{Batches, Objective, Trainable};
use crate::plan::Plan;

/// What training has to say while it runs. Steps are told on every rank, notes by those whom they are about, and all else by
/// the rank that writes.
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
    /// Set from outside to stop. A step of several parts is given up between them; a validation is ended first. One rank
    /// that is to stop stops all.
    pub interrupted: &'a AtomicBool,
    /// Who trains together.
    pub ranks: &'a dyn Collective,
}

/// A run between two steps.
pub struct Trainer<'a, O: Objective> {
    context: RunContext<'a>,
    learner: Learner<O>,
    state: State<O::Kind>,
    /// On the rank that writes.
    keeper: Option<Keeper>,
    /// The step of the last checkpoint.
    saved: Option<u64>,
    /// To be told when it begins.
    warnings: Vec<String>,
}

/// Fails if a folder already holds a run, or another process is at work in it.
///
/// # Errors
/// As it says, or if the folder cannot be read.
pub fn check_fresh(out: &Path) -> Result<()> {
    RunLock::check_free(out)?;
    if checkpoint::steps(&checkpoints(out))?.is_empty() {
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
    if checkpoint::steps(&folder)?.is_empty() {
        return Err(Error::NoCheckpoint { path: folder });
    }
    let model = checkpoint::unplaced::<O::Model>(&folder, &device.clone().autodiff())?;
    Ok(Plan::of(config, objective, &model).memory)
}

/// Which word of those that the ranks give before a step decides: the last one here.
#[derive(Clone, Copy)]
enum Word {
    /// There is a batch.
    Ready,
    /// The run is to stop.
    Stop,
    /// The data failed.
    Failed,
}

impl<'a, O: Objective> Trainer<'a, O> {
    /// A run from the start, of a model with the weights to start from on the device of training; on the rank that writes.
    ///
    /// # Errors
    /// If the folder already holds a run, another process is at work in it, it cannot be written, or a batch has no equal
    /// shares for all ranks.
    pub fn start(
        config: RunConfig<O::Kind>,
        objective: O,
        model: O::Model,
        context: RunContext<'a>,
    ) -> Result<Self> {
        config.check_ranks(context.ranks.ranks())?;
        check_fresh(context.out)?;
        let mut warnings = Vec::new();
        let lock = RunLock::take(context.out, &mut |warning| warnings.push(warning))?;
        checkpoint::save_frozen(&model, &checkpoints(context.out))?;
        context.ranks.gather(&[])?;
        let mut trainer = Self::fresh(config, objective, model, context, Some(lock))?;
        trainer.warnings = warnings;
        Ok(trainer)
    }

    /// The same on all other ranks, which read what does not learn from the folder and are sent what does.
    ///
    /// # Errors
    /// If the first rank could not start, or its folder cannot be read here.
    pub fn join(config: RunConfig<O::Kind>, objective: O, context: RunContext<'a>) -> Result<Self> {
        config.check_ranks(context.ranks.ranks())?;
        context.ranks.gather(&[])?;
        let device = context.device.clone().autodiff();
        let model = checkpoint::unplaced::<O::Model>(&checkpoints(context.out), &device)?;
        Self::fresh(config, objective, model, context, None)
    }

    fn fresh(
        config: RunConfig<O::Kind>,
        objective: O,
        mut model: O::Model,
        context: RunContext<'a>,
        lock: Option<RunLock>,
    ) -> Result<Self> {
        *model.parameters_mut() = same_parameters(model.parameters().clone(), context.ranks)?;
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
        Self::assemble(config, objective, checkpoint, context, lock)
    }

    /// Goes on from the last checkpoint of a run that is whole, with however many ranks; on all of them.
    ///
    /// # Errors
    /// If there is none, another process is at work in the folder, or configuration or data differ from those it
    /// was started with in what its result depends on, unless that is accepted; or if a batch has no equal shares for all
    /// ranks, or they do not find the same checkpoint.
    pub fn resume(
        config: RunConfig<O::Kind>,
        objective: O,
        context: RunContext<'a>,
        on_change: OnChange,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Self> {
        config.check_ranks(context.ranks.ranks())?;
        let device = context.device.clone().autodiff();
        let folder = checkpoints(context.out);
        if checkpoint::steps(&folder)?.is_empty() {
            return Err(Error::NoCheckpoint { path: folder });
        }
        let mut note = |warning| {
            if context.ranks.writes() {
                observe(Event::Note(warning));
            }
        };
        let lock = match context.ranks.writes() {
            true => Some(RunLock::take(context.out, &mut note)?),
            false => None,
        };
        let mut checkpoint: Checkpoint<O::Kind, O::Model> =
            Checkpoint::load_last(&folder, &device, &mut note)?;
        let state = &mut checkpoint.state;
        let data = objective.fingerprint()?;
        let mut found = changes::between(&state.config, &config);
        found.extend(changes::of_data(&state.data, &data));
        for change in changes::allowed(found, on_change)? {
            note(format!("changed since the run was started: {change}"));
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
        lock: Option<RunLock>,
    ) -> Result<Self> {
        let Checkpoint { mut state, mut model, mut average, optimizers } = checkpoint;
        for model in [&mut model, &mut average] {
            *model.parameters_mut() = config.precision.train(model.parameters().clone());
            model.set_activations(config.activations());
        }
        let text = config.to_toml();
        check_same(context.ranks, "a configuration", text.as_bytes())?;
        check_same(context.ranks, "data", state.data.as_bytes())?;
        check_same(context.ranks, "a checkpoint", &state.step.to_le_bytes())?;
        // Nothing is written before all ranks have read.
        let keeper = lock.map(|lock| Keeper::open(context.out, &text, state.step, lock)).transpose()?;
        state.config = config.clone();
        let saved = (state.step > 0).then_some(state.step);
        let learner = Learner { config, objective, model, average, optimizers };
        Ok(Self { context, learner, state, keeper, saved, warnings: Vec::new() })
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
        let mut batches = self.learner.objective.batches(self.state.position, self.context.ranks.share());
        if due(self.state.step, self.learner.config.log.validate_every)
            && self.keeper.as_ref().is_some_and(|keeper| !keeper.validated(self.state.step))
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
                if let Some(keeper) = &mut self.keeper {
                    keeper.write(&record)?;
                }
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
        let (step, ranks) = (self.state.step + 1, self.context.ranks);
        let (limit, size) = (self.learner.config.skips_in_a_row, self.learner.config.batch);
        for skipped in 0..=limit {
            let waited = Instant::now();
            let batch = (!self.interrupted()).then(|| batches.next());
            pace.waited += waited.elapsed().as_secs_f64();
            batches.take_warnings().into_iter().for_each(|warning| observe(Event::Note(warning)));
            let (share, next) = match (agreed(ranks, &batch)?, batch) {
                (Word::Ready, Some(Ok(batch))) => batch,
                (Word::Failed, batch) => {
                    let own = batch.and_then(Result::err);
                    let error = own.unwrap_or_else(|| {
                        Error::Training(
                            "another rank could not read its data; its own message says why".into(),
                        )
                    });
                    let error = self.saved_before(error, observe);
                    // Who ends may end the others, so that no rank does before that is saved; one that has ended already
                    // is not what went wrong here.
                    let _ = ranks.gather(&[]);
                    return Err(error);
                }
                _ => return Ok(None),
            };
            let started = Instant::now();
            match self.learner.step(&share, step, self.context.interrupted, ranks)? {
                Outcome::Made(numbers) => {
                    self.state.seconds += started.elapsed().as_secs_f64();
                    self.state.images += size as u64;
                    self.state.skipped += skipped;
                    (self.state.step, self.state.position) = (step, next);
                    return Ok(Some(record(step, numbers, next.epoch, pace.after(size))));
                }
                Outcome::Abandoned => return Ok(None),
                Outcome::Skipped { what, value } => {
                    let skip =
                        SkipRecord { step, skipped: what, value: value.to_string(), epoch: next.epoch };
                    if let Some(keeper) = &mut self.keeper {
                        keeper.write(&skip)?;
                        observe(Event::Note(format!(
                            "step {step}: left out a batch whose {what} is {value}"
                        )));
                    }
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
        let (Some(keeper), step) = (&mut self.keeper, self.state.step) else { return Ok(()) };
        let summary = keeper.validate(&self.learner, step)?;
        observe(Event::Validated { step, summary: &summary });
        Ok(())
    }

    /// Writes the checkpoint of this step, and the averaged model for others to use, unless that was done.
    fn save(&mut self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let step = self.state.step;
        if let Some(keeper) = &mut self.keeper {
            if self.saved != Some(step) {
                let path = keeper.save(&self.learner, &self.state)?;
                self.saved = Some(step);
                observe(Event::Saved(&path));
            }
            keeper.publish(&self.learner, &self.state)?;
        }
        self.saved = Some(step);
        Ok(())
    }
}

/// What all ranks do, as one of them has this batch, none if it is to stop, or data that failed.
fn agreed<B>(ranks: &dyn Collective, batch: &Option<Result<B>>) -> Result<Word> {
    let own = match batch {
        Some(Ok(_)) => Word::Ready,
        None => Word::Stop,
        Some(Err(_)) => Word::Failed,
    };
    let told = ranks.gather(&[f64::from(own as u8)])?;
    let said = |word: Word| told.iter().any(|rank| rank[0] == f64::from(word as u8));
    let decides = [Word::Failed, Word::Stop].into_iter().find(|&word| said(word));
    Ok(decides.unwrap_or(Word::Ready))
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
