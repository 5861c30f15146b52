//! Between images and the latents in which the decoder denoises.
//!
//! An autoencoder is frozen: it is made or fitted before training and never learns with the rest.

mod fit;
pub mod kl;
pub mod linear;
mod overlap;

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

pub use fit::{FitReport, LinearFit};
pub use kl::{KlAutoencoder, KlConfig};
pub use linear::LinearAutoencoder;
pub use overlap::OverlapFit;

use crate::noise::Noise;
use crate::weights::{self, Weights};
use crate::{Error, Latents, Pixels, Result};

/// What the names of an autoencoder's tensors begin with in a model file.
const PREFIX: &str = "autoencoder";

/// Which autoencoder stands between pixels and latents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AutoencoderConfig {
    /// The pixels themselves, in `[-1, 1]`. The braces make serde refuse unknown fields.
    Pixel {},
    /// Principal components of square patches, fitted to the training images.
    Linear {
        /// Side of a patch in pixels.
        patch_size: usize,
        /// How many components are kept, at most `3 · patch_size²`.
        channels: usize,
        /// Exponent of the variance by which each channel is divided, in `[0, 0.5]`: 0 keeps the
        /// natural proportions, 0.25 takes the fourth root, 0.5 gives every channel variance 1.
        whitening: f64,
        /// Whether the latents around a patch help to paint it (fitted, too), so that its edges are not seen. Latents
        /// are the same with and without.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        overlap: bool,
    },
    /// The convolutional autoencoder of latent diffusion.
    Kl(KlConfig),
}

impl AutoencoderConfig {
    /// Whether this differs from `other` in the scale and shift of KL latents at most.
    pub fn has_networks_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Kl(a), Self::Kl(b)) => *a == KlConfig { scale: a.scale, shift: a.shift, ..b.clone() },
            _ => self == other,
        }
    }

    /// The same without the overlap of a linear autoencoder: what its latents mean.
    pub fn without_overlap(&self) -> Self {
        match *self {
            Self::Linear { patch_size, channels, whitening, .. } => {
                Self::Linear { patch_size, channels, whitening, overlap: false }
            }
            _ => self.clone(),
        }
    }

    /// A published autoencoder by name: see [`KlConfig::preset_names`].
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn preset(name: &str) -> Result<Self> {
        KlConfig::preset(name).map(Self::Kl)
    }

    /// How many channels latents have.
    pub fn channels(&self) -> usize {
        match self {
            Self::Pixel {} => 3,
            Self::Linear { channels, .. } => *channels,
            Self::Kl(config) => config.channels,
        }
    }

    /// How many pixels one latent position spans in each direction.
    pub fn stride(&self) -> usize {
        match self {
            Self::Pixel {} => 1,
            Self::Linear { patch_size, .. } => *patch_size,
            Self::Kl(config) => config.stride(),
        }
    }

    /// The side of the latents of square images with side `image_size`, in positions.
    ///
    /// # Errors
    /// If the stride does not divide the image size.
    pub fn latent_size(&self, image_size: usize) -> Result<usize> {
        let stride = self.stride();
        if stride == 0 || image_size == 0 || !image_size.is_multiple_of(stride) {
            return Err(Error::Config(format!(
                "image size {image_size} is not a multiple of the autoencoder's stride {stride}"
            )));
        }
        Ok(image_size / stride)
    }

    /// The shape of every tensor that a model file holds of it, by name.
    ///
    /// # Panics
    /// If the configuration is not valid.
    pub fn shapes(&self, device: &Device) -> BTreeMap<String, Vec<usize>> {
        match self {
            Self::Pixel {} => BTreeMap::new(),
            Self::Linear { patch_size, channels, overlap, .. } => {
                linear::shapes(*patch_size, *channels, *overlap)
            }
            Self::Kl(config) => weights::shapes(&KlAutoencoder::blank(config, device), PREFIX),
        }
    }

    /// # Errors
    /// If a field is outside the range stated at it.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Pixel {} => Ok(()),
            Self::Linear { patch_size, channels, whitening, .. } => {
                linear::validate(*patch_size, *channels, *whitening)
            }
            Self::Kl(config) => config.validate(),
        }
    }
}

/// A ready autoencoder.
#[derive(Debug, Clone)]
pub enum Autoencoder {
    /// Latents are pixels, scaled to `[-1, 1]`.
    Pixel,
    /// Latents are principal components of patches.
    Linear(Box<LinearAutoencoder>),
    /// Latents are those of latent diffusion.
    Kl(Box<KlAutoencoder>),
}

impl Autoencoder {
    /// The autoencoder of a configuration with the tensors of a model file, which are taken out of
    /// `weights`. Like [`weights::apply`], it is known to have fitted only when [`Weights::finish`]
    /// says so.
    ///
    /// # Errors
    /// If the configuration is impossible, or what was fitted is missing or of another shape.
    pub fn from_weights(config: &AutoencoderConfig, weights: &mut Weights, device: &Device) -> Result<Self> {
        config.validate()?;
        Ok(match config {
            AutoencoderConfig::Pixel {} => Self::Pixel,
            AutoencoderConfig::Linear { patch_size, channels, overlap, .. } => {
                let linear =
                    LinearAutoencoder::from_weights(*patch_size, *channels, *overlap, weights, device)?;
                Self::Linear(Box::new(linear))
            }
            AutoencoderConfig::Kl(config) => {
                let blank = KlAutoencoder::blank(config, device);
                Self::Kl(Box::new(weights::apply(blank, PREFIX, weights)))
            }
        })
    }

