//! Convolutions with channels innermost: what a backend must do, the same composed of Burn's
//! convolution, and the gradients of those of 3×3 pixels, which models here are trained with.
//!
//! Burn's own keeps channels outermost, so that its native version spends most of its time on
//! moving pixels, and its gradient of the weights treats the image as a kernel.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::{Tensor, ops::ConvOptions};

use crate::composed::backward_bias;

/// Which positions a convolution looks at, and what lies beyond the edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stride {
    /// Every position, between one row and column of zeros on each side.
    One,
    /// Every second position from the first; one row and column of zeros behind the last, none
    /// before the first (latent diffusion, `Downsample`).
    Two,
}

impl Stride {
    pub(crate) fn positions(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// Zeros before the first row and column.
    pub(crate) fn before(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 0,
        }
    }

    fn options(self) -> ConvOptions<2> {
        let padding = (self.before(), 1);
        ConvOptions::new_with_padding([self.positions(); 2], [padding; 2], [1, 1], 1)
    }
}

/// Convolves with kernels of 3×3 positions, and adds the bias if there is one.
///
/// # Shapes
/// - `x`: `[B, H, W, I]`
/// - `weight`: `[O, I, 3, 3]`
/// - `bias`: `[O]`
/// - result: `[B, H / s, W / s, O]` with stride s
///
/// # Panics
/// If the shapes do not fit, or the stride does not divide height and width.
pub fn convolve(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, stride: Stride) -> Tensor<4> {
    let [_, height, width, inputs] = x.dims();
    let s = stride.positions();
    assert!(
        height.is_multiple_of(s) && width.is_multiple_of(s),
        "a stride of {s} does not divide {height}×{width} positions"
    );
    assert_eq!(weight.dims()[1..], [inputs, 3, 3], "kernels for {inputs} channels");
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => <Dispatch as Convolution>::convolve_biased(x, weight, bias.into_dispatch(), stride),
        None => <Dispatch as Convolution>::convolve(x, weight, stride),
    })
}

/// Convolves with kernels of any size, between rows and columns of zeros on each side, and adds the
/// bias: for networks that are only used.
///
/// # Shapes
/// - `x`: `[B, H, W, I]`
/// - `weight`: `[O, h, w, I]`
/// - `bias`: `[O]`
/// - `zeros`: rows and columns
/// - result: `[B, (H + 2 rows - h) / s + 1, (W + 2 columns - w) / s + 1, O]` with stride s, rounded down
///
/// # Panics
/// If the shapes do not fit, or a kernel is larger than what it is to fit in.
pub fn convolve_any(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
    zeros: [usize; 2],
) -> Tensor<4> {
    let ([_, height, width, inputs], [_, rows, columns, channels]) = (x.dims(), weight.dims());
    assert_eq!(channels, inputs, "kernels for {inputs} channels");
    assert!(
        rows <= height + 2 * zeros[0] && columns <= width + 2 * zeros[1],
        "kernels of {rows}×{columns} in {height}×{width} positions and {zeros:?} zeros"
    );
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Convolution>::convolve_any(x, weight, bias, stride, zeros))
}

#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub(crate) trait Convolution: Backend {
    /// The weight is `[O, h, w, I]`.
    fn convolve_any(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
        zeros: [usize; 2],
    ) -> FloatTensor<Self> {
        composed_any::<Self>(x, weight, bias, stride, zeros)
    }

    fn convolve(x: FloatTensor<Self>, weight: FloatTensor<Self>, stride: Stride) -> FloatTensor<Self> {
        composed::<Self>(x, weight, None, stride)
    }

    fn convolve_biased(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: Stride,
    ) -> FloatTensor<Self> {
        composed::<Self>(x, weight, Some(bias), stride)
    }

    /// The gradient of x.
    fn convolve_backward_input(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        stride: Stride,
    ) -> FloatTensor<Self> {
        composed_backward_input::<Self>(x, weight, grad, stride)
    }

    /// The gradient of the weight.
    fn convolve_backward_weight(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        stride: Stride,
    ) -> FloatTensor<Self> {
        composed_backward_weight::<Self>(x, weight, grad, stride)
    }
}

#[cfg(feature = "cube")]
impl Convolution for burn::backend::Cube {}

pub(crate) fn channels_first<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_permute(x, &[0, 3, 1, 2])
}

pub(crate) fn channels_last<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_permute(x, &[0, 2, 3, 1])
}

