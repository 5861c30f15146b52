//! The operators as chains of a backend's own operations: for devices without native versions, and
//! as the second opinion in the tests of those that have one.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use burn::backend::tensor::{Device, FloatTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape, Slice, TensorData};

use crate::backend::{Activation, AdamWStep, Answer, Norm};

/// `x`, stored as `dtype`.
pub fn cast<B: Backend>(x: FloatTensor<B>, dtype: FloatDType) -> FloatTensor<B> {
    if FloatDType::from(x.dtype()) == dtype { x } else { B::float_cast(x, dtype) }
}

/// `x` in float32 if it is narrower: everything but matrix products is computed in that.
fn wide<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    match x.dtype().into() {
        FloatDType::BF16 | FloatDType::F16 => cast::<B>(x, FloatDType::F32),
        _ => x,
    }
}

/// Φ(x) for [`Activation::Gelu`], its tanh approximation, or σ(x): what x is multiplied by.
fn gate_of<B: Backend>(x: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    match activation {
        Activation::Gelu => {
            let erf = B::float_erf(B::float_mul_scalar(x, FRAC_1_SQRT_2.into()));
            B::float_mul_scalar(B::float_add_scalar(erf, 1.0.into()), 0.5.into())
        }
        Activation::GeluTanh => {
            let cube = B::float_mul(B::float_mul(x.clone(), x.clone()), x.clone());
            let inner = B::float_add(x, B::float_mul_scalar(cube, TANH_CUBIC.into()));
            sigmoid::<B>(B::float_mul_scalar(inner, (2.0 * (2.0 / PI).sqrt()).into()))
        }
        Activation::Silu => sigmoid::<B>(x),
    }
}

const TANH_CUBIC: f64 = 0.044715;

fn sigmoid<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_recip(B::float_add_scalar(B::float_exp(B::float_neg(x)), 1.0.into()))
}

pub fn activate<B: Backend>(x: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    let dtype = x.dtype().into();
    let x = wide::<B>(x);
    cast::<B>(B::float_mul(x.clone(), gate_of::<B>(x, activation)), dtype)
}

pub fn activate_backward<B: Backend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
    activation: Activation,
) -> FloatTensor<B> {
    let dtype = x.dtype().into();
    let (x, grad) = (wide::<B>(x), wide::<B>(grad));
    let gate = gate_of::<B>(x.clone(), activation);
    let logistic_slope = |gate: FloatTensor<B>| {
        let rest = B::float_add_scalar(B::float_neg(gate.clone()), 1.0.into());
        B::float_mul(gate, rest)
    };
    let gate_slope = match activation {
        // Not the backend's own gradient: Burn 0.22's is that of the tanh form on CubeCL devices.
        Activation::Gelu => {
            let square = B::float_mul(x.clone(), x.clone());
            let density = B::float_exp(B::float_mul_scalar(square, (-0.5).into()));
            B::float_mul_scalar(density, (1.0 / (2.0 * PI).sqrt()).into())
        }
        Activation::GeluTanh => {
            let square = B::float_mul(x.clone(), x.clone());
            let inner =
                B::float_add_scalar(B::float_mul_scalar(square, (3.0 * TANH_CUBIC).into()), 1.0.into());
            let inner = B::float_mul_scalar(inner, (2.0 * (2.0 / PI).sqrt()).into());
            B::float_mul(logistic_slope(gate.clone()), inner)
        }
        Activation::Silu => logistic_slope(gate.clone()),
    };
    cast::<B>(B::float_mul(B::float_add(gate, B::float_mul(x, gate_slope)), grad), dtype)
}

pub fn swiglu<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = up.dtype().into();
    let product = B::float_mul(activate::<B>(wide::<B>(gate), Activation::Silu), wide::<B>(up));
    cast::<B>(product, dtype)
}

