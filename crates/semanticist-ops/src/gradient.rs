//! The backward passes: what each operator keeps from its forward pass, and which gradients it
//! hands on. Written once for every backend.

use burn::backend::autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{AutodiffBackend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::DType;

use crate::backend::{Activation, Answer, Norm, Operators};

/// Rounding has no slope anybody could follow: the gradient passes as it is.
#[derive(Debug)]
struct ToBfloat16;

impl<B: Operators> Backward<B, 1> for ToBfloat16 {
    type State = ();

    fn backward(self, ops: Ops<(), 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, grad);
        }
    }
}

#[derive(Debug)]
struct Activate;

impl<B: Operators> Backward<B, 1> for Activate {
    type State = (FloatTensor<B>, Activation);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, activation) = ops.state;
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::fused_activate_backward(x, grad, activation));
        }
    }
}

#[derive(Debug)]
struct SwiGlu;

impl<B: Operators> Backward<B, 2> for SwiGlu {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (gate, up) = ops.state;
        let (d_gate, d_up) = B::fused_swiglu_backward(gate, up, grad);
        for (node, gradient) in ops.parents.into_iter().zip([d_gate, d_up]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct Normalise;

impl<B: Operators> Backward<B, 3> for Normalise {
    type State = (FloatTensor<B>, FloatTensor<B>, Norm, f64);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, scale, norm, eps) = ops.state;
        let (d_x, d_scale, d_shift) = B::fused_norm_backward(x, scale, grad, norm, eps);
        for (node, gradient) in ops.parents.into_iter().zip([d_x, d_scale, d_shift]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct NormaliseUnshifted;

impl<B: Operators> Backward<B, 2> for NormaliseUnshifted {
    type State = (FloatTensor<B>, FloatTensor<B>, Norm, f64);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, scale, norm, eps) = ops.state;
        let (d_x, d_scale) = B::fused_norm_unshifted_backward(x, scale, grad, norm, eps);
        for (node, gradient) in ops.parents.into_iter().zip([d_x, d_scale]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct GatedAdd;

impl<B: Operators> Backward<B, 3> for GatedAdd {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (y, gate) = ops.state;
        let (d_y, d_gate) = B::fused_gated_add_backward(y, gate, grad.clone());
        for (node, gradient) in ops.parents.into_iter().zip([grad, d_y, d_gate]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct Attention;

#[derive(Debug, Clone)]
struct AttentionState<F> {
    qkv: F,
    out: F,
    log_sum: F,
    heads: usize,
    open: usize,
}

impl<B: Operators> Backward<B, 1> for Attention {
    type State = AttentionState<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let AttentionState { qkv, out, log_sum, heads, open } = ops.state;
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::fused_attention_backward(qkv, out, log_sum, grad, heads, open));
        }
    }
}

#[derive(Debug)]
struct Linear;

impl<B: Operators> Backward<B, 2> for Linear {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [input, weights] = ops.parents.map(|parent| parent.map(|node| node.id));
        register_linear::<B>([input, weights, None], ops.state, grad, grads);
    }
}

#[derive(Debug)]
struct LinearBiased;

impl<B: Operators> Backward<B, 3> for LinearBiased {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        register_linear::<B>(ops.parents.map(|parent| parent.map(|node| node.id)), ops.state, grad, grads);
    }
}

#[derive(Debug)]
struct Mlp;

#[derive(Debug, Clone)]
struct MlpState<F> {
    x: F,
    up: F,
    down: F,
    before: F,
    after: F,
    activation: Activation,
}

impl<B: Operators> Backward<B, 5> for Mlp {
    type State = MlpState<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let MlpState { x, up, down, before, after, activation } = ops.state;
        let [input, up_weight, up_bias, down_weight, down_bias] =
            ops.parents.map(|parent| parent.map(|node| node.id));
        let rounded =
            register_linear::<B>([None, down_weight, down_bias], (after, down.clone()), grad, grads);
        let grad = B::fused_linear_backward_activated(down, rounded, before, activation);
        register_linear::<B>([input, up_weight, up_bias], (x, up), grad, grads);
    }
}

/// Hands on the gradients of x, weight and bias, those that are wanted; returns the gradient as the products
/// read it.
fn register_linear<B: Operators>(
    [input, weights, bias]: [Option<NodeId>; 3],
    (x, weight): (FloatTensor<B>, FloatTensor<B>),
    grad: FloatTensor<B>,
    grads: &mut Gradients,
) -> FloatTensor<B> {
    let d_bias = bias.is_some().then(|| B::fused_linear_backward_bias(grad.clone()));
    let grad = as_weight::<B>(grad, &weight);
    let d_weight = weights.is_some().then(|| B::fused_linear_backward_weight(x, grad.clone()));
    let d_x = input.is_some().then(|| B::fused_linear_backward_input(weight, grad.clone()));
    for pair in [(input, d_x), (weights, d_weight), (bias, d_bias)] {
        if let (Some(node), Some(gradient)) = pair {
            grads.register::<B>(node, gradient);
        }
    }
    grad
}

