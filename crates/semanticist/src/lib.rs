//! Semanticist: an image as a short, ordered sequence of continuous tokens, and back.
//!
//! The modules in reading order: [`spaces`] names what flows (pixels, latents, tokens), [`image`]
//! brings images in and out, [`encoder`] turns pixels into tokens, [`autoencoder`] maps pixels to
//! the latents in which [`decoder`] denoises, [`diffusion`] holds the formulas of that process, and
//! [`tokenizer`] puts them together. [`generator`] draws new tokens of a class, [`classifier`] tells the class of an
//! image. [`weights`] reads and writes model files.

pub mod device;
pub mod error;
pub mod files;
pub mod noise;
pub mod precision;
pub mod progress;
pub mod spaces;

pub mod image;

pub mod nn;

pub mod autoencoder;
pub mod decoder;
pub mod diffusion;
pub mod encoder;

pub mod classifier;
pub mod generator;
pub mod model;
pub mod presets;
pub mod tokenizer;
pub mod weights;

pub use classifier::{Classifier, ClassifierConfig};
pub use device::{Device, DeviceSpec};
pub use diffusion::DecodeOptions;
pub use error::{Error, Result};
pub use generator::{DrawOptions, GenerateOptions, Generator};
pub use model::ModelFile;
pub use noise::{Noise, Purpose, Seed};
pub use precision::Precision;
pub use progress::Progress;
pub use spaces::{Latents, Pixels, Tokens};
pub use tokenizer::{Tokenizer, TokenizerConfig};

/// The code of the README is compiled.
#[cfg(all(doctest, feature = "hub"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
