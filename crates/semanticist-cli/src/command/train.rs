//! `semanticist train`: from a configuration and images to weights.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use semanticist::autoencoder::AutoencoderConfig;
use semanticist::model::{load_autoencoder, save_autoencoder};
use semanticist_train::autoencoder;
use semanticist_train::config::RunConfig;
use semanticist_train::data::{Source, Split};
use semanticist_train::objective::Objective;
use semanticist_train::objective::tokenizer::{TokenizerObjective, TokenizerRun, untrained};
use semanticist_train::trainer::{Ending, Event, Surroundings, Trainer, check_fresh};

use super::choice::validation_source;
use crate::args::{Place, TrainAutoencoder, TrainTokenizer};
use crate::output::{self, note};
use crate::progress::TrainingProgress;

/// Set by Ctrl-C: the step at hand is ended and saved.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub fn tokenizer(request: &TrainTokenizer) -> Result<()> {
    let config = RunConfig::<TokenizerRun>::read(&request.run.config, &request.run.settings)?;
    let device = request.machine.start()?;
    let training = Arc::new(Source::open(&request.run.data, Split::Train)?);
    let validation = validation_source(&request.run.data)?;
    note(&format!("{} training images, {} for validation", training.len(), validation.len()));
    let objective = TokenizerObjective::new(&config, training.clone(), &validation, &device)?;
    let fresh = || {
        let autoencoder = match &request.autoencoder {
            Some(path) => load_autoencoder(path, &config.model.autoencoder, &device)?,
            None => autoencoder::fit(&config, training, &device, &mut |text| note(&text))?,
        };
        untrained(&config, autoencoder, &device)
    };
    run(&request.place, config.clone(), objective, fresh, &device)
}

/// Trains to the end or until Ctrl-C; `fresh` makes the model that a new run starts from.
fn run<O: Objective>(
    place: &Place,
    config: RunConfig<O::Kind>,
    objective: O,
    fresh: impl FnOnce() -> semanticist::Result<O::Model>,
    device: &Device,
) -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("cannot listen for Ctrl-C")?;
    let surroundings = Surroundings { out: &place.out, device, interrupted: &INTERRUPTED };
    let progress = TrainingProgress::new(config.steps, config.log.every);
    let trainer = if place.resume {
        Trainer::resume(config, objective, surroundings)?
    } else {
        check_fresh(&place.out)?;
        Trainer::start(config, objective, fresh()?, surroundings)?
    };
    let ending = trainer.run(&mut |event| show(&progress, event))?;
    drop(progress);
    match ending {
        Ending::Complete => output::print(&format!(
            "done: {} (look at {})",
            place.out.join("model.safetensors").display(),
            place.out.join("samples").display(),
        )),
        Ending::Interrupted => output::print(&format!(
            "interrupted after a whole step and saved; go on with the same command and --resume (in {})",
            place.out.display()
        )),
    }
}

pub fn autoencoder(request: &TrainAutoencoder) -> Result<()> {
    let config = RunConfig::<TokenizerRun>::read(&request.run.config, &request.run.settings)?;
    output::check_file(&request.out)?;
    let file = request.run.config.display();
    match config.model.autoencoder {
        AutoencoderConfig::Linear { .. } => {}
        AutoencoderConfig::Pixel {} => bail!("{file}: the pixel autoencoder has nothing to fit"),
        AutoencoderConfig::Kl(_) => bail!(
            "{file}: a KL autoencoder is not fitted; give a published one to `train tokenizer` with --autoencoder"
        ),
    }
    let device = request.machine.start()?;
    let source = Arc::new(Source::open(&request.run.data, Split::Train)?);
    let autoencoder = autoencoder::fit(&config, source, &device, &mut |text| note(&text))?;
    save_autoencoder(&request.out, &config.model.autoencoder, &autoencoder)?;
    output::print(&format!("done: {}", request.out.display()))
}

fn show(progress: &TrainingProgress, event: Event) {
    match event {
        Event::Stepped { step, loss, images_per_second, .. } => progress.step(step, loss, images_per_second),
        Event::Validated { step, summary } => progress.say(&format!("step {step}: {summary}")),
        Event::Saved(path) => progress.say(&format!("saved {}", path.display())),
        Event::Note(text) => progress.say(&text),
    }
}
