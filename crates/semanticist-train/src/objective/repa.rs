//! Representation alignment as part of a tokenizer's run (REPA; Yu et al., 2024): who the teacher is, and how much it counts.
//! The projector and the block it looks at belong to the model ([`RepaConfig`]).

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use semanticist::decoder::RepaConfig;
use semanticist::{Error, Pixels, Result};
use semanticist_data::features::FeatureCache;
use semanticist_data::{Shown, Source};
use semanticist_eval::Teacher;
use serde::{Deserialize, Serialize};

use super::tokenizer::TokenizerRun;
use crate::alignment::alignment_loss;
use crate::config::{ImageData, RunConfig, TrainingCrop};

/// Whom the decoder's hidden states are aligned with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repa {
    /// A classifier or tokenizer trained here, or a DINOv2. It must be there whenever the run goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// Instead of it, a folder with what it sees in the evaluation crops of all images, as `cache-features` writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Factor of the negative cosine beside the diffusion loss.
    #[serde(default = "one")]
    pub weight: f64,
    /// SHA-256 of the teacher's weights; filled in when the run starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

fn one() -> f64 {
    1.0
}

/// Where the features of a run's teacher come from.
#[derive(Debug)]
pub enum TeacherFeatures {
    /// It looks at every batch.
    Seen(Box<Teacher>),
    /// It has looked at all images before.
    Cached(FeatureCache),
}

impl TeacherFeatures {
    /// How many numbers the weights are that are in memory for them.
    pub fn parameters(&self) -> usize {
        match self {
            Self::Seen(teacher) => teacher.parameters(),
            Self::Cached(_) => 0,
        }
    }

    /// Fails if they are not of what training shows of the images of `training`.
    ///
    /// # Errors
    /// As it says, or if the data cannot be read.
    pub(super) fn check(&self, config: &RunConfig<TokenizerRun>, training: &Source) -> Result<()> {
        match self {
            Self::Seen(_) => Ok(()),
            Self::Cached(cache) => {
                cache.check(&training.fingerprint()?, config.model.image_size, config.data.flip)
            }
        }
    }

    /// What tells one cache from another, to be added to the fingerprint of the data; a teacher has its hash.
    pub(super) fn fingerprint(&self) -> String {
        match self {
            Self::Seen(_) => String::new(),
            Self::Cached(cache) => format!(", features {}", cache.fingerprint()),
        }
    }

    fn hash(&self) -> &str {
        match self {
            Self::Seen(teacher) => teacher.hash(),
            Self::Cached(cache) => &cache.info().teacher,
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::Seen(teacher) => teacher.width(),
            Self::Cached(cache) => cache.info().width,
        }
    }

    /// `[B, positions, width]` of `images` `[B, 3, H, H]`, which are what `shown` says.
    fn of(&self, images: &Pixels, shown: &[Shown]) -> Tensor<3> {
        match self {
            Self::Seen(teacher) => teacher.features(images).expect("images of a run are square"),
            Self::Cached(cache) => {
                let shape = [shown.len(), cache.info().positions, cache.info().width];
                let values: Vec<f32> = shown.iter().flat_map(|shown| cache.features(*shown)).collect();
                Tensor::from_data(TensorData::new(values, shape), &images.0.device())
            }
        }
    }
}

impl Repa {
    /// Checks the numbers, and that they fit the model and what is shown of images.
    ///
    /// # Errors
    /// If the model has no projector, the weight is negative or not a number, there is a teacher and a cache or neither, or
    /// a cache and views that it cannot have.
    pub fn validate(&self, model: Option<RepaConfig>, data: &ImageData) -> Result<()> {
        let weight = self.weight;
        let problem = if model.is_none() {
            "objective.repa is given, but model.decoder.repa is off; give that as { layer = 8, teacher_width = 768, \
             hidden = 2048 }, or leave objective.repa out"
                .into()
        } else if !(weight.is_finite() && weight >= 0.0) {
            format!("objective.repa.weight = {weight} is not a number of 0 or more")
        } else {
            match (&self.teacher, &self.cache) {
                (Some(_), Some(_)) => {
                    "objective.repa has a teacher and a cache of what it sees; leave one of them out".into()
                }
                (None, None) => format!("objective.repa has neither teacher nor cache; {HOW_TO_GET_ONE}"),
                (None, Some(_)) if data.crop != TrainingCrop::Center => {
                    "objective.repa.cache holds features of the evaluation crops, but the run shows others; set data.crop \
                     = \"center\", or give objective.repa.teacher instead"
                        .into()
                }
                _ => return Ok(()),
            }
        };
        Err(Error::Config(problem))
    }

