//! Checkpoints as published for PyTorch, under our names.
//!
//! A pickle is a program. Here it is only ever parsed for the tensors it describes, and one that names
//! anything beyond PyTorch, NumPy and plain containers is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use pytorch_reader::{DType, PickleValue, PytorchReader};

use super::sources::{self, Sources};
use super::{Dtype, HostTensor, Weights, header, names};
use crate::{Error, Result};

/// Where training checkpoints keep their weights, the one to prefer first: published results are
/// those of the averaged weights.
const TOP_LEVEL: &[&str] = &["ema", "state_dict", "model"];

/// Parts of names that wrappers put in: `torch.compile` and data-parallel training.
const WRAPPERS: &[&str] = &["_orig_mod", "module"];

/// Python modules whose objects are data. A name ends in `.` unless it is a whole one.
const HARMLESS: &[&str] = &["torch.", "numpy.", "collections.", "argparse.Namespace", "int"];

/// How many names an error lists.
const LISTED: usize = 20;

/// A published checkpoint, translated.
#[derive(Debug)]
pub struct PublishedWeights {
    /// The parameters under our names.
    pub weights: Weights,
    /// The decoder's frozen table of positions, if the file holds it: compare it with our own.
    pub positions: Option<HostTensor>,
    /// The top-level entries of a training checkpoint that were left alone, such as `optimizer`.
    pub skipped: Vec<String>,
}

/// Reads a checkpoint: a `torch.save` file or a safetensors file, whichever the content is, the index
/// of several, or the folder that a training run left.
pub fn load(path: &Path) -> Result<PublishedWeights> {
    let bare = |name: &str| name == names::FROZEN_POSITIONS || names::from_published(name).is_some();
    let (weights, skipped) = read(path, bare)?;
    Ok(PublishedWeights { skipped, ..translate(weights, path)? })
}

/// The tensors of a checkpoint under their published names, and what else it held. `known` says of a
/// name without wrappers whether it is one of the model's.
///
/// # Errors
/// If the file is no checkpoint, or would run code.
pub fn read(path: &Path, known: impl Fn(&str) -> bool) -> Result<(Weights, Vec<String>)> {
    let Sources { files, promised } = sources::find(path)?;
    let (mut all, mut all_skipped) = (Weights::new(), Vec::new());
    for file in &files {
        let (weights, skipped) = read_file(file, &known)?;
        let twice: Vec<&str> = weights.names().filter(|name| all.get(name).is_some()).collect();
        refuse(file, &twice, "repeated", "every weight in one shard")?;
        all.extend(weights);
        all_skipped.extend(skipped);
    }
    let absent: Vec<&str> =
        promised.iter().map(String::as_str).filter(|name| all.get(name).is_none()).collect();
    refuse(path, &absent, "promised but absent", "the shards that belong to this index")?;
    Ok((all, all_skipped))
}

fn read_file(path: &Path, known: impl Fn(&str) -> bool) -> Result<(Weights, Vec<String>)> {
    match content(path)? {
        Content::Safetensors => Ok((super::load(path)?.0, Vec::new())),
        Content::Other => select(path, read_pickle(path)?, known),
    }
}

/// Gives published tensors our names; `source` is what errors call their origin.
pub fn translate(weights: Weights, source: &Path) -> Result<PublishedWeights> {
    let (mut ours, mut positions) = (Weights::new(), None);
    let (mut unknown, mut twice) = (Vec::new(), Vec::new());
    for (wrapped, tensor) in weights.iter() {
        let published = unwrapped(wrapped);
        if published == names::FROZEN_POSITIONS {
            positions = Some(tensor.clone());
            continue;
        }
        match names::from_published(&published) {
            Some(name) if ours.get(&name).is_some() => twice.push(wrapped),
            Some(name) => ours.insert(name, tensor.clone()),
            None => unknown.push(wrapped),
        }
    }
    refuse(
        source,
        &unknown,
        "unknown",
        "a checkpoint of a tokenizer (encoder.*, encoder2slot.*, dit.*) or a generator (layers.*, diffloss.*)",
    )?;
    refuse(source, &twice, "repeated", "every weight once")?;
    if ours.is_empty() {
        return Err(Error::file(
            source,
            "holds no tensors; expected a checkpoint of a tokenizer or generator",
        ));
    }
    Ok(PublishedWeights { weights: ours, positions, skipped: Vec::new() })
}

pub(super) fn refuse(source: &Path, found: &[&str], what: &str, expected: &str) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    let listed = found.iter().take(LISTED).copied().collect::<Vec<_>>().join(", ");
    let more = found.len().saturating_sub(LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Error::file(source, format!("{} {what} names: {listed}{more}; expected {expected}", found.len())))
}

