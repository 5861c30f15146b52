//! What a run trains, and what it minimises: all that the trainer needs to know of a kind of model.

pub mod autoencoder;
pub mod classifier;
pub mod continued;
pub mod diffusion;
pub mod distillation;
mod frozen;
pub mod generator;
pub mod grown;
pub mod images;
mod learning;
pub mod mean_flow;
pub mod nested;
pub mod readout;
pub mod repa;
pub mod tokenizer;

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist::nn::Activations;
use semanticist::{Noise, Result};
use semanticist_data::{Position, Share};

use crate::config::Kind;

/// A model with parameters that learn, and whatever belongs to it that does not.
pub trait Trainable: Clone {
    /// The parts that learn.
    type Parameters: Module + Clone;

    /// The parts that learn, to be read.
    fn parameters(&self) -> &Self::Parameters;

    /// The parts that learn, to be changed by an optimiser's step.
    fn parameters_mut(&mut self) -> &mut Self::Parameters;

    /// Prefixes of the parameters' names: those that begin with one of them have an optimiser of their own, with
    /// its own clipping, moments and number of steps. Together they cover all parameters. The first is of what
    /// the run is about.
    fn optimized_apart() -> &'static [&'static str] {
        &[""]
    }

    /// Bytes of the weights that do not learn and are part of the model, in 32 bits.
    fn frozen_bytes(&self) -> u64 {
        0
    }

    /// Bytes of a network that is imitated and kept with the run, in 32 bits.
    fn imitated_bytes(&self) -> u64 {
        0
    }

    /// Says what becomes of the values within transformer blocks in training; a model without such blocks has none.
    fn set_activations(&mut self, _: Activations) {}

    /// Writes what does not learn, once per run: the configuration, and weights that are frozen.
    ///
    /// # Errors
    /// If the file cannot be written; nothing is left under its name then.
    fn save_frozen(&self, path: &Path) -> Result<()>;

    /// Reads what [`Trainable::save_frozen`] wrote; the values of the parameters are yet to be placed.
    ///
    /// `device` is that of training.
    ///
    /// # Errors
    /// If the file is something else, or damaged.
    fn load_frozen(path: &Path, device: &Device) -> Result<Self>;
}

/// A loss and the data that it is of.
pub trait Objective {
    /// What the configuration of such a run holds.
    type Kind: Kind;
    /// What learns.
    type Model: Trainable;
    /// One of a batch.
    type Example;

    /// How many examples an epoch has.
    fn examples(&self) -> usize;

    /// Which data it is of: equal for equal data, wherever it lies.
    ///
    /// # Errors
    /// If the data cannot be read.
    fn fingerprint(&self) -> Result<String>;

    /// A share of the batches from `start` on.
    fn batches(&self, start: Position, share: Share) -> Box<dyn Batches<Example = Self::Example>>;

    /// The loss of some examples at a step, counted from 1; every draw is taken from `noise`, which has a place
    /// per example: so a batch in parts has the same loss as in one.
    fn loss(&self, model: &Self::Model, examples: &[Self::Example], step: u64, noise: &mut Noise) -> Loss;

    /// Bytes that the backward pass needs of an example, counted from the model's sizes; none if nobody has counted
    /// them for this kind of run, as of convolutions.
    fn activations(&self) -> Option<u64> {
        None
    }

    /// Bytes of the weights of a frozen network that lies in a file of its own, in 32 bits.
    fn teacher_bytes(&self) -> u64 {
        0
    }

    /// Measures the averaged weights; what they decode, if anything, goes to the file `sheet`.
    ///
    /// # Errors
    /// If they cannot be decoded or written.
    fn validate(&self, average: &Self::Model, sheet: &Path) -> Result<Validation>;

    /// Writes the file that users get, with how it came to be.
    ///
    /// # Errors
    /// If it cannot be written; nothing is left under its name then.
    fn publish(
        &self,
        average: &Self::Model,
        path: &Path,
        history: &serde_json::Value,
        stage: Stage,
    ) -> Result<()>;
}

/// Where a run stands when its model is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It will go on.
    Underway,
    /// All steps were made.
    Complete,
}

/// An endless stream of batches.
pub trait Batches {
    /// One of a batch.
    type Example;

    /// The share of the next batch, and where to go on after the batch.
    ///
    /// # Errors
    /// If the data cannot be read any further.
    fn next(&mut self) -> Result<(Vec<Self::Example>, Position)>;

    /// What is worth knowing since the last call, and did not stop the stream.
    fn take_warnings(&mut self) -> Vec<String>;
}

/// What is minimised, and what it is made of.
#[derive(Debug)]
pub struct Loss {
    /// The mean over the examples.
    pub total: Tensor<1>,
    /// Numbers for the journal, by name; means over the examples as well.
    pub parts: Vec<(&'static str, f64)>,
}

/// How good the averaged weights are.
#[derive(Debug, Clone)]
pub struct Validation {
    /// Entries of the journal's line.
    pub measures: serde_json::Map<String, serde_json::Value>,
    /// One line for people.
    pub summary: String,
}
