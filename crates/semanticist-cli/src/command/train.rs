//! `semanticist train`: from a configuration and images to weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use semanticist::autoencoder::AutoencoderConfig;
use semanticist::model::{TokenizerModel, Work, load_autoencoder, save_autoencoder};
use semanticist::{Precision, Tokenizer};
use semanticist_data::tokens::cache::TokenCache;
use semanticist_data::{Source, Split};
use semanticist_train::autoencoder;
use semanticist_train::changes::OnChange;
use semanticist_train::config::{RunConfig, is_of_tokenizer};
use semanticist_train::memory::TrainingMemory;
use semanticist_train::objective::autoencoder::{AutoencoderObjective, AutoencoderRun};
use semanticist_train::objective::classifier::{self, ClassifierObjective, ClassifierRun};
use semanticist_train::objective::generator::{GeneratorObjective, GeneratorRun};
use semanticist_train::objective::repa::Repa;
use semanticist_train::objective::tokenizer::{self, TokenizerObjective, TokenizerRun};
use semanticist_train::principal;

use semanticist_train::objective::{self, Objective, continued, grown};
use semanticist_train::plan::Plan;
use semanticist_train::trainer::{Ending, Event, RunContext, Trainer, check_fresh, memory_of_run};

use super::choice::{autoencoder_file, validation_source};
use super::dry_run;
use super::generate::load_generator;
use super::preflight::{self, Check};
use super::sources;
use crate::args::{
    ModelChoice, Place, PublishedChoice, TrainAutoencoder, TrainClassifier, TrainGenerator, TrainTokenizer,
    TrainingData,
};
use crate::device::Machine;
use crate::distributed::Ranks;
use crate::failure;
use crate::memory::available;
use crate::output::{self, note, note_of_rank};
use crate::progress::TrainingProgress;

/// Set by Ctrl-C and by what ends a batch job (SIGTERM, SIGHUP): the step at hand is ended and saved.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub fn tokenizer(request: &TrainTokenizer, ranks: &Ranks) -> Result<()> {
    let (training, validation) = images(&request.run.data)?;
    let settings = settings(&request.run.settings, &request.machine);
    let mut config = RunConfig::<TokenizerRun>::read_for(&request.run.config, &settings, training.len())?;
    let training = Arc::new(training.weighted(&config.data.weights)?);
    let device = request.machine.start_with(ranks.card(), config.precision)?;
    if request.place.resume && check_fresh(&request.place.out).is_err() {
        config.model.autoencoder = autoencoder::of_run(&request.place.out, &config.model.autoencoder)?;
        config.objective.repa = Repa::of_run(&request.place.out, config.objective.repa)?;
    }
    let teacher = teacher(request, &config, &device)?;
    if let Some(teacher) = &teacher
        && teacher.config.autoencoder.has_networks_of(&config.model.autoencoder)
    {
        // The teacher's file knows the scale and shift of its latents.
        config.model.autoencoder = teacher.config.autoencoder.clone();
    }
    let origin = origin(request, &config, &device)?;
    if let Some(origin) = &origin
        && origin.tokenizer.config.autoencoder.has_networks_of(&config.model.autoencoder)
    {
        config.model.autoencoder = origin.tokenizer.config.autoencoder.clone();
    }
    let given = match &request.autoencoder {
        Some(path) => {
            let path = autoencoder_file(path)?;
            let (found, autoencoder) = load_autoencoder(&path, &config.model.autoencoder, &device)?;
            config.model.autoencoder = found;
            Some(autoencoder)
        }
        None => None,
    };
    let aligned = Repa::load_teacher(&mut config, &device)?;
    let objective = TokenizerObjective::new(&config, training.clone(), &validation, aligned, &device)?;
    let fresh = || {
        if let (Some(teacher), Some(distillation)) = (teacher, &config.objective.distillation) {
            return distillation.student(&config.model, teacher, &device);
        }
        if let Some(mut origin) = origin {
            let shared = continued::shared_tokens(&config, &origin)?;
            let say = &mut |text: String| note(&text);
            let had = origin.tokenizer.autoencoder;
            origin.tokenizer.autoencoder =
                autoencoder::overlapping(&config, had, training.clone(), &device, say)?;
            origin.tokenizer.config.autoencoder = config.model.autoencoder.clone();
            let origin = grown::grown(origin.tokenizer, &config, training, &device, &mut |text| note(&text))?;
            let model = continued::continued(&config, origin, &device, &mut |text| note(&text))?;
            return Ok(model.sharing(shared));
        }
        let autoencoder = match given {
            Some(autoencoder) => autoencoder,
            None => autoencoder::fit(&config, training.clone(), &device, &mut |text| note(&text))?,
        };
        let model = tokenizer::untrained(&config, autoencoder, &device)?;
        principal::start(model, &config, training, &device, &mut |text| note(&text))
    };
    let check = Check::unless(request.run.no_memory_check);
    run(&Setting { place: &request.place, check, device: &device, ranks }, config.clone(), objective, fresh)
}

