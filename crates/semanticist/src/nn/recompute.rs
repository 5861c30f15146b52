//! Blocks that do not keep what they compute on the way: the backward pass computes it again.

use burn::backend::DispatchTensor;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use semanticist_ops as ops;

use crate::noise::Noise;

/// What becomes of the values between a block's input and its answer, in training; nothing else depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Activations {
    /// They wait for the backward pass.
    #[default]
    Kept,
    /// Only the input waits, and the block is computed a second time: less memory, about a third more time.
    Recomputed,
}

/// What a block is given.
#[derive(Debug, Clone)]
pub(crate) struct Inputs {
    /// `[B, N, W]`
    pub x: Tensor<3>,
    /// `[1 or B, W]`, if the block takes one
    pub condition: Option<Tensor<2>>,
}

impl Inputs {
    fn inner(self) -> Self {
        Self { x: self.x.inner(), condition: self.condition.map(Tensor::inner) }
    }

    /// With gradients of their own.
    fn tracked(self) -> Self {
        let condition = self.condition.map(|condition| Tensor::from_inner(condition).require_grad());
        Self { x: Tensor::from_inner(self.x).require_grad(), condition }
    }
}

impl Activations {
    /// The answer of `block` to `inputs`, `[B, N, W]`, which `forward` computes with all draws from `noise`.
    pub(crate) fn forward<M, F>(
        self,
        block: &M,
        inputs: Inputs,
        noise: Option<&mut Noise>,
        forward: F,
    ) -> Tensor<3>
    where
        M: Module + 'static,
        F: Fn(&M, Inputs, Option<&mut Noise>) -> Tensor<3> + Send + 'static,
    {
        if self == Self::Kept || !inputs.x.device().is_autodiff() {
            return forward(block, inputs, noise);
        }
        let mut all = vec![inputs.x.clone().into_dispatch()];
        all.extend(inputs.condition.clone().map(Tensor::into_dispatch));
        let mut weights = Weights(all);
        block.visit(&mut weights);
        let (block, inputs) = (block.valid(), inputs.inner());
        let twin = noise.as_deref().map(Noise::again);
        let answer = forward(&block, inputs.clone(), noise);
        ops::recomputed(weights.0, answer, move |gradient| again(block, inputs, twin, forward, gradient))
    }
}

/// The gradients of the inputs and weights, in the order in which they were told.
fn again<M, F>(
    block: M,
    inputs: Inputs,
    mut noise: Option<Noise>,
    forward: F,
    gradient: Tensor<3>,
) -> Vec<Option<DispatchTensor>>
where
    M: Module,
    F: Fn(&M, Inputs, Option<&mut Noise>) -> Tensor<3>,
{
    let (block, inputs) = (block.map(&mut Track), inputs.tracked());
    let answer = forward(&block, inputs.clone(), noise.as_mut());
    // The sum's own gradient is 1, and so the answer's is what it is multiplied by.
    let gradients = (answer * Tensor::from_inner(gradient)).sum().backward();
    let mut found = vec![inputs.x.grad(&gradients).map(Tensor::into_dispatch)];
    found.extend(inputs.condition.map(|condition| condition.grad(&gradients).map(Tensor::into_dispatch)));
    let mut collector = Collector { gradients: &gradients, found };
    block.visit(&mut collector);
    collector.found
}

struct Weights(Vec<DispatchTensor>);

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.base().into_dispatch());
    }
}

/// Weights without a graph, at the root of a new one.
struct Track;

impl ModuleMapper for Track {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| Tensor::from_inner(weight).require_grad())
    }
}

struct Collector<'a> {
    gradients: &'a Gradients,
    found: Vec<Option<DispatchTensor>>,
}