    /// What a model file holds of it; nothing for pixels.
    pub fn to_weights(&self) -> Weights {
        match self {
            Self::Pixel => Weights::new(),
            Self::Linear(linear) => linear.to_weights(),
            Self::Kl(kl) => weights::collect(kl.as_ref(), PREFIX),
        }
    }

    /// How many numbers were fitted or trained.
    pub fn num_params(&self) -> usize {
        match self {
            Self::Pixel => 0,
            Self::Linear(linear) => linear.num_params(),
            Self::Kl(kl) => kl.num_params(),
        }
    }

    /// The latents to measure an image by: the likeliest, where there is a choice.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` → `[B, C, H / stride, W / stride]`.
    ///
    /// # Panics
    /// If the stride does not divide height and width.
    pub fn encode(&self, pixels: &Pixels) -> Latents {
        match self {
            Self::Pixel => Latents(pixels.0.clone() * 2.0 - 1.0),
            Self::Linear(linear) => linear.encode(pixels),
            Self::Kl(kl) => kl.encode(pixels),
        }
    }

    /// The latents to train on: drawn, where there is a choice; elsewhere `noise` is not touched.
    ///
    /// # Shapes
    /// As [`Autoencoder::encode`].
    ///
    /// # Panics
    /// As there.
    pub fn sample(&self, pixels: &Pixels, noise: &mut Noise) -> Latents {
        match self {
            Self::Pixel | Self::Linear(_) => self.encode(pixels),
            Self::Kl(kl) => kl.sample(pixels, noise),
        }
    }

    /// The images of latents. Values may lie outside `[0, 1]`: whoever shows or measures them clamps.
    ///
    /// # Shapes
    /// `[B, C, h, w]` → `[B, 3, h · stride, w · stride]`.
    pub fn decode(&self, latents: &Latents) -> Pixels {
        match self {
            Self::Pixel => Pixels((latents.0.clone() + 1.0) / 2.0),
            Self::Linear(linear) => linear.decode(latents),
            Self::Kl(kl) => kl.decode(latents),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;

    use super::*;

    fn read(text: &str) -> serde_json::Result<AutoencoderConfig> {
        serde_json::from_str(text)
    }

    #[test]
    fn pixels_become_latents_between_minus_one_and_one_and_back() {
        let device = Device::flex();
        let pixels = Pixels(Tensor::<1>::from_floats([0.0, 0.25, 1.0], &device).reshape([1, 3, 1, 1]));
        let latents = Autoencoder::Pixel.encode(&pixels);
        assert_eq!(latents.0.to_data().try_to_vec::<f32>().unwrap(), [-1.0, -0.5, 1.0]);
        let back = Autoencoder::Pixel.decode(&latents);
        assert_eq!(back.0.into_data().try_to_vec::<f32>().unwrap(), [0.0, 0.25, 1.0]);
    }

    #[test]
    fn configuration_is_tagged_and_strict() {
        assert_eq!(read(r#"{"kind": "pixel"}"#).unwrap(), AutoencoderConfig::Pixel {});
        let linear =
            AutoencoderConfig::Linear { patch_size: 8, channels: 16, whitening: 0.25, overlap: false };
        assert_eq!(
            read(r#"{"kind": "linear", "patch_size": 8, "channels": 16, "whitening": 0.25}"#).unwrap(),
            linear
        );
        assert_eq!(read(&serde_json::to_string(&linear).unwrap()).unwrap(), linear);
        assert!(read(r#"{"kind": "pixel", "channels": 3}"#).is_err());
        assert!(read(r#"{"kind": "linear", "patch_size": 8, "channels": 16}"#).is_err());
        let kl = AutoencoderConfig::preset("kl-f16-c16").unwrap();
        assert_eq!(read(r#"{"kind": "kl", "preset": "kl-f16-c16"}"#).unwrap(), kl);
        assert_eq!(read(&serde_json::to_string(&kl).unwrap()).unwrap(), kl);
        assert!(read(r#"{"kind": "kl", "preset": "kl-f16-c16", "patch_size": 8}"#).is_err());
    }

    #[test]
    fn configuration_knows_its_latents() {
        let linear =
            AutoencoderConfig::Linear { patch_size: 8, channels: 16, whitening: 0.25, overlap: false };
        assert_eq!((linear.channels(), linear.latent_size(64).unwrap()), (16, 8));
        assert_eq!(AutoencoderConfig::Pixel {}.latent_size(31).unwrap(), 31);
        let kl = AutoencoderConfig::preset("kl-f16-c16").unwrap();
        assert_eq!((kl.channels(), kl.latent_size(256).unwrap()), (16, 16));
        assert!(linear.latent_size(60).unwrap_err().to_string().contains("60"));
        assert!(linear.validate().is_ok());
        for (patch_size, channels, whitening) in
            [(0, 1, 0.0), (2, 13, 0.0), (2, 0, 0.0), (2, 4, 0.6), (2, 4, f64::NAN)]
        {
            assert!(
                AutoencoderConfig::Linear { patch_size, channels, whitening, overlap: false }
                    .validate()
                    .is_err()
            );
        }
    }

    #[test]
    fn pixels_have_nothing_to_store() {
        let (device, pixel) = (Device::flex(), AutoencoderConfig::Pixel {});
        assert!(Autoencoder::Pixel.to_weights().is_empty());
        let read = Autoencoder::from_weights(&pixel, &mut Weights::new(), &device);
        assert!(matches!(read, Ok(Autoencoder::Pixel)));
    }
}
