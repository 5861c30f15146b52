//! The training loop of a tokenizer: the order of events, and nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist::autoencoder::{Autoencoder, AutoencoderConfig, LinearFit};
use semanticist::diffusion::Process;
use semanticist::image::{RgbImage, to_pixels};
use semanticist::noise::derive_seed;
use semanticist::tokenizer::Networks;
use semanticist::weights::Precision;
use semanticist::{Error, Latents, Noise, Pixels, Result, Tokenizer, files};
use serde_json::json;

use crate::checkpoint::{Checkpoint, State};
use crate::config::RunConfig;
use crate::data::{Batch, BatchOptions, Batches, Position, Source};
use crate::gradients::Gradients;
use crate::journal::{Journal, StepRecord, ValidationRecord};
use crate::objective::{self, Draws};
use crate::optimizer::AdamW;
use crate::{ema, sheet, validation};

/// What training has to say while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step was made; not every one is in the journal.
    Stepped { step: u64, steps: u64, loss: f64, images_per_second: f64 },
    /// The averaged weights were measured.
    Validated(&'a ValidationRecord),
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

/// Where a run reads and writes, and who can stop it.
pub struct Surroundings<'a> {
    pub training: Arc<Source>,
    pub validation: &'a Source,
    /// The run's folder: `config.toml`, `journal.jsonl`, `checkpoints/`, `samples/`, `model.safetensors`.
    pub out: &'a Path,
    pub device: &'a Device,
    /// Set from outside to stop after the current step.
    pub interrupted: &'a AtomicBool,
}

/// A run between two steps.
pub struct Trainer<'a> {
    surroundings: Surroundings<'a>,
    config: RunConfig,
    state: State,
    tokenizer: Tokenizer,
    average: Tokenizer,
    optimizer: AdamW,
    process: Process,
    journal: Journal,
    validation_images: Vec<RgbImage>,
}

impl<'a> Trainer<'a> {
    /// A run from the start; `autoencoder` replaces the one that would be fitted now.
    ///
    /// # Errors
    /// If the folder already holds a run, or the autoencoder cannot be fitted.
    pub fn start(
        config: RunConfig,
        autoencoder: Option<Autoencoder>,
        surroundings: Surroundings<'a>,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Self> {
        if !crate::checkpoint::steps(&checkpoints(surroundings.out))?.is_empty() {
            return Err(Error::file(
                surroundings.out,
                "already holds a run; go on with --resume, or give another --out",
            ));
        }
        let device = surroundings.device;
        let autoencoder = match autoencoder {
            Some(autoencoder) => autoencoder,
            None => fit_autoencoder(&config, surroundings.training.clone(), device, observe)?,
        };
        let mut noise = Noise::seeded(derive_seed(config.seed, &[0]));
        let networks = Networks::init(&config.model, &mut noise, &device.clone().autodiff())?;
        let model = config.model.clone();
        let average =
            Tokenizer { config: model.clone(), networks: networks.valid(), autoencoder: autoencoder.clone() };
        let tokenizer = Tokenizer { config: model, networks, autoencoder };
        let state =
            State { step: 0, position: Position::default(), images: 0, seconds: 0.0, config: config.clone() };
        let optimizer = AdamW::new(config.optimizer);
        Self::assemble(config, Checkpoint { state, tokenizer, average, optimizer }, surroundings)
    }

    /// Goes on from the last checkpoint of a run.
    ///
    /// # Errors
    /// If there is none, or `config` changes what the steps so far depended on.
    pub fn resume(config: RunConfig, surroundings: Surroundings<'a>) -> Result<Self> {
        let device = surroundings.device.clone().autodiff();
        let checkpoint = Checkpoint::load_last(&checkpoints(surroundings.out), &device)?;
        refuse_changes(&checkpoint.state.config, &config)?;
        Self::assemble(config, checkpoint, surroundings)
    }