pub(super) fn unwrapped(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    parts.join(".")
}

enum Content {
    Safetensors,
    /// A pickle, or nothing we know: the reader of pickles says which.
    Other,
}

fn content(path: &Path) -> Result<Content> {
    let kind = std::fs::metadata(path).map_err(|source| Error::io(path, "read", source))?;
    if !kind.is_file() {
        return Err(Error::file(path, "is not a file; give the .pkl, .pt, .pth, .bin or .safetensors file"));
    }
    let mut start = Vec::new();
    let file = File::open(path).map_err(|source| Error::io(path, "read", source))?;
    file.take(9).read_to_end(&mut start).map_err(|source| Error::io(path, "read", source))?;
    Ok(if header::looks_like_safetensors(&start) { Content::Safetensors } else { Content::Other })
}

/// All tensors of a `torch.save` file, under their paths through its dictionaries.
fn read_pickle(path: &Path) -> Result<Weights> {
    let damaged = |error| {
        let advice = "expected a checkpoint written by torch.save, or a .safetensors file";
        Error::file(path, format!("cannot be read as a checkpoint ({error}); {advice}"))
    };
    let content = PytorchReader::read_pickle_data(path, None).map_err(damaged)?;
    let mut foreign = BTreeSet::new();
    find_foreign(&content, &mut foreign);
    if !foreign.is_empty() {
        let listed: Vec<&str> = foreign.iter().take(LISTED).map(String::as_str).collect();
        let listed = listed.join(", ");
        return Err(Error::file(
            path,
            format!("would run {listed} when opened in Python; nothing was run. Expected only tensors"),
        ));
    }
    let mut weights = Weights::new();
    for (name, tensor) in PytorchReader::new(path).map_err(damaged)?.into_tensors() {
        // Each is read when it is placed, so that a model is not in memory twice.
        let (_, kind, shape, read) = tensor.into_parts();
        weights.insert(name, HostTensor::deferred(dtype(kind), shape, read));
    }
    Ok(weights)
}

/// Collects the Python names of everything in a pickle that is not plain data.
fn find_foreign(value: &PickleValue, found: &mut BTreeSet<String>) {
    match value {
        PickleValue::Unsupported(name) => {
            let harmless = HARMLESS.iter().any(|allowed| match allowed.strip_suffix('.') {
                Some(_) => name.starts_with(allowed),
                None => name == allowed,
            });
            if !harmless {
                found.insert(name.clone());
            }
        }
        PickleValue::List(items) => items.iter().for_each(|item| find_foreign(item, found)),
        PickleValue::Dict(items) => items.values().for_each(|item| find_foreign(item, found)),
        _ => {}
    }
}

/// The weights out of a training checkpoint, and the names of its other parts. A bare state
/// dictionary is returned whole.
fn select(path: &Path, mut weights: Weights, known: impl Fn(&str) -> bool) -> Result<(Weights, Vec<String>)> {
    if weights.names().any(|name| known(&unwrapped(name))) {
        return Ok((weights, Vec::new()));
    }
    let mut parts: BTreeMap<String, usize> = BTreeMap::new();
    for name in weights.names() {
        let top = name.split('.').next().unwrap_or_default();
        *parts.entry(top.to_owned()).or_default() += 1;
    }
    let Some(chosen) = TOP_LEVEL.iter().find(|key| parts.contains_key(**key)) else {
        let found: Vec<String> = parts.into_keys().take(LISTED).collect();
        let expected = TOP_LEVEL.join(", ");
        return Err(Error::file(
            path,
            format!(
                "holds tensors under [{}]; expected the model's, bare or under one of {expected}",
                found.join(", ")
            ),
        ));
    };
    parts.remove(*chosen);
    Ok((weights.split_prefix(&format!("{chosen}.")), parts.into_keys().collect()))
}

