//! A classifier's file: its weights, and in the metadata its configuration, the names of its classes and its history.

use std::path::Path;

use burn::tensor::Device;

use super::{CLASSES, ModelFile, ModelKind, Origin, TRAINING, json, metadata, refuse_rounded};
use crate::classifier::{Classifier, ClassifierConfig, ClassifierNetwork};
use crate::error::{Error, Result};
use crate::noise::Noise;
use crate::weights::{self, Precision};

/// A file on its way to become a [`ClassifierModel`].
#[derive(Debug, Clone)]
pub struct ClassifierFile {
    origin: Origin,
    config: ClassifierConfig,
    classes: Vec<String>,
}

impl ClassifierFile {
    pub(super) fn of(origin: Origin) -> Result<Self> {
        let config: ClassifierConfig = origin.config()?;
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
    pub fn config(&self) -> &ClassifierConfig {
        &self.config
    }

    /// SHA-256 of configuration and weights, in hexadecimal; reads every weight.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn hash(&self) -> Result<String> {
        let Origin { path, weights, metadata, .. } = &self.origin;
        weights::hash(weights, metadata).map_err(|error| Error::io(path, "read", error))
    }

    /// Places the weights on `device`.
    ///
    /// # Errors
    /// If missing, unused or misshapen weights are found.
    pub fn load(self, device: &Device) -> Result<ClassifierModel> {
        let Self { origin, config, classes } = self;
        let training = origin.entry(TRAINING)?;
        let Origin { path, mut weights, .. } = origin;
        let blank = ClassifierNetwork::init(&config, &mut Noise::seeded(0), device)?;
        let network = weights::apply(blank, "", &mut weights);
        weights.finish(&path)?;
        Ok(ClassifierModel { classifier: Classifier { config, network }, classes, training })
    }
}

impl Classifier {
    /// Loads a classifier's file.
    ///
    /// ```no_run
    /// use semanticist::{Classifier, Device};
    /// let classifier = Classifier::open("classifier.safetensors", &Device::flex())?;
    /// # Ok::<(), semanticist::Error>(())
    /// ```
    ///
    /// # Errors
    /// If it is not one of ours, or missing, unused or misshapen weights are found.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        Ok(ModelFile::open(path.as_ref())?.into_classifier()?.load(device)?.classifier)
    }
}

/// A classifier with what is known of its classes.
#[derive(Debug, Clone)]
pub struct ClassifierModel {
    /// Network and configuration, ready to classify.
    pub classifier: Classifier,
    /// The name of every class, or nothing.
    pub classes: Vec<String>,
    /// How it was trained, if the file says so.
    pub training: Option<serde_json::Value>,
}

impl ClassifierModel {
    /// What to call a class: its name, or `class` and its number.
    pub fn class_name(&self, class: usize) -> String {
        self.classes.get(class).cloned().unwrap_or_else(|| format!("class {class}"))
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If it cannot be written, or the classifier is in bfloat16; nothing is left under its name then.
    pub fn save(&self, path: &Path, precision: Precision) -> Result<()> {
        refuse_rounded(&self.classifier.network)?;
        let mut metadata = metadata(ModelKind::Classifier, &self.classifier.config);
        metadata.insert(CLASSES.to_string(), json(&self.classes));
        metadata.extend(self.training.as_ref().map(|training| (TRAINING.to_string(), json(training))));
        weights::save(path, &weights::deferred(&self.classifier.network, ""), &metadata, precision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{BlockSize, Linear};
    use crate::spaces::Pixels;

    fn model() -> ClassifierModel {
        let blocks = BlockSize { width: 16, depth: 1, heads: 2, mlp_ratio: 2 };
        let config = ClassifierConfig { image_size: 8, classes: 2, patch_size: 4, blocks, drop_path: 0.1 };
        let (device, mut noise) = (Device::flex(), Noise::seeded(1));
        let mut network = ClassifierNetwork::init(&config, &mut noise, &device).unwrap();
        network.head = Linear::init(16, 2, &mut noise, &device);
        let classes = vec!["goldfish, Carassius auratus".to_string(), "tabby".to_string()];
        let training = Some(serde_json::json!({ "steps": 3 }));
        ClassifierModel { classifier: Classifier { config, network }, classes, training }
    }

    #[test]
    fn a_saved_classifier_is_the_same_to_the_last_bit() {
        let (folder, device) = (tempfile::tempdir().unwrap(), Device::flex());
        let path = folder.path().join("classifier.safetensors");
        let model = model();
        model.save(&path, Precision::F32).unwrap();
        let file = ModelFile::open(&path).unwrap().into_classifier().unwrap();
        let hash = file.hash().unwrap();
        let loaded = file.load(&device).unwrap();
        assert_eq!((&loaded.classes, &loaded.training), (&model.classes, &model.training));
        assert_eq!(loaded.classifier.config, model.classifier.config);
        let images = Pixels(Noise::seeded(2).normal([3, 3, 8, 8], &device));
        let logits = |classifier: &Classifier| classifier.logits(&images).unwrap().into_data();
        assert_eq!(logits(&loaded.classifier), logits(&model.classifier));
        assert_eq!([loaded.class_name(1), loaded.class_name(7)], ["tabby", "class 7"]);

        // Half the precision is another model; names and history are not part of what it computes.
        model.save(&path, Precision::F16).unwrap();
        let hash_of = |path| ModelFile::open(path).unwrap().into_classifier().unwrap().hash().unwrap();
        assert_ne!(hash_of(&path), hash);
        let nameless = ClassifierModel { classes: Vec::new(), training: None, ..model };
        nameless.save(&path, Precision::F32).unwrap();
        assert_eq!(hash_of(&path), hash);

        // Rounded for use, the answers are close, and nobody takes them for the model's own.
        let rounded = Classifier::open(&path, &device).unwrap().with_precision(crate::Precision::Bfloat16);
        let [exact, near] = [&nameless.classifier, &rounded].map(|c| c.logits(&images).unwrap());
        let apart = (exact.clone() - near).abs().max().into_scalar::<f32>();
        assert!(apart > 0.0 && apart < 0.05 * exact.abs().max().into_scalar::<f32>(), "{apart}");
        let refused = ClassifierModel { classifier: rounded, ..nameless }.save(&path, Precision::F32);
        assert!(refused.unwrap_err().to_string().contains("rounded to bfloat16"));
    }

    #[test]
    fn what_is_no_classifier_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("classifier.safetensors");
        let mut wrong = model();
        wrong.classes.push("a third".into());
        wrong.save(&path, Precision::F32).unwrap();
        let refusal = |path| Classifier::open(path, &Device::flex()).unwrap_err().to_string();
        assert!(refusal(&path).contains("names 3 classes, expected 2 or none"), "{}", refusal(&path));
        model().save(&path, Precision::F32).unwrap();
        let error = ModelFile::open(&path).unwrap().into_tokenizer().unwrap_err().to_string();
        assert!(error.contains("holds one classifier, expected one tokenizer"), "{error}");
        assert!(refusal(&folder.path().join("none")).contains("none"));
    }
}