/// Whom a new run imitates, if it is a distillation; one that goes on has its teacher in its folder.
fn teacher(
    request: &TrainTokenizer,
    config: &RunConfig<TokenizerRun>,
    device: &Device,
) -> Result<Option<Tokenizer>> {
    let Some(distillation) = &config.objective.distillation else { return Ok(None) };
    if request.autoencoder.is_some() {
        return Err(failure::usage("--autoencoder: a distillation uses the autoencoder of its teacher"));
    }
    if request.place.resume {
        return Ok(None);
    }
    let choice = ModelChoice::of(Some(distillation.teacher.clone()), &PublishedChoice::default());
    Ok(Some(choice.load(device)?.tokenizer))
}

/// Whose weights a new run begins with, if it is told to.
fn origin(
    request: &TrainTokenizer,
    config: &RunConfig<TokenizerRun>,
    device: &Device,
) -> Result<Option<TokenizerModel>> {
    let Some(from) = &request.from else {
        let (encoder, tokens) = (config.objective.frozen_encoder, config.objective.frozen_tokens);
        if (encoder || tokens > 0) && !request.place.resume {
            let field = if encoder { "frozen_encoder" } else { "frozen_tokens" };
            return Err(failure::usage(format!(
                "objective.{field}: whose encoder? Give a tokenizer with --from, such as --from tiny"
            )));
        }
        return Ok(None);
    };
    if config.objective.distillation.is_some() {
        return Err(failure::usage("--from: a distillation begins with the weights of its teacher"));
    }
    let choice = ModelChoice::of(Some(from.clone()), &PublishedChoice::default());
    let origin = choice.load(device)?;
    // An overlap is fitted where the configuration has one and the tokenizer to begin with none.
    let (had, asked) = (&origin.tokenizer.config.autoencoder, &config.model.autoencoder);
    if !had.has_networks_of(asked) && *had != asked.without_overlap() {
        return Err(failure::usage(format!(
            "--from {}: its autoencoder is another one than model.autoencoder describes; latents would mean something else",
            from.display()
        )));
    }
    let (frozen, had) = (config.objective.frozen_tokens, origin.tokenizer.config.tokens);
    if frozen > had {
        return Err(failure::usage(format!(
            "objective.frozen_tokens = {frozen}: the tokenizer to begin with has {had}; freeze as many at most"
        )));
    }
    Ok(Some(origin))
}

/// Fits a linear autoencoder, or trains a KL autoencoder, whichever the configuration is of.
pub fn autoencoder(request: &TrainAutoencoder, ranks: &Ranks) -> Result<()> {
    let TrainingData { config: file, settings: given, data, no_memory_check } = &request.run;
    if is_of_tokenizer(file)? {
        let source = sources::open(data, Split::Train)?;
        let config = RunConfig::<TokenizerRun>::read_for(file, given, source.len())?;
        let source = Arc::new(source.weighted(&config.data.weights)?);
        if ranks.together().ranks() > 1 {
            return Err(failure::usage(
                "a linear autoencoder is fitted by one process; start it without mpirun or srun",
            ));
        }
        return fit(request, &config, source);
    }
    let (training, validation) = images(data)?;
    let settings = settings(given, &request.machine);
    let config = RunConfig::<AutoencoderRun>::read_for(file, &settings, training.len())?;
    let training = Arc::new(training.weighted(&config.data.weights)?);
    let device = request.machine.start_with(ranks.card(), config.precision)?;
    let objective = AutoencoderObjective::new(&config, training, &validation, &device)?;
    let fresh = || objective::autoencoder::untrained(&config, &device);
    let check = Check::unless(*no_memory_check);
    run(&Setting { place: &request.place, check, device: &device, ranks }, config.clone(), objective, fresh)
}