pub fn swiglu_backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = up.dtype().into();
    let (gate, up, grad) = (wide::<B>(gate), wide::<B>(up), wide::<B>(grad));
    let d_up = B::float_mul(grad.clone(), activate::<B>(gate.clone(), Activation::Silu));
    let d_gate = activate_backward::<B>(gate, B::float_mul(grad, up), Activation::Silu);
    (cast::<B>(d_gate, dtype), cast::<B>(d_up, dtype))
}

/// `[G, D]` -> `[G, 1, D]`, so that it broadcasts over positions.
fn over_positions<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    B::float_reshape(x, Shape::new([shape[0], 1, shape[1]]))
}

/// The normalised x and one over its standard deviation.
fn normalise<B: Backend>(x: FloatTensor<B>, norm: Norm, eps: f64) -> (FloatTensor<B>, FloatTensor<B>) {
    let centred = match norm {
        Norm::Layer => B::float_sub(x.clone(), B::float_mean_dim(x, 2)),
        Norm::Rms => x,
    };
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 2);
    let inverse = B::float_recip(B::float_sqrt(B::float_add_scalar(variance, eps.into())));
    (B::float_mul(centred, inverse.clone()), inverse)
}

pub fn norm<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    shift: Option<FloatTensor<B>>,
    norm: Norm,
    eps: f64,
) -> FloatTensor<B> {
    let (normal, _) = normalise::<B>(x, norm, eps);
    let scaled = B::float_mul(normal, over_positions::<B>(scale));
    match shift {
        Some(shift) => B::float_add(scaled, over_positions::<B>(shift)),
        None => scaled,
    }
}

pub fn norm_backward<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    grad: FloatTensor<B>,
    norm: Norm,
    eps: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let d_shift = per_group::<B>(grad.clone(), scale.shape());
    let (d_x, d_scale) = norm_unshifted_backward::<B>(x, scale, grad, norm, eps);
    (d_x, d_scale, d_shift)
}

pub fn norm_unshifted_backward<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    grad: FloatTensor<B>,
    norm: Norm,
    eps: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (normal, inverse) = normalise::<B>(x, norm, eps);
    let d_scale = per_group::<B>(B::float_mul(grad.clone(), normal.clone()), scale.shape());
    let scaled = B::float_mul(grad, over_positions::<B>(scale));
    let along = B::float_mean_dim(B::float_mul(scaled.clone(), normal.clone()), 2);
    let across = match norm {
        Norm::Layer => B::float_sub(scaled.clone(), B::float_mean_dim(scaled, 2)),
        Norm::Rms => scaled,
    };
    let rest = B::float_sub(across, B::float_mul(normal, along));
    (B::float_mul(rest, inverse), d_scale)
}

/// `[B, N, D]` summed over the positions, and over the samples if all share one row: `[1 or B, D]`.
fn per_group<B: Backend>(x: FloatTensor<B>, shape: Shape) -> FloatTensor<B> {
    let sum = B::float_sum_dim(x, 1);
    let sum = if shape[0] == 1 { B::float_sum_dim(sum, 0) } else { sum };
    B::float_reshape(sum, shape)
}

pub fn gated_add<B: Backend>(x: FloatTensor<B>, y: FloatTensor<B>, gate: FloatTensor<B>) -> FloatTensor<B> {
    B::float_add(x, B::float_mul(y, over_positions::<B>(gate)))
}

pub fn gated_add_backward<B: Backend>(
    y: FloatTensor<B>,
    gate: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let d_gate = per_group::<B>(B::float_mul(grad.clone(), y), gate.shape());
    (B::float_mul(grad, over_positions::<B>(gate)), d_gate)
}

/// Queries, keys and values, each `[B, H, N, d]`.
fn heads_of<B: Backend>(qkv: FloatTensor<B>, heads: usize) -> [FloatTensor<B>; 3] {
    let [b, n, packed] = qkv.shape().dims();
    let packed_heads = B::float_reshape(qkv, Shape::new([b, n, 3, heads, packed / 3 / heads]));
    let by_part = B::float_permute(packed_heads, &[2, 0, 3, 1, 4]); // [3, B, H, N, d]
    [0, 1, 2].map(|part| {
        let slice = B::float_slice(by_part.clone(), &[Slice::from(part..part + 1)]);
        B::float_reshape(slice, Shape::new([b, heads, n, packed / 3 / heads]))
    })
}