/// `x` as the products with a weight read it: rounded once for all of them.
fn as_weight<B: Operators>(x: FloatTensor<B>, weight: &FloatTensor<B>) -> FloatTensor<B> {
    match (x.dtype(), weight.dtype()) {
        (DType::F32, DType::BF16) => B::fused_to_bfloat16(x),
        _ => x,
    }
}

impl<B: Operators, C: CheckpointStrategy> Operators for Autodiff<B, C> {
    fn fused_activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let node = x.node();
        let x = x.into_primitive();
        match Activate.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x.clone(), activation), B::fused_activate(x, activation)),
            OpsKind::UnTracked(prep) => prep.finish(B::fused_activate(x, activation)),
        }
    }

    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [gate.node(), up.node()];
        let (gate, up) = (gate.into_primitive(), up.into_primitive());
        match SwiGlu.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate.clone(), up.clone()), B::fused_swiglu(gate, up)),
            OpsKind::UnTracked(prep) => prep.finish(B::fused_swiglu(gate, up)),
        }
    }

    fn fused_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        norm: Norm,
        eps: f64,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), scale.node(), shift.node()];
        let (x, scale, shift) = (x.into_primitive(), scale.into_primitive(), shift.into_primitive());
        match Normalise.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish((x.clone(), scale.clone(), norm, eps), B::fused_norm(x, scale, shift, norm, eps))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_norm(x, scale, shift, norm, eps)),
        }
    }

    fn fused_norm_unshifted(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        norm: Norm,
        eps: f64,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), scale.node()];
        let (x, scale) = (x.into_primitive(), scale.into_primitive());
        match NormaliseUnshifted.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::fused_norm_unshifted(x.clone(), scale.clone(), norm, eps);
                prep.finish((x, scale, norm, eps), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_norm_unshifted(x, scale, norm, eps)),
        }
    }

    fn fused_gated_add(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gate: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), y.node(), gate.node()];
        let (x, y, gate) = (x.into_primitive(), y.into_primitive(), gate.into_primitive());
        match GatedAdd.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((y.clone(), gate.clone()), B::fused_gated_add(x, y, gate)),
            OpsKind::UnTracked(prep) => prep.finish(B::fused_gated_add(x, y, gate)),
        }
    }

    fn fused_attention(
        qkv: FloatTensor<Self>,
        heads: usize,
        open: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let node = qkv.node();
        let qkv = qkv.into_primitive();
        let (out, log_sum) = B::fused_attention(qkv.clone(), heads, open);
        // No gradient flows through the second output: it is lifted as a constant.
        let constant = <Self as AutodiffBackend>::from_inner(log_sum.clone());
        let out = match Attention.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(AttentionState { qkv, out: out.clone(), log_sum, heads, open }, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        (out, constant)
    }

    fn fused_to_bfloat16(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let node = x.node();
        match ToBfloat16.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((), B::fused_to_bfloat16(x.into_primitive())),
            OpsKind::UnTracked(prep) => prep.finish(B::fused_to_bfloat16(x.into_primitive())),
        }
    }

    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, answer: Answer) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match Linear.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let x = as_weight::<B>(x, &weight);
                prep.finish((x.clone(), weight.clone()), B::fused_linear(x, weight, answer))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_linear(x, weight, answer)),
        }
    }

    fn fused_linear_biased(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        answer: Answer,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let (x, weight, bias) = (x.into_primitive(), weight.into_primitive(), bias.into_primitive());
        match LinearBiased.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let x = as_weight::<B>(x, &weight);
                prep.finish((x.clone(), weight.clone()), B::fused_linear_biased(x, weight, bias, answer))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_linear_biased(x, weight, bias, answer)),
        }
    }

    fn fused_mlp(
        x: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        down: FloatTensor<Self>,
        down_bias: FloatTensor<Self>,
        activation: Activation,
        _: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [&x, &up, &up_bias, &down, &down_bias].map(|tensor| tensor.node());
        let (x, up, up_bias) = (x.into_primitive(), up.into_primitive(), up_bias.into_primitive());
        let (down, down_bias) = (down.into_primitive(), down_bias.into_primitive());
        let x = as_weight::<B>(x, &up);
        let prepared = Mlp.prepare::<C>(nodes).compute_bound().stateful();
        let kept = matches!(prepared, OpsKind::Tracked(_));
        let (y, before, after) =
            B::fused_mlp(x.clone(), up.clone(), up_bias, down.clone(), down_bias, activation, kept);
        // No gradient flows through what is kept: it is lifted as constants.
        let [constant_before, constant_after] =
            [&before, &after].map(|hidden| <Self as AutodiffBackend>::from_inner(hidden.clone()));
        let y = match prepared {
            OpsKind::Tracked(prep) => prep.finish(MlpState { x, up, down, before, after, activation }, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        (y, constant_before, constant_after)
    }
}
