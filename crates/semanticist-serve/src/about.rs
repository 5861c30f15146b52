//! What people are told of the models: `GET /api/models`.

use burn::module::Module;
use semanticist::Tokens;
use semanticist::diffusion::DiffusionConfig;
use semanticist::generator::HeadProcess;
use semanticist::model::TokenizerModel;
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
    let of_drawn = match &studio.generator {
        Some((model, _)) => model.generator.config.decode_options(usual.clone()),
        None => usual.clone(),
    };
    let generator = studio.generator.as_ref().map(|(model, notes)| {
        let config = &model.generator.config;
        json!({
            "notes": notes,
            "tokens": config.tokens,
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
            "generate": GenerateRequest::usual(&of_drawn),
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
        "samplers": match &config.diffusion {
            DiffusionConfig::Gaussian(_) => GAUSSIAN,
            DiffusionConfig::Flow(_) => FLOW,
        },
        "null_tokens": nested(&null_tokens)[0],
        "training": model.training,
    })
}

/// The usual sampler first.
const GAUSSIAN: [&str; 3] = ["ddim", "dpm++", "ddpm"];
const FLOW: [&str; 3] = ["euler", "heun", "sde"];

fn names(names: &[String], count: usize) -> Vec<String> {
    match names {
        [] => (0..count).map(|class| format!("class {class}")).collect(),
        names => names.to_vec(),
    }
}