pub(crate) fn composed<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    stride: Stride,
) -> FloatTensor<B> {
    channels_last::<B>(B::conv2d(channels_first::<B>(x), weight, bias, stride.options()))
}

pub(crate) fn composed_any<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    stride: usize,
    zeros: [usize; 2],
) -> FloatTensor<B> {
    let options = ConvOptions::new([stride; 2], zeros, [1, 1], 1);
    let (x, weight) = (channels_first::<B>(x), channels_first::<B>(weight));
    channels_last::<B>(B::conv2d(x, weight, Some(bias), options))
}

pub(crate) fn composed_backward_input<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    stride: Stride,
) -> FloatTensor<B> {
    let (x, grad) = (channels_first::<B>(x), channels_first::<B>(grad));
    channels_last::<B>(B::conv2d_x_backward(x, weight, grad, stride.options()))
}

pub(crate) fn composed_backward_weight<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    stride: Stride,
) -> FloatTensor<B> {
    B::conv2d_weight_backward(channels_first::<B>(x), weight, channels_first::<B>(grad), stride.options())
}

#[derive(Debug)]
struct Convolve;

impl<B: Convolution> Backward<B, 2> for Convolve {
    type State = (FloatTensor<B>, FloatTensor<B>, Stride);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let gradients = convolve_gradients::<B>(wanted, ops.state, grad);
        for pair in ops.parents.into_iter().zip(gradients) {
            if let (Some(node), Some(gradient)) = pair {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct ConvolveBiased;

impl<B: Convolution> Backward<B, 3> for ConvolveBiased {
    type State = (FloatTensor<B>, FloatTensor<B>, Stride);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [input, weights, bias] = ops.parents;
        let d_bias = bias.is_some().then(|| backward_bias::<B>(grad.clone()));
        let wanted = [input.is_some(), weights.is_some()];
        let [d_x, d_weight] = convolve_gradients::<B>(wanted, ops.state, grad);
        for pair in [(input, d_x), (weights, d_weight), (bias, d_bias)] {
            if let (Some(node), Some(gradient)) = pair {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// The gradients of x and weight, those that are wanted.
fn convolve_gradients<B: Convolution>(
    [input, weights]: [bool; 2],
    (x, weight, stride): (FloatTensor<B>, FloatTensor<B>, Stride),
    grad: FloatTensor<B>,
) -> [Option<FloatTensor<B>>; 2] {
    let d_weight =
        weights.then(|| B::convolve_backward_weight(x.clone(), weight.clone(), grad.clone(), stride));
    let d_x = input.then(|| B::convolve_backward_input(x, weight, grad, stride));
    [d_x, d_weight]
}

impl<B: Convolution, C: CheckpointStrategy> Convolution for Autodiff<B, C> {
    fn convolve(x: FloatTensor<Self>, weight: FloatTensor<Self>, stride: Stride) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match Convolve.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish((x.clone(), weight.clone(), stride), B::convolve(x, weight, stride))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::convolve(x, weight, stride)),
        }
    }

    fn convolve_biased(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: Stride,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let (x, weight, bias) = (x.into_primitive(), weight.into_primitive(), bias.into_primitive());
        match ConvolveBiased.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish((x.clone(), weight.clone(), stride), B::convolve_biased(x, weight, bias, stride))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::convolve_biased(x, weight, bias, stride)),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::{Flex, TensorMetadata, flex::FlexTensor};
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn noise<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| (((i * 7 + seed * 13) as f32) * 12.9898).sin()).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn primitive<const D: usize>(x: &Tensor<D>) -> FloatTensor<Flex> {
        FlexTensor::from_data(x.to_data())
    }

    #[track_caller]
    fn assert_close(native: FloatTensor<Flex>, reference: FloatTensor<Flex>) {
        assert_eq!(native.shape(), reference.shape());
        let values = |x: FloatTensor<Flex>| x.into_data().try_to_vec::<f32>().unwrap();
        let (native, reference) = (values(native), values(reference));
        let largest = reference.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let error = native.iter().zip(&reference).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(error <= 1e-5 * largest, "error {error} beside {largest}");
    }

    /// More positions than a block, and sizes that nothing divides.
    const SIZES: &[([usize; 4], usize, Stride)] = &[
        ([2, 38, 34, 5], 7, Stride::One),
        ([1, 1, 1, 3], 2, Stride::One),
        ([2, 5, 3, 16], 32, Stride::One),
        ([2, 22, 34, 5], 7, Stride::Two),
        ([1, 2, 2, 4], 3, Stride::Two),
    ];

    #[test]
    fn native_passes_match_the_composition() {
        for &([b, h, w, inputs], outputs, stride) in SIZES {
            let x = primitive(&noise([b, h, w, inputs], 1));
            let weight = primitive(&noise([outputs, inputs, 3, 3], 2));
            let bias = primitive(&noise([outputs], 3));
            let s = stride.positions();
            let grad = primitive(&noise([b, h / s, w / s, outputs], 4));
            assert_close(
                Flex::convolve_biased(x.clone(), weight.clone(), bias.clone(), stride),
                composed::<Flex>(x.clone(), weight.clone(), Some(bias), stride),
            );
            let arguments = || (x.clone(), weight.clone(), grad.clone());
            let (a, b, c) = arguments();
            let reference = composed_backward_input::<Flex>(a, b, c, stride);
            let (a, b, c) = arguments();
            assert_close(Flex::convolve_backward_input(a, b, c, stride), reference);
            let (a, b, c) = arguments();
            let reference = composed_backward_weight::<Flex>(a, b, c, stride);
            let (a, b, c) = arguments();
            assert_close(Flex::convolve_backward_weight(a, b, c, stride), reference);
        }
    }

    #[test]
    fn kernels_of_any_size_match_the_composition() {
        for (shape, kernel, outputs, stride, zeros) in [
            ([2, 35, 33, 3], [3, 3], 8, 2, [0, 0]),
            ([1, 17, 17, 20], [1, 7], 6, 1, [0, 3]),
            ([2, 9, 8, 12], [7, 1], 5, 1, [3, 0]),
            ([1, 7, 6, 4], [5, 5], 3, 1, [2, 2]),
            ([1, 4, 5, 6], [1, 1], 7, 1, [0, 0]),
            ([1, 5, 5, 6], [1, 1], 7, 2, [0, 0]),
            ([1, 11, 12, 3], [11, 11], 2, 4, [2, 2]),
            ([1, 2, 1, 2], [3, 3], 2, 2, [1, 1]),
        ] {
            let x = primitive(&noise(shape, 1));
            let weight = primitive(&noise([outputs, kernel[0], kernel[1], shape[3]], 2));
            let bias = primitive(&noise([outputs], 3));
            assert_close(
                Flex::convolve_any(x.clone(), weight.clone(), bias.clone(), stride, zeros),
                composed_any::<Flex>(x, weight, bias, stride, zeros),
            );
        }
    }

    #[test]
    fn gradients_are_the_slopes() {
        // The convolution is linear in each argument, so differences are exact but for rounding.
        for stride in [Stride::One, Stride::Two] {
            let arguments = [noise([2, 4, 6, 3], 1).reshape([144]), noise([5, 3, 3, 3], 2).reshape([135])];
            let bias = noise([5], 3);
            let objective = |x: Tensor<1>, weight: Tensor<1>, bias: Tensor<1>| {
                let y = convolve(x.reshape([2, 4, 6, 3]), weight.reshape([5, 3, 3, 3]), Some(bias), stride);
                let weights = noise(y.dims(), 4);
                let weights = if y.is_autodiff() { Tensor::from_inner(weights) } else { weights };
                (y * weights).sum()
            };
            let all = [arguments[0].clone(), arguments[1].clone(), bias];
            let leaves = all.clone().map(|x| Tensor::from_inner(x).require_grad());
            let [x, weight, bias] = leaves.clone();
            let gradients = objective(x, weight, bias).backward();
            for (i, leaf) in leaves.iter().enumerate() {
                let direction = noise(all[i].dims(), 9);
                let slope = (leaf.grad(&gradients).unwrap() * direction.clone()).sum().into_scalar::<f32>();
                let shifted = |sign: f64| {
                    let mut moved = all.clone();
                    moved[i] = moved[i].clone() + direction.clone() * sign;
                    let [x, weight, bias] = moved;
                    objective(x, weight, bias).into_scalar::<f32>()
                };
                let difference = (shifted(1.0) - shifted(-1.0)) / 2.0;
                let error = (slope - difference).abs();
                assert!(error < 1e-3 * (1.0 + difference.abs()), "{i}: {slope}, differences {difference}");
            }
        }
    }
}
