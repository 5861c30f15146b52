//! Networks in whose features pictures are compared, by name.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use burn::tensor::{Device, Tensor};
use semanticist::image::{Filter, RgbImage, resize, to_pixels};
use semanticist::model::{ClassifierModel, ModelFile};
use semanticist::{Error, Result};
use sha2::{Digest, Sha256};

use crate::clip::{Clip, ClipActivation};
use crate::dinov2::DinoV2;
use crate::inception::{self, Inception, InputResize};

/// Images that go through a network of photographs together: at 299 pixels, its first layers take 11 MB for each.
const TOGETHER: usize = 16;

/// Patches along a side of what DINOv2 sees: 224 pixels at the published patches of 14.
const PATCHES: usize = 16;

/// How the SHA-256 of the published file of Inception-v3 begins, which is in its name: pytorch-fid and torch-fidelity have the
/// same one.
const PUBLISHED_INCEPTION: &str = "6726825d";

/// Which network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureKind {
    /// One that was trained here.
    Classifier,
    /// That of FID; images are resized as pytorch-fid does it.
    Inception,
    /// The same; images are resized as TensorFlow 1 does it, for ADM's evaluator and torch-fidelity.
    InceptionTensorFlow,
    /// That of FD-DINOv2 (Stein et al., 2023).
    DinoV2,
    /// The images of CLIP as OpenAI published it.
    Clip,
    /// The same with the activation of OpenCLIP's models of LAION and DataComp.
    ClipGelu,
}

impl FeatureKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Inception,
        Self::InceptionTensorFlow,
        Self::DinoV2,
        Self::Clip,
        Self::ClipGelu,
        Self::Classifier,
    ];

    /// What people type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classifier => "classifier",
            Self::Inception => "inception",
            Self::InceptionTensorFlow => "inception-tf",
            Self::DinoV2 => "dinov2",
            Self::Clip => "clip",
            Self::ClipGelu => "clip-gelu",
        }
    }

    /// Whether it is Inception-v3, whichever way images are resized for it.
    pub fn is_inception(self) -> bool {
        matches!(self, Self::Inception | Self::InceptionTensorFlow)
    }

    /// Whether it is CLIP, whichever its activation.
    pub fn is_clip(self) -> bool {
        matches!(self, Self::Clip | Self::ClipGelu)
    }
}

impl fmt::Display for FeatureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FeatureKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| format!("there are no features called \"{text}\"; there are {}", known()))
    }
}

/// A network that turns pictures into features.
pub struct FeatureNetwork {
    kind: FeatureKind,
    network: Network,
    hash: String,
    published: bool,
}

enum Network {
    Classifier(Box<ClassifierModel>),
    Inception(Box<Inception>),
    DinoV2(Box<DinoV2>),
    Clip(Box<Clip>),
}

/// What a network makes of pictures.
#[derive(Debug, Clone)]
pub struct Features {
    /// `[B, D]`
    pub vectors: Tensor<2>,
    /// `[B, S]`: of Inception-v3, the features of sFID.
    pub spatial: Option<Tensor<2>>,
    /// `[B, C]`: the logits of a classifier, or those of the Inception score, if the network has classes.
    pub logits: Option<Tensor<2>>,
}

impl FeatureNetwork {
    /// Reads the file of a network.
    ///
    /// # Errors
    /// If it cannot be read, or is another network's.
    pub fn open(kind: FeatureKind, path: &Path, device: &Device) -> Result<Self> {
        let (network, hash, published) = match kind {
            FeatureKind::Classifier => {
                let file = ModelFile::open(path)?.into_classifier()?;
                let hash = file.hash()?;
                (Network::Classifier(Box::new(file.load(device)?)), hash, false)
            }
            FeatureKind::Inception | FeatureKind::InceptionTensorFlow => {
                let (network, hash) = Inception::load(path, device)?;
                let published = file_hash(path).is_ok_and(|hash| hash.starts_with(PUBLISHED_INCEPTION));
                (Network::Inception(Box::new(network)), hash, published)
            }
            FeatureKind::DinoV2 => {
                let (network, hash) = DinoV2::load(path, device)?;
                (Network::DinoV2(Box::new(network)), hash, false)
            }
            FeatureKind::Clip | FeatureKind::ClipGelu => {
                let activation = match kind {
                    FeatureKind::ClipGelu => ClipActivation::Gelu,
                    _ => ClipActivation::QuickGelu,
                };
                let (network, hash) = Clip::load(path, activation, device)?;
                (Network::Clip(Box::new(network)), hash, false)
            }
        };
        Ok(Self { kind, network, hash, published })
    }