/// In float32, as everything on the way to the weights.
fn scores<B: Backend>(q: FloatTensor<B>, k: FloatTensor<B>, open: usize) -> FloatTensor<B> {
    let [_, _, n, d] = q.shape().dims();
    let device = q.device();
    let scores = wide::<B>(B::float_matmul(q, B::float_swap_dims(k, 2, 3)));
    let scores = B::float_mul_scalar(scores, (1.0 / (d as f64).sqrt()).into());
    if open == n {
        return scores;
    }
    let dtype = scores.dtype().into();
    B::float_add(scores, cast::<B>(penalty::<B>(n, open, &device), dtype))
}

/// What is added to scores, `[1, 1, N, N]`: 0 where a key is seen, and else what no exponential
/// survives. Two rows go to the device, not a square for every layer; and it is finite, because shaders
/// need not know infinity.
fn penalty<B: Backend>(n: usize, open: usize, device: &Device<B>) -> FloatTensor<B> {
    const BLOCKED: f64 = -1e30;
    let tensor =
        |values: Vec<f32>, shape: [usize; 4]| B::float_from_data(TensorData::new(values, shape), device);
    let keys = tensor((0..n).map(|key| key as f32).collect(), [1, 1, 1, n]);
    let last_seen = |query: usize| query.max(open.saturating_sub(1)) as f32;
    let last_seen = tensor((0..n).map(last_seen).collect(), [1, 1, n, 1]);
    let beyond = B::float_clamp(B::float_sub(keys, last_seen), 0.0.into(), 1.0.into());
    B::float_mul_scalar(beyond, BLOCKED.into())
}

pub fn attention<B: Backend>(
    qkv: FloatTensor<B>,
    heads: usize,
    open: usize,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let [b, n, packed] = qkv.shape().dims();
    let dtype = qkv.dtype().into();
    let [q, k, v] = heads_of::<B>(qkv, heads);
    let scores = scores::<B>(q, k, open);
    let highest = B::float_max_dim(scores.clone(), 3);
    let weights = B::float_exp(B::float_sub(scores, highest.clone()));
    let sum = B::float_sum_dim(weights.clone(), 3);
    let log_sum = B::float_add(highest, B::float_log(sum.clone()));
    let weights = cast::<B>(B::float_div(weights, sum), dtype);
    let out = B::float_matmul(weights, v); // [B, H, N, d]
    let out = B::float_reshape(B::float_swap_dims(out, 1, 2), Shape::new([b, n, packed / 3]));
    (out, B::float_reshape(log_sum, Shape::new([b, heads, n])))
}

pub fn attention_backward<B: Backend>(
    qkv: FloatTensor<B>,
    out: FloatTensor<B>,
    log_sum: FloatTensor<B>,
    grad: FloatTensor<B>,
    heads: usize,
    open: usize,
) -> FloatTensor<B> {
    let [b, n, packed] = qkv.shape().dims();
    let d = packed / 3 / heads;
    let by_head = |x| B::float_swap_dims(B::float_reshape(x, Shape::new([b, n, heads, d])), 1, 2);
    let dtype = qkv.dtype().into();
    let [q, k, v] = heads_of::<B>(qkv, heads);
    let (out, wide_grad) = (wide::<B>(by_head(out)), wide::<B>(by_head(grad)));
    let grad = cast::<B>(wide_grad.clone(), dtype);
    let log_sum = B::float_reshape(log_sum, Shape::new([b, heads, n, 1]));
    let weights = B::float_exp(B::float_sub(scores::<B>(q.clone(), k.clone(), open), log_sum));
    let d_weights = wide::<B>(B::float_matmul(grad.clone(), B::float_swap_dims(v, 2, 3)));
    let along = B::float_sum_dim(B::float_mul(out, wide_grad), 3);
    let d_scores = B::float_mul(weights.clone(), B::float_sub(d_weights, along));
    let d_scores = cast::<B>(B::float_mul_scalar(d_scores, (1.0 / (d as f64).sqrt()).into()), dtype);
    let weights = cast::<B>(weights, dtype);
    let d_q = B::float_matmul(d_scores.clone(), k);
    let d_k = B::float_matmul(B::float_swap_dims(d_scores, 2, 3), q);
    let d_v = B::float_matmul(B::float_swap_dims(weights, 2, 3), grad);
    let part = |x| B::float_reshape(B::float_swap_dims(x, 1, 2), Shape::new([b, n, packed / 3]));
    B::float_cat(vec![part(d_q), part(d_k), part(d_v)], 2)
}

