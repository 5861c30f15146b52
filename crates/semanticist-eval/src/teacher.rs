//! A frozen network whose features of patches a decoder is aligned with in training (REPA; Yu et al., 2024).

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist::encoder::Encoder;
use semanticist::model::ModelFile;
use semanticist::nn::resize_grid;
use semanticist::{Classifier, Error, Pixels, Precision, Result};

use crate::dinov2::DinoV2;

/// The network and what its images must be like.
#[derive(Debug, Clone)]
pub struct Teacher {
    network: Network,
    /// Side of the images that it takes, in pixels.
    side: usize,
    hash: String,
}

#[derive(Debug, Clone)]
enum Network {
    DinoV2(Box<DinoV2>),
    Classifier(Box<Classifier>),
    /// A tokenizer's.
    Encoder(Box<Encoder>),
}

impl Teacher {
    /// Reads a classifier or a tokenizer trained here, or else a DINOv2 as torch.hub or transformers publish it.
    ///
    /// `image_size` is the side of the images that will be shown. A DINOv2 sees them at 7/8 of it, rounded to
    /// whole patches, as the published trainer has it (256 → 224); the others see them at the size they were trained at.
    ///
    /// # Errors
    /// If the file cannot be read, or holds none of these.
    pub fn load(path: &Path, image_size: usize, precision: Precision, device: &Device) -> Result<Self> {
        match ModelFile::open(path) {
            Ok(ModelFile::Classifier(file)) => {
                let (hash, side) = (file.hash()?, file.config().image_size);
                let classifier = file.load(device)?.classifier.with_precision(precision);
                Ok(Self { network: Network::Classifier(Box::new(classifier)), side, hash })
            }
            Ok(ModelFile::Tokenizer(file)) => {
                let model = file.load(device)?;
                let hash = model.hash()?.to_string();
                let side = model.tokenizer.config.image_size;
                let encoder = precision.store(model.tokenizer.networks.encoder);
                Ok(Self { network: Network::Encoder(Box::new(encoder)), side, hash })
            }
            Ok(other) => Err(Error::file(
                path,
                format!("holds one {}; a teacher is a classifier, a tokenizer or a DINOv2", other.kind()),
            )),
            // Not one of ours, or no safetensors file at all.
            Err(_) => {
                let (network, hash) = DinoV2::load(path, device)?;
                let patch = network.patch_size();
                let patches = (image_size * 7 + 4 * patch) / (8 * patch);
                let network = Network::DinoV2(Box::new(network.with_precision(precision)));
                Ok(Self { network, side: patches.max(1) * patch, hash })
            }
        }
    }

    /// How many numbers its weights are.
    pub fn parameters(&self) -> usize {
        match &self.network {
            Network::DinoV2(network) => network.num_params(),
            Network::Classifier(classifier) => classifier.network.num_params(),
            Network::Encoder(encoder) => encoder.num_params(),
        }
    }

    /// SHA-256 of its weights, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Numbers per feature.
    pub fn width(&self) -> usize {
        match &self.network {
            Network::DinoV2(network) => network.width(),
            Network::Classifier(classifier) => classifier.config.blocks.width,
            Network::Encoder(encoder) => encoder.concept_tokens.lazy_shape()[2],
        }
    }

    /// Features per image.
    pub fn positions(&self) -> usize {
        let patch = match &self.network {
            Network::DinoV2(network) => network.patch_size(),
            Network::Classifier(classifier) => classifier.config.patch_size,
            Network::Encoder(encoder) => encoder.patches.weight.lazy_shape()[2],
        };
        (self.side / patch).pow(2)
    }

    /// The features of every patch, row by row, of square images of any size.
    ///
    /// # Shapes
    /// `[B, 3, H, H]` in `[0, 1]` -> `[B, n², width]`
    ///
    /// # Errors
    /// If the images are not square.
    pub fn features(&self, images: &Pixels) -> Result<Tensor<3>> {
        let images = resized(images, self.side)?;
        match &self.network {
            Network::DinoV2(network) => Ok(network.patch_features(&images)),
            Network::Classifier(classifier) => classifier.patch_features(&images),
            Network::Encoder(encoder) => Ok(encoder.patch_features(&images)),
        }
    }
}

/// Bicubic without smoothing, as the published trainer resizes what its teacher sees.
fn resized(images: &Pixels, new: usize) -> Result<Pixels> {
    let [b, channels, side, width] = images.0.dims();
    if side != width {
        return Err(Error::Input(format!(
            "images of {side}×{width} pixels, but a teacher looks at square ones"
        )));
    }
    if side == new {
        return Ok(images.clone());
    }
    let rows = images.0.clone().reshape([b, channels, side * side]).swap_dims(1, 2);
    let rows = resize_grid(rows, side, new).swap_dims(1, 2);
    Ok(Pixels(rows.reshape([b, channels, new, new])))
}

#[cfg(test)]
mod tests {
    use semanticist::classifier::ClassifierNetwork;
    use semanticist::model::ClassifierModel;
    use semanticist::nn::BlockSize;
    use semanticist::weights::Precision as Stored;
    use semanticist::{ClassifierConfig, Noise};

    use super::*;

    fn classifier(path: &Path) -> Classifier {
        let config = ClassifierConfig {
            image_size: 8,
            classes: 2,
            patch_size: 4,
            blocks: BlockSize { width: 16, depth: 1, heads: 2, mlp_ratio: 2 },
            drop_path: 0.0,
        };
        let network = ClassifierNetwork::init(&config, &mut Noise::seeded(1), &Device::flex()).unwrap();
        let classifier = Classifier { config, network };
        let model = ClassifierModel { classifier: classifier.clone(), classes: vec![], training: None };
        model.save(path, Stored::F32).unwrap();
        classifier
    }

    #[test]
    fn a_classifier_teaches_with_its_patches_and_sees_images_at_its_own_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("classifier.safetensors");
        let classifier = classifier(&path);
        let device = Device::flex();
        let teacher = Teacher::load(&path, 16, Precision::Float32, &device).unwrap();
        assert_eq!((teacher.width(), teacher.hash().len()), (16, 64));
        // What is the same everywhere is so at every size.
        let colours = Noise::seeded(3).normal([2, 3, 1, 1], &device);
        let [small, large] = [8, 16].map(|side| Pixels(colours.clone().expand([2, 3, side, side])));
        let found = teacher.features(&large).unwrap();
        assert_eq!((found.dims(), teacher.positions()), ([2, 4, 16], 4));
        let apart = (found - classifier.patch_features(&small).unwrap()).abs().max().into_scalar::<f32>();
        assert!(apart < 1e-5, "{apart}");
        let wide = Pixels(Tensor::zeros([1, 3, 8, 16], &device));
        assert!(teacher.features(&wide).unwrap_err().to_string().contains("square"));
    }

    #[test]
    fn a_dinov2_sees_seven_eighths_in_whole_patches() {
        let folder = tempfile::tempdir().unwrap();
        let path = crate::dinov2::tests::file("plain", folder.path());
        let device = Device::flex();
        // Patches of 4 pixels: 7/8 of 32 are 28, of 30 are 26.25 and nearest to 28, of 4 are one patch.
        for (image_size, positions) in [(32, 49), (30, 49), (4, 1)] {
            let teacher = Teacher::load(&path, image_size, Precision::Float32, &device).unwrap();
            let images = Pixels(Tensor::zeros([1, 3, image_size, image_size], &device));
            assert_eq!(teacher.features(&images).unwrap().dims(), [1, positions, 64]);
            assert_eq!(teacher.positions(), positions);
        }
    }
}
