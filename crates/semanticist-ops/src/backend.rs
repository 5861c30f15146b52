//! What a backend must be able to do. The default bodies are composed of Burn's own operations, so
//! that a backend without native versions needs an empty implementation only.

use burn::backend::{Backend, backend_extension, tensor::FloatTensor};
use burn::tensor::FloatDType;

use crate::composed;

/// The element-wise non-linearities of the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)`, with the error function.
    Gelu,
    /// `x Φ(x)` with the tanh approximation of Hendrycks and Gimpel (2016).
    GeluTanh,
    /// `x σ(x)`.
    Silu,
}

/// What a row is brought to before it is scaled and shifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Mean 0 and (biased) variance 1 (Ba et al., 2016).
    Layer,
    /// Mean square 1 (Zhang and Sennrich, 2019).
    Rms,
}

/// Which positions a position attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// All.
    All,
    /// The first `open` positions see each other and nothing else; each later position sees all
    /// before it and itself.
    Ordered {
        /// How many positions stand outside the order.
        open: usize,
    },
}

/// What the result of a linear layer is stored in; sums are in float32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// float32.
    Float32,
    /// What the weight is stored in.
    AsWeight,
}

/// The numbers of one AdamW step (Loshchilov and Hutter, 2019, Algorithm 2), bias corrections
/// resolved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// What the gradient is multiplied by first: the factor of global-norm clipping.
    pub gradient_factor: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Learning rate over the first moment's bias correction.
    pub step_size: f64,
    /// Square root of the second moment's bias correction.
    pub second_correction: f64,
    /// Added to the root of the corrected second moment.
    pub epsilon: f64,
    /// What the parameter is multiplied by first: `1 - learning rate · weight decay`.
    pub decay: f64,
}

#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub(crate) trait Operators: Backend {
    /// Every number rounded to the nearest bfloat16, to even in the middle.
    fn fused_to_bfloat16(x: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::cast::<Self>(x, FloatDType::BF16)
    }

    /// The answer is stored as x is.
    fn fused_activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        composed::activate::<Self>(x, activation)
    }

    fn fused_activate_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        composed::activate_backward::<Self>(x, grad, activation)
    }

    /// `gate σ(gate) · up`; both of one shape.
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::swiglu::<Self>(gate, up)
    }

    /// The gradients of gate and up.
    fn fused_swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::swiglu_backward::<Self>(gate, up, grad)
    }

    /// x `[B, N, D]`, scale and shift `[1 or B, D]`.
    fn fused_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        norm: Norm,
        eps: f64,
    ) -> FloatTensor<Self> {
        composed::norm::<Self>(x, scale, Some(shift), norm, eps)
    }

    /// [`Operators::fused_norm`] without a shift.
    fn fused_norm_unshifted(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        norm: Norm,
        eps: f64,
    ) -> FloatTensor<Self> {
        composed::norm::<Self>(x, scale, None, norm, eps)
    }

    /// The gradients of x, scale and shift.
    fn fused_norm_backward(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        norm: Norm,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::norm_backward::<Self>(x, scale, grad, norm, eps)
    }

    /// The gradients of x and scale.
    fn fused_norm_unshifted_backward(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        norm: Norm,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::norm_unshifted_backward::<Self>(x, scale, grad, norm, eps)
    }

    /// x and y `[B, N, D]`, gate `[1 or B, D]`.
    fn fused_gated_add(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gate: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        composed::gated_add::<Self>(x, y, gate)
    }

    /// The gradients of y and gate; that of x is `grad` itself.
    fn fused_gated_add_backward(
        y: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::gated_add_backward::<Self>(y, gate, grad)
    }

    /// qkv `[B, N, 3 W]` -> `[B, N, W]`, stored as qkv is, and the logarithm of each row's sum,
    /// `[B, heads, N]`.
    fn fused_attention(
        qkv: FloatTensor<Self>,
        heads: usize,
        open: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::attention::<Self>(qkv, heads, open)
    }

    /// The gradient of qkv. `log_sum` has one number per head and row.
    fn fused_attention_backward(
        qkv: FloatTensor<Self>,
        out: FloatTensor<Self>,
        log_sum: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        heads: usize,
        open: usize,
    ) -> FloatTensor<Self> {
        composed::attention_backward::<Self>(qkv, out, log_sum, grad, heads, open)
    }

    /// x `[.., I]`, weight `[O, I]` -> `[.., O]`. Two methods instead of an optional bias, because the
    /// extension's routing knows no optional tensors.
    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, answer: Answer) -> FloatTensor<Self> {
        composed::linear::<Self>(x, weight, None, answer)
    }

    /// x `[.., I]`, weight `[O, I]`, bias `[O]` -> `[.., O]`.
    fn fused_linear_biased(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        answer: Answer,
    ) -> FloatTensor<Self> {
        composed::linear::<Self>(x, weight, Some(bias), answer)
    }

    /// `down(activation(up(x)))`: the answer in float32, and what the backward pass reads, the hidden
    /// numbers before and after the activation, stored as the weights are. Where they are not `kept`,
    /// those before need not be given.
    #[allow(clippy::too_many_arguments, reason = "two layers and what lies between them")]
    fn fused_mlp(
        x: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        down: FloatTensor<Self>,
        down_bias: FloatTensor<Self>,
        activation: Activation,
        kept: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let _ = kept;
        let before = composed::linear::<Self>(x, up, Some(up_bias), Answer::AsWeight);
        let after = composed::activate::<Self>(before.clone(), activation);
        let y = composed::linear::<Self>(after.clone(), down, Some(down_bias), Answer::Float32);
        (y, before, after)
    }

    /// The gradient of what was activated before a linear layer, stored as `before` is.
    fn fused_linear_backward_activated(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        before: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let grad = composed::linear_backward_input::<Self>(weight, grad);
        composed::activate_backward::<Self>(before, grad, activation)
    }

    /// The gradient of x, in float32.
    fn fused_linear_backward_input(weight: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::linear_backward_input::<Self>(weight, grad)
    }

    /// The gradient of the weight, in float32. x and grad are stored alike.
    fn fused_linear_backward_weight(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::linear_backward_weight::<Self>(x, grad)
    }

    /// The gradient of the bias.
    fn fused_linear_backward_bias(grad: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::backward_bias::<Self>(grad)
    }

    /// The updated parameter, first and second moment; all of one shape. Not differentiable.
    fn fused_adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::adamw::<Self>(parameter, gradient, first, second, step)
    }

    /// `a + weight (b - a)`. Not differentiable.
    fn fused_blend(a: FloatTensor<Self>, b: FloatTensor<Self>, weight: f64) -> FloatTensor<Self> {
        composed::blend::<Self>(a, b, weight)
    }

    /// The sum of the squares of all numbers, `[1]`. Not differentiable.
    fn fused_square_sum(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_sum(Self::float_mul(x.clone(), x))
    }
}

// `Cube` is every GPU runtime of Burn, behind its fusion of element-wise chains.
#[cfg(feature = "cube")]
impl Operators for burn::backend::Cube {}
