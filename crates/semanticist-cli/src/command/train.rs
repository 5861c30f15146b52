//! `semanticist train`: from a configuration and images to a model.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use burn::tensor::Device;
use semanticist_train::config::RunConfig;
use semanticist_train::data::{Source, Split};
use semanticist_train::trainer::{Ending, Event, Surroundings, Trainer};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What was asked for.
pub struct TrainTokenizer {
    pub config: PathBuf,
    pub data: Vec<PathBuf>,
    pub out: PathBuf,
    pub settings: Vec<String>,
    pub resume: bool,
}

pub fn train_tokenizer(request: &TrainTokenizer, device: &Device) -> Result<()> {
    let config = RunConfig::read(&request.config, &request.settings)?;
    let training = Arc::new(Source::open(&request.data, Split::Train)?);
    let validation = Source::open(&request.data, Split::Validation)
        .or_else(|_| Source::open(&request.data, Split::All))?;
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("cannot listen for Ctrl-C")?;
    let surroundings = Surroundings {
        training,
        validation: &validation,
        out: &request.out,
        device,
        interrupted: &INTERRUPTED,
    };
    let mut observe = |event: Event| match event {
        Event::Stepped { step, steps, loss, images_per_second } if step % 50 == 0 => {
            eprintln!("step {step}/{steps} loss {loss:.4} {images_per_second:.1} images/s")
        }
        Event::Stepped { .. } => {}
        Event::Validated(record) => eprintln!("validation {:?} {:.4?}", record.tokens, record.validation_mse),
        Event::Saved(path) => eprintln!("saved {}", path.display()),
        Event::Note(note) => eprintln!("{note}"),
    };
    let trainer = if request.resume {
        Trainer::resume(config, surroundings)?
    } else {
        Trainer::start(config, None, surroundings, &mut observe)?
    };
    match trainer.run(&mut observe)? {
        Ending::Complete => eprintln!("done: {}", request.out.join("model.safetensors").display()),
        Ending::Interrupted => eprintln!("interrupted and saved; go on with --resume"),
    }
    Ok(())
}