impl ModuleVisitor for Collector<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push(param.base().grad(self.gradients).map(Tensor::into_dispatch));
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use semanticist_ops::{Activation, Visibility};

    use super::*;
    use crate::nn::{Attention, BlockSize, LayerNorm, Linear, Mlp};

    /// One of everything that blocks are made of.
    #[derive(Module, Debug)]
    struct Block {
        norm: LayerNorm,
        modulation: Linear,
        attention: Attention,
        mlp: Mlp,
    }

    impl Block {
        fn init(device: &Device) -> Self {
            let size = BlockSize { width: 8, depth: 1, heads: 2, mlp_ratio: 2 };
            let noise = &mut Noise::seeded(1);
            Self {
                norm: LayerNorm::init(8, device),
                modulation: Linear::init(8, 8, noise, device),
                attention: Attention::init(&size, noise, device),
                mlp: Mlp::init(&size, noise, device),
            }
        }

        fn forward(&self, inputs: Inputs, noise: Option<&mut Noise>) -> Tensor<3> {
            let Inputs { x, condition } = inputs;
            let gate = self.modulation.forward(condition.expect("it is given"));
            let branch = self.attention.forward(self.norm.forward(x.clone()), Visibility::All);
            let factors = noise.expect("it is given").uniform(2);
            let factors = Tensor::from_data(TensorData::new(factors, [2, 1, 1]), &x.device());
            let x = ops::gated_add(x, branch * factors, gate);
            x.clone() + self.mlp.forward(x, Activation::Gelu)
        }
    }

    /// The answer of two blocks one after the other, then the gradients of input, condition and weights.
    fn computed(activations: Activations) -> Vec<Vec<f32>> {
        let device = Device::flex().autodiff();
        let blocks = [Block::init(&device), Block::init(&device)];
        let mut noise = Noise::seeded(2);
        let [x, weights] = [(); 2].map(|()| noise.normal([2, 5, 8], &Device::flex()));
        let x = Tensor::<3>::from_inner(x).require_grad();
        let condition = Tensor::<2>::from_inner(noise.normal([1, 8], &Device::flex())).require_grad();
        let mut y = x.clone();
        for block in &blocks {
            let inputs = Inputs { x: y, condition: Some(condition.clone()) };
            y = activations.forward(block, inputs, Some(&mut noise), |block: &Block, inputs, noise| {
                block.forward(inputs, noise)
            });
        }
        let gradients = (y.clone() * Tensor::from_inner(weights)).sum().backward();
        let mut found = Collector { gradients: &gradients, found: Vec::new() };
        found.found.push(Some(y.inner().into_dispatch()));
        found.found.push(x.grad(&gradients).map(Tensor::into_dispatch));
        found.found.push(condition.grad(&gradients).map(Tensor::into_dispatch));
        blocks.iter().for_each(|block| block.visit(&mut found));
        let values = |x: Option<DispatchTensor>| {
            Tensor::<1>::from_dispatch(x.expect("all learn")).into_data().try_to_vec::<f32>().unwrap()
        };
        // The next draw is the same as well.
        found.found.into_iter().map(values).chain([noise.uniform(1)]).collect()
    }

    #[test]
    fn answers_and_gradients_are_those_of_blocks_that_keep_everything() {
        let [kept, recomputed] = [Activations::Kept, Activations::Recomputed].map(computed);
        // Of each block a norm and five linear layers have two parameters each.
        assert_eq!((kept.len(), recomputed.len()), (4 + 2 * 12, 4 + 2 * 12));
        for (number, (kept, recomputed)) in kept.iter().zip(&recomputed).enumerate() {
            let largest = kept.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let apart = kept.iter().zip(recomputed).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(largest > 0.0 && kept.len() == recomputed.len());
            assert!(apart <= 1e-6 * largest, "{number}: {apart} of {largest}");
        }
    }

    #[test]
    fn without_gradients_nothing_is_recorded() {
        let block = Block::init(&Device::flex());
        let inputs = || Inputs {
            x: Noise::seeded(3).normal([2, 5, 8], &Device::flex()),
            condition: Some(Noise::seeded(4).normal([1, 8], &Device::flex())),
        };
        let answer = |activations: Activations| {
            let noise = &mut Noise::seeded(5);
            let forward = |block: &Block, inputs, noise: Option<&mut Noise>| block.forward(inputs, noise);
            activations.forward(&block, inputs(), Some(noise), forward).into_data()
        };
        assert_eq!(answer(Activations::Kept), answer(Activations::Recomputed));
    }
}
