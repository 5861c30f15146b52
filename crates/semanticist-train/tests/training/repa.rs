//! Alignment with a teacher: it is refused where it cannot be done, and resumes exactly.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use semanticist::classifier::ClassifierNetwork;
use semanticist::model::ClassifierModel;
use semanticist::nn::BlockSize;
use semanticist::weights::Precision;
use semanticist::{Classifier, ClassifierConfig, Noise};
use semanticist_data::{Source, Split};
use semanticist_train::plan::Plan;
use semanticist_train::trainer::Ending;

use super::{CONFIG, Repa, RunConfig, TokenizerObjective, autoencoder, untrained};
use super::{interrupted_and_not, journal, photos, run};

fn classifier_config() -> ClassifierConfig {
    ClassifierConfig {
        image_size: 8,
        classes: 2,
        patch_size: 4,
        blocks: BlockSize { width: 16, depth: 1, heads: 2, mlp_ratio: 2 },
        drop_path: 0.0,
    }
}

/// A classifier of 8×8 pixels with random weights, as a file.
fn classifier(path: &Path, seed: u64) {
    let config = classifier_config();
    let network = ClassifierNetwork::init(&config, &mut Noise::seeded(seed), &Device::flex()).unwrap();
    let classifier = Classifier { config, network };
    ClassifierModel { classifier, classes: vec![], training: None }.save(path, Precision::F32).unwrap();
}

#[test]
fn alignment_needs_its_teacher_and_goes_on_with_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let (data, out, path) =
        (temp.path().join("data"), temp.path().join("run"), temp.path().join("teacher.safetensors"));
    photos(&data);
    let projector = "model.decoder.repa={layer=1, teacher_width=16, hidden=8}";
    let error = run(&data, &out, &[projector], false).unwrap_err().to_string();
    assert!(error.contains("no teacher") && error.contains("model.decoder.repa = \"off\""), "{error}");
    run(&data, &out, &[projector, "model.decoder.repa=off", "steps=1", "log.validate_every=0"], false)
        .unwrap();

    let teacher = format!("objective.repa.teacher={}", path.display());
    let aligned = [projector, &teacher];
    let refused = |settings: &[&str], resume| run(&data, &out, settings, resume).unwrap_err().to_string();
    assert!(refused(&[&teacher], false).contains("model.decoder.repa is off"));
    assert!(refused(&aligned, false).contains("there is no file"));
    classifier(&path, 1);
    let narrow = "model.decoder.repa.teacher_width=8";
    assert!(refused(&[projector, &teacher, narrow], false).contains("set that to 16"));
    assert!(refused(&[projector, &teacher, "objective.repa.weight=-1"], false).contains("weight = -1"));

    interrupted_and_not(&aligned);
    let out = temp.path().join("aligned");
    assert_eq!(run(&data, &out, &aligned, false).unwrap(), Ending::Interrupted);
    let lines = journal(&out);
    let parts: Vec<f64> = lines.iter().filter_map(|line| line["repa"].as_f64()).collect();
    assert!(parts.len() == 3 && parts.iter().all(|cosine| (-1.0..=1.0).contains(cosine)), "{lines:?}");
    // Another network in its place.
    classifier(&path, 2);
    let error = run(&data, &out, &aligned, true).unwrap_err().to_string();
    assert!(error.contains("the run began with"), "{error}");
}

#[test]
fn the_teacher_takes_memory_and_no_disk() {
    let temp = tempfile::tempdir().unwrap();
    let (data, path) = (temp.path().join("data"), temp.path().join("teacher.safetensors"));
    photos(&data);
    classifier(&path, 1);
    let source = Arc::new(Source::open(&[data], Split::All).unwrap());
    let device = Device::flex();
    let settings = [
        "model.decoder.repa={layer=1, teacher_width=16, hidden=8}".to_string(),
        format!("objective.repa.teacher={}", path.display()),
    ];
    let mut config = RunConfig::parse(CONFIG, &settings).unwrap();
    let teacher = Repa::load_teacher(&mut config, &device).unwrap().unwrap();
    let numbers = teacher.parameters() as u64;
    assert_eq!(
        numbers,
        ClassifierNetwork::init(&classifier_config(), &mut Noise::seeded(1), &device).unwrap().num_params()
            as u64
    );
    let autoencoder = autoencoder::fit(&config, source.clone(), &device, &mut |_| ()).unwrap();
    let model = untrained(&config, autoencoder, &device).unwrap();
    let plan = |teacher| {
        let objective = TokenizerObjective::new(&config, source.clone(), &source, teacher, &device).unwrap();
        Plan::of(&config, &objective, &model)
    };
    let (with, without) = (plan(Some(teacher)), plan(None));
    assert_eq!(with.memory.frozen - without.memory.frozen, 4 * numbers);
    assert_eq!(with.disk, without.disk);
}