/// Trains a generator; whoever made its tokens decodes its samples.
pub fn generator(request: &TrainGenerator, ranks: &Ranks) -> Result<()> {
    let training = TokenCache::open(&request.tokens)?;
    let settings = settings(&request.settings, &request.machine);
    let config = RunConfig::<GeneratorRun>::read_for(&request.config, &settings, training.len())?;
    let training = Arc::new(training.weighted(&config.data.weights)?);
    let precision = config.precision;
    let device = request.machine.start_with(ranks.card(), precision)?;
    let validation = match request.validation.as_slice() {
        [] => {
            note("no --validation is given; the tokens to train on are used to validate");
            training.clone()
        }
        paths => Arc::new(TokenCache::open(paths)?),
    };
    note(&format!("tokens of {} images to train on, {} for validation", training.len(), validation.len()));
    let model = request.model.load_for(Work { precision, ..Work::default() }, &device)?;
    let made_them = model.gives_tokens_of(&training.info().model_hash, training.info().tokens)?;
    let origin = request.from.as_deref().map(|from| load_generator(Some(from), None, &device)).transpose()?;
    if let Some(drew) = origin.as_ref().and_then(|origin| origin.tokenizer.as_deref())
        && *drew != training.info().model_hash
        && !(made_them && model.gives_tokens_of(drew, config.model.tokens)?)
    {
        note(
            "the generator to begin with was trained on the tokens of another tokenizer; it has to learn these anew",
        );
    }
    let tokenizer = made_them.then_some(model.tokenizer);
    if tokenizer.is_none() {
        note("these tokens are of another tokenizer; give that one with --model to have samples decoded");
    }
    let caches = [training.clone(), validation];
    let objective = GeneratorObjective::new(&config, caches, tokenizer)?;
    let fresh = || match origin {
        Some(origin) => {
            continued::continued_generator(&config, origin, &training, &device, &mut |text| note(&text))
        }
        None => objective::generator::untrained(&config, &training, &device),
    };
    let check = Check::unless(request.model.no_memory_check);
    run(&Setting { place: &request.place, check, device: &device, ranks }, config.clone(), objective, fresh)
}

/// Trains a classifier on the labels of the data.
pub fn classifier(request: &TrainClassifier, ranks: &Ranks) -> Result<()> {
    let TrainingData { config: file, settings: given, data, no_memory_check } = &request.run;
    let (training, validation) = images(data)?;
    let settings = settings(given, &request.machine);
    let config = RunConfig::<ClassifierRun>::read_for(file, &settings, training.len())?;
    let training = Arc::new(training.weighted(&config.data.weights)?);
    let device = request.machine.start_with(ranks.card(), config.precision)?;
    let objective = ClassifierObjective::new(&config, training.clone(), &validation, &device)?;
    let fresh = || classifier::untrained(&config, &training, &device);
    let check = Check::unless(*no_memory_check);
    run(&Setting { place: &request.place, check, device: &device, ranks }, config.clone(), objective, fresh)
}

/// What is laid over the configuration: `--precision` is an entry of it as well.
fn settings(given: &[String], machine: &Machine) -> Vec<String> {
    let precision = machine.asked_precision().map(|precision| format!("precision={precision}"));
    given.iter().cloned().chain(precision).collect()
}

fn fit(request: &TrainAutoencoder, config: &RunConfig<TokenizerRun>, source: Arc<Source>) -> Result<()> {
    let (file, out) = (request.run.config.display(), &request.place.out);
    match config.model.autoencoder {
        AutoencoderConfig::Linear { .. } => {}
        AutoencoderConfig::Pixel {} => bail!("{file}: the pixel autoencoder has nothing to fit"),
        AutoencoderConfig::Kl(_) => bail!(
            "{file}: a KL autoencoder is not fitted but trained, by a configuration of its own such as \
             configs/autoencoder-tiny.toml; `train tokenizer` takes the result with --autoencoder"
        ),
    }
    if request.place.dry_run {
        return Err(failure::usage("--dry-run: fitting a linear autoencoder takes seconds and one file"));
    }
    if request.place.resume {
        return Err(failure::usage("--resume: fitting a linear autoencoder has no steps to go on from"));
    }
    if request.machine.precision() != Precision::Float32 {
        return Err(failure::usage(
            "--precision bfloat16: a linear autoencoder is fitted in float32; leave the option out",
        ));
    }
    output::check_file(out)?;
    let device = request.machine.start(Precision::Float32)?;
    let autoencoder = autoencoder::fit(config, source, &device, &mut |text| note(&text))?;
    save_autoencoder(out, &config.model.autoencoder, &autoencoder, None)?;
    output::print(&format!("done: {}", out.display()))
}

