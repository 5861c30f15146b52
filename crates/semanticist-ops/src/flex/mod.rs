//! Native versions for the processor: one pass over memory each, in parallel over rows, with the
//! widest vectors the processor has, chosen at run time.

mod attention;
mod convolution;
mod elementwise;
mod linear;
mod norm;
mod numeric;
mod product;
mod update;

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{Bytes, DType, Flex};
use burn::tensor::Shape;

use crate::backend::{Activation, AdamWStep, Norm, Operators};
use crate::profile::timed;

impl Operators for Flex {
    fn fused_activate(x: FlexTensor, activation: Activation) -> FlexTensor {
        timed("activation", || {
            let x = contiguous(x);
            let y = elementwise::activate(x.storage(), activation);
            tensor(y, x.layout().shape().clone())
        })
    }

    fn fused_activate_backward(x: FlexTensor, grad: FlexTensor, activation: Activation) -> FlexTensor {
        timed("activation, backward", || {
            let (x, grad) = (contiguous(x), contiguous(grad));
            let d_x = elementwise::activate_backward(x.storage(), grad.storage(), activation);
            tensor(d_x, x.layout().shape().clone())
        })
    }

    fn fused_swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        timed("SwiGLU", || {
            let (gate, up) = (contiguous(gate), contiguous(up));
            tensor(elementwise::swiglu(gate.storage(), up.storage()), up.layout().shape().clone())
        })
    }

    fn fused_swiglu_backward(gate: FlexTensor, up: FlexTensor, grad: FlexTensor) -> (FlexTensor, FlexTensor) {
        timed("SwiGLU, backward", || {
            let (gate, up, grad) = (contiguous(gate), contiguous(up), contiguous(grad));
            let (d_gate, d_up) = elementwise::swiglu_backward(gate.storage(), up.storage(), grad.storage());
            let shape = up.layout().shape().clone();
            (tensor(d_gate, shape.clone()), tensor(d_up, shape))
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
            let (out, log_sum) = attention::forward(qkv.storage(), sizes);
            let out_shape = Shape::new([sizes.batch, sizes.positions, sizes.width()]);
            (tensor(out, out_shape), tensor(log_sum, Shape::new([sizes.batch, heads, sizes.positions])))
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
            let (qkv, out) = (contiguous(qkv), contiguous(out));
            let (log_sum, grad) = (contiguous(log_sum), contiguous(grad));
            let sizes = attention::Sizes::new(qkv.layout().shape(), heads, open);
            let d_qkv =
                attention::backward(qkv.storage(), out.storage(), log_sum.storage(), grad.storage(), sizes);
            tensor(d_qkv, qkv.layout().shape().clone())
        })
    }

    fn fused_linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        linear(x, weight, None)
    }

    fn fused_linear_biased(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        linear(x, weight, Some(bias))
    }

    fn fused_linear_backward_input(weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
        timed("linear, backward to input", || {
            let (weight, grad) = (contiguous(weight), contiguous(grad));
            let [outputs, inputs] = weight.layout().shape().dims();
            let d_x = linear::backward_input(weight.storage(), grad.storage(), outputs, inputs);
            tensor(d_x, with_width(grad.layout().shape(), inputs))
        })
    }

    fn fused_linear_backward_weight(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        timed("linear, backward to weights", || {
            let (x, grad) = (contiguous(x), contiguous(grad));
            let (inputs, outputs) = (last(x.layout().shape()), last(grad.layout().shape()));
            let d_weight = linear::backward_weight(x.storage(), grad.storage(), inputs, outputs);
            tensor(d_weight, Shape::new([outputs, inputs]))
        })
    }

    fn fused_linear_backward_bias(grad: FlexTensor) -> FlexTensor {
        timed("linear, backward to bias", || {
            let grad = contiguous(grad);
            let outputs = last(grad.layout().shape());
            tensor(linear::backward_bias(grad.storage(), outputs), Shape::new([outputs]))
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
            let (parameter, gradient) = (contiguous(parameter), contiguous(gradient));
            let (first, second) = (contiguous(first), contiguous(second));
            let shape = parameter.layout().shape().clone();
            let moments = [first.storage(), second.storage()];
            let [new, first, second] = update::adamw(parameter.storage(), gradient.storage(), moments, step);
            (tensor(new, shape.clone()), tensor(first, shape.clone()), tensor(second, shape))
        })
    }

    fn fused_blend(a: FlexTensor, b: FlexTensor, weight: f64) -> FlexTensor {
        timed("moving average", || {
            let (a, b) = (contiguous(a), contiguous(b));
            tensor(update::blend(a.storage(), b.storage(), weight), a.layout().shape().clone())
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

fn linear(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
    let rows = x.layout().num_elements() / last(x.layout().shape());
    timed(if rows <= linear::FEW { "linear, few rows" } else { "linear" }, || {
        let (x, weight, bias) = (contiguous(x), contiguous(weight), bias.map(contiguous));
        let [outputs, inputs] = weight.layout().shape().dims();
        let bias = bias.as_ref().map(|bias| bias.storage());
        let y = linear::forward(x.storage(), weight.storage(), bias, inputs);
        tensor(y, with_width(x.layout().shape(), outputs))
    })
}

/// A pointer that threads may share because each task writes a region of its own.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: attention's tasks are the heads of samples, the blocked product's are panels of outputs; no
// two write the same place, and nobody else touches the buffer meanwhile.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the callers' offsets lie inside the buffer.
        unsafe { self.0.add(offset) }
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

fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}

fn contiguous(x: FlexTensor) -> FlexTensor {
    assert_eq!(x.dtype(), DType::F32, "the operators compute in float32");
    let whole = x.layout().start_offset() == 0
        && x.bytes().len() == x.layout().num_elements() * std::mem::size_of::<f32>();
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
