//! What people are told of the models: `GET /api/models`.

use burn::module::Module;
use semanticist::diffusion::DiffusionConfig;
use semanticist::generator::{DrawOptions, HeadProcess};
use semanticist::model::TokenizerModel;
use semanticist::{TokenizerConfig, Tokens};
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::{GenerateRequest, ReconstructSettings, nested};
use crate::{Limits, Studio};

/// What is known of a model besides its file.
#[derive(Debug, Clone, Serialize)]
pub struct ModelNotes {
    /// What it is called.
    pub name: String,
    /// What `--model` or `--generator` were told; nothing for the built-in one.
    pub argument: Option<String>,
    /// Its card in Markdown: what it was trained on, and how good it is.
    pub card: Option<String>,
}

/// Everything a client needs to know before it asks for anything.
pub fn describe(studio: &Studio, limits: &Limits) -> Value {
    let tokenizers: Vec<Value> = studio.tokenizers.iter().map(|(model, notes)| about(model, notes)).collect();
    let usual = studio.tokenizers[0].0.tokenizer.config.decode_options();
    let (drawing, of_drawn) = match &studio.generator.as_ref().map(|(model, _)| &model.generator.config) {
        Some(config) => (config.draw_options(), config.decode_options(usual.clone())),
        None => (DrawOptions::default(), usual.clone()),
    };
    let generator = studio.generator.as_ref().map(|(model, notes)| {
        let config = &model.generator.config;
        json!({
            "notes": notes,
            "tokens": config.tokens,
            "drawn_tokens": config.usual_tokens(),
            "token_dim": config.token_dim,
            "parameters": model.generator.networks.num_params(),
            "classes": names(&model.classes, config.classes),
            "samplers": match config.head.process {
                HeadProcess::Flow => FLOW,
                HeadProcess::Ddpm => GAUSSIAN,
            },
            "sampler": config.head.process.default_sampler(),
            "training": model.training,
        })
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "tokenizers": tokenizers,
        "generator": generator,
        "samples": studio.samples.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "defaults": {
            "reconstruct": ReconstructSettings::usual(&usual),
            "generate": GenerateRequest::usual(drawing, &of_drawn),
        },
        "limits": {
            "body_bytes": limits.body,
            "decoded_bytes": limits.decoded,
            "pictures": limits.pictures,
            "steps": limits.steps,
            "seconds": limits.job_time.as_secs(),
        },
    })
}

fn about(model: &TokenizerModel, notes: &ModelNotes) -> Value {
    let tokenizer = &model.tokenizer;
    let config = &tokenizer.config;
    let null_tokens = Tokens(tokenizer.networks.decoder.null_tokens.val());
    json!({
        "notes": notes,
        "image_size": config.image_size,
        "tokens": config.tokens,
        "token_dim": config.token_dim,
        "parameters": tokenizer.networks.num_params(),
        "samplers": decoder_samplers(config),
        "null_tokens": nested(&null_tokens)[0],
        "training": model.training,
    })
}

const GAUSSIAN: &[&str] = &["ddim", "dpm++", "ddpm"];
const FLOW: &[&str] = &["ab2", "euler", "heun", "sde"];

/// The usual one first, and last the one that takes only the steps that it was fitted in.
fn decoder_samplers(config: &TokenizerConfig) -> Vec<&'static str> {
    let mut samplers = match config.diffusion {
        DiffusionConfig::Gaussian(_) => GAUSSIAN.to_vec(),
        DiffusionConfig::Flow(_) => FLOW.to_vec(),
    };
    let usual = config.process().map(|process| process.default_sampler().to_string());
    samplers.sort_by_key(|&name| !usual.as_ref().is_ok_and(|usual| usual == name));
    if !config.fitted_samplers.is_empty() {
        samplers.push("fitted");
    }
    samplers
}

fn names(names: &[String], count: usize) -> Vec<String> {
    match names {
        [] => (0..count).map(|class| format!("class {class}")).collect(),
        names => names.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use semanticist::diffusion::{FittedSampler, FlowConfig, FlowPrediction};
    use semanticist::presets;

    use super::*;

    #[test]
    fn samplers_begin_with_the_usual_one() {
        let published = presets::tokenizer("b-128x32").unwrap();
        let of = |prediction, fitted_samplers| {
            let diffusion = DiffusionConfig::Flow(FlowConfig { prediction, ..FlowConfig::default() });
            decoder_samplers(&TokenizerConfig { diffusion, fitted_samplers, ..published.clone() })
        };
        assert_eq!(of(FlowPrediction::Velocity, Vec::new()), ["ab2", "euler", "heun", "sde"]);
        assert_eq!(of(FlowPrediction::AverageVelocity, Vec::new()), ["euler", "ab2", "heun", "sde"]);
        let euler = FittedSampler { guidance: 1.0, times: vec![0.0], weights: vec![vec![1.0, 1.0]] };
        assert_eq!(of(FlowPrediction::Velocity, vec![euler]), ["ab2", "euler", "heun", "sde", "fitted"]);
    }
}
