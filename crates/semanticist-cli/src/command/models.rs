//! `semanticist models`: what a model file holds.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use burn::tensor::Device;
use semanticist::model::{AutoencoderFile, Memory, TokenizerFile, Work, shapes};
use semanticist::{ModelFile, Precision, TokenizerConfig};
use semanticist_hub::{Known, builtin};
use serde::Serialize;
use serde_json::{Value, json};

use super::preflight::{self, gibibytes};
use super::{classifiers, generators};
use crate::args::{ModelChoice, ModelsEdit, ModelsExport, ModelsImport, ModelsInfo, PublishedChoice};
use crate::memory::available;
use crate::{failure, output};

#[derive(Serialize)]
struct Info {
    file: String,
    bytes: u64,
    /// None of a model that this machine cannot load.
    hash: Option<String>,
    config: TokenizerConfig,
    parameters: Parameters,
    /// What it takes of memory, in bytes.
    memory: Memory,
    /// What this machine has left, in bytes, if that is known.
    available: Option<u64>,
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
    let choice = ModelChoice::of(request.file.clone(), &request.published);
    match choice.open_any()? {
        ModelFile::Tokenizer(file) => tokenizer(*file, request.json),
        ModelFile::Generator(file) => generators::info(file, request.json),
        ModelFile::Autoencoder(file) => autoencoder(&file, request.json),
        ModelFile::Classifier(file) => classifiers::info(file, request.json),
    }
}

fn autoencoder(file: &AutoencoderFile, as_json: bool) -> Result<()> {
    let (name, bytes) = size(file.path(), "")?;
    let shapes = file.config().shapes(&Device::flex());
    let parameters = shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
    let (config, training) = (serde_json::to_value(file.config())?, file.training()?);
    if as_json {
        return output::print_json(&json!({
            "file": name, "bytes": bytes, "kind": "autoencoder", "config": config,
            "parameters": { "total": parameters }, "training": training,
        }));
    }
    let mut text = format!("{name}\n\n");
    writeln!(text, "size         {}", mebibytes(bytes))?;
    writeln!(text, "kind         autoencoder")?;
    writeln!(text, "parameters   {}", grouped(parameters))?;
    writeln!(text, "\nconfiguration")?;
    tree(&mut text, &config, 1)?;
    history(&mut text, training.as_ref())?;
    output::print(&text)
}

/// What to call a file, and its size in bytes.
pub fn size(path: Option<&Path>, builtin: &str) -> Result<(String, u64)> {
    Ok(match path {
        Some(path) => (path.display().to_string(), std::fs::metadata(path)?.len()),
        None => {
            let found = builtin::ALL.into_iter().find(|known| known.name == builtin);
            (format!("{builtin} (built in)"), found.map_or(0, |found| found.bytes.len() as u64))
        }
    })
}

/// The names of a model's classes, if it has any.
pub fn classes(text: &mut String, names: &[String]) -> std::fmt::Result {
    if !names.is_empty() {
        writeln!(text, "\nclasses")?;
    }
    names.iter().enumerate().try_for_each(|(number, name)| writeln!(text, "  {number:>4}  {name}"))
}

/// How a model came to be, if its file says so.
pub fn history(text: &mut String, training: Option<&Value>) -> std::fmt::Result {
    match training {
        Some(training) => {
            writeln!(text, "\ntraining")?;
            tree(text, training, 1)
        }
        None => writeln!(text, "\ntraining     not recorded in the file"),
    }
}

fn tokenizer(file: TokenizerFile, as_json: bool) -> Result<()> {
    let (name, bytes) = size(file.path(), builtin::TOKENIZER.name)?;
    let (memory, parameters) = (file.memory()?, parameters(file.config())?);
    let (training, mut config) = (file.training()?, file.config().clone());
    let hash = match preflight::check(&memory, Work::default()) {
        Ok(()) => {
            // Only what can be loaded holds the weights of a model.
            let model = file.load(&Device::flex())?;
            config = model.tokenizer.config.clone();
            Some(model.hash()?.to_string())
        }
        Err(refusal) => {
            output::note(&format!("not loaded, and so not checked: {refusal}"));
            None
        }
    };
    let info = Info { file: name, bytes, hash, config, parameters, memory, available: available(), training };
    if as_json { output::print_json(&info) } else { output::print(&text(&info)?) }
}

pub fn import(request: &ModelsImport) -> Result<()> {
    output::check_file(&request.output)?;
    if let Some(done) = generators::import(request) {
        return done;
    }
    let known = request.file.to_str().is_some_and(|name| Known::find(name).is_some());
    if !known && request.published.config.is_none() && request.published.preset.is_none() {
        return Err(failure::usage("say what the checkpoint holds, with --preset NAME or --config TOML"));
    }
    let model = ModelChoice::of(Some(request.file.clone()), &request.published).load(&Device::flex())?;
    let history = json!({ "imported_from": request.file.display().to_string() });
    model.tokenizer.save(&request.output, Some(&history), request.store.into())?;
    output::print(&format!("done: {}", request.output.display()))
}

