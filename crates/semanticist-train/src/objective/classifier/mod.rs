//! The training of a classifier: the cross entropy of the classes of images.

mod mixup;

use std::path::Path;
use std::sync::Arc;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use semanticist::classifier::ClassifierNetwork;
use semanticist::image::{RgbImage, to_pixels};
use semanticist::model::ClassifierModel;
use semanticist::nn::Activations;
use semanticist::weights::{Precision, Weights};
use semanticist::{Classifier, ClassifierConfig, Error, Noise, Pixels, Purpose, Result, Seed};
use semanticist_data::{self as data, BatchOptions, Crop, Position, Share, Source};
use semanticist_eval::classification::{AccuracyCount, Labels, labelled_images};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Batches, Loss, Objective, Stage, Trainable, Validation};
use super::{frozen, images};
use crate::config::{Kind, RunConfig};

/// A classifier's training run, as its file has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifierRun;

/// How batches of labelled images are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelledData {
    /// How often images come from each of the sources, in proportion; one number per source in the order of `--data`. Without
    /// any, all images come equally often.
    pub weights: Vec<f64>,
    /// Of an image's area, the least that a random crop shows; above 0 and at most 1.
    pub least_area: f32,
    /// Probability of a horizontal flip.
    pub flip: f32,
    /// Threads that decode images; they do not change the result.
    pub workers: usize,
}

impl Default for LabelledData {
    fn default() -> Self {
        Self { weights: Vec::new(), least_area: 0.25, flip: 0.5, workers: 2 }
    }
}

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierLoss {
    /// The share of every target that is spread over all classes (Szegedy et al., 2016, section 7).
    pub label_smoothing: f64,
    /// How strongly images are mixed in pairs: the parameter of the beta distribution of their shares, from 0.01
    /// to 1, or 0 for not at all (Zhang et al., 2018). The i-th of a batch is mixed with its neighbour.
    pub mixup: f64,
}

impl Default for ClassifierLoss {
    fn default() -> Self {
        Self { label_smoothing: 0.1, mixup: 0.0 }
    }
}

/// On what the averaged weights are measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierValidation {
    /// Images, spread over the data.
    pub images: usize,
}

impl Default for ClassifierValidation {
    fn default() -> Self {
        Self { images: 1000 }
    }
}

impl Kind for ClassifierRun {
    type Model = ClassifierConfig;
    type Data = LabelledData;
    type Objective = ClassifierLoss;
    type Validation = ClassifierValidation;

    fn validate(config: &RunConfig<Self>) -> Result<()> {
        config.model.validate()?;
        let LabelledData { least_area, .. } = config.data;
        let ClassifierLoss { label_smoothing, mixup } = config.objective;
        let part = config.batch / config.accumulate.max(1);
        let problem = if !(least_area > 0.0 && least_area <= 1.0) {
            format!("data.least_area = {least_area} is not above 0 and at most 1")
        } else if !(0.0..1.0).contains(&label_smoothing) {
            format!("objective.label_smoothing = {label_smoothing} is not in [0, 1)")
        } else if mixup != 0.0 && !(0.01..=1.0).contains(&mixup) {
            format!("objective.mixup = {mixup} is not 0, nor from 0.01 to 1")
        } else if mixup > 0.0 && !part.is_multiple_of(2) {
            format!(
                "objective.mixup = {mixup} mixes images in pairs, but {part} are computed together (batch / \
                 accumulate); use an even number"
            )
        } else {
            return Ok(());
        };
        Err(Error::Config(problem))
    }
}

impl Trainable for ClassifierModel {
    type Parameters = ClassifierNetwork;

    fn parameters(&self) -> &ClassifierNetwork {
        &self.classifier.network
    }

    fn parameters_mut(&mut self) -> &mut ClassifierNetwork {
        &mut self.classifier.network
    }

    fn set_activations(&mut self, activations: Activations) {
        self.classifier.network.set_activations(activations);
    }

