use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use semanticist::ModelFile;
use semanticist_data::Split;

use super::*;
use crate::changes::OnChange;
use crate::collective::Alone;
use crate::gradients::Gradients;
use crate::journal::OF_THE_CLOCK;
use crate::trainer::{Ending, Event, RunContext, Trainer};

const CONFIG: &str = r#"
steps = 6
batch = 6
ema = 0.5
[model]
image_size = 8
classes = 3
patch_size = 4
blocks = { width = 32, depth = 2, heads = 2 }
drop_path = 0.1
[learning_rate]
peak = 2e-3
warmup_steps = 2
decay = "constant"
[log]
every = 1
checkpoint_every = 3
validate_every = 3
[validation]
images = 12
"#;

const CLASSES: [&str; 3] = ["fish", "owl", "yak"];

fn config(settings: &[&str]) -> Result<RunConfig<ClassifierRun>> {
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    RunConfig::parse(CONFIG, &settings)
}

/// Four images each of three classes, no two alike: noise, so that only memory tells the classes.
fn photos() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, class) in CLASSES.iter().enumerate() {
        std::fs::create_dir(folder.path().join(class)).unwrap();
        for image in 0..4 {
            let mut noise = Noise::seeded((number * 4 + image) as u64);
            let bytes = noise.uniform(3 * 64).into_iter().map(|v| (v * 255.0) as u8).collect();
            let picture = RgbImage::from_raw(8, 8, bytes).unwrap();
            picture.save(folder.path().join(class).join(format!("{image}.png"))).unwrap();
        }
    }
    folder
}

fn source(folder: &Path) -> Arc<Source> {
    Arc::new(Source::open(&[folder.to_path_buf()], Split::All).unwrap())
}

struct Bench {
    objective: ClassifierObjective,
    model: ClassifierModel,
    /// Removed with the bench.
    folder: tempfile::TempDir,
}

fn bench(settings: &[&str]) -> Bench {
    let (config, folder, device) = (config(settings).unwrap(), photos(), Device::flex());
    let source = source(folder.path());
    let model = untrained(&config, &source, &device).unwrap();
    let objective = ClassifierObjective::new(&config, source.clone(), &source, &device).unwrap();
    Bench { objective, model, folder }
}

fn run(data: &Path, out: &Path, settings: &[&str], resume: bool) -> Result<Ending> {
    let (config, source, device) = (config(settings)?, source(data), Device::flex());
    let interrupted = AtomicBool::new(false);
    let objective = ClassifierObjective::new(&config, source.clone(), &source, &device)?;
    let context = RunContext { out, device: &device, interrupted: &interrupted, ranks: &Alone };
    let trainer = if resume {
        Trainer::resume(config, objective, context, OnChange::Refuse, &mut |_| ())?
    } else {
        Trainer::start(config.clone(), objective, untrained(&config, &source, &device)?, context)?
    };
    trainer.run(&mut |event| {
        if let Event::Saved(path) = event {
            interrupted.store(!resume && path.ends_with("step-00000003"), Ordering::Relaxed);
        }
    })
}

/// The journal without what depends on the clock.
fn journal(out: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(out.join("journal.jsonl")).unwrap();
    let strip = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        for name in OF_THE_CLOCK {
            value.as_object_mut().unwrap().remove(name);
        }
        value
    };
    text.lines().map(strip).collect()
}

#[test]
fn an_untrained_classifier_loses_the_logarithm_of_the_number_of_classes() {
    for settings in [&["objective.mixup=0.4"][..], &["objective.label_smoothing=0"]] {
        let Bench { objective, model, folder: _folder } = bench(settings);
        let (examples, _) = objective.batches(Position::default(), Share::WHOLE).next().unwrap();
        let noise = || Noise::per_sample((0..6).map(Seed::new));
        let loss = objective.loss(&model, &examples, 1, &mut noise()).total.into_scalar::<f32>();
        assert!((loss - 3f32.ln()).abs() < 1e-5, "{loss}");
    }
}