/// `[.., W]` -> `[rows, W]`.
fn as_rows<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    let width = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / width;
    B::float_reshape(x, Shape::new([rows, width]))
}

/// The shape of `x` with another last axis.
fn with_width(mut shape: Shape, width: usize) -> Shape {
    let last = shape.num_dims() - 1;
    shape[last] = width;
    shape
}

/// The product is of what the weight is stored in.
pub fn linear<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    answer: Answer,
) -> FloatTensor<B> {
    let outputs = weight.shape()[0];
    let shape = with_width(x.shape(), outputs);
    let dtype = weight.dtype().into();
    let x = cast::<B>(as_rows::<B>(x), dtype);
    let product = wide::<B>(B::float_matmul(x, B::float_transpose(weight)));
    let y = match bias {
        Some(bias) => B::float_add(product, B::float_reshape(bias, Shape::new([1, outputs]))),
        None => product,
    };
    let y = B::float_reshape(y, shape);
    match answer {
        Answer::Float32 => y,
        Answer::AsWeight => cast::<B>(y, dtype),
    }
}

pub fn linear_backward_input<B: Backend>(weight: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    let shape = with_width(grad.shape(), weight.shape()[1]);
    let grad = cast::<B>(as_rows::<B>(grad), weight.dtype().into());
    B::float_reshape(wide::<B>(B::float_matmul(grad, weight)), shape)
}

pub fn linear_backward_weight<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    wide::<B>(B::float_matmul(B::float_transpose(as_rows::<B>(grad)), as_rows::<B>(x)))
}

/// The gradient of a bias over the last axis: the sum over all others, `[.., O]` -> `[O]`.
pub fn backward_bias<B: Backend>(grad: FloatTensor<B>) -> FloatTensor<B> {
    let grad = wide::<B>(as_rows::<B>(grad));
    let outputs = grad.shape()[1];
    B::float_reshape(B::float_sum_dim(grad, 0), Shape::new([outputs]))
}

pub fn adamw<B: Backend>(
    parameter: FloatTensor<B>,
    gradient: FloatTensor<B>,
    first: FloatTensor<B>,
    second: FloatTensor<B>,
    step: AdamWStep,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let gradient = B::float_mul_scalar(gradient, step.gradient_factor.into());
    let first = blend::<B>(first, gradient.clone(), 1.0 - step.beta1);
    let second = blend::<B>(second, B::float_mul(gradient.clone(), gradient), 1.0 - step.beta2);
    let root = B::float_sqrt(second.clone());
    let root = B::float_mul_scalar(root, (1.0 / step.second_correction).into());
    let change = B::float_div(first.clone(), B::float_add_scalar(root, step.epsilon.into()));
    let change = B::float_mul_scalar(change, step.step_size.into());
    (B::float_sub(B::float_mul_scalar(parameter, step.decay.into()), change), first, second)
}

pub fn blend<B: Backend>(a: FloatTensor<B>, b: FloatTensor<B>, weight: f64) -> FloatTensor<B> {
    let a = B::float_mul_scalar(a, (1.0 - weight).into());
    B::float_add(a, B::float_mul_scalar(b, weight.into()))
}
