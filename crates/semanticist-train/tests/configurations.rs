//! The runs in `configs/`: each can be read, and the paper's have the sizes of their presets.

use std::path::{Path, PathBuf};

use semanticist::diffusion::{DiffusionConfig, FlowConfig};
use semanticist::{TokenizerConfig, presets};
use semanticist_train::config::{RunConfig, read_tokenizer_config};
use semanticist_train::objective::tokenizer::TokenizerRun;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")
}

fn read(name: &str) -> RunConfig<TokenizerRun> {
    RunConfig::read(&folder().join(name), &[]).unwrap()
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
fn the_run_of_a_flow_differs_in_its_process_alone() {
    let (gaussian, flow) = (read("tokenizer-tiny.toml"), read("tokenizer-tiny-flow.toml"));
    assert_eq!(flow.model.diffusion, DiffusionConfig::Flow(FlowConfig::default()));
    let model = TokenizerConfig { diffusion: gaussian.model.diffusion.clone(), ..flow.model.clone() };
    assert_eq!(RunConfig { model, ..flow }, gaussian);
}

#[test]
fn the_papers_runs_train_its_presets() {
    for size in ["l", "xl"] {
        for variant in ["", "-published"] {
            let run = read(&format!("tokenizer-{size}{variant}.toml"));
            let preset = presets::tokenizer(&format!("{size}-256x16{variant}")).unwrap();
            assert_eq!(run.model, preset, "{size}{variant}");
            let rate = |step| run.learning_rate.at(step, run.steps) / run.learning_rate.peak;
            assert!((run.learning_rate.peak - 2.5e-5 * run.batch as f64 / 256.0).abs() < 1e-12);
            assert!((rate(run.steps / 4) - 1.0).abs() < 1e-9, "the warm-up is a quarter of the run");
            let last = if variant.is_empty() { 0.0 } else { 0.146 };
            assert!((rate(run.steps) - last).abs() < 1e-3, "{size}{variant} ends at {}", rate(run.steps));
        }
    }
}
