//! The diffusion head: a small network that draws one token, given what the transformer knows of it
//! (Li et al., 2024, MAR).

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist_ops::{self as ops, Answer};

use super::config::{GeneratorConfig, HeadConditioning};
use crate::nn::{LayerNorm, Linear, NORM_EPSILON, TimestepEmbed};
use crate::noise::Noise;

/// A residual block modulated by the timestep.
#[derive(Module, Debug)]
pub struct HeadBlock {
    pub norm: LayerNorm,
    /// `[3 width, width]`
    pub modulation: Linear,
    /// `[width, inputs]`, where inputs are the width, twice if the condition is joined
    pub up: Linear,
    /// `[width, width]`
    pub down: Linear,
}

/// The last layer.
#[derive(Module, Debug)]
pub struct HeadOutput {
    /// `[2 width, width]`
    pub modulation: Linear,
    /// `[outputs D, inputs]`
    pub linear: Linear,
}

/// The network of the diffusion head.
#[derive(Module, Debug)]
pub struct Head {
    /// From a time to the width.
    pub time: TimestepEmbed,
    /// `[width, transformer's width]`
    pub condition: Linear,
    /// `[width, D]`
    pub input: Linear,
    /// The residual blocks.
    pub blocks: Vec<HeadBlock>,
    /// From the width to what is predicted of the token.
    pub output: HeadOutput,
    #[module(skip)]
    joined: bool,
}

impl Head {
    /// Random weights; every block starts as the identity, the whole answers 0.
    pub fn init(config: &GeneratorConfig, noise: &mut Noise, device: &Device) -> Self {
        let head = &config.head;
        let width = head.width;
        let joined = head.condition == HeadConditioning::Concat;
        let inputs = if joined { 2 * width } else { width };
        Self {
            time: TimestepEmbed::init(width, noise, device),
            condition: Linear::init(config.width, width, noise, device),
            input: Linear::init(config.token_dim, width, noise, device),
            blocks: (0..head.depth)
                .map(|_| HeadBlock {
                    norm: LayerNorm::init(width, device),
                    modulation: Linear::init_zero(width, 3 * width, device),
                    up: Linear::init(inputs, width, noise, device),
                    down: Linear::init(width, width, noise, device),
                })
                .collect(),
            output: HeadOutput {
                modulation: Linear::init_zero(width, 2 * width, device),
                linear: Linear::init_zero(inputs, head.outputs() * config.token_dim, device),
            },
            joined,
        }
    }

    /// What the head says of noisy tokens, each at a time of its own. What is known of a token is looked at once,
    /// however many noisy ones there are of it.
    ///
    /// # Shapes
    /// `noisy` `[G R M, D]`, G R M times, `condition` `[G, M, transformer's width]` -> `[G R M, outputs D]`: in each of
    /// G groups M tokens, R times after each other
    pub fn forward(&self, noisy: Tensor<2>, times: &[f32], condition: Tensor<3>) -> Tensor<2> {
        let [groups, tokens, known] = condition.dims();
        let repeated = |x: Tensor<2>| repeated(x, groups, times.len() / (groups * tokens));
        let condition = self.condition.forward(condition.reshape([groups * tokens, known]));
        let time = self.time.forward(times);
        let time = if self.joined { time } else { time + repeated(condition.clone()) };
        let given = self.joined.then(|| self.given(condition).map(repeated));
        self.denoise(noisy, &self.fronts(), &self.modulations(time), given.as_ref())
    }

