//! How good images are that a model gives: metrics, and the networks that some of them need.

pub mod classification;
pub mod frechet;
pub mod lpips;
pub mod quality;
pub mod reconstruction;

pub mod principal;
pub mod spectrum;
pub mod variance;

pub mod generation;
pub mod sheet;

pub mod findings;
pub mod plot;
pub mod resume;

pub use lpips::PerceptualLoss;
