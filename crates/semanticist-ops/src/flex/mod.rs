//! Native versions for the processor: one pass over memory each, in parallel over rows, with the
//! widest vectors the processor has, chosen at run time.

mod attention;
mod bfloat16;
mod convolution;
mod elementwise;
mod linear;
mod norm;
mod numeric;
mod pooling;
mod product;
mod update;

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{Bytes, DType, Flex};
use burn::tensor::{Shape, bf16};

use self::bfloat16::Stored;
use crate::backend::{Activation, AdamWStep, Answer, Norm, Operators};
use crate::profile::timed;

/// See [`crate::bfloat16_instructions`].
pub fn bfloat16_instructions() -> Option<&'static str> {
    match (bfloat16::has_tiles(), bfloat16::hardware()) {
        (true, _) => Some("AMX"),
        (false, true) => Some("AVX512-BF16"),
        (false, false) => None,
    }
}

impl Operators for Flex {
    fn fused_to_bfloat16(x: FlexTensor) -> FlexTensor {
        timed("rounding", || narrow(x))
    }

    fn fused_activate(x: FlexTensor, activation: Activation) -> FlexTensor {
        timed("activation", || {
            let x = contiguous(x);
            let shape = x.layout().shape().clone();
            match is_narrow(&x) {
                true => tensor(elementwise::activate(x.storage::<bf16>(), activation), shape),
                false => tensor(elementwise::activate(x.storage::<f32>(), activation), shape),
            }
        })
    }

    fn fused_activate_backward(x: FlexTensor, grad: FlexTensor, activation: Activation) -> FlexTensor {
        timed("activation, backward", || {
            let (x, grad) = (contiguous(x), contiguous(grad));
            match is_narrow(&grad) {
                true => activate_backward(&x, grad.storage::<bf16>(), activation),
                false => activate_backward(&x, grad.storage::<f32>(), activation),
            }
        })
    }