    /// Prepares for drawing tokens at these times.
    pub fn plan(&self, times: &[f32]) -> HeadPlan<'_> {
        let modulations = self.joined.then(|| self.modulations(self.time.forward(times)).rows());
        // Products read a copy in one piece faster than columns of a wider matrix.
        let fronts = self.fronts().map(|front| Front { weight: front.weight * 1.0, ..front });
        HeadPlan { head: self, times: times.to_vec(), modulations, fronts }
    }

    /// Scales, shifts and gates of all layers from embeddings `[N, width]` of the time.
    fn modulations(&self, time: Tensor<2>) -> Modulations {
        let width = time.dims()[1];
        let time = self.output.modulation.rounded_for(ops::silu(time));
        // Parts of the layer, not of its answer: a gradient of a part of the answer would be as large as all of it.
        let part = |layer: &Linear, i: usize| {
            let (weight, bias) = (layer.weight.val(), layer.bias.val());
            let (weight, bias) = (weight.narrow(0, i * width, width), bias.narrow(0, i * width, width));
            ops::linear(time.clone(), weight, Some(bias), Answer::Float32)
        };
        let block = |block: &HeadBlock| {
            // The norm's own scale and shift come first; here both are one.
            let factor = part(&block.modulation, 1) + 1.0;
            let scale = factor.clone() * block.norm.weight.val().unsqueeze();
            let shift = factor * block.norm.bias.val().unsqueeze() + part(&block.modulation, 0);
            [scale, shift, part(&block.modulation, 2)]
        };
        let output = &self.output.modulation;
        Modulations {
            blocks: self.blocks.iter().map(block).collect(),
            output: [part(output, 1) + 1.0, part(output, 0)],
        }
    }

    /// What every layer makes of the condition `[N, width]`, which no step changes; biases included.
    fn given(&self, condition: Tensor<2>) -> PerLayer<Tensor<2>> {
        let width = condition.dims()[1];
        let condition = self.output.linear.rounded_for(condition);
        self.layers().map(|layer| {
            let weight = layer.weight.val().narrow(1, width, width);
            ops::linear(condition.clone(), weight, Some(layer.bias.val()), Answer::Float32)
        })
    }

    /// What noisy tokens meet of every layer, without what is given already.
    fn fronts(&self) -> PerLayer<Front> {
        let width = self.input.weight.dims()[0];
        self.layers().map(|layer| match self.joined {
            true => Front { weight: layer.weight.val().narrow(1, 0, width), bias: None },
            false => Front { weight: layer.weight.val(), bias: Some(layer.bias.val()) },
        })
    }

    /// The layers that a joined condition enters.
    fn layers(&self) -> PerLayer<&Linear> {
        PerLayer { blocks: self.blocks.iter().map(|block| &block.up).collect(), output: &self.output.linear }
    }

    /// One evaluation of the network. Modulations have one row for all tokens, or one for each.
    fn denoise(
        &self,
        noisy: Tensor<2>,
        fronts: &PerLayer<Front>,
        modulations: &Modulations,
        given: Option<&PerLayer<Tensor<2>>>,
    ) -> Tensor<2> {
        let enter = |y: Tensor<2>, front: &Front, given: Option<&Tensor<2>>| {
            let y = ops::linear(y, front.weight.clone(), front.bias.clone(), Answer::Float32);
            match given {
                Some(given) => y + given.clone(),
                None => y,
            }
        };
        let mut x = self.input.forward(noisy); // [N, width]
        for (i, (block, [scale, shift, gate])) in self.blocks.iter().zip(&modulations.blocks).enumerate() {
            let y = normalised(x.clone(), scale, shift);
            let y = enter(y, &fronts.blocks[i], given.map(|given| &given.blocks[i]));
            let y = block.down.forward(ops::silu(y));
            x = gated(x, y, gate);
        }
        let [scale, shift] = &modulations.output;
        enter(normalised(x, scale, shift), &fronts.output, given.map(|given| &given.output))
    }
}

/// What a layer makes of noisy tokens.
#[derive(Debug, Clone)]
struct Front {
    /// `[outputs, width]`
    weight: Tensor<2>,
    /// `[outputs]`; none where it is part of what the layer makes of the condition
    bias: Option<Tensor<1>>,
}

/// Something for each layer that a condition can enter.
#[derive(Debug, Clone)]
struct PerLayer<T> {
    blocks: Vec<T>,
    output: T,
}

