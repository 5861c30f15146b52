//! The runs in `configs/`: each can be read, and the paper's have the sizes of their presets.

use std::path::{Path, PathBuf};

use semanticist::diffusion::DiffusionConfig;
use semanticist::generator::GeneratorNetworks;
use semanticist::tokenizer::Networks;
use semanticist::{Device, Noise, TokenizerConfig, presets, weights};
use semanticist_train::config::{RunConfig, read_tokenizer_config};
use semanticist_train::objective::generator::GeneratorRun;
use semanticist_train::objective::tokenizer::TokenizerRun;
use semanticist_train::optimizer::AdamWConfig;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")
}

/// Photos of ImageNet.
const IMAGENET: usize = 1_281_167;

fn read(name: &str) -> RunConfig<TokenizerRun> {
    RunConfig::read_for(&folder().join(name), &[], IMAGENET).unwrap()
}

#[test]
fn every_tokenizer_can_be_read() {
    let names = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    let tokenizers: Vec<&String> = names.iter().filter(|name| name.starts_with("tokenizer-")).collect();
    assert!(tokenizers.len() >= 6, "{names:?}");
    for name in tokenizers {
        let run = read(name);
        assert_eq!(run.model, read_tokenizer_config(&folder().join(name)).unwrap(), "{name}");
    }
}

#[test]
fn the_run_of_gaussian_diffusion_differs_in_its_process_alone() {
    let (flow, gaussian) = (read("tokenizer-tiny.toml"), read("tokenizer-tiny-gaussian.toml"));
    assert!(matches!(gaussian.model.diffusion, DiffusionConfig::Gaussian(_)));
    // And in the sampler of one step, which is another's.
    let (diffusion, decoding) = (flow.model.diffusion.clone(), flow.model.decoding.clone());
    let model = TokenizerConfig { diffusion, decoding, ..gaussian.model.clone() };
    assert_eq!(RunConfig { model, ..gaussian }, flow);
}

/// A run from the built-in tokenizer is refused where the sizes are others.
#[test]
fn runs_that_begin_with_the_built_in_tokenizer_have_its_sizes() {
    let file = folder().join("../models/tokenizer-tiny.safetensors");
    let metadata = weights::load(&file).unwrap().1;
    let built_in: TokenizerConfig = serde_json::from_str(&metadata["config"]).unwrap();
    for name in ["tokenizer-tiny-refined.toml", "tokenizer-tiny-few-steps.toml"] {
        // How it is decoded is the run's to say, and samplers are fitted to what has learnt.
        let TokenizerConfig { decoding, fitted_samplers, .. } = built_in.clone();
        let model = TokenizerConfig { decoding, fitted_samplers, ..read(name).model };
        assert_eq!(model, built_in, "{name}");
    }
}

#[test]
fn the_papers_runs_train_its_presets() {
    for size in ["b", "l", "xl"] {
        for variant in ["", "-published"] {
            let run = read(&format!("tokenizer-{size}{variant}.toml"));
            let preset = presets::tokenizer(&format!("{size}-256x16{variant}")).unwrap();
            assert_eq!(run.model, preset, "{size}{variant}");
            let rate = |step| run.learning_rate.at(step, run.steps) / run.learning_rate.peak;
            assert!((run.learning_rate.peak - 2.5e-5 * run.batch as f64 / 256.0).abs() < 1e-12);
            assert!((rate(run.steps / 4) - 1.0).abs() < 1e-9, "the warm-up is a quarter of the run");
            assert_eq!((run.batch, run.ema, run.data.flip), (2048, 0.999, 0.5));
            let epochs = |steps: u64| steps as f64 * run.batch as f64 / IMAGENET as f64;
            let nested = run.objective.nested_guidance.from_step;
            assert!((epochs(run.steps) - 400.0).abs() < 0.5 && (epochs(nested) - 50.0).abs() < 0.1);
            let AdamWConfig { beta1, beta2, clip_norm, .. } = run.optimizer;
            assert_eq!((beta1, beta2, clip_norm), (0.9, 0.95, 3.0));
            let last = if variant.is_empty() { 0.0 } else { 0.146 };
            assert!((rate(run.steps) - last).abs() < 1e-3, "{size}{variant} ends at {}", rate(run.steps));
        }
    }
}

#[test]
fn the_papers_generators_train_its_presets() {
    for size in ["b", "l", "xl"] {
        let path = folder().join(format!("generator-{size}.toml"));
        let run = RunConfig::<GeneratorRun>::read_for(&path, &[], IMAGENET).unwrap();
        assert_eq!(run.model, presets::generator(&format!("gpt-{size}")).unwrap(), "{size}");
        assert_eq!((run.batch, run.ema, run.learning_rate.peak), (2048, 0.999, 1e-4 * 2048.0 / 256.0));
        assert_eq!((run.optimizer.weight_decay, run.optimizer.clip_norm), (0.05, 1.0));
        let rate = |step| run.learning_rate.at(step, run.steps) / run.learning_rate.peak;
        assert!(
            (rate(run.steps / 8) - 0.5).abs() < 1e-3 && rate(run.steps / 4) == 1.0 && rate(run.steps) == 1.0
        );
    }
}

/// Millions of numbers that learn, to 0.1.
fn millions<M: burn::module::Module>(networks: &M) -> f64 {
    let shapes = weights::shapes(networks, "");
    let count: usize = shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
    (count as f64 / 1e5).round() / 10.0
}

#[test]
fn the_papers_runs_have_as_many_parameters_as_is_said() {
    let device = Device::flex();
    let tokenizers = ["b", "l", "xl"].map(|size| {
        let run = read(&format!("tokenizer-{size}.toml"));
        millions(&Networks::init(&run.model, &mut Noise::seeded(0), &device).unwrap())
    });
    let generators = ["b", "l", "xl"].map(|size| {
        let model = presets::generator(&format!("gpt-{size}")).unwrap();
        millions(&GeneratorNetworks::init(&model, &mut Noise::seeded(0), &device).unwrap())
    });
    assert_eq!(tokenizers, [223.3, 551.1, 768.3]);
    assert_eq!(generators, [264.5, 488.6, 912.4]);
}
