//! How the weights of Semanticist come to be, and how good they are.

pub mod config;
pub mod data;
pub mod schedule;

pub mod alignment;
pub mod autoencoder;
pub mod objective;

pub mod ema;
pub mod gradients;
pub mod optimizer;

pub mod checkpoint;
pub mod journal;
pub mod trainer;
pub mod validation;

pub mod bench;
pub mod quality;
pub mod sheet;
pub mod tokens;
pub mod verify;