impl<T> PerLayer<T> {
    fn map<U>(self, mut f: impl FnMut(T) -> U) -> PerLayer<U> {
        PerLayer { blocks: self.blocks.into_iter().map(&mut f).collect(), output: f(self.output) }
    }
}

/// Scale, shift and gate of every block, scale and shift of the output: `[1, width]` or `[N, width]`.
#[derive(Debug, Clone)]
struct Modulations {
    blocks: Vec<[Tensor<2>; 3]>,
    output: [Tensor<2>; 2],
}

impl Modulations {
    /// Each row by itself.
    fn rows(self) -> Vec<Self> {
        let count = self.output[0].dims()[0];
        let row = |tensor: &Tensor<2>, i: usize| tensor.clone().narrow(0, i, 1);
        let of = |i: usize| Self {
            blocks: self.blocks.iter().map(|parts| parts.each_ref().map(|part| row(part, i))).collect(),
            output: self.output.each_ref().map(|part| row(part, i)),
        };
        (0..count).map(of).collect()
    }
}

/// A head with everything computed that depends on the times alone. With a joined condition these are
/// all modulations, which tokens, images and guidance share.
#[derive(Debug)]
pub struct HeadPlan<'a> {
    head: &'a Head,
    times: Vec<f32>,
    modulations: Option<Vec<Modulations>>,
    fronts: PerLayer<Front>,
}

/// What is known of some tokens, prepared once for all steps of drawing them.
#[derive(Debug)]
pub struct PreparedCondition {
    /// `[N, width]`
    embedded: Tensor<2>,
    given: Option<PerLayer<Tensor<2>>>,
}

impl HeadPlan<'_> {
    /// Prepares what the transformer knows of N tokens, `[N, transformer's width]`.
    pub fn condition(&self, answers: Tensor<2>) -> PreparedCondition {
        let embedded = self.head.condition.forward(answers);
        let given = self.head.joined.then(|| self.head.given(embedded.clone()));
        PreparedCondition { embedded, given }
    }

    /// What the head says of noisy tokens at one of the times, given by its index.
    ///
    /// # Shapes
    /// `noisy` `[N, D]` -> `[N, outputs D]`
    pub fn forward(&self, noisy: Tensor<2>, index: usize, condition: &PreparedCondition) -> Tensor<2> {
        let computed;
        let modulations = match &self.modulations {
            Some(all) => &all[index],
            None => {
                let time = self.head.time.forward(&self.times[index..=index]);
                computed = self.head.modulations(time + condition.embedded.clone());
                &computed
            }
        };
        self.head.denoise(noisy, &self.fronts, modulations, condition.given.as_ref())
    }
}

/// The rows of each of `groups` groups, `times` times after each other.
pub(super) fn repeated(x: Tensor<2>, groups: usize, times: usize) -> Tensor<2> {
    let [rows, width] = x.dims();
    let x = x.reshape([groups, 1, rows / groups * width]).repeat_dim(1, times);
    x.reshape([rows * times, width])
}

/// Layer normalisation of `[N, width]`, then scale and shift: `[1, width]`, or `[N, width]`.
fn normalised(x: Tensor<2>, scale: &Tensor<2>, shift: &Tensor<2>) -> Tensor<2> {
    let shape = x.dims();
    let x = x.reshape(grouped(shape, scale.dims()[0]));
    ops::layer_norm(x, scale.clone(), shift.clone(), NORM_EPSILON).reshape(shape)
}

/// `x + gate · y` with a gate `[1, width]` or `[N, width]`.
fn gated(x: Tensor<2>, y: Tensor<2>, gate: &Tensor<2>) -> Tensor<2> {
    let shape = x.dims();
    let groups = grouped(shape, gate.dims()[0]);
    ops::gated_add(x.reshape(groups), y.reshape(groups), gate.clone()).reshape(shape)
}

/// N rows as one sample of N positions that share their modulation, or as N samples of one position.
fn grouped([rows, width]: [usize; 2], modulations: usize) -> [usize; 3] {
    [modulations, rows / modulations, width]
}
