//! A generator's file: its weights, and in the metadata its configuration, the names of its classes, the
//! tokenizer that its tokens are of, and its history.

use std::path::Path;

use burn::tensor::Device;

use super::{
    CLASSES, CONFIG, ModelFile, ModelKind, Origin, TRAINING, json, metadata, published_weights,
    refuse_rounded,
};
use crate::error::{Error, Result};
use crate::generator::{Generator, GeneratorConfig, GeneratorNetworks};
use crate::noise::Noise;
use crate::weights::{self, Metadata, Precision, Weights, published};

const TOKENIZER: &str = "tokenizer";

/// A file on its way to become a [`GeneratorModel`].
#[derive(Debug, Clone)]
pub struct GeneratorFile {
    origin: Origin,
    config: GeneratorConfig,
    classes: Vec<String>,
}

impl GeneratorFile {
    pub(super) fn of(origin: Origin) -> Result<Self> {
        let config: GeneratorConfig = origin.config()?;
        config.validate().map_err(|error| origin.error(error.to_string()))?;
        let classes = origin.classes(config.classes)?;
        Ok(Self { origin, config, classes })
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The file, unless it is compiled into the program.
    pub fn path(&self) -> Option<&Path> {
        self.origin.path_on_disk()
    }

    /// The configuration that the model was trained with.
    pub fn config(&self) -> &GeneratorConfig {
        &self.config
    }

    /// Places the weights on `device`.
    ///
    /// # Errors
    /// If missing, unused or misshapen weights are found.
    pub fn load(self, device: &Device) -> Result<GeneratorModel> {
        let Self { origin, config, classes } = self;
        let tokenizer = origin.metadata.get(TOKENIZER).cloned();
        let training = origin.entry(TRAINING)?;
        let generator = placed(&origin.path, &config, origin.weights, device)?;
        Ok(GeneratorModel { generator, classes, tokenizer, training })
    }
}

impl Generator {
    /// Loads a generator's file.
    ///
    /// # Errors
    /// If it is not one of ours, or missing, unused or misshapen weights are found.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        Ok(ModelFile::open(path.as_ref())?.into_generator()?.load(device)?.generator)
    }
}

/// A generator with what is known of its classes and tokens.
#[derive(Debug, Clone)]
pub struct GeneratorModel {
    /// Networks and configuration, ready to draw.
    pub generator: Generator,
    /// The name of every class, or nothing.
    pub classes: Vec<String>,
    /// The hash of the tokenizer whose tokens it draws, if known.
    pub tokenizer: Option<String>,
    /// How it was trained, if the file says so.
    pub training: Option<serde_json::Value>,
}

impl GeneratorModel {
    /// Loads a published checkpoint, which does not say what it holds.
    ///
    /// # Errors
    /// If the file holds something else, or missing, unused or misshapen weights are found.
    pub fn published(path: &Path, config: &GeneratorConfig, device: &Device) -> Result<Self> {
        let weights = published::load(path)?.weights;
        let generator = placed(path, config, weights, device)?;
        Ok(Self { generator, classes: Vec::new(), tokenizer: None, training: None })
    }

    /// The class of a name or number. A name may be one of several that a class has, between commas, in
    /// capitals or not.
    ///
    /// # Errors
    /// If there is none, with the names that are nearest.
    pub fn class(&self, wanted: &str) -> Result<usize> {
        let count = self.generator.config.classes;
        let plain = |name: &str| name.trim().to_lowercase();
        if let Ok(number) = wanted.trim().parse::<usize>() {
            return (number < count).then_some(number).ok_or_else(|| {
                Error::Config(format!("there is no class {number}; the classes are 0 to {}", count - 1))
            });
        }
        let names = self.classes.iter().enumerate().flat_map(|(class, names)| {
            std::iter::once(names.as_str()).chain(names.split(',')).map(move |name| (class, name))
        });
        // Names that hold the wanted word come first: "cat" is meant by "tabby cat" sooner than by "dam".
        let mut far: Vec<(bool, usize, &str)> = Vec::new();
        for (class, name) in names {
            if plain(name) == plain(wanted) {
                return Ok(class);
            }
            let (name, wanted) = (name.trim(), plain(wanted));
            let without = !plain(name).contains(&wanted);
            far.push((without, strsim::damerau_levenshtein(&plain(name), &wanted), name));
        }
        far.sort_unstable();
        far.dedup();
        let nearest: Vec<&str> = far.iter().take(3).map(|(_, _, name)| *name).collect();
        Err(Error::Config(match nearest.is_empty() {
            true => format!(
                "the generator does not name its classes; give a number from 0 to {} instead of \"{wanted}\"",
                count - 1
            ),
            false => {
                format!("there is no class \"{wanted}\"; the nearest are \"{}\"", nearest.join("\", \""))
            }
        }))
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If it cannot be written, or the generator is in bfloat16; nothing is left under its name then.
    pub fn save(&self, path: &Path, precision: Precision) -> Result<()> {
        refuse_rounded(&self.generator.networks)?;
        let mut metadata = metadata(ModelKind::Generator, &self.generator.config);
        metadata.insert(CLASSES.to_string(), json(&self.classes));
        metadata.extend(self.tokenizer.clone().map(|hash| (TOKENIZER.to_string(), hash)));
        metadata.extend(self.training.as_ref().map(|training| (TRAINING.to_string(), json(training))));
        weights::save(path, &weights::deferred(&self.generator.networks, ""), &metadata, precision)
    }

    /// Writes the networks under their published names, for PyTorch to load.
    ///
    /// # Errors
    /// As [`GeneratorModel::save`].
    pub fn export_published(&self, path: &Path, precision: Precision) -> Result<()> {
        refuse_rounded(&self.generator.networks)?;
        let metadata = Metadata::from([(CONFIG.to_string(), json(&self.generator.config))]);
        weights::save(path, &published_weights(&self.generator.networks), &metadata, precision)
    }
}

fn placed(path: &Path, config: &GeneratorConfig, mut weights: Weights, device: &Device) -> Result<Generator> {
    config.validate().map_err(|error| Error::file(path, error.to_string()))?;
    let blank = GeneratorNetworks::init(config, &mut Noise::seeded(0), device)?;
    let networks = weights::apply(blank, "", &mut weights);
    weights.finish(path)?;
    Ok(Generator { config: config.clone(), networks })
}
