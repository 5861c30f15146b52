//! The operators in which Semanticist's models spend their time, each with its own gradient.
//!
//! Burn evaluates an activation, a norm or an attention as a chain of tensor operations, each with
//! its own pass over memory. Here each is one operator: a backend extension with a native version
//! for the processor (`flex`), a version composed of Burn's operations for every other device
//! (`composed`) and one backward pass for both (`gradient`). This crate knows tensors only.

// Kernels read and write through pointers; every other crate denies it but for a line or two.
#![allow(unsafe_code)]

mod backend;
mod composed;
mod convolution;
mod flex;
mod gradient;
mod pooling;
pub mod profile;
mod recompute;

use backend::Operators;
use burn::backend::Dispatch;
use burn::tensor::Tensor;

pub use backend::{Activation, AdamWStep, Answer, Norm, Visibility};
pub use convolution::{Stride, convolve, convolve_any};
pub use pooling::{Pooling, pool};
pub use recompute::recomputed;

/// Applies `activation` to every element; the answer is stored as `x` is.
pub fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Operators>::fused_activate(x.into_dispatch(), activation))
}

/// The exact Gaussian error linear unit, `x Φ(x)`.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activate(x, Activation::Gelu)
}

/// The tanh approximation of the Gaussian error linear unit.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activate(x, Activation::GeluTanh)
}

/// The sigmoid linear unit, `x σ(x)`.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activate(x, Activation::Silu)
}

/// The gated linear unit `silu(gate) · up` (Shazeer, 2020).
///
/// # Shapes
/// Both of one shape.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Operators>::fused_swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// Normalises the last axis to mean 0 and (biased) variance 1, then scales and shifts it.
///
/// # Shapes
/// - `x`: `[B, N, D]`
/// - `scale`, `shift`: `[1, D]` (a layer's own parameters) or `[B, D]` (one pair per sample)
pub fn layer_norm(x: Tensor<3>, scale: Tensor<2>, shift: Tensor<2>, eps: f64) -> Tensor<3> {
    let (x, scale, shift) = (x.into_dispatch(), scale.into_dispatch(), shift.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Operators>::fused_norm(x, scale, shift, Norm::Layer, eps))
}

/// Normalises the last axis to mean square 1, then scales it.
///
/// # Shapes
/// As [`layer_norm`].
pub fn rms_norm(x: Tensor<3>, scale: Tensor<2>, eps: f64) -> Tensor<3> {
    let (x, scale) = (x.into_dispatch(), scale.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Operators>::fused_norm_unshifted(x, scale, Norm::Rms, eps))
}

/// The gated residual connection `x + gate · y`.
///
/// # Shapes
/// - `x`, `y`: `[B, N, D]`
/// - `gate`: `[1, D]` or `[B, D]`
pub fn gated_add(x: Tensor<3>, y: Tensor<3>, gate: Tensor<2>) -> Tensor<3> {
    let (x, y, gate) = (x.into_dispatch(), y.into_dispatch(), gate.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Operators>::fused_gated_add(x, y, gate))
}

/// Multi-head self-attention, `softmax(q kᵀ / √d) v`.
///
/// # Shapes
/// - `qkv`: `[B, N, 3 W]`, queries, keys and values of all heads side by side
/// - result: `[B, N, W]`, stored as `qkv` is; in bfloat16, scores and sums are float32
///
/// # Panics
/// If `heads` does not divide `W`, or more positions are open than there are.
pub fn attention(qkv: Tensor<3>, heads: usize, visibility: Visibility) -> Tensor<3> {
    let [_, positions, width] = qkv.dims();
    assert!(width.is_multiple_of(3 * heads), "{heads} heads do not divide a width of {}", width / 3);
    let open = match visibility {
        Visibility::All => positions,
        Visibility::Ordered { open } => open,
    };
    assert!(open <= positions, "{open} open positions of {positions}");
    Tensor::from_dispatch(<Dispatch as Operators>::fused_attention(qkv.into_dispatch(), heads, open).0)
}

/// `x weightᵀ + bias` over the last axis; without a bias, the product alone.
///
/// The weight decides the precision: with one in bfloat16, x and in the backward pass the answer's
/// gradient are rounded to bfloat16 too, and products are summed in float32. All gradients are float32.
///
/// # Shapes
/// - `x`: `[.., I]`
/// - `weight`: `[O, I]`
/// - `bias`: `[O]`, float32
/// - result: `[.., O]`
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    answer: Answer,
) -> Tensor<D> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => <Dispatch as Operators>::fused_linear_biased(x, weight, bias.into_dispatch(), answer),
        None => <Dispatch as Operators>::fused_linear(x, weight, answer),
    })
}

/// Two linear layers with an activation between them: `down(activation(up(x)))`, in float32.
///
/// # Shapes
/// - `x`: `[.., I]`
/// - `up`, `down`: `[H, I]` and `[H]`, `[O, H]` and `[O]`; both weights stored alike
/// - result: `[.., O]`
pub fn mlp<const D: usize>(
    x: Tensor<D>,
    (up, up_bias): (Tensor<2>, Tensor<1>),
    (down, down_bias): (Tensor<2>, Tensor<1>),
    activation: Activation,
) -> Tensor<D> {
    let (y, ..) = <Dispatch as Operators>::fused_mlp(
        x.into_dispatch(),
        up.into_dispatch(),
        up_bias.into_dispatch(),
        down.into_dispatch(),
        down_bias.into_dispatch(),
        activation,
        false,
    );
    Tensor::from_dispatch(y)
}

/// Every number rounded to the nearest bfloat16, to even in the middle; what is below the smallest
/// normal number becomes 0, as in the processor's own instructions. The gradient passes unchanged.
pub fn to_bfloat16<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Operators>::fused_to_bfloat16(x.into_dispatch()))
}

/// What this processor's instructions for products in bfloat16 are called: AMX or AVX512-BF16. Without them
/// they are computed by others, with the answers of AVX512-BF16 but slower than in float32.
pub fn bfloat16_instructions() -> Option<&'static str> {
    flex::bfloat16_instructions()
}

/// One step of AdamW: the new parameter, first and second moment. Not differentiable.
///
/// # Shapes
/// All of one shape.
pub fn adamw<const D: usize>(
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    [first, second]: [Tensor<D>; 2],
    step: AdamWStep,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let (parameter, gradient) = (parameter.into_dispatch(), gradient.into_dispatch());
    let (first, second) = (first.into_dispatch(), second.into_dispatch());
    let (parameter, first, second) =
        <Dispatch as Operators>::fused_adamw(parameter, gradient, first, second, step);
    let moments = [Tensor::from_dispatch(first), Tensor::from_dispatch(second)];
    (Tensor::from_dispatch(parameter), moments)
}

/// `a + weight (b - a)`, as for a moving average. Not differentiable.
pub fn blend<const D: usize>(a: Tensor<D>, b: Tensor<D>, weight: f64) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Operators>::fused_blend(a.into_dispatch(), b.into_dispatch(), weight))
}

/// The sum of the squares of all numbers, `[1]`. Not differentiable.
pub fn square_sum<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Operators>::fused_square_sum(x.into_dispatch()))
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