/// Images to train on, and to validate on.
fn images(data: &[PathBuf]) -> Result<(Source, Source)> {
    let training = sources::open(data, Split::Train)?;
    let validation = validation_source(data)?;
    note(&format!("{} training images, {} for validation", training.len(), validation.len()));
    Ok((training, validation))
}

/// Where a run is kept and computed, and by whom.
struct Setting<'a> {
    place: &'a Place,
    check: Check,
    device: &'a Device,
    ranks: &'a Ranks,
}

/// Trains to the end or until Ctrl-C; `fresh` makes the model that a new run starts from.
fn run<O: Objective>(
    setting: &Setting,
    config: RunConfig<O::Kind>,
    objective: O,
    fresh: impl FnOnce() -> semanticist::Result<O::Model>,
) -> Result<()> {
    let &Setting { place, check, device, ranks } = setting;
    let together = ranks.together();
    if place.dry_run {
        if together.ranks() > 1 {
            return Err(failure::usage("--dry-run looks at one process; start it without mpirun or srun"));
        }
        return dry_run::run(place, &config, objective, fresh()?, device);
    }
    config.check_ranks(together.ranks())?;
    if together.ranks() > 1 {
        let (count, threads) = (together.ranks(), rayon::current_num_threads());
        let share = config.batch / count;
        note(&format!(
            "{count} ranks, each with {share} of a batch of {}; {threads} threads on this one",
            config.batch
        ));
    }
    // What is computed at once is as much as in one process with so many more parts.
    let own = RunConfig { accumulate: config.accumulate * together.ranks(), ..config.clone() };
    let fits = |memory: &TrainingMemory| {
        let free = available().map(|bytes| bytes / ranks.on_machine as u64);
        match preflight::training_refusal(memory, config.batch, free) {
            Some(refusal) if check == Check::Refuse => bail!("{refusal}"),
            _ => Ok(()),
        }
    };
    // Schedulers send their signal more than once: a second one must not keep the first from saving.
    let stop = || {
        if !INTERRUPTED.swap(true, Ordering::Relaxed) {
            note("the step at hand is ended, then the run is saved and stops");
        }
    };
    ctrlc::set_handler(stop).context("cannot listen for Ctrl-C")?;
    let context = RunContext { out: &place.out, device, interrupted: &INTERRUPTED, ranks: together };
    let progress = together.writes().then(|| TrainingProgress::new(config.steps, config.log.every));
    let trainer = if place.resume {
        fits(&memory_of_run(&place.out, &own, &objective, device)?)?;
        let on_change = if place.force { OnChange::Accept } else { OnChange::Refuse };
        Trainer::resume(config, objective, context, on_change, &mut |event| show(progress.as_ref(), event))?
    } else if !together.writes() {
        Trainer::join(config, objective, context)?
    } else {
        check_fresh(&place.out)?;
        let model = fresh()?;
        fits(&Plan::of(&own, &objective, &model).memory)?;
        Trainer::start(config, objective, model, context)?
    };
    let ending = trainer.run(&mut |event| show(progress.as_ref(), event))?;
    drop(progress);
    match ending {
        Ending::Complete => output::print(&format!("done: {}", everything(&place.out))),
        Ending::Interrupted => {
            output::print(&format!(
                "interrupted after a whole step and saved; go on with the same command and --resume: {}",
                everything(&place.out)
            ))?;
            Err(failure::Interrupted.into())
        }
    }
}

/// Where all that a run leaves is.
fn everything(out: &Path) -> String {
    format!(
        "{} (the averaged weights); samples/, journal.jsonl and checkpoints/ beside it; curves with \
         `semanticist runs {out} --plot losses.svg` or `tensorboard --logdir {out}`",
        out.join("model.safetensors").display(),
        out = out.display(),
    )
}

/// Says what happens; without a progress, only what this rank alone has to say.
fn show(progress: Option<&TrainingProgress>, event: Event) {
    let Some(progress) = progress else {
        if let Event::Note(text) = event {
            note_of_rank(&text);
        }
        return;
    };
    match event {
        Event::Stepped { record, .. } => progress.step(record),
        Event::Validated { step, summary } => progress.say(&format!("step {step}: {summary}")),
        Event::Saved(path) => progress.say(&format!("saved {}", path.display())),
        Event::Note(text) => progress.say(&text),
    }
}