#[test]
fn targets_are_smooth_and_mixed() {
    let objective = bench(&["objective.label_smoothing=0.3"]).objective;
    let targets = objective.targets(&[vec![(1, 1.0)], vec![(0, 0.25), (2, 0.75)], vec![(1, 0.5), (1, 0.5)]]);
    let expected = [0.1, 0.8, 0.1, 0.275, 0.1, 0.625, 0.1, 0.8, 0.1];
    for (found, expected) in targets.into_data().iter::<f32>().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

#[test]
fn a_mixed_batch_in_parts_is_the_batch() {
    let Bench { objective, mut model, folder: _folder } = bench(&["objective.mixup=1", "batch=8"]);
    // A head of 0 lets no gradient through.
    let device = Device::flex().autodiff();
    model.classifier.network.head = semanticist::nn::Linear::init(32, 3, &mut Noise::seeded(5), &device);
    let (examples, _) = objective.batches(Position::default(), Share::WHOLE).next().unwrap();
    let gradient = |range: std::ops::Range<usize>| {
        let mut noise = Noise::per_sample(range.clone().map(|place| Seed::new(place as u64)));
        let loss = objective.loss(&model, &examples[range], 1, &mut noise);
        let gradients = Gradients::collect(model.parameters(), &loss.total.backward());
        gradients.get("patches.weight").unwrap().clone()
    };
    let (whole, parts) = (gradient(0..8), (gradient(0..4) + gradient(4..8)) / 2.0);
    let apart = (whole.clone() - parts).abs().max().into_scalar::<f32>();
    assert!(apart < 1e-5 * whole.abs().max().into_scalar::<f32>(), "{apart}");
}

#[test]
fn it_learns_a_few_images_by_heart_and_knows_the_names_of_their_classes() {
    let (data, out) = (photos(), tempfile::tempdir().unwrap());
    let out = out.path().join("run");
    let whole = ["data.least_area=1", "data.flip=0", "objective.label_smoothing=0", "model.drop_path=0"];
    let long = ["steps=120", "log.checkpoint_every=0", "log.validate_every=60", "batch=12"];
    run(data.path(), &out, &[whole, long].concat(), false).unwrap();
    let last = journal(&out).pop().unwrap();
    assert_eq!((&last["top1"], &last["top5"], &last["images"]), (&json!(1.0), &json!(1.0), &json!(12)));
    assert!(last["validation_cross_entropy"].as_f64().unwrap() < 0.2, "{last}");
    let file = ModelFile::open(&out.join("model.safetensors")).unwrap().into_classifier().unwrap();
    let model = file.load(&Device::flex()).unwrap();
    assert_eq!(model.classes, CLASSES);
    assert_eq!(model.training.unwrap()["steps"], 120);
}

#[test]
fn an_interrupted_run_goes_on_as_if_nothing_had_happened() {
    let data = photos();
    for precision in ["precision=float32", "precision=bfloat16"] {
        let out = tempfile::tempdir().unwrap();
        let [whole, parts] = ["whole", "parts"].map(|name| out.path().join(name));
        let settings = ["objective.mixup=0.5", precision];
        assert_eq!(run(data.path(), &parts, &settings, false).unwrap(), Ending::Interrupted);
        assert_eq!(run(data.path(), &parts, &settings, true).unwrap(), Ending::Complete);
        run(data.path(), &whole, &[&settings[..], &["log.checkpoint_every=0"]].concat(), false).unwrap();
        assert_eq!(journal(&parts), journal(&whole));
        for file in ["weights", "average", "optimizer"] {
            let name = format!("checkpoints/step-00000006/{file}.safetensors");
            let [a, b] = [&parts, &whole].map(|out| std::fs::read(out.join(&name)).unwrap());
            assert!(a == b, "{name} differs");
        }
    }
}

#[test]
fn what_cannot_be_learnt_is_refused() {
    for (setting, part) in [
        ("model.classes=1", "1 classes"),
        ("data.least_area=0", "least_area = 0"),
        ("objective.label_smoothing=1", "label_smoothing = 1"),
        ("objective.mixup=2", "mixup = 2"),
        ("objective={mixup=0.2, label_smothing=0}", "did you mean `label_smoothing`?"),
    ] {
        let error = config(&[setting]).unwrap_err().to_string();
        assert!(error.contains(part), "{setting}: {error}");
    }
    let error = config(&["objective.mixup=0.2", "accumulate=2"]).unwrap_err().to_string();
    assert!(error.contains("3 are computed together"), "{error}");

    let (data, out) = (photos(), tempfile::tempdir().unwrap());
    let refusal = |settings: &[&str], data: PathBuf| {
        run(&data, &out.path().join("run"), settings, false).unwrap_err().to_string()
    };
    let error = refusal(&["model.classes=4"], data.path().to_path_buf());
    assert!(error.contains("3 classes, the configuration 4; change model.classes"), "{error}");
    // A folder of images alone has no classes.
    let error = refusal(&[], data.path().join("owl"));
    assert!(error.contains("has no class; expected folders of class folders"), "{error}");
    assert!(!out.path().join("run").exists());
}