pub fn edit(request: &ModelsEdit) -> Result<()> {
    let ModelsEdit { file, output: path, drawn_tokens, drawing, decoding } = request;
    let asked = decoding.asked();
    let decodes = asked.steps.is_some() || asked.sampler.is_some() || asked.guidance.is_some();
    let draws = drawn_tokens.is_some() || drawing.asked();
    if !decodes && !draws {
        return Err(failure::usage(
            "nothing is asked to be changed; give an option of how tokens are drawn or decoded, such as --decode-steps (see --help)",
        ));
    }
    output::check_file(path)?;
    match ModelChoice::of(Some(file.clone()), &PublishedChoice::default()).open_any()? {
        ModelFile::Tokenizer(_) if draws => {
            return Err(failure::usage(
                "--drawn-tokens and how tokens are drawn are of generators, and the file holds a tokenizer; a tokenizer's \
                 steps, sampler and guidance are --decode-steps, --decode-sampler and --decode-guidance",
            ));
        }
        ModelFile::Tokenizer(file) => {
            let decoding = asked.over(file.config().decode_options());
            file.save_with_decoding(path, decoding)?;
        }
        ModelFile::Generator(file) => {
            let had = file.config().decoding.clone();
            if decodes && had.is_none() && (asked.steps.is_none() || asked.guidance.is_none()) {
                return Err(failure::usage(
                    "the generator's file leaves decoding to the tokenizer so far; give both --decode-steps and --decode-guidance",
                ));
            }
            let decoding = decodes.then(|| asked.over(had.unwrap_or_default()));
            let had = file.config().drawing.clone();
            let drawing = drawing.asked().then(|| drawing.over(had.unwrap_or_default()));
            file.save_with_defaults(path, decoding, *drawn_tokens, drawing)?;
        }
        other @ (ModelFile::Autoencoder(_) | ModelFile::Classifier(_)) => {
            let kind = other.kind();
            return Err(failure::usage(format!(
                "the file holds one {kind}; expected a tokenizer or a generator"
            )));
        }
    }
    output::print(&format!("done: {}", path.display()))
}

pub fn export(request: &ModelsExport) -> Result<()> {
    output::check_file(&request.output)?;
    let choice = ModelChoice::of(request.file.clone(), &PublishedChoice::default());
    let model = match choice.open_any()? {
        ModelFile::Tokenizer(file) => file.load(&Device::flex())?,
        ModelFile::Generator(file) => return generators::export(file, request),
        ModelFile::Autoencoder(_) => {
            return Err(failure::usage(
                "the file holds an autoencoder, which has no published form of its own",
            ));
        }
        ModelFile::Classifier(_) => {
            return Err(failure::usage("the file holds a classifier, which has no published form"));
        }
    };
    model.tokenizer.export_published(&request.output, request.store.into())?;
    output::print(&format!("done: {}", request.output.display()))
}

fn parameters(config: &TokenizerConfig) -> Result<Parameters> {
    let shapes = shapes(config)?;
    let count = |part: &str| -> usize {
        let of_part = shapes.iter().filter(|(name, _)| name.starts_with(part));
        of_part.map(|(_, shape)| shape.iter().product::<usize>()).sum()
    };
    let [encoder, decoder, autoencoder] = ["encoder.", "decoder.", "autoencoder."].map(count);
    Ok(Parameters { encoder, decoder, autoencoder, total: encoder + decoder + autoencoder })
}

fn text(info: &Info) -> Result<String> {
    let mut text = format!("{}\n\n", info.file);
    let Parameters { encoder, decoder, autoencoder, total } = info.parameters;
    let TokenizerConfig { image_size, tokens, token_dim, .. } = info.config;
    writeln!(text, "size         {}", mebibytes(info.bytes))?;
    writeln!(text, "hash         {}", info.hash.as_deref().unwrap_or("not computed"))?;
    writeln!(text, "images       {image_size} × {image_size} pixels")?;
    writeln!(text, "tokens       {tokens} × {token_dim} numbers")?;
    writeln!(text, "parameters   {}", grouped(total))?;
    for (part, count) in [("encoder", encoder), ("decoder", decoder), ("autoencoder", autoencoder)] {
        writeln!(text, "  {part:<12}{:>12}", grouped(count))?;
    }
    let Memory { weights, encode, decode, autoencoder, .. } = info.memory;
    let rounded = info.memory.weights_in(Precision::Bfloat16);
    let (weights, rounded) = (gibibytes(weights), gibibytes(rounded));
    writeln!(text, "memory       {weights} for the weights, {rounded} once they are in bfloat16")?;
    writeln!(text, "  to encode  {} per image of a batch", gibibytes(encode))?;
    let fixed = if autoencoder > 0 { format!(", and {}", gibibytes(autoencoder)) } else { String::new() };
    writeln!(text, "  to decode  {} per image of a batch, twice with guidance{fixed}", gibibytes(decode))?;
    if let Some(available) = info.available {
        writeln!(text, "  free       {}", gibibytes(available))?;
    }
    writeln!(text, "\nconfiguration")?;
    tree(&mut text, &serde_json::to_value(&info.config)?, 1)?;
    history(&mut text, info.training.as_ref())?;
    Ok(text)
}

/// One line per number or list of numbers, indented below the name of its table or its place in a list, from 1.
pub fn tree(text: &mut String, value: &Value, depth: usize) -> std::fmt::Result {
    let indent = "  ".repeat(depth);
    let entries: Vec<(String, &Value)> = match value {
        Value::Object(entries) => entries.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(parts) => (1..).zip(parts).map(|(place, part)| (place.to_string(), part)).collect(),
        _ => return writeln!(text, "{indent}{value}"),
    };
    for (name, value) in entries {
        let branches = match value {
            Value::Object(_) => true,
            Value::Array(parts) => parts.iter().any(|part| part.is_object() || part.is_array()),
            _ => false,
        };
        match value {
            _ if branches => {
                writeln!(text, "{indent}{name}")?;
                tree(text, value, depth + 1)?;
            }
            Value::String(value) => writeln!(text, "{indent}{name} = {value}")?,
            _ => writeln!(text, "{indent}{name} = {value}")?,
        }
    }
    Ok(())
}

pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: usize) -> String {
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
