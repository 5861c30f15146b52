//! Less memory for more time: a part of a network whose intermediate values are not kept for the backward pass, which
//! computes them again (gradient checkpointing; Chen et al., 2016, arXiv 1604.06174).
//!
//! Burn records an operator's inputs in a fixed number. A part has any number of them, so that a chain is recorded: a link
//! for each input, and at its end the answer. The backward pass comes to the answer first, computes the part again with a
//! graph of its own, and leaves the gradients for the links, which hand them on.

use std::fmt;
use std::sync::{Arc, Mutex};

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, Dispatch, DispatchTensor, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

/// The gradients of a part's inputs in their order, none where there is none, given that of its answer, `[B, N, D]`.
type Again = dyn FnOnce(Tensor<3>) -> Vec<Option<DispatchTensor>> + Send;

/// `answer`, which was computed of `inputs` without a graph, with a graph in which `again` computes their gradients.
///
/// # Shapes
/// `answer` `[B, N, D]` without autodiff; `inputs` of any shapes with it.
pub fn recomputed(
    inputs: Vec<DispatchTensor>,
    answer: Tensor<3>,
    again: impl FnOnce(Tensor<3>) -> Vec<Option<DispatchTensor>> + Send + 'static,
) -> Tensor<3> {
    let part = Part(Arc::new(Mutex::new(State { again: Some(Box::new(again)), gradients: Vec::new() })));
    let nothing = Tensor::<1>::zeros([1], &answer.device());
    let mut chain = Tensor::from_inner(nothing).into_dispatch();
    for (number, input) in inputs.into_iter().enumerate() {
        chain = <Dispatch as Recomputing>::link(chain, input, part.clone(), number);
    }
    let answer = Tensor::<3>::from_inner(answer).into_dispatch();
    Tensor::from_dispatch(<Dispatch as Recomputing>::end(chain, answer, part))
}

/// What the operators of a chain share.
#[derive(Clone)]
pub(crate) struct Part(Arc<Mutex<State>>);

struct State {
    again: Option<Box<Again>>,
    gradients: Vec<Option<DispatchTensor>>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Part")
    }
}

impl Part {
    fn compute(&self, gradient: DispatchTensor) {
        let again = self.lock().again.take().expect("a graph is walked once");
        let gradients = again(Tensor::from_dispatch(gradient));
        self.lock().gradients = gradients;
    }

    fn gradient(&self, number: usize) -> Option<DispatchTensor> {
        self.lock().gradients[number].take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while holding it")
    }
}

#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub(crate) trait Recomputing: Backend {
    /// A chain with one input more. Without a graph there is nothing to record.
    fn link(
        chain: FloatTensor<Self>,
        input: FloatTensor<Self>,
        part: Part,
        number: usize,
    ) -> FloatTensor<Self> {
        let _ = (input, part, number);
        chain
    }

    /// The answer at the end of a chain.
    fn end(chain: FloatTensor<Self>, answer: FloatTensor<Self>, part: Part) -> FloatTensor<Self> {
        let _ = (chain, part);
        answer
    }
}

/// A backend whose tensors are known to those who do not know it.
pub(crate) trait Known: Recomputing {
    fn shown(x: FloatTensor<Self>) -> DispatchTensor;
    fn found(x: DispatchTensor) -> FloatTensor<Self>;
}

macro_rules! known {
    ($backend:ty) => {
        impl Recomputing for $backend {}

        impl Known for $backend {
            // The number of axes is not looked at on the way through.
            fn shown(x: FloatTensor<Self>) -> DispatchTensor {
                Tensor::<1>::from_primitive::<Self>(x).into_dispatch()
            }

            fn found(x: DispatchTensor) -> FloatTensor<Self> {
                let primitive = Tensor::<1>::from_dispatch(x).try_into_primitive::<Self>();
                primitive.expect("a part is computed where its answer is")
            }
        }
    };
}

known!(Flex);
#[cfg(feature = "cube")]
known!(burn::backend::Cube);

#[derive(Debug)]
struct Link;

impl<B: Known> Backward<B, 2> for Link {
    type State = (Part, usize);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let nothing = grads.consume::<B>(&ops.node);
        let (part, number) = ops.state;
        let [chain, input] = ops.parents;
        if let (Some(node), Some(gradient)) = (input, part.gradient(number)) {
            grads.register::<B>(node.id, B::found(gradient));
        }
        if let Some(node) = chain {
            grads.register::<B>(node.id, nothing);
        }
    }
}

#[derive(Debug)]
struct End;

impl<B: Known> Backward<B, 1> for End {
    type State = (Part, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (part, nothing) = ops.state;
        if let [Some(node)] = ops.parents {
            part.compute(B::shown(gradient));
            grads.register::<B>(node.id, nothing);
        }
    }
}

impl<B: Known, C: CheckpointStrategy> Recomputing for Autodiff<B, C> {
    fn link(
        chain: FloatTensor<Self>,
        input: FloatTensor<Self>,
        part: Part,
        number: usize,
    ) -> FloatTensor<Self> {
        let nodes = [chain.node(), input.node()];
        let nothing = chain.into_primitive();
        match Link.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((part, number), nothing),
            OpsKind::UnTracked(prep) => prep.finish(nothing),
        }
    }

    fn end(chain: FloatTensor<Self>, answer: FloatTensor<Self>, part: Part) -> FloatTensor<Self> {
        let node = chain.node();
        let (nothing, answer) = (chain.into_primitive(), answer.into_primitive());
        match End.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((part, nothing), answer),
            OpsKind::UnTracked(prep) => prep.finish(answer),
        }
    }
}
