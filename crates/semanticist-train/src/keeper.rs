//! The one rank that writes: a run's journal, its checkpoints, its model for others, and the validations.

use std::io::Write;
use std::path::{Path, PathBuf};

use burn::module::Module;
use semanticist::{Error, Result, files};
use serde::Serialize;
use serde_json::json;

use crate::checkpoint::{Checkpoint, State};
use crate::journal::{Journal, ValidationRecord};
use crate::learner::Learner;
use crate::lock::{RunLock, remove_leftovers};
use crate::objective::{Objective, Stage, Trainable};
use crate::optimizer::AdamW;

/// Who writes into a run's folder, as long as the run goes on.
pub(crate) struct Keeper {
    out: PathBuf,
    journal: Journal,
    /// The step whose model was last written for others by this process.
    published: Option<u64>,
    _lock: RunLock,
}

impl Keeper {
    /// Of a run at `step` with this configuration.
    pub fn open(out: &Path, config: &str, step: u64, lock: RunLock) -> Result<Self> {
        remove_leftovers(out)?;
        files::write_atomically(&out.join("config.toml"), |file| file.write_all(config.as_bytes()))?;
        let journal = Journal::open(&out.join("journal.jsonl"), step)?;
        Ok(Self { out: out.to_path_buf(), journal, published: None, _lock: lock })
    }

    /// Appends a line to the journal.
    pub fn write(&mut self, record: &impl Serialize) -> Result<()> {
        self.journal.write(record)
    }

    /// Whether the journal told of the validation of `step` when it was opened; there is none of step 0.
    pub fn validated(&self, step: u64) -> bool {
        self.journal.validated(step)
    }

    /// Measures the averaged weights at `step`; what was found, in one line.
    pub fn validate<O: Objective>(&mut self, learner: &Learner<O>, step: u64) -> Result<String> {
        let samples = self.out.join("samples");
        std::fs::create_dir_all(&samples).map_err(|e| Error::io(&samples, "create the folder", e))?;
        let sheet = samples.join(format!("step-{step:08}.png"));
        // What is rounded whenever it is used is rounded once here.
        let mut average = learner.average.clone();
        *average.parameters_mut() = learner.average.parameters().clone().materialize();
        let found = learner.objective.validate(&average, &sheet)?;
        self.journal.write(&ValidationRecord { step, measures: found.measures })?;
        Ok(found.summary)
    }

    /// Writes the checkpoint of a step.
    pub fn save<O: Objective>(&self, learner: &Learner<O>, state: &State<O::Kind>) -> Result<PathBuf> {
        let Learner { config, model, average, optimizers, .. } = learner;
        let steps = |optimizer: &AdamW| (optimizer.prefix().to_string(), optimizer.steps());
        let checkpoint = Checkpoint {
            state: State { optimizers: optimizers.iter().map(steps).collect(), ..state.clone() },
            model: without_gradients(model),
            average: average.clone(),
            optimizers: optimizers.clone(),
        };
        checkpoint.save(&checkpoints(&self.out), config.log.keep_checkpoints)
    }

    /// Writes the averaged model for others to use, unless that of this step was.
    pub fn publish<O: Objective>(&mut self, learner: &Learner<O>, state: &State<O::Kind>) -> Result<()> {
        if self.published == Some(state.step) {
            return Ok(());
        }
        let Learner { config, objective, average, .. } = learner;
        let history = json!({
            "steps": state.step,
            "images": state.images,
            "seconds": state.seconds.round(),
            "epochs": state.position.epoch,
            "training_images": objective.examples(),
            "config": config,
        });
        let stage = if state.step < config.steps { Stage::Underway } else { Stage::Complete };
        objective.publish(average, &self.out.join("model.safetensors"), &history, stage)?;
        self.published = Some(state.step);
        Ok(())
    }
}

/// The same weights on the device without autodiff.
pub(crate) fn without_gradients<M: Trainable>(model: &M) -> M {
    let mut plain = model.clone();
    *plain.parameters_mut() = model.parameters().valid();
    plain
}

/// Where a run's checkpoints are.
pub(crate) fn checkpoints(out: &Path) -> PathBuf {
    out.join("checkpoints")
}
