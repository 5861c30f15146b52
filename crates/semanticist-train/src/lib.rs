//! How the weights of Semanticist come to be, and how good they are.

pub mod data;
pub mod tokens;

pub mod alignment;
pub mod ema;
pub mod gradients;
pub mod optimizer;
mod paths;
pub mod schedule;

pub mod verify;
