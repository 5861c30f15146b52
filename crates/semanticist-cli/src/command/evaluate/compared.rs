//! In whose features pictures are compared, and with what.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Device;
use semanticist_data::Source;
use semanticist_eval::features::{FeatureKind, FeatureNetwork, file_hash};
use semanticist_eval::measure;
use semanticist_eval::measure::frechet::{Customs, FileReference, Pictures};
use semanticist_eval::statistics::{Origin, Statistics};
use serde_json::{Value, json};

use super::data::Data;
use crate::args::Comparing;
use crate::{failure, output};

/// A feature network, and what is read and written beside it.
pub struct Compared {
    pub network: FeatureNetwork,
    training_images: usize,
    reference: Option<FileReference>,
    save: Option<PathBuf>,
    customs: Customs,
}

/// On what pictures are compared.
pub struct Asked<'a> {
    /// Side of the squares, in pixels.
    pub size: usize,
    pub images: usize,
    pub series: Vec<(String, &'a Source)>,
    pub seed: u64,
}

impl Compared {
    /// What can be said before anything is read.
    pub fn check(comparing: &Comparing) -> Result<()> {
        if comparing.features.file().is_none() {
            return Err(failure::usage(
                "in whose features are pictures compared? Give --features inception=FILE (FID), --features dinov2=FILE (FD-DINOv2) \
                 or --classifier FILE",
            ));
        }
        comparing.save_statistics.as_deref().map_or(Ok(()), output::check_file)
    }

    pub fn open(comparing: &Comparing, device: &Device) -> Result<Self> {
        let reference = comparing.reference.as_ref().map(|path| {
            let (statistics, hash) = (Statistics::read(path)?, file_hash(path)?);
            Ok::<_, semanticist::Error>(FileReference { path: path.clone(), statistics, hash })
        });
        let reference = reference.transpose()?;
        let chosen = comparing.features.file().expect("that there is one was checked");
        Ok(Self {
            reference,
            save: comparing.save_statistics.clone(),
            customs: if comparing.force { Customs::Overruled } else { Customs::Kept },
            ..Self::network(chosen, comparing.training_images, device)?
        })
    }

    /// A network alone: everything is measured from the images.
    pub fn network(
        (kind, path): (FeatureKind, &Path),
        training_images: usize,
        device: &Device,
    ) -> Result<Self> {
        let network = FeatureNetwork::open(kind, path, device)?;
        Ok(Self { network, training_images, reference: None, save: None, customs: Customs::Kept })
    }

    /// What of it decides what is found.
    pub fn options(&self) -> Value {
        json!({
            "network": self.network.kind().name(),
            "hash": self.network.hash(),
            "training_images": self.training_images,
            "reference": self.reference.as_ref().map(|reference| &reference.hash),
            "forced": self.customs == Customs::Overruled,
        })
    }

    pub fn pictures<'a>(
        &'a self,
        data: &'a Data,
        training: &'a Data,
        asked: Asked<'a>,
        device: &'a Device,
    ) -> Pictures<'a> {
        let Asked { size, images, series, seed } = asked;
        let origin = Origin {
            features: self.network.kind().name().into(),
            weights: self.network.hash().into(),
            images,
            image_size: size,
            crop: measure::CROP.into(),
            data: data.fingerprint.clone(),
            part: data.part(),
        };
        Pictures {
            network: &self.network,
            size,
            source: &data.source,
            images,
            training: Some((&training.source, training.fingerprint.as_str()))
                .filter(|(_, fingerprint)| *fingerprint != data.fingerprint),
            training_images: self.training_images,
            series,
            reference: self.reference.as_ref(),
            save: self.save.as_deref().map(|path| (path, origin)),
            customs: self.customs,
            seed,
            device,
        }
    }
}
