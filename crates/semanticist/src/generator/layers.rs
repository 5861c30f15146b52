//! The layers of the transformer: no biases, norms by the mean square.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData, activation};
use semanticist_ops::{self as ops, Answer, Visibility};

use super::cache::KeysValues;
use super::config::GeneratorConfig;
use crate::nn::{Activations, Initial, Inputs, constant};
use crate::noise::Noise;

/// What is added to the mean square.
const EPSILON: f64 = 1e-5;

/// Standard deviation of initial weights and embeddings (LlamaGen).
pub(super) const DEVIATION: f64 = 0.02;

/// A linear layer without bias.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[outputs, inputs]`
    pub weight: Param<Tensor<2>>,
}

impl Projection {
    pub fn init(inputs: usize, outputs: usize, noise: &mut Noise, device: &Device) -> Self {
        Self { weight: Initial::Normal(DEVIATION).parameter([outputs, inputs], noise, device) }
    }

    /// # Shapes
    /// `[.., inputs]` -> `[.., outputs]`, in float32
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(x, self.weight.val(), None, Answer::Float32)
    }

    /// [`Projection::forward`], stored as the weight is: for what only a product reads.
    pub fn forward_as_weight<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(x, self.weight.val(), None, Answer::AsWeight)
    }
}

/// Normalisation by the mean square with a learned scale (Zhang and Sennrich, 2019).
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[width]`
    pub weight: Param<Tensor<1>>,
}

impl RmsNorm {
    pub fn init(width: usize, device: &Device) -> Self {
        Self { weight: constant(1.0, [width], device) }
    }

    /// # Shapes
    /// `[B, N, width]` -> the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ops::rms_norm(x, self.weight.val().unsqueeze(), EPSILON)
    }
}

/// Attention of every position to itself and those before it.
#[derive(Module, Debug)]
pub struct CausalAttention {
    /// `[3 width, width]`
    pub qkv: Projection,
    /// `[width, width]`
    pub out: Projection,
    #[module(skip)]
    heads: usize,
}

impl CausalAttention {
    fn init(config: &GeneratorConfig, noise: &mut Noise, device: &Device) -> Self {
        let width = config.width;
        Self {
            qkv: Projection::init(width, 3 * width, noise, device),
            out: Projection::init(width, width, noise, device),
            heads: config.heads,
        }
    }

    /// # Shapes
    /// `[B, N, width]` -> the same
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let qkv = self.qkv.forward_as_weight(x);
        self.out.forward(ops::attention(qkv, self.heads, Visibility::Ordered { open: 0 }))
    }

    /// The answer at the position behind those in `cache`, which then holds it too.
    ///
    /// # Shapes
    /// `[B, 1, width]` -> the same
    fn step(&self, x: Tensor<3>, cache: &mut KeysValues) -> Tensor<3> {
        let [b, _, width] = x.dims();
        let each = width / self.heads;
        let [q, k, v] = std::array::from_fn(|i| i * width).map({
            let qkv = self.qkv.forward(x);
            move |start| {
                let part = qkv.clone().narrow(2, start, width);
                part.reshape([b, 1, self.heads, each]).swap_dims(1, 2) // [B, heads, 1, each]
            }
        });
        let (keys, values) = cache.push(k, v); // [B, heads, n, each]
        let scores = q.matmul(keys.swap_dims(2, 3)) / (each as f64).sqrt();
        let answer = activation::softmax(scores, 3).matmul(values); // [B, heads, 1, each]
        self.out.forward(answer.swap_dims(1, 2).reshape([b, 1, width]))
    }
}

/// The gated linear unit `down(silu(gate(x)) · up(x))` (Shazeer, 2020).
#[derive(Module, Debug)]
pub struct GatedMlp {
    /// `[hidden, width]`
    pub gate: Projection,
    /// `[hidden, width]`
    pub up: Projection,
    /// `[width, hidden]`
    pub down: Projection,
}

impl GatedMlp {
    fn init(config: &GeneratorConfig, noise: &mut Noise, device: &Device) -> Self {
        let (width, hidden) = (config.width, config.hidden());
        Self {
            gate: Projection::init(width, hidden, noise, device),
            up: Projection::init(width, hidden, noise, device),
            down: Projection::init(hidden, width, noise, device),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = self.gate.forward_as_weight(x.clone());
        self.down.forward(ops::swiglu(gate, self.up.forward_as_weight(x)))
    }
}

/// Attention and gated linear unit, each behind a norm and beside the identity.
#[derive(Module, Debug)]
pub struct Layer {
    pub norm1: RmsNorm,
    pub attention: CausalAttention,
    pub norm2: RmsNorm,
    pub mlp: GatedMlp,
}

impl Layer {
    pub fn init(config: &GeneratorConfig, noise: &mut Noise, device: &Device) -> Self {
        Self {
            norm1: RmsNorm::init(config.width, device),
            attention: CausalAttention::init(config, noise, device),
            norm2: RmsNorm::init(config.width, device),
            mlp: GatedMlp::init(config, noise, device),
        }
    }

    /// Of what each half adds, the share `dropout` is dropped in training, where there is a source of draws.
    ///
    /// # Shapes
    /// `[B, N, width]` -> the same
    pub fn forward(
        &self,
        activations: Activations,
        x: Tensor<3>,
        dropout: f64,
        noise: Option<&mut Noise>,
    ) -> Tensor<3> {
        let inputs = Inputs { x, condition: None };
        activations.forward(self, inputs, noise, move |layer, Inputs { x, .. }, mut noise| {
            let branch = layer.attention.forward(layer.norm1.forward(x.clone()));
            let x = x + dropped(branch, dropout, noise.as_deref_mut());
            x.clone() + dropped(layer.mlp.forward(layer.norm2.forward(x)), dropout, noise)
        })
    }

    /// # Shapes
    /// `[B, 1, width]` -> the same
    pub fn step(&self, x: Tensor<3>, cache: &mut KeysValues) -> Tensor<3> {
        let x = x.clone() + self.attention.step(self.norm1.forward(x), cache);
        x.clone() + self.mlp.forward(self.norm2.forward(x))
    }
}

/// Sets a share of the numbers to 0 and makes up for it in the others.
fn dropped(x: Tensor<3>, share: f64, noise: Option<&mut Noise>) -> Tensor<3> {
    let Some(noise) = noise.filter(|_| share > 0.0) else { return x };
    let kept = (1.0 / (1.0 - share)) as f32;
    let draws = noise.uniform(x.shape().num_elements()).into_iter();
    let factors: Vec<f32> = draws.map(|u| if f64::from(u) < share { 0.0 } else { kept }).collect();
    let factors = Tensor::from_data(TensorData::new(factors, x.dims()), &x.device());
    x * factors
}
