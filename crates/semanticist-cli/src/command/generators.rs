//! `semanticist models` of generators.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::Device;
use semanticist::model::generator::{self, GeneratorModel};
use semanticist::presets;
use serde_json::json;

use super::models::{grouped, mebibytes, tree};
use crate::args::{ModelsExport, ModelsImport};
use crate::output;

/// Whether a file is one of our generators'.
pub fn holds_one(path: &Path) -> bool {
    path.is_file() && generator::is_one(path)
}

pub fn info(path: &Path, as_json: bool) -> Result<()> {
    let model = GeneratorModel::load(path, None, &Device::flex())?;
    let bytes = std::fs::metadata(path)?.len();
    let parameters = model.generator.networks.num_params();
    let config = serde_json::to_value(&model.generator.config)?;
    if as_json {
        return output::print_json(&json!({
            "file": path.display().to_string(),
            "bytes": bytes,
            "kind": "generator",
            "config": config,
            "classes": model.classes,
            "tokenizer": model.tokenizer,
            "parameters": { "total": parameters },
            "training": model.training,
        }));
    }
    let mut text = format!("{}\n\n", path.display());
    writeln!(text, "size         {}", mebibytes(bytes))?;
    writeln!(text, "kind         generator")?;
    writeln!(text, "parameters   {}", grouped(parameters))?;
    writeln!(text, "tokenizer    {}", model.tokenizer.as_deref().unwrap_or("not recorded in the file"))?;
    writeln!(text, "\nconfiguration")?;
    tree(&mut text, &config, 1)?;
    if !model.classes.is_empty() {
        writeln!(text, "\nclasses")?;
        for (number, names) in model.classes.iter().enumerate() {
            writeln!(text, "  {number:>4}  {names}")?;
        }
    }
    match &model.training {
        Some(training) => {
            writeln!(text, "\ntraining")?;
            tree(&mut text, training, 1)?;
        }
        None => writeln!(text, "\ntraining     not recorded in the file")?,
    }
    output::print(&text)
}

/// Makes our file of a published generator, if the preset is one.
pub fn import(request: &ModelsImport) -> Option<Result<()>> {
    let preset = request.published.preset.as_deref()?;
    let config = presets::generator(preset).ok()?;
    let run = || {
        let mut model = GeneratorModel::load(&request.file, Some(&config), &Device::flex())?;
        model.training = Some(json!({ "imported_from": request.file.display().to_string() }));
        model.save(&request.output, request.precision.into())?;
        output::print(&format!("done: {}", request.output.display()))
    };
    Some(run())
}

pub fn export(path: &Path, request: &ModelsExport) -> Result<()> {
    let model = GeneratorModel::load(path, None, &Device::flex())?;
    model.export_published(&request.output, request.precision.into())?;
    output::print(&format!("done: {}", request.output.display()))
}
