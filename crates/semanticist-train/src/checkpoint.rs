//! Step folders: everything a run needs to go on exactly where it was.
//!
//! A folder is written under a temporary name, synced and renamed, so that one with the final name
//! is complete whatever happened. Its state holds a checksum of each other file, so that what a disk does to
//! them later is found, and the checkpoint before is used.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use semanticist::weights::{self, Metadata, Precision, Weights};
use semanticist::{Error, Result};
use semanticist_data::Position;
use serde::{Deserialize, Serialize};

use crate::config::{Kind, RunConfig};
use crate::lock::remove_leftovers;
use crate::objective::Trainable;
use crate::optimizer::{AdamW, AdamWConfig};

const WEIGHTS: &str = "weights.safetensors";
const AVERAGE: &str = "average.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
/// Beside the step folders: what does not learn, and so is written once.
const FROZEN: &str = "frozen.safetensors";
const PREFIX: &str = "step-";

/// What is not a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound = "")]
pub struct State<K: Kind> {
    /// Steps made.
    pub step: u64,
    /// The next example.
    pub position: Position,
    /// Images seen.
    pub images: u64,
    /// Seconds of training, validation not counted.
    pub seconds: f64,
    /// Steps that each optimiser has made, by the prefix of its parameters.
    pub optimizers: BTreeMap<String, u64>,
    /// Which data the run learns from.
    pub data: String,
    /// Batches left out because their loss or gradient was not finite.
    #[serde(default)]
    pub skipped: u64,
    /// The CRC-32C of each file beside this one, by name; set when it is written. Checkpoints of earlier versions
    /// have none.
    #[serde(default)]
    pub checksums: BTreeMap<String, u32>,
    /// The whole configuration, defaults included.
    pub config: RunConfig<K>,
}

/// A run at a step.
#[derive(Debug)]
pub struct Checkpoint<K: Kind, M> {
    /// Where the run stands.
    pub state: State<K>,
    /// The current weights, and what belongs to them.
    pub model: M,
    /// Their moving average.
    pub average: M,
    /// One per prefix of [`Trainable::optimized_apart`].
    pub optimizers: Vec<AdamW>,
}

impl<K: Kind, M: Trainable> Checkpoint<K, M> {
    /// Writes the folder of this step below `folder`, and removes all but the last `keep`, and those of later
    /// steps: they are damaged, as the run was taken up before them.
    ///
    /// # Errors
    /// If it cannot be written; the folders that are there stay then.
    pub fn save(&self, folder: &Path, keep: usize) -> Result<PathBuf> {
        let path = folder.join(format!("{PREFIX}{:08}", self.state.step));
        let partial = folder.join(format!(".{PREFIX}{:08}.partial", self.state.step));
        remove_leftovers(folder)?;
        fs::create_dir_all(&partial).map_err(|error| Error::io(&partial, "create the folder", error))?;
        let written = self.write(&partial);
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        remove(&path)?;
        fs::rename(&partial, &path).map_err(|error| Error::io(&path, "rename to", error))?;
        sync(folder)?;
        let (own, later) =
            steps(folder)?.into_iter().partition::<Vec<_>, _>(|(step, _)| *step <= self.state.step);
        for (_, path) in later.iter().chain(own.iter().rev().skip(keep.max(1))) {
            remove(path)?;
        }
        Ok(path)
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let save = |name, weights: Weights| {
            weights::save(&folder.join(name), &weights, &Metadata::new(), Precision::F32)
        };
        save(WEIGHTS, weights::deferred(self.model.parameters(), ""))?;
        save(AVERAGE, weights::deferred(self.average.parameters(), ""))?;
        let mut moments = Weights::new();
        self.optimizers.iter().for_each(|optimizer| moments.extend(optimizer.state()));
        save(OPTIMIZER, moments)?;
        let checksum = |name: &str| Ok((name.to_string(), checksum(&folder.join(name))?));
        let checksums = [WEIGHTS, AVERAGE, OPTIMIZER].into_iter().map(checksum).collect::<Result<_>>()?;
        let state = State { checksums, ..self.state.clone() };
        let state = serde_json::to_vec_pretty(&state).expect("the state is plain data");
        semanticist::files::write_atomically(&folder.join(STATE), |file| {
            std::io::Write::write_all(file, &state)
        })?;
        sync(folder)
    }

