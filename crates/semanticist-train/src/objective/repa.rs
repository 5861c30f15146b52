//! Representation alignment as part of a tokenizer's run (REPA; Yu et al., 2024): who the teacher is, and how much it counts.
//! The projector and the block it looks at belong to the model ([`RepaConfig`]).

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use semanticist::decoder::RepaConfig;
use semanticist::{Error, Pixels, Result};
use semanticist_eval::Teacher;
use serde::{Deserialize, Serialize};

use super::tokenizer::TokenizerRun;
use crate::alignment::alignment_loss;
use crate::config::RunConfig;

/// Whom the decoder's hidden states are aligned with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repa {
    /// A classifier or tokenizer trained here, or a DINOv2. It must be there whenever the run goes on.
    pub teacher: PathBuf,
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

impl Repa {
    /// Checks the numbers, and that the model has a projector.
    ///
    /// # Errors
    /// If it has none, or the weight is negative or not a number.
    pub fn validate(&self, model: Option<RepaConfig>) -> Result<()> {
        let weight = self.weight;
        let problem = if model.is_none() {
            "objective.repa has a teacher, but model.decoder.repa is off; give that as { layer = 8, teacher_width = 768, \
             hidden = 2048 }, or leave objective.repa out"
                .into()
        } else if !(weight.is_finite() && weight >= 0.0) {
            format!("objective.repa.weight = {weight} is not a number of 0 or more")
        } else {
            return Ok(());
        };
        Err(Error::Config(problem))
    }

    /// The teacher of a run, if it has one, whose hash is then in the configuration.
    ///
    /// # Errors
    /// If the model is to be aligned and there is no teacher, or it cannot be read, is not the one whose hash the
    /// configuration has, or has features of another width than the model's projector.
    pub fn load_teacher(config: &mut RunConfig<TokenizerRun>, device: &Device) -> Result<Option<Teacher>> {
        let Some(model) = config.model.decoder.repa.filter(|_| config.objective.distillation.is_none())
        else {
            return Ok(None);
        };
        let Some(repa) = &mut config.objective.repa else {
            return Err(Error::Config(format!(
                "model.decoder.repa asks for alignment with a teacher's features, but there is no teacher; {HOW_TO_GET_ONE}"
            )));
        };
        let path = &repa.teacher;
        if !path.exists() {
            return Err(Error::Config(format!(
                "objective.repa.teacher: there is no file {}; {HOW_TO_GET_ONE}",
                path.display()
            )));
        }
        let teacher = Teacher::load(path, config.model.image_size, config.precision, device)?;
        match &repa.sha256 {
            Some(expected) if expected != teacher.hash() => {
                return Err(Error::Config(format!(
                    "objective.repa.teacher: {} has the SHA-256 {}, but the run began with {expected}; give the file it \
                     began with, or start another run",
                    path.display(),
                    teacher.hash()
                )));
            }
            _ => repa.sha256 = Some(teacher.hash().to_string()),
        }
        let (found, expected) = (teacher.width(), model.teacher_width);
        if found != expected {
            return Err(Error::Config(format!(
                "objective.repa.teacher: {} has features of {found} numbers, but model.decoder.repa.teacher_width is \
                 {expected}; set that to {found}",
                path.display()
            )));
        }
        Ok(Some(teacher))
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

/// The mean negative cosine between projected hidden states and what the teacher sees in the clean images.
///
/// # Shapes
/// `projection`: `[B, N, T]` on the device of training, `images`: `[B, 3, H, H]` without autodiff → `[1]`
///
/// # Panics
/// If the images are not square; the width was checked by [`Repa::load_teacher`].
pub(super) fn loss(teacher: &Teacher, projection: Tensor<3>, images: &Pixels) -> Tensor<1> {
    let features = teacher.features(images).expect("images of a run are square");
    alignment_loss(projection, Tensor::from_inner(features))
}
