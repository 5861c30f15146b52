//! Alignment with a teacher: it is refused where it cannot be done, and resumes exactly.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use semanticist::classifier::ClassifierNetwork;
use semanticist::model::ClassifierModel;
use semanticist::nn::BlockSize;
use semanticist::weights::Precision;
use semanticist::{Classifier, ClassifierConfig, Noise, Pixels};
use semanticist_data::features::{FeatureCache, FeatureInfo, FeaturePlan};
use semanticist_data::{Shown, Source, Split, Views};
use semanticist_eval::Teacher;
use semanticist_train::objective::Objective;
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

/// A cache of what the teacher sees of the images in `data` at 16 pixels.
fn cached(data: &Path, teacher: &Path, out: &Path, views: Views, stored: Precision) -> FeatureInfo {
    let source = Source::open(&[data.to_path_buf()], Split::All).unwrap();
    let (device, computed) = (Device::flex(), semanticist::Precision::Float32);
    let teacher = Teacher::load(teacher, 16, computed, &device).unwrap();
    let info = FeatureInfo {
        teacher: teacher.hash().to_string(),
        data: source.fingerprint().unwrap(),
        images: source.len(),
        image_size: 16,
        views,
        positions: 4,
        width: teacher.width(),
        computed,
    };
    std::fs::create_dir(out).unwrap();
    let plan = FeaturePlan::new(info.clone(), stored, None);
    let network = |images: &Pixels| teacher.features(images);
    plan.fill(out, &source, &network, &device, 8, &mut |_| ControlFlow::Continue(())).unwrap();
    info
}

#[test]
fn a_cache_gives_the_losses_of_its_teacher() {
    let temp = tempfile::tempdir().unwrap();
    let [data, path, exact, half] =
        ["data", "teacher.safetensors", "exact", "half"].map(|name| temp.path().join(name));
    photos(&data);
    classifier(&path, 1);
    cached(&data, &path, &exact, Views::Flip, Precision::F32);
    cached(&data, &path, &half, Views::Flip, Precision::F16);
    let losses = |name: &str, place: &Path| -> Vec<f64> {
        let of = format!("objective.repa.{name}={}", place.display());
        let projector = "model.decoder.repa={layer=1, teacher_width=16, hidden=8}";
        let out = temp.path().join(format!("run {}", place.file_name().unwrap().display()));
        let settings = [projector, &of, "data.crop=center", "data.flip=0.5", "log.checkpoint_every=0"];
        run(&data, &out, &settings, false).unwrap();
        journal(&out).iter().filter_map(|line| line["repa"].as_f64()).collect()
    };
    let (seen, exact, half) = (losses("teacher", &path), losses("cache", &exact), losses("cache", &half));
    let apart = |other: &[f64]| seen.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert_eq!([seen.len(), exact.len(), half.len()], [6; 3]);
    assert!(seen.iter().all(|cosine| cosine.abs() < 1.0 && *cosine != 0.0), "{seen:?}");
    // Of six features the batch, and so the order of sums, is another one than when they were cached.
    assert!(apart(&exact) < 1e-6, "{seen:?} {exact:?}");
    // A cosine of features that are each rounded by up to 2^-11.
    assert!((1e-9..3e-4).contains(&apart(&half)), "{seen:?} {half:?}");
}

#[test]
fn mirror_images_have_features_of_their_own() {
    let temp = tempfile::tempdir().unwrap();
    let [data, path, cache] = ["data", "teacher.safetensors", "cache"].map(|name| temp.path().join(name));
    photos(&data);
    classifier(&path, 1);
    cached(&data, &path, &cache, Views::Flip, Precision::F32);
    let cache = FeatureCache::open(&cache).unwrap();
    let [plain, mirrored] = [false, true].map(|mirrored| cache.features(Shown { image: 7, mirrored }));
    // The grid of 2 × 2 features, left and right exchanged, is not what the network sees of the mirror image.
    let exchanged: Vec<f32> = [1, 0, 3, 2].iter().flat_map(|at| plain[at * 16..][..16].to_vec()).collect();
    let apart = |other: &[f32]| mirrored.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart(&plain) > 1e-2 && apart(&exchanged) > 1e-2, "{} {}", apart(&plain), apart(&exchanged));
}