    fn save_frozen(&self, path: &Path) -> Result<()> {
        let Self { classifier, classes, .. } = self;
        let frozen = Frozen { config: classifier.config.clone(), classes: classes.clone() };
        frozen::save(path, &frozen, &Weights::new())
    }

    fn load_frozen(path: &Path, device: &Device) -> Result<Self> {
        let (Frozen { config, classes }, _) = frozen::load(path)?;
        let network = ClassifierNetwork::init(&config, &mut Noise::seeded(0), device)?;
        Ok(Self { classifier: Classifier { config, network }, classes, training: None })
    }
}

/// What does not learn.
#[derive(Serialize, Deserialize)]
struct Frozen {
    config: ClassifierConfig,
    classes: Vec<String>,
}

/// A classifier of the classes of `source` to train, with random weights on the device of training.
///
/// # Errors
/// If the configuration is impossible.
pub fn untrained(
    config: &RunConfig<ClassifierRun>,
    source: &Source,
    device: &Device,
) -> Result<ClassifierModel> {
    let mut noise = Seed::new(config.seed).of(Purpose::Weights).noise();
    let network = ClassifierNetwork::init(&config.model, &mut noise, &device.clone().autodiff())?;
    let classes = source.classes().map(<[String]>::to_vec).unwrap_or_default();
    Ok(ClassifierModel {
        classifier: Classifier { config: config.model.clone(), network },
        classes,
        training: None,
    })
}

/// An image and its class.
#[derive(Debug, Clone)]
pub struct LabelledImage {
    /// As it is shown.
    pub image: RgbImage,
    /// What is to be seen in it.
    pub class: usize,
}

/// The cross entropy of the classes of a source's images.
pub struct ClassifierObjective {
    source: Arc<Source>,
    config: RunConfig<ClassifierRun>,
    labels: Labels,
    validation_images: Vec<(RgbImage, usize)>,
    device: Device,
}

impl ClassifierObjective {
    /// Trains on `training`, validates on images spread over `validation`.
    ///
    /// # Errors
    /// If the data has another number of classes than the model, no validation image can be read, or one has no
    /// class or one that is not trained.
    pub fn new(
        config: &RunConfig<ClassifierRun>,
        training: Arc<Source>,
        validation: &Source,
        device: &Device,
    ) -> Result<Self> {
        let ClassifierConfig { classes, image_size, .. } = config.model;
        let names = training.classes().unwrap_or_default();
        if !names.is_empty() && names.len() != classes {
            let found = names.len();
            return Err(Error::Data(format!(
                "the data has {found} classes, the configuration {classes}; change model.classes"
            )));
        }
        let of_validation = Labels::new(classes, names, validation.classes())?;
        let images = labelled_images(validation, config.validation.images.max(1), image_size, &of_validation);
        let validation_images = images.collect::<Result<Vec<_>>>()?;
        if validation_images.is_empty() {
            return Err(Error::Data("no image to validate on could be decoded".into()));
        }
        Ok(Self {
            labels: Labels::new(classes, names, training.classes())?,
            source: training,
            config: config.clone(),
            validation_images,
            device: device.clone(),
        })
    }

    /// The probabilities that the classifier should give: nearly all for the classes of an image in their shares,
    /// the rest the same for all.
    ///
    /// # Shapes
    /// `[B, C]`
    fn targets(&self, shares: &[Vec<(usize, f32)>]) -> Tensor<2> {
        let classes = self.config.model.classes;
        let smoothing = self.config.objective.label_smoothing as f32;
        let mut values = vec![smoothing / classes as f32; shares.len() * classes];
        for (target, shares) in values.chunks_mut(classes).zip(shares) {
            for &(class, share) in shares {
                target[class] += (1.0 - smoothing) * share;
            }
        }
        Tensor::from_data(TensorData::new(values, [shares.len(), classes]), &self.device)
    }
}

impl Objective for ClassifierObjective {
    type Kind = ClassifierRun;
    type Model = ClassifierModel;
    type Example = LabelledImage;

    fn examples(&self) -> usize {
        self.source.len()
    }

