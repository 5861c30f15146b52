//! From a class and the tokens so far to what is known of the next.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::cache::KeysValues;
use super::config::GeneratorConfig;
use super::layers::{DEVIATION, Layer, RmsNorm};
use crate::nn::{Activations, Initial, Linear};
use crate::noise::Noise;

/// The causal transformer of LlamaGen (Sun et al., 2024) on continuous tokens.
#[derive(Module, Debug)]
pub struct Transformer {
    /// `[classes + 1, width]`; the last row is of no class
    pub classes: Param<Tensor<2>>,
    /// `[width, D]`
    pub tokens: Linear,
    /// `[1, K + 1, width]`
    pub positions: Param<Tensor<3>>,
    /// Of inputs with their positions.
    pub embedding_norm: RmsNorm,
    /// The layers, from the first.
    pub layers: Vec<Layer>,
    /// Of the last hidden states.
    pub norm: RmsNorm,
    /// `[1, K, width]`, added to the answers
    pub answer_positions: Param<Tensor<3>>,
    #[module(skip)]
    activations: Activations,
}

impl Transformer {
    /// Random weights.
    pub fn init(config: &GeneratorConfig, noise: &mut Noise, device: &Device) -> Self {
        let GeneratorConfig { tokens, token_dim, classes, width, depth, .. } = *config;
        let small = Initial::Normal(DEVIATION);
        Self {
            classes: small.parameter([classes + 1, width], noise, device),
            tokens: Linear::init_small(token_dim, width, noise, device),
            positions: small.parameter([1, tokens + 1, width], noise, device),
            embedding_norm: RmsNorm::init(width, device),
            layers: (0..depth).map(|_| Layer::init(config, noise, device)).collect(),
            norm: RmsNorm::init(width, device),
            answer_positions: small.parameter([1, tokens, width], noise, device),
            activations: Activations::Kept,
        }
    }

    /// The same transformer, which knows no more than the first `count` tokens: what it says of these needs none after them.
    ///
    /// # Panics
    /// If it knows fewer.
    pub fn of_first_tokens(self, count: usize) -> Self {
        Self {
            positions: self.positions.map(|all| all.narrow(1, 0, count + 1)),
            answer_positions: self.answer_positions.map(|all| all.narrow(1, 0, count)),
            ..self
        }
    }

    /// What becomes of the values within layers in training from here on; at first they are kept.
    pub fn set_activations(&mut self, activations: Activations) {
        self.activations = activations;
    }

    /// What is known of every token from the class and the tokens before it. In training, of what every half of a layer adds
    /// the share `dropout` is set to 0, as drawn from `noise`; without that, nothing is.
    ///
    /// # Shapes
    /// `tokens` `[B, k, D]`, B labels -> `[B, k, width]`
    ///
    /// # Panics
    /// If a label is not below `classes + 1`, or there are more than K tokens.
    pub fn forward(
        &self,
        tokens: Tensor<3>,
        labels: &[usize],
        dropout: f64,
        mut noise: Option<&mut Noise>,
    ) -> Tensor<3> {
        let k = tokens.dims()[1];
        let class = self.class(labels);
        let inputs = match k {
            1 => class,
            _ => Tensor::cat(vec![class, self.tokens.forward(tokens.narrow(1, 0, k - 1))], 1),
        };
        let mut x = self.embedding_norm.forward(inputs + self.positions.val().narrow(1, 0, k));
        for layer in &self.layers {
            x = layer.forward(self.activations, x, dropout, noise.as_deref_mut());
        }
        self.norm.forward(x) + self.answer_positions.val().narrow(1, 0, k)
    }

    /// Nothing seen yet.
    pub fn empty_cache(&self) -> Vec<KeysValues> {
        vec![KeysValues::default(); self.layers.len()]
    }

    /// The next answer of [`Transformer::forward`] alone: `position` 0 is asked with the class, every
    /// later one with the token before it.
    ///
    /// # Shapes
    /// `input` `[B, 1, width]` of [`Transformer::class`] or [`Transformer::token`] -> `[B, 1, width]`
    pub fn step(&self, input: Tensor<3>, position: usize, cache: &mut [KeysValues]) -> Tensor<3> {
        let mut x = self.embedding_norm.forward(input + self.positions.val().narrow(1, position, 1));
        for (layer, cache) in self.layers.iter().zip(cache) {
            x = layer.step(x, cache);
        }
        self.norm.forward(x) + self.answer_positions.val().narrow(1, position, 1)
    }

    /// Labels as inputs: B -> `[B, 1, width]`.
    pub fn class(&self, labels: &[usize]) -> Tensor<3> {
        let [rows, width] = self.classes.dims();
        assert!(labels.iter().all(|&label| label < rows), "labels {labels:?} of {rows} rows");
        let indices: Vec<i64> = labels.iter().map(|&label| label as i64).collect();
        let table = self.classes.val();
        let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [labels.len()]), &table.device());
        table.select(0, indices).reshape([labels.len(), 1, width])
    }

    /// Tokens as inputs: `[B, 1, D]` -> `[B, 1, width]`.
    pub fn token(&self, token: Tensor<3>) -> Tensor<3> {
        self.tokens.forward(token)
    }
}