    /// Which network it is.
    pub fn kind(&self) -> FeatureKind {
        self.kind
    }

    /// SHA-256 of its weights, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Numbers per feature.
    pub fn width(&self) -> usize {
        match &self.network {
            Network::Classifier(model) => model.classifier.config.blocks.width,
            Network::Inception(network) => network.widths()[3],
            Network::DinoV2(network) => network.width(),
            Network::Clip(network) => network.width(),
        }
    }

    /// Numbers of the features with places, of sFID.
    pub fn spatial_width(&self) -> Option<usize> {
        matches!(self.network, Network::Inception(_))
            .then_some(inception::SPATIAL_SIDE.pow(2) * inception::SPATIAL_CHANNELS)
    }

    /// Side of the only images that it takes, in pixels; none if it takes those of any size.
    pub fn image_size(&self) -> Option<usize> {
        match &self.network {
            Network::Classifier(model) => Some(model.classifier.config.image_size),
            Network::Inception(_) | Network::DinoV2(_) | Network::Clip(_) => None,
        }
    }

    /// The classifier, if it is one that was trained here.
    pub fn classifier(&self) -> Option<&ClassifierModel> {
        match &self.network {
            Network::Classifier(model) => Some(model),
            Network::Inception(_) | Network::DinoV2(_) | Network::Clip(_) => None,
        }
    }

    /// What it is, of which weights, and how images of `size` pixels are resized for it, as part of a sentence.
    pub fn described(&self, size: usize) -> String {
        let hash = &self.hash[..12];
        match &self.network {
            Network::Classifier(_) => format!("a classifier (weights {hash})"),
            Network::Inception(_) => {
                let weights =
                    if self.published { "the published weights," } else { "not the published weights:" };
                let resize = match self.input_resize() {
                    InputResize::PytorchFid => "bilinear as pytorch-fid",
                    InputResize::TensorFlow => "bilinear as TensorFlow 1",
                };
                let side = inception::SIDE;
                format!(
                    "Inception-v3 ({weights} {hash}), images resized from {size} to {side} pixels ({resize})"
                )
            }
            Network::DinoV2(network) => {
                let side = PATCHES * network.patch_size();
                format!(
                    "DINOv2 of {} numbers (weights {hash}), images resized from {size} to {side} pixels (bicubic as Pillow)",
                    network.width()
                )
            }
            Network::Clip(network) => {
                let (side, activation) = (network.image_size(), self.kind.name());
                format!(
                    "CLIP of {} numbers ({activation}, weights {hash}), images resized from {size} to {side} pixels (bicubic as \
                     Pillow)",
                    network.width()
                )
            }
        }
    }

    /// The features of pictures in 8 bits, as files have them: all of one size, which is [`FeatureNetwork::image_size`] if
    /// there is one.
    ///
    /// # Errors
    /// If they are of another size.
    ///
    /// # Panics
    /// If there are none, or their sizes differ.
    pub fn of(&self, pictures: &[RgbImage], device: &Device) -> Result<Features> {
        match &self.network {
            Network::Classifier(model) => {
                let vectors = model.classifier.features(&to_pixels(pictures, device))?;
                let logits = Some(model.classifier.network.head.forward(vectors.clone()));
                Ok(Features { vectors, spatial: None, logits })
            }
            Network::Inception(network) => {
                let (mut vectors, mut spatial) = (Vec::new(), Vec::new());
                for pictures in pictures.chunks(TOGETHER) {
                    let found = network.forward(&to_pixels(pictures, device), self.input_resize());
                    let [.., last] = found.features;
                    vectors.push(last);
                    spatial.push(found.spatial);
                }
                let vectors = Tensor::cat(vectors, 0);
                let logits = network.unbiased_logits(vectors.clone());
                Ok(Features { vectors, spatial: Some(Tensor::cat(spatial, 0)), logits })
            }
            Network::DinoV2(network) => {
                let side = PATCHES * network.patch_size();
                let vectors = pictures.chunks(TOGETHER).map(|pictures| {
                    let resized: Vec<_> =
                        pictures.iter().map(|picture| resize(picture, side, side, Filter::Bicubic)).collect();
                    network.features(&to_pixels(&resized, device))
                });
                Ok(Features { vectors: Tensor::cat(vectors.collect(), 0), spatial: None, logits: None })
            }
            Network::Clip(network) => {
                let vectors = clip_features(network, pictures, device);
                Ok(Features { vectors, spatial: None, logits: None })
            }
        }
    }

