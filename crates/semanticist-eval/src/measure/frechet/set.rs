//! A set of pictures while it comes in, and what it gives.

use burn::tensor::{Device, Tensor};
use semanticist::Result;
use semanticist::image::RgbImage;
use serde::{Deserialize, Serialize};

use super::failed;
use crate::classification::{AccuracyCount, Labels};
use crate::features::FeatureNetwork;
use crate::frechet::{FeatureStatistics, Gaussian, OnFew};
use crate::inception::{InceptionScore, inception_score};
use crate::neighbours::{copied, kernel_distance, nearest, precision_recall};
use crate::sliced::sliced_distance;

/// What a set of pictures gave.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Found {
    pub images: usize,
    /// Squared; none of the measured images from themselves.
    pub frechet: Option<f64>,
    /// That of sFID.
    pub spatial: Option<f64>,
    /// Of Inception-v3 with classes.
    pub score: Option<InceptionScore>,
    /// How it lies to the images that are measured; none for themselves.
    pub nearness: Option<Nearness>,
    /// In `[0, 1]`; none of training images, and where there are none but the measured ones.
    pub copied: Option<f64>,
    /// In `[0, 1]`; none without classes.
    pub top1: Option<f64>,
    pub top5: Option<f64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Nearness {
    pub kernel: f64,
    pub kernel_deviation: f64,
    pub precision: f64,
    pub recall: f64,
    pub sliced: f64,
}

/// What a set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The images that others are compared with.
    Measured,
    /// Images that models learnt from.
    Training,
    /// Pictures of a model.
    Pictures,
}

/// What sets are compared with.
pub(super) struct Reference {
    /// What Fréchet distances are measured from.
    pub gaussian: Gaussian,
    /// The same for sFID, if there are enough images, or the file has it.
    pub spatial: Option<Gaussian>,
    /// Whether both are of a file, not of the measured images.
    pub from_file: bool,
    /// `[N, D]`; none where nothing is compared.
    pub features: Option<Tensor<2>>,
    /// None where there are none but the measured images.
    pub training: Option<Learnt>,
    pub seed: u64,
}

/// Images that were learnt from.
pub(super) struct Learnt {
    /// `[M, D]`
    pub features: Tensor<2>,
    /// From each measured image to the nearest of them.
    pub held_out: Vec<f64>,
}

/// What stays of the pictures of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// As much memory for any number of pictures.
    Statistics,
    /// The features of each as well, which all but Fréchet distances take, and the logits of Inception scores.
    Features,
}

/// A set while its pictures come in.
pub(super) struct Set<'a> {
    network: &'a FeatureNetwork,
    device: &'a Device,
    labels: Option<&'a Labels>,
    statistics: FeatureStatistics,
    spatial: Option<FeatureStatistics>,
    features: Option<Vec<Tensor<2>>>,
    /// Of the Inception score.
    logits: Vec<Tensor<2>>,
    count: AccuracyCount,
}

impl<'a> Set<'a> {
    pub fn new(
        network: &'a FeatureNetwork,
        labels: Option<&'a Labels>,
        keep: Keep,
        device: &'a Device,
    ) -> Self {
        Self {
            network,
            device,
            labels,
            statistics: FeatureStatistics::new(network.width()),
            spatial: network.spatial_width().map(FeatureStatistics::new),
            features: (keep == Keep::Features).then(Vec::new),
            logits: Vec::new(),
            count: AccuracyCount::default(),
        }
    }

    pub fn add(&mut self, pictures: &[RgbImage], classes: &[Option<i64>]) -> Result<()> {
        let found = self.network.of(pictures, self.device)?;
        self.statistics.add(&found.vectors);
        if let Some(features) = &mut self.features {
            features.push(found.vectors);
        }
        if let (Some(statistics), Some(spatial)) = (&mut self.spatial, &found.spatial) {
            statistics.add(spatial);
        }
        match (self.labels, found.logits) {
            (Some(labels), Some(logits)) => {
                let classes = classes
                    .iter()
                    .map(|&class| labels.class("an image", class))
                    .collect::<Result<Vec<_>>>()?;
                self.count.count(logits, &classes);
            }
            (None, Some(logits)) if self.features.is_some() && self.network.kind().is_inception() => {
                self.logits.push(logits)
            }
            _ => {}
        }
        Ok(())
    }

    pub fn count(&self) -> usize {
        self.statistics.count()
    }

    /// # Panics
    /// If there is no picture, or they are not kept.
    pub fn features(&self) -> Tensor<2> {
        Tensor::cat(self.features.clone().expect("they are kept where they are asked for"), 0)
    }

    pub fn gaussian(&self) -> Result<Gaussian> {
        self.statistics.gaussian(OnFew::Refuse).map_err(failed)
    }

    /// That of sFID, if there are enough pictures: it has other dimensions than FID, which decides whether there are.
    pub fn spatial(&self) -> Result<Option<Gaussian>> {
        let enough = |width: usize| self.count() > width;
        match &self.spatial {
            Some(statistics) if self.network.spatial_width().is_some_and(enough) => {
                statistics.gaussian(OnFew::Refuse).map(Some).map_err(failed)
            }
            _ => Ok(None),
        }
    }

    pub fn finish(self, reference: &Reference, role: Role) -> Result<Found> {
        let distance = |from: &Gaussian, to: &Gaussian| from.distance(to).map_err(failed);
        let (mut frechet, mut spatial, mut near, mut copies) = (None, None, None, None);
        if role != Role::Measured || reference.from_file {
            frechet = Some(distance(&reference.gaussian, &self.gaussian()?)?);
            spatial = match (&reference.spatial, self.spatial()?) {
                (Some(from), Some(to)) => Some(distance(from, &to)?),
                _ => None,
            };
        }
        if let (Some(measured), true) = (&reference.features, role != Role::Measured) {
            let features = self.features();
            let kernel = kernel_distance(measured, &features, reference.seed);
            let shares = precision_recall(measured, &features);
            near = Some(Nearness {
                kernel: kernel.mean,
                kernel_deviation: kernel.deviation,
                precision: shares.precision,
                recall: shares.recall,
                sliced: sliced_distance(measured, &features, reference.seed),
            });
            let learnt = reference.training.as_ref().filter(|_| role == Role::Pictures);
            copies = learnt.map(|learnt| copied(&nearest(&features, &learnt.features), &learnt.held_out));
        }
        let accuracy = self.labels.map(|_| self.count.finish()).transpose()?;
        let score = match self.logits.is_empty() {
            true => None,
            false => inception_score(&Tensor::cat(self.logits, 0), reference.seed),
        };
        Ok(Found {
            images: self.statistics.count(),
            frechet,
            spatial,
            score,
            nearness: near,
            copied: copies,
            top1: accuracy.map(|it| it.top1),
            top5: accuracy.map(|it| it.top5),
        })
    }
}
