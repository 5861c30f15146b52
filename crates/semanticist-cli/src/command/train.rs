//! `semanticist train`: from a configuration and images to weights.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use semanticist::autoencoder::AutoencoderConfig;
use semanticist::model::{load_autoencoder, save_autoencoder};
use semanticist_train::config::RunConfig;
use semanticist_train::data::{Source, Split};
use semanticist_train::journal::ValidationRecord;
use semanticist_train::trainer::{Ending, Event, Surroundings, Trainer, fit_autoencoder};

use super::choice::validation_source;
use crate::args::{TrainAutoencoder, TrainTokenizer};
use crate::output::{self, note};
use crate::progress::TrainingProgress;

/// Set by Ctrl-C: the step at hand is ended and saved.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub fn tokenizer(request: &TrainTokenizer) -> Result<()> {
    let config = RunConfig::read(&request.run.config, &request.run.settings)?;
    let device = request.machine.start()?;
    let training = Arc::new(Source::open(&request.run.data, Split::Train)?);
    let validation = validation_source(&request.run.data)?;
    note(&format!("{} training images, {} for validation", training.len(), validation.len()));
    let autoencoder = request.autoencoder.as_deref();
    let autoencoder =
        autoencoder.map(|path| load_autoencoder(path, &config.model.autoencoder, &device)).transpose()?;
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("cannot listen for Ctrl-C")?;
    let surroundings = Surroundings {
        training,
        validation: &validation,
        out: &request.out,
        device: &device,
        interrupted: &INTERRUPTED,
    };
    let progress = TrainingProgress::new(config.steps, config.log.every);
    let mut observe = |event: Event| show(&progress, event);
    let trainer = if request.resume {
        Trainer::resume(config, surroundings)?
    } else {
        Trainer::start(config, autoencoder, surroundings, &mut observe)?
    };
    let ending = trainer.run(&mut observe)?;
    drop(progress);
    match ending {
        Ending::Complete => output::print(&format!(
            "done: {} (look at {} and try `semanticist reconstruct --model` with it)",
            request.out.join("model.safetensors").display(),
            request.out.join("samples").display(),
        )),
        Ending::Interrupted => output::print(&format!(
            "interrupted after a whole step and saved; go on with the same command and --resume (in {})",
            request.out.display()
        )),
    }
}

pub fn autoencoder(request: &TrainAutoencoder) -> Result<()> {
    let config = RunConfig::read(&request.run.config, &request.run.settings)?;
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
    let mut observe = |event: Event| {
        if let Event::Note(text) = event {
            note(&text);
        }
    };
    let autoencoder = fit_autoencoder(&config, source, &device, &mut observe)?;
    save_autoencoder(&request.out, &config.model.autoencoder, &autoencoder)?;
    output::print(&format!("done: {}", request.out.display()))
}

fn show(progress: &TrainingProgress, event: Event) {
    match event {
        Event::Stepped { step, loss, images_per_second, .. } => progress.step(step, loss, images_per_second),
        Event::Validated(ValidationRecord { step, tokens, validation_mse, .. }) => {
            let losses = tokens.iter().zip(validation_mse);
            let losses: Vec<String> = losses.map(|(k, loss)| format!("{k}: {loss:.4}")).collect();
            progress.say(&format!("step {step}: validation loss by tokens  {}", losses.join("  ")));
        }
        Event::Saved(path) => progress.say(&format!("saved {}", path.display())),
        Event::Note(text) => progress.say(&text),
    }
}