    fn fingerprint(&self) -> Result<String> {
        self.source.fingerprint()
    }

    fn batches(&self, start: Position, share: Share) -> Box<dyn Batches<Example = LabelledImage>> {
        let LabelledData { least_area, flip, workers, .. } = self.config.data;
        let options = BatchOptions {
            size: self.config.model.image_size,
            batch: self.config.batch,
            share,
            seed: Seed::new(self.config.seed),
            workers,
            crop: Crop::Scaled { least: least_area },
            flip,
        };
        let batches = data::Batches::new(self.source.clone(), options, start);
        Box::new(LabelledBatches { batches, labels: self.labels.clone() })
    }

    fn loss(&self, model: &ClassifierModel, examples: &[LabelledImage], _: u64, noise: &mut Noise) -> Loss {
        let (images, classes): (Vec<RgbImage>, Vec<usize>) =
            examples.iter().cloned().map(|LabelledImage { image, class }| (image, class)).unzip();
        let mut pixels = to_pixels(&images, &self.device).0;
        let mut shares: Vec<Vec<(usize, f32)>> = classes.iter().map(|&class| vec![(class, 1.0)]).collect();
        if self.config.objective.mixup > 0.0 {
            let kept = mixup::shares(classes.len(), self.config.objective.mixup, noise);
            pixels = mixup::mixed(pixels, &kept);
            let pair = |(i, &kept): (usize, &f32)| {
                vec![(classes[i], kept), (classes[mixup::neighbour(i)], 1.0 - kept)]
            };
            shares = kept.iter().enumerate().map(pair).collect();
        }
        let targets = Tensor::from_inner(self.targets(&shares));
        let pixels = Pixels(Tensor::from_inner(pixels));
        let logits = model.classifier.network.forward(&pixels, Some(noise));
        let total = -(log_softmax(logits, 1) * targets).sum_dim(1).mean();
        Loss { total, parts: Vec::new() }
    }

    fn activations(&self) -> Option<u64> {
        Some(self.config.how_computed().classifier(&self.config.model))
    }

    fn validate(&self, average: &ClassifierModel, _: &Path) -> Result<Validation> {
        let mut count = AccuracyCount::default();
        let images = self.validation_images.iter().cloned().map(Ok);
        count.add(&average.classifier, images, &self.device, |_| ())?;
        let accuracy = count.finish()?;
        let measures = json!({
            "validation_cross_entropy": accuracy.cross_entropy,
            "top1": accuracy.top1,
            "top5": accuracy.top5,
            "images": accuracy.images,
        });
        Ok(Validation {
            measures: measures.as_object().expect("it is one").clone(),
            summary: format!(
                "validation top-1 {:.1} %  top-5 {:.1} %  cross entropy {:.4}",
                100.0 * accuracy.top1,
                100.0 * accuracy.top5,
                accuracy.cross_entropy
            ),
        })
    }

    fn publish(
        &self,
        average: &ClassifierModel,
        path: &Path,
        history: &serde_json::Value,
        _: Stage,
    ) -> Result<()> {
        let model = ClassifierModel { training: Some(history.clone()), ..average.clone() };
        ClassifierModel::save(&model, path, Precision::F16)
    }
}

/// [`data::Batches`] with the classes of the images.
struct LabelledBatches {
    batches: data::Batches,
    labels: Labels,
}

impl Batches for LabelledBatches {
    type Example = LabelledImage;

    fn next(&mut self) -> Result<(Vec<LabelledImage>, Position)> {
        let data::Batch { images, labels, names, next, .. } = images::next(&mut self.batches)?;
        let labelled = |((image, label), name): ((RgbImage, Option<i64>), String)| {
            Ok(LabelledImage { image, class: self.labels.class(&name, label)? })
        };
        let examples = images.into_iter().zip(labels).zip(names).map(labelled).collect::<Result<_>>()?;
        Ok((examples, next))
    }

    fn take_warnings(&mut self) -> Vec<String> {
        images::warnings(&mut self.batches)
    }
}

#[cfg(test)]
mod tests;