#[test]
fn a_cache_of_other_things_is_refused_and_another_one_noticed() {
    let temp = tempfile::tempdir().unwrap();
    let place = |name: &str| temp.path().join(name);
    let (data, path, out) = (place("data"), place("teacher.safetensors"), place("run"));
    photos(&data);
    classifier(&path, 1);
    cached(&data, &path, &place("center"), Views::Center, Precision::F32);
    cached(&data, &path, &place("flip"), Views::Flip, Precision::F32);
    let projector = "model.decoder.repa={layer=1, teacher_width=16, hidden=8}";
    let of = |cache: &str| format!("objective.repa.cache={}", place(cache).display());
    let try_with = |settings: &[&str], resume| {
        run(&data, &out, &[&[projector], settings].concat(), resume).map_err(|error| error.to_string())
    };
    let teacher = format!("objective.repa.teacher={}", path.display());
    let refused = |settings: &[&str]| try_with(settings, false).unwrap_err();
    assert!(refused(&[&of("flip")]).contains("data.crop = \"center\""));
    assert!(refused(&[&of("flip"), &teacher, "data.crop=center"]).contains("leave one of them out"));
    assert!(refused(&[&of("absent"), "data.crop=center"]).contains("absent"));
    assert!(refused(&[&of("center"), "data.crop=center"]).contains("--views flip"));
    let narrow = "model.decoder.repa.teacher_width=8";
    assert!(refused(&[&of("flip"), "data.crop=center", narrow]).contains("set that to 16"));

    let center = [&*of("center"), "data.crop=center", "data.flip=0"];
    assert_eq!(try_with(&center, false).unwrap(), Ending::Interrupted);
    // The same teacher, but other features: at its place, or elsewhere.
    let error = try_with(&[&of("flip"), "data.crop=center", "data.flip=0"], true).unwrap_err();
    assert!(error.contains("objective.repa.cache") && error.contains("features 40:"), "{error}");
    std::fs::remove_dir_all(place("center")).unwrap();
    cached(&data, &path, &place("center"), Views::Center, Precision::F16);
    let error = try_with(&center, true).unwrap_err();
    assert!(error.contains("the data (number of examples and fingerprint)"), "{error}");
    std::fs::remove_dir_all(place("center")).unwrap();
    cached(&data, &path, &place("center"), Views::Center, Precision::F32);
    assert_eq!(try_with(&center, true).unwrap(), Ending::Complete);
    std::fs::remove_dir_all(place("center")).unwrap();
    classifier(&path, 2);
    cached(&data, &path, &place("center"), Views::Center, Precision::F32);
    assert!(try_with(&center, true).unwrap_err().contains("the run began with"));
}

#[test]
fn a_cache_takes_no_memory_for_a_teacher() {
    let temp = tempfile::tempdir().unwrap();
    let [data, path, cache] = ["data", "teacher.safetensors", "cache"].map(|name| temp.path().join(name));
    photos(&data);
    classifier(&path, 1);
    cached(&data, &path, &cache, Views::Flip, Precision::F16);
    let source = Arc::new(Source::open(&[data], Split::All).unwrap());
    let device = Device::flex();
    let teacher_bytes = |setting: String| {
        let projector = "model.decoder.repa={layer=1, teacher_width=16, hidden=8}".to_string();
        let mut config = RunConfig::parse(CONFIG, &[projector, setting, "data.crop=center".into()]).unwrap();
        let features = Repa::load_teacher(&mut config, &device).unwrap();
        TokenizerObjective::new(&config, source.clone(), &source, features, &device).unwrap().teacher_bytes()
    };
    assert!(teacher_bytes(format!("objective.repa.teacher={}", path.display())) > 0);
    assert_eq!(teacher_bytes(format!("objective.repa.cache={}", cache.display())), 0);
}