    fn fused_swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        timed("SwiGLU", || {
            let (gate, up) = (contiguous(gate), contiguous(up));
            let shape = up.layout().shape().clone();
            match is_narrow(&up) {
                true => tensor(elementwise::swiglu(gate.storage::<bf16>(), up.storage()), shape),
                false => tensor(elementwise::swiglu(gate.storage::<f32>(), up.storage()), shape),
            }
        })
    }

    fn fused_swiglu_backward(gate: FlexTensor, up: FlexTensor, grad: FlexTensor) -> (FlexTensor, FlexTensor) {
        timed("SwiGLU, backward", || {
            let (gate, up, grad) = (contiguous(gate), contiguous(up), contiguous(grad));
            match is_narrow(&grad) {
                true => swiglu_backward(&gate, &up, grad.storage::<bf16>()),
                false => swiglu_backward(&gate, &up, grad.storage::<f32>()),
            }
        })
    }

    fn fused_norm(x: FlexTensor, scale: FlexTensor, shift: FlexTensor, norm: Norm, eps: f64) -> FlexTensor {
        normalise(x, scale, Some(shift), norm, eps)
    }

    fn fused_norm_unshifted(x: FlexTensor, scale: FlexTensor, norm: Norm, eps: f64) -> FlexTensor {
        normalise(x, scale, None, norm, eps)
    }

    fn fused_norm_backward(
        x: FlexTensor,
        scale: FlexTensor,
        grad: FlexTensor,
        norm: Norm,
        eps: f64,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        timed("norm, backward", || {
            let (x, scale, grad) = (contiguous(x), contiguous(scale), contiguous(grad));
            let rows = rows_of(&x, &scale);
            let (d_x, d_scale, d_shift) =
                norm::norm_backward(x.storage(), scale.storage(), grad.storage(), rows, norm, eps as f32);
            let shape = scale.layout().shape().clone();
            (tensor(d_x, x.layout().shape().clone()), tensor(d_scale, shape.clone()), tensor(d_shift, shape))
        })
    }

    fn fused_norm_unshifted_backward(
        x: FlexTensor,
        scale: FlexTensor,
        grad: FlexTensor,
        norm: Norm,
        eps: f64,
    ) -> (FlexTensor, FlexTensor) {
        // The sums for a shift cost nothing beside the pass over memory.
        let (d_x, d_scale, _) = Self::fused_norm_backward(x, scale, grad, norm, eps);
        (d_x, d_scale)
    }

    fn fused_gated_add(x: FlexTensor, y: FlexTensor, gate: FlexTensor) -> FlexTensor {
        timed("gated residual", || {
            let (x, y, gate) = (contiguous(x), contiguous(y), contiguous(gate));
            let rows = rows_of(&x, &gate);
            let out = elementwise::gated_add(x.storage(), y.storage(), gate.storage(), rows);
            tensor(out, x.layout().shape().clone())
        })
    }

    fn fused_gated_add_backward(
        y: FlexTensor,
        gate: FlexTensor,
        grad: FlexTensor,
    ) -> (FlexTensor, FlexTensor) {
        timed("gated residual, backward", || {
            let (y, gate, grad) = (contiguous(y), contiguous(gate), contiguous(grad));
            let rows = rows_of(&y, &gate);
            let (d_y, d_gate) =
                elementwise::gated_add_backward(y.storage(), gate.storage(), grad.storage(), rows);
            (tensor(d_y, y.layout().shape().clone()), tensor(d_gate, gate.layout().shape().clone()))
        })
    }

    fn fused_attention(qkv: FlexTensor, heads: usize, open: usize) -> (FlexTensor, FlexTensor) {
        timed("attention", || {
            let qkv = contiguous(qkv);
            let sizes = attention::Sizes::new(qkv.layout().shape(), heads, open);
            let shape = Shape::new([sizes.batch, sizes.positions, sizes.width()]);
            let of_rows = Shape::new([sizes.batch, heads, sizes.positions]);
            if is_narrow(&qkv) && sizes.head.is_multiple_of(2) {
                let (out, log_sum) = bfloat16::attention::forward(qkv.storage(), sizes);
                return (tensor(out, shape), tensor(log_sum, of_rows));
            }
            // Values of a head of odd width do not lie in pairs.
            let answer_narrow = is_narrow(&qkv);
            let (out, log_sum) = attention::forward(wide(qkv).storage(), sizes);
            let out = tensor(out, shape);
            (if answer_narrow { narrow(out) } else { out }, tensor(log_sum, of_rows))
        })
    }

    fn fused_attention_backward(
        qkv: FlexTensor,
        out: FlexTensor,
        log_sum: FlexTensor,
        grad: FlexTensor,
        heads: usize,
        open: usize,
    ) -> FlexTensor {
        timed("attention, backward", || {
            let (qkv, log_sum) = (contiguous(qkv), contiguous(log_sum));
            let shape = qkv.layout().shape().clone();
            let sizes = attention::Sizes::new(&shape, heads, open);
            if is_narrow(&qkv) && sizes.head.is_multiple_of(2) {
                let (out, grad) = (contiguous(out), narrow(grad));
                let (out, grad) = (out.storage(), grad.storage());
                return tensor(
                    bfloat16::attention::backward(qkv.storage(), out, log_sum.storage(), grad, sizes),
                    shape,
                );
            }
            let answer_narrow = is_narrow(&qkv);
            let (qkv, out, grad) = (wide(qkv), wide(out), wide(grad));
            let (out, grad) = (out.storage(), grad.storage());
            let d_qkv =
                tensor(attention::backward(qkv.storage(), out, log_sum.storage(), grad, sizes), shape);
            if answer_narrow { narrow(d_qkv) } else { d_qkv }
        })
    }

    fn fused_linear(x: FlexTensor, weight: FlexTensor, answer: Answer) -> FlexTensor {
        linear(x, weight, None, answer)
    }

    fn fused_linear_biased(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        answer: Answer,
    ) -> FlexTensor {
        linear(x, weight, Some(bias), answer)
    }

    fn fused_mlp(
        x: FlexTensor,
        up: FlexTensor,
        up_bias: FlexTensor,
        down: FlexTensor,
        down_bias: FlexTensor,
        activation: Activation,
        kept: bool,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if !is_narrow(&up) {
            let before = linear(x, up, Some(up_bias), Answer::AsWeight);
            let after = Self::fused_activate(before.clone(), activation);
            return (linear(after.clone(), down, Some(down_bias), Answer::Float32), before, after);
        }
        let (after, before) = timed("linear, activated", || {
            let (x, up, bias) = (narrow(x), contiguous(up), contiguous(up_bias));
            let [hidden, inputs] = up.layout().shape().dims();
            let shape = with_width(x.layout().shape(), hidden);
            let layer = (up.storage(), bias.storage());
            let (after, before) =
                bfloat16::linear::forward_activated(x.storage(), layer, inputs, activation, kept);
            let after = tensor(after, shape.clone());
            let before = before.map_or_else(|| after.clone(), |before| tensor(before, shape));
            (after, before)
        });
        (linear(after.clone(), down, Some(down_bias), Answer::Float32), before, after)
    }

    fn fused_linear_backward_activated(
        weight: FlexTensor,
        grad: FlexTensor,
        before: FlexTensor,
        activation: Activation,
    ) -> FlexTensor {
        if !is_narrow(&weight) {
            let grad = Self::fused_linear_backward_input(weight, grad);
            return Self::fused_activate_backward(before, grad, activation);
        }
        timed("linear, backward to activated", || {
            let (weight, grad, before) = (contiguous(weight), narrow(grad), contiguous(before));
            let shape = before.layout().shape().clone();
            let [outputs, inputs] = weight.layout().shape().dims();
            let (weight, grad) = (weight.storage(), grad.storage());
            let before = before.storage();
            tensor(
                bfloat16::linear::backward_activated(weight, grad, [outputs, inputs], before, activation),
                shape,
            )
        })
    }

    fn fused_linear_backward_input(weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
        timed("linear, backward to input", || {
            let weight = contiguous(weight);
            let [outputs, inputs] = weight.layout().shape().dims();
            let shape = with_width(grad.layout().shape(), inputs);
            let d_x = if is_narrow(&weight) {
                let grad = narrow(grad);
                bfloat16::linear::backward_input(weight.storage(), grad.storage(), outputs, inputs)
            } else {
                let grad = contiguous(grad);
                linear::backward_input(weight.storage(), grad.storage(), outputs, inputs)
            };
            tensor(d_x, shape)
        })
    }

    fn fused_linear_backward_weight(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        timed("linear, backward to weights", || {
            let (x, grad) = (contiguous(x), contiguous(grad));
            let (inputs, outputs) = (last(x.layout().shape()), last(grad.layout().shape()));
            let d_weight = if is_narrow(&x) {
                bfloat16::linear::backward_weight(x.storage(), grad.storage(), inputs, outputs)
            } else {
                linear::backward_weight(x.storage(), grad.storage(), inputs, outputs)
            };
            tensor(d_weight, Shape::new([outputs, inputs]))
        })
    }

    fn fused_linear_backward_bias(grad: FlexTensor) -> FlexTensor {
        timed("linear, backward to bias", || {
            let grad = contiguous(grad);
            let outputs = last(grad.layout().shape());
            let sums = match is_narrow(&grad) {
                true => linear::backward_bias(grad.storage::<bf16>(), outputs),
                false => linear::backward_bias(grad.storage::<f32>(), outputs),
            };
            tensor(sums, Shape::new([outputs]))
        })
    }

    fn fused_adamw(
        parameter: FlexTensor,
        gradient: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        step: AdamWStep,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        timed("AdamW", || {
            // In place, unless somebody else holds the same numbers: then they are copied first.
            let [mut parameter, mut first, mut second] = [parameter, first, second].map(contiguous);
            let gradient = contiguous(gradient);
            let moments = [first.storage_mut(), second.storage_mut()];
            update::adamw(parameter.storage_mut(), gradient.storage(), moments, step);
            (parameter, first, second)
        })
    }

    fn fused_blend(a: FlexTensor, b: FlexTensor, weight: f64) -> FlexTensor {
        timed("moving average", || {
            let (mut a, b) = (contiguous(a), contiguous(b));
            update::blend(a.storage_mut(), b.storage(), weight);
            a
        })
    }

    fn fused_square_sum(x: FlexTensor) -> FlexTensor {
        timed("sum of squares", || {
            let x = contiguous(x);
            tensor(vec![update::square_sum(x.storage()) as f32], Shape::new([1]))
        })
    }
}

