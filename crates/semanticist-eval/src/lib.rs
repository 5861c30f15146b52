//! How good images are that a model gives: metrics, and the networks that some of them need.

pub mod classification;
pub mod clip;
pub mod dinov2;
pub mod features;
pub mod findings;
pub mod frechet;
pub mod inception;
pub mod logistic;
pub mod measure;
pub mod neighbours;
mod npz;
pub mod perceptual;
pub mod plot;
pub mod principal;
pub mod quality;
pub mod quantised;
pub mod reconstruction;
pub mod report;
pub mod resume;
pub mod sliced;
pub mod spectrum;
mod ssim;
pub mod statistics;
pub mod teacher;
mod transformer_files;
pub mod variance;

pub mod generation;
pub mod sheet;
pub mod sweep;

pub use clip::Clip;
pub use dinov2::DinoV2;
pub use features::{FeatureKind, FeatureNetwork};
pub use inception::Inception;
pub use perceptual::PerceptualMeasures;
pub use principal::PrincipalComponents;
pub use quantised::{QuantisedKind, QuantisedTokenizer};
pub use statistics::Statistics;
pub use teacher::Teacher;