    /// The last checkpoint below `folder` that is whole, on the device of training; `warn` is told of those that are
    /// not.
    ///
    /// # Errors
    /// If there is none, or the disk does not answer.
    pub fn load_last(folder: &Path, device: &Device, warn: &mut dyn FnMut(String)) -> Result<Self> {
        let mut last = Error::NoCheckpoint { path: folder.to_path_buf() };
        let steps = steps(folder)?;
        if steps.is_empty() {
            return Err(last);
        }
        let frozen = M::load_frozen(&folder.join(FROZEN), device)?;
        for (index, (_, path)) in steps.into_iter().rev().enumerate() {
            match Self::load(frozen.clone(), &path) {
                Ok(found) => return Ok(found),
                Err(error) if is_damage(&error) => {
                    warn(format!("{} is damaged and is not used: {error}", path.display()));
                    // What is wrong with the newest says most.
                    last = if index == 0 { error } else { last };
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The checkpoint in one folder; `model` has what does not learn.
    fn load(mut model: M, path: &Path) -> Result<Self> {
        let state_path = path.join(STATE);
        let text = fs::read(&state_path).map_err(|error| Error::io(&state_path, "read", error))?;
        let state: State<K> = serde_json::from_slice(&text).map_err(|error| {
            Error::file(&state_path, format!("is not a checkpoint of this version: {error}"))
        })?;
        for (name, expected) in &state.checksums {
            let path = path.join(name);
            if checksum(&path)? != *expected {
                return Err(Error::file(&path, "is not as it was written: its checksum is another"));
            }
        }
        let mut average = model.clone();
        *average.parameters_mut() = placed(model.parameters().valid(), &path.join(AVERAGE))?;
        *model.parameters_mut() = placed(model.parameters().clone(), &path.join(WEIGHTS))?;
        let optimizers =
            optimizers::<M>(&path.join(OPTIMIZER), state.config.optimizer, &state.optimizers, &model)?;
        Ok(Self { state, model, average, optimizers })
    }
}

/// Writes what all checkpoints of a run share.
///
/// # Errors
/// If it cannot be written.
pub fn save_frozen<M: Trainable>(model: &M, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|error| Error::io(folder, "create the folder", error))?;
    model.save_frozen(&folder.join(FROZEN))
}

/// The model of a run, its parameters yet to be placed.
///
/// # Errors
/// If the folder holds no run, or its file is damaged.
pub fn unplaced<M: Trainable>(folder: &Path, device: &Device) -> Result<M> {
    M::load_frozen(&folder.join(FROZEN), device)
}

/// Whether a file is not what was written there, as against a disk that cannot be read for now.
fn is_damage(error: &Error) -> bool {
    match error {
        Error::File { .. } => true,
        Error::Io { source, .. } => {
            matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}

/// The CRC-32C of a file.
fn checksum(path: &Path) -> Result<u32> {
    let failed = |error| Error::io(path, "read", error);
    let (mut file, mut sum) = (File::open(path).map_err(failed)?, 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(sum),
            count => sum = crc32c::crc32c_append(sum, &buffer[..count]),
        }
    }
}

/// An optimiser for each group of parameters that has one, without a step.
pub fn fresh_optimizers<M: Trainable>(config: AdamWConfig) -> Vec<AdamW> {
    M::optimized_apart().iter().map(|prefix| AdamW::of(config, prefix)).collect()
}

/// The values of a file in a module: all of them, and no others.
fn placed<P: Module>(module: P, path: &Path) -> Result<P> {
    let (mut values, _) = weights::load(path)?;
    let module = weights::apply(module, "", &mut values);
    values.finish(path)?;
    Ok(module)
}

fn optimizers<M: Trainable>(
    path: &Path,
    config: AdamWConfig,
    steps: &BTreeMap<String, u64>,
    model: &M,
) -> Result<Vec<AdamW>> {
    let (mut moments, _) = weights::load(path)?;
    let mut optimizers = fresh_optimizers::<M>(config);
    for optimizer in &mut optimizers {
        let steps = steps.get(optimizer.prefix()).copied().unwrap_or_default();
        let restored = optimizer.restore(steps, model.parameters(), &mut moments);
        restored.map_err(|problem| Error::file(path, problem))?;
    }
    moments.finish(path)?;
    Ok(optimizers)
}

/// The complete step folders, in order.
pub fn steps(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(folder, "read the folder", error)),
    };
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let step = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    found.sort();
    Ok(found)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(path, "remove the folder", error))
        }
        _ => Ok(()),
    }
}

/// Makes renames in a folder last through a power cut.
fn sync(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| Error::io(folder, "sync", error))
}