fn normalise(
    x: FlexTensor,
    scale: FlexTensor,
    shift: Option<FlexTensor>,
    norm: Norm,
    eps: f64,
) -> FlexTensor {
    timed("norm", || {
        let (x, scale, shift) = (contiguous(x), contiguous(scale), shift.map(contiguous));
        let rows = rows_of(&x, &scale);
        let shift = shift.as_ref().map(|shift| shift.storage());
        let y = norm::norm(x.storage(), (scale.storage(), shift), rows, norm, eps as f32);
        tensor(y, x.layout().shape().clone())
    })
}

fn linear(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>, answer: Answer) -> FlexTensor {
    let rows = x.layout().num_elements() / last(x.layout().shape());
    timed(if rows <= linear::FEW { "linear, few rows" } else { "linear" }, || {
        let (weight, bias) = (contiguous(weight), bias.map(contiguous));
        let [outputs, inputs] = weight.layout().shape().dims();
        let shape = with_width(x.layout().shape(), outputs);
        let bias = bias.as_ref().map(|bias| bias.storage());
        if !is_narrow(&weight) {
            return tensor(linear::forward(contiguous(x).storage(), weight.storage(), bias, inputs), shape);
        }
        let x = narrow(x);
        match answer {
            Answer::Float32 => {
                tensor(bfloat16::linear::forward::<f32>(x.storage(), weight.storage(), bias, inputs), shape)
            }
            Answer::AsWeight => {
                tensor(bfloat16::linear::forward::<bf16>(x.storage(), weight.storage(), bias, inputs), shape)
            }
        }
    })
}