    fn assemble(config: RunConfig, checkpoint: Checkpoint, surroundings: Surroundings<'a>) -> Result<Self> {
        let Checkpoint { mut state, tokenizer, average, optimizer } = checkpoint;
        let out = surroundings.out;
        std::fs::create_dir_all(out).map_err(|error| Error::io(out, "create the folder", error))?;
        let text = config.to_toml();
        files::write_atomically(&out.join("config.toml"), |file| {
            std::io::Write::write_all(file, text.as_bytes())
        })?;
        let journal = Journal::open(&out.join("journal.jsonl"), state.step)?;
        let process = Process::new(&config.model.diffusion)?;
        let count = config.log.validation_images.max(config.log.sample_images).max(1);
        let validation_images = validation::images(surroundings.validation, count, config.model.image_size)?;
        state.config = config.clone();
        Ok(Self {
            surroundings,
            config,
            state,
            tokenizer,
            average,
            optimizer,
            process,
            journal,
            validation_images,
        })
    }

    /// Trains to the last step, or until interrupted; either way the last step made is saved.
    ///
    /// # Errors
    /// If a loss or gradient is not finite (the weights are then those of the step before), or the
    /// data or the disk fails. The last checkpoint stays.
    pub fn run(mut self, observe: &mut dyn FnMut(Event)) -> Result<Ending> {
        let options = BatchOptions {
            size: self.config.model.image_size,
            batch: self.config.data.batch,
            seed: self.config.seed,
            workers: self.config.data.workers,
            flip: self.config.data.flip,
        };
        let mut batches = Batches::new(self.surroundings.training.clone(), options, self.state.position);
        let mut pace = Pace::new();
        let mut saved = self.state.step;
        while self.state.step < self.config.steps {
            if self.surroundings.interrupted.load(Ordering::Relaxed) {
                self.save(observe)?;
                return Ok(Ending::Interrupted);
            }
            let batch = batches.next().unwrap_or_else(|| Err(Error::Data("the data has ended".into())))?;
            for (name, problem) in batches.take_warnings() {
                observe(Event::Note(format!("skipped a broken image: {name}: {problem}")));
            }
            let started = Instant::now();
            let record = self.train_step(&batch)?;
            self.state.seconds += started.elapsed().as_secs_f64();
            self.state.images += batch.images.len() as u64;
            self.state.position = batch.next;
            let record = StepRecord { images_per_second: pace.after(batch.images.len()), ..record };
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
    fn train_step(&mut self, batch: &Batch) -> Result<StepRecord> {
        let step = self.state.step + 1;
        let parts = self.config.data.accumulate;
        let (mut gradients, mut loss, mut mse) = (Gradients::default(), 0.0, 0.0);
        for (part, images) in batch.images.chunks(batch.images.len() / parts).enumerate() {
            let losses = self.losses(images, step, part as u64);
            let total = losses.total / parts as f64;
            let value = f64::from(total.clone().into_scalar::<f32>());
            loss += value;
            mse += f64::from(losses.mse.mean().into_scalar::<f32>()) / parts as f64;
            self.check_finite("loss", value, step)?;
            gradients.add(Gradients::collect(&self.tokenizer.networks, &total.backward()));
        }
        let gradient_norm = gradients.norm();
        self.check_finite("gradient norm", gradient_norm, step)?;
        let learning_rate = self.config.learning_rate.at(step, self.config.steps);
        let networks = self.tokenizer.networks.clone();
        self.tokenizer.networks = self.optimizer.step(networks, &gradients, gradient_norm, learning_rate);
        self.average.networks =
            ema::average(self.average.networks.clone(), &self.tokenizer.networks, self.config.ema);
        self.state.step = step;
        let epoch = batch.next.epoch;
        Ok(StepRecord { step, loss, mse, gradient_norm, learning_rate, images_per_second: 0.0, epoch })
    }

    /// The loss of some images; everything drawn comes from (seed, step, part).
    fn losses(&self, images: &[RgbImage], step: u64, part: u64) -> semanticist::diffusion::Losses {
        let device = self.surroundings.device;
        let mut noise = Noise::seeded(derive_seed(self.config.seed, &[step, part]));
        let pixels = to_pixels(images, device);
        let latents = self.tokenizer.autoencoder.sample(&pixels, &mut noise).0;
        let count = images.len();
        let keep = self.config.nested_guidance.draw(count, self.config.model.tokens, step, &mut noise);
        let draws = Draws {
            keep,
            timesteps: noise.below(count, self.process.steps()),
            noise: Tensor::from_inner(noise.normal(latents.dims(), device)),
        };
        let batch = (&Pixels(Tensor::from_inner(pixels.0)), Latents(Tensor::from_inner(latents)));
        objective::loss(&self.tokenizer.networks, &self.process, batch, draws, Some(&mut noise))
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
        let log = &self.config.log;
        let device = self.surroundings.device;
        let images = &self.validation_images[..log.validation_images.min(self.validation_images.len())];
        let record = ValidationRecord {
            step: self.state.step,
            validation_mse: validation::losses(&self.average, images, &log.validation_tokens, device)?,
            tokens: log.validation_tokens.clone(),
            images: images.len(),
        };
        self.journal.write(&record)?;
        observe(Event::Validated(&record));
        let shown = &self.validation_images[..log.sample_images.min(self.validation_images.len())];
        if !shown.is_empty() {
            let rows = validation::samples(&self.average, shown, &log.validation_tokens, device)?;
            let folder = self.surroundings.out.join("samples");
            std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create the folder", e))?;
            let path = folder.join(format!("step-{:08}.png", self.state.step));
            semanticist::image::save_png(&sheet::rows(&rows, &log.validation_tokens), &path)?;
        }
        Ok(())
    }

    /// Writes the checkpoint, and the model as others use it: averaged, in half precision.
    fn save(&self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let plain = Tokenizer { networks: self.tokenizer.networks.valid(), ..self.tokenizer.clone() };
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            tokenizer: plain,
            average: self.average.clone(),
            optimizer: self.optimizer.clone(),
        };
        let path = checkpoint.save(&checkpoints(self.surroundings.out), self.config.log.keep_checkpoints)?;
        let history = json!({
            "steps": self.state.step,
            "images": self.state.images,
            "seconds": self.state.seconds.round(),
            "epochs": self.state.position.epoch,
            "training_images": self.surroundings.training.len(),
            "config": self.config,
        });
        self.average.save(
            &self.surroundings.out.join("model.safetensors"),
            Some(&history),
            Precision::F16,
        )?;
        observe(Event::Saved(&path));
        Ok(())
    }
}

fn checkpoints(out: &Path) -> PathBuf {
    out.join("checkpoints")
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// What a checkpoint's past depended on must not change.
fn refuse_changes(before: &RunConfig, now: &RunConfig) -> Result<()> {
    let changed = [
        ("seed", before.seed != now.seed),
        ("model", before.model != now.model),
        ("data.batch", before.data.batch != now.data.batch),
        ("data.flip", before.data.flip != now.data.flip),
    ];
    match changed.iter().find(|(_, changed)| *changed) {
        None => Ok(()),
        Some((name, _)) => Err(Error::Config(format!(
            "{name} differs from the run that is to be resumed; give the same configuration, or start \
             another run with another --out"
        ))),
    }
}

/// The autoencoder that the configuration asks for, fitted to the first images of the run's order.
///
/// # Errors
/// If the data cannot be read or has too few images, or the autoencoder is trained and not fitted.
pub fn fit_autoencoder(
    config: &RunConfig,
    source: Arc<Source>,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Autoencoder> {
    let (patch_size, channels, whitening) = match config.model.autoencoder {
        AutoencoderConfig::Pixel {} => return Ok(Autoencoder::Pixel),
        AutoencoderConfig::Linear { patch_size, channels, whitening } => (patch_size, channels, whitening),
        AutoencoderConfig::Kl(_) => {
            return Err(Error::Config(
                "a KL autoencoder cannot be fitted on the way; give its weights with --autoencoder FILE"
                    .into(),
            ));
        }
    };
    const BATCH: usize = 100;
    let wanted = config.data.fit_images.min(source.len());
    let options = BatchOptions {
        size: config.model.image_size,
        batch: BATCH.min(wanted.max(1)),
        seed: config.seed,
        workers: config.data.workers,
        flip: 0.0,
    };
    let mut fit = LinearFit::new(patch_size);
    let (mut seen, mut batches) = (0, Batches::new(source, options, Position::default()));
    while seen < wanted {
        let Some(batch) = batches.next().transpose()? else { break };
        fit.add(&batch.images)?;
        seen += batch.images.len();
    }
    let (autoencoder, report) = fit.finish(channels, whitening, device)?;
    observe(Event::Note(format!(
        "linear autoencoder fitted to {seen} images: {:.1} % of the variance, {:.2} dB by itself",
        100.0 * report.explained,
        report.psnr
    )));
    Ok(Autoencoder::Linear(Box::new(autoencoder)))
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
