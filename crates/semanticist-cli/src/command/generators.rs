//! `semanticist models` of generators.

use std::fmt::Write;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::Device;
use semanticist::model::{GeneratorFile, GeneratorModel};
use semanticist::presets;
use semanticist_hub::builtin;
use serde_json::json;

use super::models::{classes, grouped, history, mebibytes, size, tree};
use crate::args::{ModelsExport, ModelsImport};
use crate::output;

pub fn info(file: GeneratorFile, as_json: bool) -> Result<()> {
    let (name, bytes) = size(file.path(), builtin::GENERATOR.name)?;
    let model = file.load(&Device::flex())?;
    let parameters = model.generator.networks.num_params();
    let config = serde_json::to_value(&model.generator.config)?;
    if as_json {
        return output::print_json(&json!({
            "file": name,
            "bytes": bytes,
            "kind": "generator",
            "config": config,
            "classes": model.classes,
            "tokenizer": model.tokenizer,
            "parameters": { "total": parameters },
            "training": model.training,
        }));
    }
    let mut text = format!("{name}\n\n");
    writeln!(text, "size         {}", mebibytes(bytes))?;
    writeln!(text, "kind         generator")?;
    writeln!(text, "parameters   {}", grouped(parameters))?;
    writeln!(text, "tokenizer    {}", model.tokenizer.as_deref().unwrap_or("not recorded in the file"))?;
    writeln!(text, "\nconfiguration")?;
    tree(&mut text, &config, 1)?;
    classes(&mut text, &model.classes)?;
    history(&mut text, model.training.as_ref())?;
    output::print(&text)
}

/// Makes our file of a published generator, if the preset is one.
pub fn import(request: &ModelsImport) -> Option<Result<()>> {
    let preset = request.published.preset.as_deref()?;
    let config = presets::generator(preset).ok()?;
    let run = || {
        let mut model = GeneratorModel::published(&request.file, &config, &Device::flex())?;
        model.training = Some(json!({ "imported_from": request.file.display().to_string() }));
        model.save(&request.output, request.store.into())?;
        output::print(&format!("done: {}", request.output.display()))
    };
    Some(run())
}

pub fn export(file: GeneratorFile, request: &ModelsExport) -> Result<()> {
    let model = file.load(&Device::flex())?;
    model.export_published(&request.output, request.store.into())?;
    output::print(&format!("done: {}", request.output.display()))
}