    /// The teacher of a run, or what it saw, if the run has one, whose hash is then in the configuration.
    ///
    /// # Errors
    /// If the model is to be aligned and there is no teacher, or it cannot be read, is not the one whose hash the
    /// configuration has, or has features of another width than the model's projector.
    pub fn load_teacher(
        config: &mut RunConfig<TokenizerRun>,
        device: &Device,
    ) -> Result<Option<TeacherFeatures>> {
        let Some(model) = config.model.decoder.repa.filter(|_| config.objective.distillation.is_none())
        else {
            return Ok(None);
        };
        let Some(repa) = &mut config.objective.repa else {
            return Err(Error::Config(format!(
                "model.decoder.repa asks for alignment with a teacher's features, but there is no teacher; {HOW_TO_GET_ONE}"
            )));
        };
        let (field, path, features) = match (&repa.cache, &repa.teacher) {
            (Some(path), _) => ("cache", path, TeacherFeatures::Cached(FeatureCache::open(path)?)),
            (None, Some(path)) if path.exists() => {
                let teacher = Teacher::load(path, config.model.image_size, config.precision, device)?;
                ("teacher", path, TeacherFeatures::Seen(Box::new(teacher)))
            }
            (None, path) => {
                let path = path.as_deref().unwrap_or(Path::new("")).display();
                return Err(Error::Config(format!(
                    "objective.repa.teacher: there is no file {path}; {HOW_TO_GET_ONE}"
                )));
            }
        };
        let (found, expected) = (features.width(), model.teacher_width);
        if found != expected {
            return Err(Error::Config(format!(
                "objective.repa.{field}: {} has features of {found} numbers, but model.decoder.repa.teacher_width is \
                 {expected}; set that to {found}",
                path.display()
            )));
        }
        match &repa.sha256 {
            Some(expected) if expected != features.hash() => {
                return Err(Error::Config(format!(
                    "objective.repa.{field}: {} has the teacher's SHA-256 {}, but the run began with {expected}; give what \
                     it began with, or start another run",
                    path.display(),
                    features.hash()
                )));
            }
            _ => repa.sha256 = Some(features.hash().to_string()),
        }
        Ok(Some(features))
    }

    /// The hash of the teacher that the run in `out` began with, if it has one and `asked` does not say.
    ///
    /// # Errors
    /// If the folder holds no run.
    pub fn of_run(out: &Path, asked: Option<Self>) -> Result<Option<Self>> {
        let Some(asked) = asked else { return Ok(None) };
        let started = RunConfig::<TokenizerRun>::read(&out.join("config.toml"), &[])?.objective.repa;
        let sha256 = asked.sha256.or_else(|| started.and_then(|repa| repa.sha256));
        Ok(Some(Self { sha256, ..asked }))
    }
}

/// What a message about a missing teacher ends in.
const HOW_TO_GET_ONE: &str = "train one with `semanticist train classifier`, or get DINOv2-B with `curl -LO \
                              https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth`, and give \
                              it with --set objective.repa.teacher=FILE; to train without, set model.decoder.repa = \
                              \"off\"";

/// The mean negative cosine between projected hidden states and what the teacher sees in the clean images, which are
/// those that `shown` says.
///
/// # Shapes
/// `projection`: `[B, N, T]` on the device of training, `images`: `[B, 3, H, H]` without autodiff → `[1]`
///
/// # Panics
/// If the images are not square; the width was checked by [`Repa::load_teacher`].
pub(super) fn loss(
    features: &TeacherFeatures,
    projection: Tensor<3>,
    images: &Pixels,
    shown: &[Shown],
) -> Tensor<1> {
    alignment_loss(projection, Tensor::from_inner(features.of(images, shown)))
}