fn dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Written by `tests/data/weights/make.py`.
    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/weights").join(name)
    }

    fn refusal(name: &str) -> String {
        load(&fixture(name)).unwrap_err().to_string()
    }

    /// The values of a tensor in the fixtures: they count up in quarters.
    fn quarters(start: f32, count: usize) -> Vec<f32> {
        (0..count).map(|i| start + i as f32 / 4.0).collect()
    }

    fn check(published: &PublishedWeights, start: f32) {
        let expected = [
            ("decoder.blocks.0.modulation.bias", vec![6], 3.0),
            ("encoder.blocks.11.attention.out.weight", vec![2, 3], 1.0),
            ("encoder.class_token", vec![1, 1, 3], 0.0),
            ("encoder.projection.bias", vec![4], 2.0),
        ];
        let names: Vec<&str> = published.weights.names().collect();
        assert_eq!(names, expected.each_ref().map(|(name, ..)| *name));
        for (name, shape, offset) in expected {
            let tensor = published.weights.get(name).unwrap();
            assert_eq!(tensor.shape(), shape, "{name}");
            let values = quarters(start + offset, shape.iter().product());
            assert_eq!(tensor.to_f32().unwrap(), values, "{name} as {}", tensor.dtype());
        }
        let positions = published.positions.as_ref().unwrap();
        assert_eq!(positions.to_f32().unwrap(), quarters(start + 4.0, 6));
    }

    #[test]
    fn both_pickle_containers_and_all_float_types_are_read() {
        for name in ["published.pkl", "legacy.pkl"] {
            let published = load(&fixture(name)).unwrap();
            check(&published, 0.0);
            assert!(published.skipped.is_empty());
        }
    }

    #[test]
    fn averaged_weights_are_found_in_a_training_checkpoint() {
        let published = load(&fixture("training.pkl")).unwrap();
        check(&published, 10.0);
        assert_eq!(published.skipped, ["model", "optimizer"]);
    }

    #[test]
    fn safetensors_are_known_by_content_and_prefixes_can_be_split() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("misnamed.pkl");
        let mut weights = Weights::new();
        weights.insert("dit.null_cond", HostTensor::from_f32(&[1, 2, 1], &[1.0, 2.0]));
        weights.insert("weights.encoder.cls_token", HostTensor::from_f32(&[1, 1, 1], &[3.0]));
        let referenced = weights.split_prefix("weights.");
        crate::weights::save(&path, &weights, &BTreeMap::new(), crate::weights::Precision::F32).unwrap();
        assert!(load(&path).unwrap().weights.get("decoder.null_tokens").is_some());
        assert!(translate(referenced, &path).unwrap().weights.get("encoder.class_token").is_some());
    }

    #[test]
    fn shards_are_put_together_and_must_be_all_there() {
        use crate::weights::{Precision, save};
        let folder = tempfile::tempdir().unwrap();
        let shard = |name: &str, tensor: &str| {
            let mut weights = Weights::new();
            weights.insert(tensor, HostTensor::from_f32(&[1, 1, 1], &[3.0]));
            save(&folder.path().join(name), &weights, &BTreeMap::new(), Precision::F32).unwrap();
        };
        let index = folder.path().join("model.safetensors.index.json");
        let list = |first: &str| {
            let text = format!(
                r#"{{"weight_map": {{"{first}": "1.safetensors", "dit.null_cond": "2.safetensors"}}}}"#
            );
            std::fs::write(&index, text).unwrap();
        };
        shard("1.safetensors", "module.encoder.cls_token");
        shard("2.safetensors", "dit.null_cond");
        list("module.encoder.cls_token");
        for path in [folder.path(), &index] {
            let names: Vec<_> = load(path).unwrap().weights.names().map(str::to_owned).collect();
            assert_eq!(names, ["decoder.null_tokens", "encoder.class_token"]);
        }
        list("encoder.pos_embed");
        let message = load(&index).unwrap_err().to_string();
        assert!(message.contains("promised but absent names: encoder.pos_embed"), "{message}");
        shard("1.safetensors", "dit.null_cond");
        let message = load(&index).unwrap_err().to_string();
        assert!(message.contains("1 repeated names: dit.null_cond"), "{message}");
    }

    #[test]
    fn names_that_do_not_belong_are_listed() {
        assert!(refusal("unknown.pkl").contains("1 unknown names: dit.surprise.weight; expected"));
        assert!(refusal("repeated.pkl").contains("1 repeated names: encoder2slot.bias; expected"));
    }

    #[test]
    fn an_attack_is_refused_and_not_run() {
        for name in ["attack.pkl", "attack_inside.pkl"] {
            let message = refusal(name);
            assert!(message.contains("posix.system") && message.contains("nothing was run"), "{message}");
        }
        assert!(!Path::new("PWNED").exists());
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        assert!(refusal("make.py").contains("expected a checkpoint written by torch.save"));
        assert!(refusal(".").contains("is a folder without weights"));
        assert!(refusal("absent.pkl").contains("cannot read"));
    }

    #[test]
    fn no_truncation_of_a_pickle_panics() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.pkl");
        for name in ["published.pkl", "legacy.pkl"] {
            let whole = std::fs::read(fixture(name)).unwrap();
            // Every seventh length meets all parts of these files and takes a second less.
            for length in (0..whole.len()).step_by(7) {
                std::fs::write(&path, &whole[..length]).unwrap();
                assert!(load(&path).is_err(), "{length} bytes of {name}");
            }
        }
    }
}
