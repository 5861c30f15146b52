//! `semanticist models list`: what can be used by name, and where it is.

use std::path::Path;

use anyhow::Result;
use semanticist::model::shapes;
use semanticist::{ModelFile, TokenizerConfig, presets};
use semanticist_hub::{Cached, Hub, KNOWN, Kind, Known, builtin};
use serde::Serialize;

use super::choice::builtin_tokenizer;
use crate::args::ModelsList;
use crate::output;

#[derive(Serialize)]
struct Entry {
    /// What --model takes.
    name: String,
    kind: &'static str,
    place: Place,
    /// Of the file; of one that is not here, in 32 bits by its number of weights, if that is known.
    bytes: Option<u64>,
    licence: &'static str,
    about: String,
    source: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    #[serde(rename = "box")]
    Builtin,
    Cache,
    Hub,
}

pub fn run(request: &ModelsList) -> Result<()> {
    let hub = Hub::from_env()?;
    let known = KNOWN.iter().map(|known| published(&hub, known)).collect::<Result<Vec<_>>>()?;
    let others = hub.cache().files().into_iter().filter_map(|cached| own(&cached));
    let entries: Vec<Entry> =
        [builtin_entry()?, builtin_generator_entry()].into_iter().chain(known).chain(others).collect();
    if request.json {
        return output::print_json(&entries);
    }
    output::print(&table(&entries, hub.cache().folder()))
}

fn builtin_entry() -> Result<Entry> {
    let about = about(builtin_tokenizer()?.config());
    Ok(Entry {
        name: builtin::TOKENIZER.name.into(),
        kind: "tokenizer",
        place: Place::Builtin,
        bytes: Some(builtin::TOKENIZER.bytes.len() as u64),
        licence: "research only",
        about,
        source: None,
    })
}

fn builtin_generator_entry() -> Entry {
    Entry {
        name: builtin::GENERATOR.name.into(),
        kind: "generator",
        place: Place::Builtin,
        bytes: Some(builtin::GENERATOR.bytes.len() as u64),
        licence: "research only",
        about: "8 tokens of 100 classes, what `generate` uses by default".into(),
        source: None,
    }
}

fn published(hub: &Hub, known: &Known) -> Result<Entry> {
    let remote = known.remote();
    let cached = hub.cache().find(&remote);
    let size = |path: &Path| std::fs::metadata(path).ok().map(|found| found.len());
    let (kind, expected) = match known.kind {
        Kind::Tokenizer { preset, .. } => ("tokenizer", Some(networks(preset)?)),
        Kind::Autoencoder { preset } => ("autoencoder", Some(autoencoder(preset)?)),
        Kind::Generator { .. } => ("generator", None),
    };
    Ok(Entry {
        name: known.name.into(),
        kind,
        place: if cached.is_some() { Place::Cache } else { Place::Hub },
        bytes: cached.as_deref().and_then(size).or(expected),
        licence: known.licence,
        about: known.about.into(),
        source: Some(remote.to_string()),
    })
}

/// What a published tokenizer holds in 32 bits; the autoencoder is not part of it.
fn networks(preset: &str) -> Result<u64> {
    let shapes = shapes(&presets::tokenizer(preset)?)?;
    Ok(bytes(shapes.iter().filter(|(name, _)| !name.starts_with("autoencoder.")).map(|(_, shape)| shape)))
}

fn autoencoder(preset: &str) -> Result<u64> {
    let config = semanticist::autoencoder::AutoencoderConfig::preset(preset)?;
    Ok(bytes(config.shapes(&burn::tensor::Device::flex()).values()))
}

fn bytes<'a>(shapes: impl Iterator<Item = &'a Vec<usize>>) -> u64 {
    shapes.map(|shape| shape.iter().product::<usize>() * size_of::<f32>()).sum::<usize>() as u64
}

/// One of our own files in the cache, which says itself what it holds.
fn own(cached: &Cached) -> Option<Entry> {
    if cached.path.extension()? != "safetensors" {
        return None;
    }
    let file = ModelFile::open(&cached.path).ok()?;
    Some(Entry {
        name: cached.remote.to_string(),
        kind: file.kind().name(),
        place: Place::Cache,
        bytes: std::fs::metadata(&cached.path).ok().map(|found| found.len()),
        licence: "unknown",
        about: match &file {
            ModelFile::Tokenizer(file) => about(file.config()),
            ModelFile::Generator(file) => {
                format!("{} tokens of {} classes", file.config().tokens, file.config().classes)
            }
            ModelFile::Autoencoder(file) => format!("{} channels", file.config().channels()),
            ModelFile::Classifier(file) => {
                format!("{0}×{0} pixels, {1} classes", file.config().image_size, file.config().classes)
            }
        },
        source: Some(cached.remote.to_string()),
    })
}

fn about(config: &TokenizerConfig) -> String {
    let TokenizerConfig { image_size, tokens, token_dim, .. } = config;
    format!("{image_size}×{image_size} pixels, {tokens} tokens of {token_dim}")
}

fn table(entries: &[Entry], cache: &Path) -> String {
    let names = entries.iter().map(|entry| entry.name.chars().count()).max().unwrap_or(0);
    let mut text = format!("{:<names$}  kind         where     size       licence        what\n", "name");
    for Entry { name, kind, place, bytes, licence, about, .. } in entries {
        let place = match place {
            Place::Builtin => "built in",
            Place::Cache => "cache",
            Place::Hub => "hub",
        };
        let size = match bytes {
            Some(bytes) if place == "hub" => format!("~{:.0} MB", *bytes as f64 / 1e6),
            Some(bytes) => format!("{:.0} MB", *bytes as f64 / 1e6),
            None => "unknown".into(),
        };
        text += &format!("{name:<names$}  {kind:<11}  {place:<8}  {size:<9}  {licence:<13}  {about}\n");
    }
    text += &format!(
        "\nThe cache is {}. What is on the hub is fetched when it is first used, or by\n`semanticist models \
         pull NAME`; ~ is its size in 32 bits, by its number of weights.",
        cache.display()
    );
    text
}
