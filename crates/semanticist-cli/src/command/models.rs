//! `semanticist models`: what a model file holds.

use std::fmt::Write;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::Device;
use semanticist::{Model, TokenizerConfig};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{ModelChoice, ModelsExport, ModelsImport, ModelsInfo};
use crate::{boxed, failure, output};

#[derive(Serialize)]
struct Info {
    file: String,
    bytes: u64,
    hash: String,
    config: TokenizerConfig,
    parameters: Parameters,
    /// How it came to be, if the file says so.
    training: Option<Value>,
}

/// How many numbers each part has.
#[derive(Serialize)]
struct Parameters {
    encoder: usize,
    decoder: usize,
    autoencoder: usize,
    total: usize,
}

pub fn info(request: &ModelsInfo) -> Result<()> {
    let choice = ModelChoice { model: request.file.clone(), published: request.published.clone() };
    let model = choice.load(&Device::flex())?;
    let (file, bytes) = match &request.file {
        Some(path) => (path.display().to_string(), std::fs::metadata(path)?.len()),
        None => (boxed::MODEL_NAME.to_string(), boxed::model_bytes() as u64),
    };
    let parameters = parameters(&model);
    let hash = model.hash()?.to_string();
    let Model { tokenizer, training, .. } = model;
    let info = Info { file, bytes, hash, config: tokenizer.config, parameters, training };
    if request.json { output::print_json(&info) } else { output::print(&text(&info)?) }
}

pub fn import(request: &ModelsImport) -> Result<()> {
    output::check_file(&request.output)?;
    if request.published.config.is_none() && request.published.preset.is_none() {
        return Err(failure::usage("say what the checkpoint holds, with --preset NAME or --config TOML"));
    }
    let choice = ModelChoice { model: Some(request.file.clone()), published: request.published.clone() };
    let model = choice.load(&Device::flex())?;
    let history = json!({ "imported_from": request.file.display().to_string() });
    model.tokenizer.save(&request.output, Some(&history), request.precision.into())?;
    output::print(&format!("done: {}", request.output.display()))
}

pub fn export(request: &ModelsExport) -> Result<()> {
    output::check_file(&request.output)?;
    let model = match &request.file {
        Some(path) => Model::load(path, None, &Device::flex())?,
        None => boxed::model(&Device::flex())?,
    };
    model.tokenizer.export_published(&request.output, request.precision.into())?;
    output::print(&format!("done: {}", request.output.display()))
}

fn parameters(model: &Model) -> Parameters {
    let networks = &model.tokenizer.networks;
    let (encoder, decoder) = (networks.encoder.num_params(), networks.decoder.num_params());
    let autoencoder = model.tokenizer.autoencoder.num_params();
    Parameters { encoder, decoder, autoencoder, total: encoder + decoder + autoencoder }
}

fn text(info: &Info) -> Result<String> {
    let mut text = format!("{}\n\n", info.file);
    let Parameters { encoder, decoder, autoencoder, total } = info.parameters;
    let TokenizerConfig { image_size, tokens, token_dim, .. } = info.config;
    writeln!(text, "size         {}", mebibytes(info.bytes))?;
    writeln!(text, "hash         {}", info.hash)?;
    writeln!(text, "images       {image_size} × {image_size} pixels")?;
    writeln!(text, "tokens       {tokens} × {token_dim} numbers")?;
    writeln!(text, "parameters   {}", grouped(total))?;
    for (part, count) in [("encoder", encoder), ("decoder", decoder), ("autoencoder", autoencoder)] {
        writeln!(text, "  {part:<12}{:>12}", grouped(count))?;
    }
    writeln!(text, "\nconfiguration")?;
    tree(&mut text, &serde_json::to_value(&info.config)?, 1)?;
    match &info.training {
        Some(training) => {
            writeln!(text, "\ntraining")?;
            tree(&mut text, training, 1)?;
        }
        None => writeln!(text, "\ntraining     not recorded in the file")?,
    }
    Ok(text)
}

/// One line per number, indented below the name of its table.
fn tree(text: &mut String, value: &Value, depth: usize) -> std::fmt::Result {
    let indent = "  ".repeat(depth);
    let Value::Object(entries) = value else {
        return writeln!(text, "{indent}{value}");
    };
    for (name, value) in entries {
        match value {
            Value::Object(_) => {
                writeln!(text, "{indent}{name}")?;
                tree(text, value, depth + 1)?;
            }
            Value::String(value) => writeln!(text, "{indent}{name} = {value}")?,
            _ => writeln!(text, "{indent}{name} = {value}")?,
        }
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// `1234567` as `1,234,567`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!([1, 123, 1234, 1_234_567].map(grouped), ["1", "123", "1,234", "1,234,567"]);
    }
}
