//! The picture in ARCHITECTURE.md as a checked fact: which module may name which, and how long a
//! file may be. It sees `use crate::…` lines only, hence the rule to import what is used.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the library and those they may use besides `error`.
const LIBRARY: &[(&str, &[&str])] = &[
    ("device", &[]),
    ("error", &[]),
    ("files", &[]),
    ("noise", &[]),
    ("precision", &["weights"]),
    ("progress", &[]),
    ("spaces", &[]),
    ("image", &["files", "spaces"]),
    ("nn", &["noise"]),
    ("autoencoder", &["nn", "noise", "spaces", "weights"]),
    ("diffusion", &["noise"]),
    ("encoder", &["nn", "noise", "spaces"]),
    ("decoder", &["nn", "noise", "spaces", "encoder"]),
    ("weights", &["files"]),
    (
        "tokenizer",
        &["progress", "encoder", "decoder", "autoencoder", "diffusion", "noise", "precision", "spaces"],
    ),
    ("classifier", &["nn", "noise", "precision", "spaces", "encoder"]),
    ("generator", &["progress", "nn", "diffusion", "noise", "precision", "spaces"]),
    (
        "model",
        &[
            "tokenizer",
            "generator",
            "classifier",
            "weights",
            "autoencoder",
            "diffusion",
            "encoder",
            "nn",
            "noise",
            "precision",
            "presets",
        ],
    ),
    ("presets", &["autoencoder", "decoder", "diffusion", "encoder", "generator", "nn", "tokenizer"]),
    (
        "lib",
        &[
            "classifier",
            "diffusion",
            "progress",
            "device",
            "generator",
            "model",
            "noise",
            "precision",
            "spaces",
            "tokenizer",
        ],
    ),
];

/// Crates and the ones they may use.
const CRATES: &[(&str, &[&str])] = &[
    ("semanticist-ops", &[]),
    ("semanticist-hub", &[]),
    ("semanticist", &["semanticist_hub", "semanticist_ops"]),
    ("semanticist-data", &["semanticist"]),
    ("semanticist-eval", &["semanticist_ops", "semanticist", "semanticist_data"]),
    ("semanticist-train", &["semanticist_ops", "semanticist", "semanticist_data", "semanticist_eval"]),
    (
        "semanticist-verify",
        &["semanticist_ops", "semanticist", "semanticist_data", "semanticist_eval", "semanticist_train"],
    ),
    ("semanticist-serve", &["semanticist", "semanticist_eval"]),
    (
        "semanticist-cli",
        &[
            "semanticist",
            "semanticist_data",
            "semanticist_eval",
            "semanticist_hub",
            "semanticist_serve",
            "semanticist_train",
            "semanticist_verify",
        ],
    ),
];

/// What `crate::Name` re-exports, and where it comes from.
const EXPORTS: &[(&str, &str)] = &[
    ("Device", "device"),
    ("DeviceSpec", "device"),
    ("DecodeOptions", "diffusion"),
    ("DrawOptions", "generator"),
    ("GenerateOptions", "generator"),
    ("Progress", "progress"),
    ("Noise", "noise"),
    ("Purpose", "noise"),
    ("Seed", "noise"),
    ("Precision", "precision"),
    ("Pixels", "spaces"),
    ("Latents", "spaces"),
    ("Tokens", "spaces"),
    ("ModelFile", "model"),
    ("Classifier", "classifier"),
    ("ClassifierConfig", "classifier"),
    ("Generator", "generator"),
    ("Tokenizer", "tokenizer"),
    ("TokenizerConfig", "tokenizer"),
];

const LONGEST: usize = 500;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// The modules that the `use crate::…;` statements of a file name, its tests left out.
fn used_modules(text: &str) -> Vec<String> {
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    let statements = product.split("use crate::").skip(1).filter_map(|rest| rest.split(';').next());
    let paths = statements.flat_map(|statement| match statement.trim().strip_prefix('{') {
        Some(group) => outer_parts(group),
        None => vec![statement.trim().to_string()],
    });
    paths
        .filter_map(|path| path.split("::").next().map(str::to_string))
        .map(|name| {
            EXPORTS.iter().find(|(export, _)| *export == name).map_or(name, |(_, home)| home.to_string())
        })
        .collect()
}

/// The parts of `a, b::{c, d}, e}` between its outer commas.
fn outer_parts(group: &str) -> Vec<String> {
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(String::new()),
            _ if depth >= 0 && !c.is_whitespace() => parts.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[test]
fn modules_use_only_what_the_architecture_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for path in sources(&root) {
        let relative = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        let module = relative.split(['/', '.']).next().unwrap().to_string();
        let Some((_, allowed)) = LIBRARY.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("src/{relative}: {module} is not in the table; say what it may use"));
            continue;
        };
        for used in used_modules(&fs::read_to_string(&path).unwrap()) {
            let known = ["error", "Error", "Result", module.as_str()].contains(&used.as_str());
            if !known && !allowed.contains(&used.as_str()) {
                wrong.push(format!("src/{relative}: {module} must not know {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_use_only_what_lies_below_them() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let all: Vec<String> = CRATES.iter().map(|(name, _)| name.replace('-', "_")).collect();
    let mut wrong = Vec::new();
    for (name, allowed) in CRATES {
        for path in sources(&crates.join(name).join("src")) {
            // Tests may look upwards, at what is above them only as a development dependency.
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for other in all.iter().filter(|other| **other != name.replace('-', "_")) {
                let uses =
                    text.contains(&format!("use {other}::")) || text.contains(&format!("use {other} "));
                if uses && !allowed.contains(&other.as_str()) {
                    wrong.push(format!("{}: {name} must not know {other}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_is_longer_than_a_reader_bears() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let long: Vec<String> = sources(&crates)
        .into_iter()
        .map(|path| (fs::read_to_string(&path).unwrap().lines().count(), path))
        .filter(|(lines, _)| *lines > LONGEST)
        .map(|(lines, path)| format!("{}: {lines} lines, at most {LONGEST}", path.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}