    fn input_resize(&self) -> InputResize {
        match self.kind {
            FeatureKind::InceptionTensorFlow => InputResize::TensorFlow,
            _ => InputResize::PytorchFid,
        }
    }
}

/// What CLIP makes of pictures of any size, one after the other.
///
/// # Shapes
/// `[B, E]`
///
/// # Panics
/// If there are none.
pub(crate) fn clip_features(network: &Clip, pictures: &[RgbImage], device: &Device) -> Tensor<2> {
    let vectors = pictures.chunks(TOGETHER).map(|pictures| {
        let prepared: Vec<_> = pictures.iter().map(|picture| network.prepared(picture)).collect();
        network.image_features(&to_pixels(&prepared, device))
    });
    Tensor::cat(vectors.collect(), 0)
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// If it cannot be read.
pub fn file_hash(path: &Path) -> Result<String> {
    let failed = |error| Error::io(path, "read", error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut sha, mut bytes) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut bytes).map_err(failed)? {
            0 => break,
            count => sha.update(&bytes[..count]),
        }
    }
    Ok(hexadecimal(sha))
}

/// SHA-256 of bytes, in hexadecimal.
pub fn bytes_hash(bytes: &[u8]) -> String {
    hexadecimal(Sha256::new().chain_update(bytes))
}

fn hexadecimal(sha: Sha256) -> String {
    sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use semanticist::image::RgbImage;
    use semanticist::weights::{self, Metadata, Precision};

    use super::*;

    fn pictures() -> Vec<RgbImage> {
        (0..20u8)
            .map(|number| RgbImage::from_fn(9, 9, |x, y| [number, 20 * x as u8, 20 * y as u8].into()))
            .collect()
    }

    #[test]
    fn each_network_gives_its_features_of_any_number_of_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let inception = folder.path().join("inception.safetensors");
        let weights = inception::tests::recording().split_prefix("weights.");
        weights::save(&inception, &weights, &Metadata::new(), Precision::F32).unwrap();
        let dinov2 = crate::dinov2::tests::file("plain", folder.path());
        let clip = crate::clip::tests::file(folder.path());
        let device = Device::flex();
        for (kind, path, width) in [
            (FeatureKind::Inception, &inception, 128),
            (FeatureKind::InceptionTensorFlow, &inception, 128),
            (FeatureKind::DinoV2, &dinov2, 64),
            (FeatureKind::Clip, &clip, 48),
            (FeatureKind::ClipGelu, &clip, 48),
        ] {
            let network = FeatureNetwork::open(kind, path, &device).unwrap();
            let found = network.of(&pictures(), &device).unwrap();
            assert_eq!((found.vectors.dims(), network.width()), ([20, width], width));
            assert_eq!(found.spatial.map(|spatial| spatial.dims()[1]), network.spatial_width());
            assert_eq!(found.logits.is_some(), kind.is_inception());
            // One picture has the features that it has among others.
            let alone = network.of(&pictures()[18..19], &device).unwrap().vectors;
            let apart: f32 = (found.vectors.narrow(0, 18, 1) - alone).abs().max().into_scalar();
            assert!(apart < 1e-5, "{kind}: {apart}");
            assert!(network.described(9).contains(&network.hash()[..12]));
            // Another network's file is refused.
            let other = if kind.is_inception() { &dinov2 } else { &inception };
            assert!(FeatureNetwork::open(kind, other, &device).is_err(), "{kind}");
        }
    }

    #[test]
    fn names_are_read_back() {
        for kind in FeatureKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!(
            "vgg"
                .parse::<FeatureKind>()
                .unwrap_err()
                .contains("inception, inception-tf, dinov2, clip, clip-gelu, classifier")
        );
    }
}
