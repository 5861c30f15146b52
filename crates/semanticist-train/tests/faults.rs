//! What real runs meet: numbers that are not finite, damaged checkpoints, data that vanishes, two runs in one folder.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use semanticist::image::RgbImage;
use semanticist::{Error, Noise, Result};
use semanticist_data::{Position, Share, Source, Split};
use semanticist_train::changes::OnChange;
use semanticist_train::collective::Alone;
use semanticist_train::lock::RunLock;
use semanticist_train::objective::images::ImageExample;
use semanticist_train::objective::tokenizer::{
    LearningTokenizer, TokenizerObjective, TokenizerRun, untrained,
};
use semanticist_train::objective::{Batches, Loss, Objective, Stage, Validation};
use semanticist_train::trainer::{Ending, Event, RunContext, Trainer};
use semanticist_train::{autoencoder, config};

type RunConfig = config::RunConfig<TokenizerRun>;

const CONFIG: &str = r#"
steps = 6
batch = 2
skips_in_a_row = 2
[model]
image_size = 16
tokens = 4
token_dim = 4
encoder = { patch_size = 4, blocks = { width = 16, depth = 1, heads = 2 } }
decoder = { patch_size = 1, blocks = { width = 16, depth = 1, heads = 2 } }
autoencoder = { kind = "linear", patch_size = 4, channels = 8, whitening = 0.25 }
diffusion = { steps = 1000, schedule = "linear", prediction = "velocity" }
[learning_rate]
peak = 1e-3
warmup_steps = 0
decay = "constant"
[log]
every = 1
checkpoint_every = 3
validate_every = 0
[validation]
images = 2
tokens = [4]
samples = 1
"#;

/// The tokenizer's objective, but for losses that are not finite.
struct Poisoned {
    objective: TokenizerObjective,
    /// Which losses, by the number of those before them.
    poisoned: fn(usize) -> bool,
    asked: Cell<usize>,
}

impl Objective for Poisoned {
    type Kind = TokenizerRun;
    type Model = LearningTokenizer;
    type Example = ImageExample;

    fn examples(&self) -> usize {
        self.objective.examples()
    }

    fn fingerprint(&self) -> Result<String> {
        self.objective.fingerprint()
    }

    fn batches(&self, start: Position, share: Share) -> Box<dyn Batches<Example = ImageExample>> {
        self.objective.batches(start, share)
    }

    fn loss(
        &self,
        model: &LearningTokenizer,
        examples: &[ImageExample],
        step: u64,
        noise: &mut Noise,
    ) -> Loss {
        let loss = self.objective.loss(model, examples, step, noise);
        let number = self.asked.replace(self.asked.get() + 1);
        let factor = if (self.poisoned)(number) { f32::NAN } else { 1.0 };
        Loss { total: loss.total * factor, parts: loss.parts }
    }

    fn validate(&self, average: &LearningTokenizer, sheet: &Path) -> Result<Validation> {
        self.objective.validate(average, sheet)
    }

    fn publish(
        &self,
        average: &LearningTokenizer,
        path: &Path,
        history: &serde_json::Value,
        stage: Stage,
    ) -> Result<()> {
        self.objective.publish(average, path, history, stage)
    }
}

/// A folder of images, and what is to happen in a run.
struct Setting {
    folder: tempfile::TempDir,
    poisoned: fn(usize) -> bool,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("photos")).unwrap();
        for seed in 0..40u32 {
            let picture = RgbImage::from_fn(16, 16, |x, y| {
                image::Rgb([(x * 16) as u8, (y * seed) as u8, (x * y) as u8])
            });
            picture.save(folder.path().join(format!("photos/{seed:02}.png"))).unwrap();
        }
        Self { folder, poisoned: |_| false }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Starts or goes on with the run of that name; `watch` sees all that is told.
    fn run(
        &self,
        out: &str,
        settings: &[&str],
        resume: bool,
        watch: &mut dyn FnMut(&Event),
    ) -> Result<Ending> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let config = RunConfig::parse(CONFIG, &settings)?;
        let source = Arc::new(Source::open(&[self.path("photos")], Split::All)?);
        let (device, interrupted, out) = (Device::flex(), AtomicBool::new(false), self.path(out));
        let objective = TokenizerObjective::new(&config, source.clone(), &source, None, &device)?;
        let objective = Poisoned { objective, poisoned: self.poisoned, asked: Cell::new(0) };
        let context = RunContext { out: &out, device: &device, interrupted: &interrupted, ranks: &Alone };
        let trainer = if resume {
            Trainer::resume(config, objective, context, OnChange::Refuse, &mut |event| watch(&event))?
        } else {
            let autoencoder = autoencoder::fit(&config, source, &device, &mut |_| ())?;
            let tokenizer = untrained(&config, autoencoder, &device)?;
            Trainer::start(config, objective, tokenizer, context)?
        };
        trainer.run(&mut |event| watch(&event))
    }

    fn weights(&self, out: &str) -> Vec<u8> {
        fs::read(self.path(out).join("checkpoints/step-00000006/weights.safetensors")).unwrap()
    }
}