fn activate_backward<G: Stored>(x: &FlexTensor, grad: &[G], activation: Activation) -> FlexTensor {
    let shape = x.layout().shape().clone();
    match is_narrow(x) {
        true => tensor(elementwise::activate_backward(x.storage::<bf16>(), grad, activation), shape),
        false => tensor(elementwise::activate_backward(x.storage::<f32>(), grad, activation), shape),
    }
}

fn swiglu_backward<G: Stored>(gate: &FlexTensor, up: &FlexTensor, grad: &[G]) -> (FlexTensor, FlexTensor) {
    let shape = up.layout().shape().clone();
    if is_narrow(up) {
        let (d_gate, d_up) = elementwise::swiglu_backward(gate.storage::<bf16>(), up.storage(), grad);
        return (tensor(d_gate, shape.clone()), tensor(d_up, shape));
    }
    let (d_gate, d_up) = elementwise::swiglu_backward(gate.storage::<f32>(), up.storage(), grad);
    (tensor(d_gate, shape.clone()), tensor(d_up, shape))
}

/// A pointer that threads may share because each task writes a region of its own.
struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: attention's tasks are the heads of samples, those of products are rows of panels of outputs; no
// two write the same place, and nobody else touches the buffer meanwhile.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn at(self, offset: usize) -> *mut T {
        // SAFETY: the callers' offsets lie inside the buffer.
        unsafe { self.0.add(offset) }
    }

    /// # Safety
    /// The part must lie inside the buffer, and nobody else may use it while this slice lives. Its
    /// numbers need not have been written before: any bits are a number.
    unsafe fn slice<'a>(self, offset: usize, len: usize) -> &'a mut [T] {
        // SAFETY: the caller vouches for it.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset), len) }
    }
}

/// How the rows of `[B, N, D]` meet the rows of a `[1 or B, D]` parameter.
#[derive(Debug, Clone, Copy)]
struct Rows {
    /// D
    width: usize,
    /// How many consecutive rows share one row of the parameter.
    per_group: usize,
}

impl Rows {
    /// Where the parameter's row for row `row` starts.
    fn parameter(self, row: usize) -> usize {
        row / self.per_group * self.width
    }
}

fn rows_of(x: &FlexTensor, parameter: &FlexTensor) -> Rows {
    let ([b, n, width], [groups, parameter_width]) =
        (x.layout().shape().dims(), parameter.layout().shape().dims());
    assert!(
        parameter_width == width && (groups == 1 || groups == b),
        "a parameter of [{groups}, {parameter_width}] does not fit [{b}, {n}, {width}]"
    );
    Rows { width, per_group: b * n / groups }
}

fn tensor<T: Stored>(values: Vec<T>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), T::dtype())
}

/// Whether a tensor is stored in bfloat16.
fn is_narrow(x: &FlexTensor) -> bool {
    x.dtype() == DType::BF16
}

/// `x` in bfloat16, in one piece.
fn narrow(x: FlexTensor) -> FlexTensor {
    let x = contiguous(x);
    if is_narrow(&x) {
        return x;
    }
    tensor(bfloat16::rounded(x.storage()), x.layout().shape().clone())
}

/// `x` in float32, in one piece.
fn wide(x: FlexTensor) -> FlexTensor {
    let x = contiguous(x);
    if !is_narrow(&x) {
        return x;
    }
    tensor(bfloat16::widened(x.storage()), x.layout().shape().clone())
}

/// `x` in one piece.
fn contiguous(x: FlexTensor) -> FlexTensor {
    let size = match x.dtype() {
        DType::F32 => 4,
        DType::BF16 => 2,
        other => panic!("the operators compute in float32 and bfloat16, not {other:?}"),
    };
    let whole = x.layout().start_offset() == 0 && x.bytes().len() == x.layout().num_elements() * size;
    if x.is_contiguous() && whole { x } else { FlexTensor::from_data(x.into_data()) }
}

fn last(shape: &Shape) -> usize {
    shape[shape.num_dims() - 1]
}

fn with_width(shape: &Shape, width: usize) -> Shape {
    let mut shape = shape.clone();
    let last = shape.num_dims() - 1;
    shape[last] = width;
    shape
}
