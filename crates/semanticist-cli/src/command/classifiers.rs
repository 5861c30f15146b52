//! `semanticist models` of classifiers.

use std::fmt::Write;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::Device;
use semanticist::model::ClassifierFile;
use serde_json::json;

use super::models::{classes, grouped, history, mebibytes, size, tree};
use crate::output;

pub fn info(file: ClassifierFile, as_json: bool) -> Result<()> {
    let (name, bytes) = size(file.path(), "")?;
    let hash = file.hash()?;
    let model = file.load(&Device::flex())?;
    let parameters = model.classifier.network.num_params();
    let config = serde_json::to_value(&model.classifier.config)?;
    if as_json {
        return output::print_json(&json!({
            "file": name,
            "bytes": bytes,
            "kind": "classifier",
            "hash": hash,
            "config": config,
            "classes": model.classes,
            "parameters": { "total": parameters },
            "training": model.training,
        }));
    }
    let mut text = format!("{name}\n\n");
    writeln!(text, "size         {}", mebibytes(bytes))?;
    writeln!(text, "kind         classifier")?;
    writeln!(text, "hash         {hash}")?;
    writeln!(text, "parameters   {}", grouped(parameters))?;
    writeln!(text, "\nconfiguration")?;
    tree(&mut text, &config, 1)?;
    classes(&mut text, &model.classes)?;
    history(&mut text, model.training.as_ref())?;
    output::print(&text)
}