#[test]
fn a_batch_without_a_finite_loss_is_left_out_and_counted() {
    let setting = Setting { poisoned: |number| number == 3 || number == 4, ..Setting::new() };
    let mut told = Vec::new();
    let mut watch = |event: &Event| {
        if let Event::Note(text) = event {
            told.push(text.clone());
        }
    };
    assert_eq!(setting.run("run", &[], false, &mut watch).unwrap(), Ending::Complete);
    assert_eq!(told, ["step 4: left out a batch whose loss is NaN"; 2]);
    let journal = fs::read_to_string(setting.path("run/journal.jsonl")).unwrap();
    let skips: Vec<&str> = journal.lines().filter(|line| line.contains("skipped")).collect();
    assert_eq!(skips, [r#"{"step":4,"skipped":"loss","value":"NaN","epoch":0}"#; 2]);
    assert_eq!(journal.lines().count(), 8);
    let state = fs::read_to_string(setting.path("run/checkpoints/step-00000006/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!((&state["skipped"], &state["images"]), (&2.into(), &12.into()));
    // Six batches of two were learnt, and two more passed by.
    assert_eq!(state["position"]["index"], 16);
}

#[test]
fn too_many_such_batches_in_a_row_end_the_run_where_it_was() {
    let setting = Setting { poisoned: |number| number >= 4, ..Setting::new() };
    let error = setting.run("run", &[], false, &mut |_| ()).unwrap_err();
    assert!(matches!(error, Error::RunStopped { step: 4, saved: Some(3), .. }), "{error:?}");
    let text = error.to_string();
    for part in ["3 batches in a row", "skips_in_a_row = 2", "learning_rate.peak", "checkpoint is of step 3"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!setting.path("run/checkpoints/step-00000004").exists());
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let setting = Setting::new();
    setting.run("whole", &[], false, &mut |_| ()).unwrap();
    let last = |name: &str| setting.path("whole/checkpoints/step-00000006").join(name);
    let expected = setting.weights("whole");
    let cut = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, &bytes).unwrap();
    };
    let damages: [&dyn Fn(); 4] = [
        &|| cut(&last("optimizer.safetensors")),
        &|| cut(&last("state.json")),
        // One bit of one number, which no format notices.
        &|| flip(&last("weights.safetensors")),
        &|| fs::remove_file(last("average.safetensors")).unwrap(),
    ];
    for damage in damages {
        damage();
        let mut told = String::new();
        let mut watch = |event: &Event| {
            if let Event::Note(text) = event {
                told += text;
            }
        };
        assert_eq!(setting.run("whole", &[], true, &mut watch).unwrap(), Ending::Complete);
        assert!(told.contains("step-00000006 is damaged and is not used"), "{told}");
        assert!(setting.weights("whole") == expected);
    }
    // If none is whole, the newest is named.
    flip(&last("weights.safetensors"));
    flip(&setting.path("whole/checkpoints/step-00000003/weights.safetensors"));
    let error = setting.run("whole", &[], true, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("step-00000006") && error.contains("its checksum is another"), "{error}");
}

#[test]
fn data_that_vanishes_ends_the_run_with_all_that_was_learnt() {
    let setting = Setting::new();
    let photos = setting.path("photos");
    let mut watch = |event: &Event| {
        if matches!(event, Event::Stepped { record, .. } if record.step == 2) {
            fs::rename(&photos, photos.with_extension("elsewhere")).unwrap();
        }
    };
    let error = setting.run("run", &["steps=100"], false, &mut watch).unwrap_err();
    let Error::RunStopped { step, saved, source, .. } = error else { panic!("{error:?}") };
    assert_eq!(saved, Some(step));
    assert!(source.to_string().contains("more than the 1 %"), "{source}");
    assert!(setting.path(&format!("run/checkpoints/step-{step:08}/weights.safetensors")).is_file());
    // It goes on when they are back.
    fs::rename(photos.with_extension("elsewhere"), &photos).unwrap();
    let mut stepped = 0;
    let mut watch = |event: &Event| {
        if let Event::Stepped { record, .. } = event {
            stepped = stepped.max(record.step);
        }
    };
    assert_eq!(setting.run("run", &["steps=100"], true, &mut watch).unwrap(), Ending::Complete);
    assert_eq!(stepped, 100);
}

#[test]
fn a_folder_in_use_is_refused_to_another_run() {
    let setting = Setting::new();
    setting.run("run", &["steps=1"], false, &mut |_| ()).unwrap();
    let held = RunLock::take(&setting.path("run"), &mut |_| ()).unwrap();
    for resume in [false, true] {
        let error = setting.run("run", &["steps=1"], resume, &mut |_| ()).unwrap_err();
        assert!(
            matches!(&error, Error::RunInUse { holder, .. } if holder.starts_with("process ")),
            "{error}"
        );
    }
    drop(held);
    setting.run("run", &["steps=1"], true, &mut |_| ()).unwrap();
}
