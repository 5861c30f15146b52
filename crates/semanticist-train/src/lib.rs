//! How the weights of Semanticist come to be, and how good they are.

pub mod config;

pub mod schedule;

pub mod alignment;
pub mod autoencoder;
pub mod objective;
pub mod principal;

pub mod collective;
pub mod ema;
pub mod gradients;
pub mod optimizer;

pub mod activations;
pub mod changes;
pub mod checkpoint;
pub mod history;
pub mod journal;
mod keeper;
mod learner;
pub mod lock;
pub mod memory;
pub mod plan;
mod tensorboard;
pub mod trainer;
