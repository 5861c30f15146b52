//! Each native operator, forward and backward, against its composition on shapes that nobody chose:
//! single rows and columns, odd widths, and tensors that are views of others.
//!
//! proptest is used without its `std`: the cases are then the same every time, and its dependencies
//! ask nothing of Burn's, which would have Burn compiled a second time for the tests.

use burn::backend::{Backend, Flex, TensorMetadata, flex::FlexTensor};
use burn::tensor::{Device, Shape, Slice, Tensor, TensorData};
use proptest::array::{uniform2, uniform3, uniform4};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestCaseResult, TestRunner};

use crate::backend::{Activation, AdamWStep, Answer, Norm, Operators};
use crate::convolution::{self, Convolution, Stride};
use crate::{composed, convolve, linear};

/// Sizes around those at which vectors, rows per task and tiles end.
const POSITIONS: &[usize] = &[1, 2, 3, 31, 33, 64, 65, 70, 130];
const WIDTHS: &[usize] = &[1, 2, 3, 15, 16, 17, 33, 50];

/// How a tensor lies in memory; axes are counted modulo their number.
#[derive(Debug, Clone, Copy)]
enum View {
    Whole,
    /// An axis and the next change places.
    Swapped(usize),
    /// All but the first and the last place of an axis.
    Narrowed(usize),
    /// One value for all places of an axis.
    Expanded(usize),
}

fn view() -> impl Strategy<Value = View> {
    prop_oneof![
        Just(View::Whole),
        (0..4usize).prop_map(View::Swapped),
        (0..4usize).prop_map(View::Narrowed),
        (0..4usize).prop_map(View::Expanded),
    ]
}

/// A view and the same values in one piece.
#[derive(Debug, Clone)]
struct Drawn {
    view: FlexTensor,
    copy: FlexTensor,
}

/// Values in `[-2, 2]` of this shape.
fn noise(shape: &[usize], seed: u32) -> FlexTensor {
    let value = |i: usize| 2.0 * ((i as f32 + (seed % 1000) as f32 * 1.37) * 12.9898).sin();
    let values = (0..shape.iter().product()).map(value).collect::<Vec<_>>();
    FlexTensor::from_data(TensorData::new(values, shape.to_vec()))
}

fn viewed<B: Backend<FloatTensorPrimitive = FlexTensor>>(
    shape: &[usize],
    view: View,
    seed: u32,
) -> FlexTensor {
    let rank = shape.len();
    let mut stored = shape.to_vec();
    match view {
        View::Whole => noise(shape, seed),
        View::Swapped(axis) => {
            let (axis, next) = (axis % rank, (axis + 1) % rank);
            stored.swap(axis, next);
            B::float_swap_dims(noise(&stored, seed), axis, next)
        }
        View::Narrowed(axis) => {
            stored[axis % rank] += 2;
            let mut ranges: Vec<Slice> = shape.iter().map(|&size| Slice::from(0..size)).collect();
            ranges[axis % rank] = Slice::from(1..1 + shape[axis % rank]);
            B::float_slice(noise(&stored, seed), &ranges)
        }
        View::Expanded(axis) => {
            stored[axis % rank] = 1;
            B::float_expand(noise(&stored, seed), Shape::from(shape.to_vec()))
        }
    }
}

fn drawn<const N: usize>(shapes: [&[usize]; N], views: [View; N], seed: u32) -> [Drawn; N] {
    std::array::from_fn(|i| {
        let view = viewed::<Flex>(shapes[i], views[i], seed.wrapping_add(i as u32));
        Drawn { copy: FlexTensor::from_data(view.clone().into_data()), view }
    })
}

fn values(x: FlexTensor) -> Vec<f32> {
    x.into_data().try_to_vec().unwrap()
}

/// How exactly a sum of so many terms of order 1 is known: where all are equal, each addition may round
/// the same way; where they cancel, the rounding of what came between remains.
fn close_sums(native: FlexTensor, reference: FlexTensor, terms: usize) -> TestCaseResult {
    close(native, reference, 3e-6 + 3e-8 * terms as f32, (terms as f32).sqrt())
}

/// Compares beside the largest value, or `least` if that is more: what an operator makes of values of
/// order 1, before differences of them vanish.
fn close(native: FlexTensor, reference: FlexTensor, tolerance: f32, least: f32) -> TestCaseResult {
    prop_assert_eq!(native.shape(), reference.shape());
    let (native, reference) = (values(native), values(reference));
    let largest = reference.iter().fold(least, |m, v| m.max(v.abs()));
    let difference = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    let error = native.iter().zip(&reference).map(difference).fold(0.0, f32::max);
    prop_assert!(error <= tolerance * largest, "error {} beside {}", error, largest);
    Ok(())
}

fn for_all<S: Strategy>(cases: u32, strategy: S, property: impl Fn(S::Value) -> TestCaseResult) {
    let config = ProptestConfig { cases, ..ProptestConfig::default() };
    if let Err(error) = TestRunner::new(config).run(&strategy, property) {
        panic!("{error}");
    }
}

/// `[B, N, D]`
fn shape() -> impl Strategy<Value = [usize; 3]> {
    (1..4usize, select(POSITIONS), select(WIDTHS)).prop_map(|(b, n, d)| [b, n, d])
}

/// The rows of a parameter: one for all samples, or one each.
fn groups(shared: bool, batch: usize) -> usize {
    if shared { 1 } else { batch }
}

#[test]
fn activations() {
    let kinds = select(&[Activation::Gelu, Activation::GeluTanh, Activation::Silu][..]);
    for_all(64, (shape(), kinds, uniform2(view()), any::<u32>()), |(shape, kind, views, seed)| {
        let [x, g] = drawn([&shape, &shape], views, seed);
        let native = Flex::fused_activate(x.view.clone(), kind);
        close(native, composed::activate::<Flex>(x.copy.clone(), kind), 2e-6, 1.0)?;
        let native = Flex::fused_activate_backward(x.view, g.view, kind);
        close(native, composed::activate_backward::<Flex>(x.copy, g.copy, kind), 2e-6, 1.0)
    });
}

#[test]
fn gated_linear_units() {
    for_all(64, (shape(), uniform3(view()), any::<u32>()), |(shape, views, seed)| {
        let [gate, up, g] = drawn([&shape; 3], views, seed);
        let native = Flex::fused_swiglu(gate.view.clone(), up.view.clone());
        close(native, composed::swiglu::<Flex>(gate.copy.clone(), up.copy.clone()), 2e-6, 1.0)?;
        let native = Flex::fused_swiglu_backward(gate.view, up.view, g.view);
        let reference = composed::swiglu_backward::<Flex>(gate.copy, up.copy, g.copy);
        close(native.0, reference.0, 2e-6, 1.0)?;
        close(native.1, reference.1, 2e-6, 1.0)
    });
}

#[test]
fn norms() {
    // Rows of equal values are multiplied by no more than 10, and so is what rounding leaves of them.
    const EPS: f64 = 1e-2;
    let kinds = select(&[Norm::Layer, Norm::Rms][..]);
    let inputs = (shape(), kinds, any::<[bool; 2]>(), uniform4(view()), any::<u32>());
    for_all(96, inputs, |(shape, kind, [shared, shifted], views, seed)| {
        let parameter = [groups(shared, shape[0]), shape[2]];
        let [x, g, scale, shift] = drawn([&shape, &shape, &parameter, &parameter], views, seed);
        let (native, shift) = match shifted {
            true => {
                let native = Flex::fused_norm(x.view.clone(), scale.view.clone(), shift.view, kind, EPS);
                (native, Some(shift.copy))
            }
            false => (Flex::fused_norm_unshifted(x.view.clone(), scale.view.clone(), kind, EPS), None),
        };
        let reference = composed::norm::<Flex>(x.copy.clone(), scale.copy.clone(), shift, kind, EPS);
        close(native, reference, 3e-6, 4.0)?;
        let native = Flex::fused_norm_backward(x.view, scale.view, g.view, kind, EPS);
        let reference = composed::norm_backward::<Flex>(x.copy, scale.copy, g.copy, kind, EPS);
        close(native.0, reference.0, 3e-6, 40.0)?;
        let rows = shape[0] * shape[1];
        close(native.1, reference.1, 1e-5, 10.0 * (rows as f32).sqrt())?;
        close_sums(native.2, reference.2, rows)
    });
}

#[test]
fn gated_residuals() {
    let inputs = (shape(), any::<bool>(), uniform4(view()), any::<u32>());
    for_all(64, inputs, |(shape, shared, views, seed)| {
        let parameter = [groups(shared, shape[0]), shape[2]];
        let [x, y, g, gate] = drawn([&shape, &shape, &shape, &parameter], views, seed);
        let native = Flex::fused_gated_add(x.view, y.view.clone(), gate.view.clone());
        close(native, composed::gated_add::<Flex>(x.copy, y.copy.clone(), gate.copy.clone()), 1e-6, 1.0)?;
        let native = Flex::fused_gated_add_backward(y.view, gate.view, g.view);
        let reference = composed::gated_add_backward::<Flex>(y.copy, gate.copy, g.copy);
        close(native.0, reference.0, 1e-6, 1.0)?;
        close_sums(native.1, reference.1, shape[0] * shape[1])
    });
}

#[test]
fn attention() {
    let heads = (1..4usize, select(&[1usize, 2, 3, 8, 17][..]));
    let inputs =
        (1..3usize, select(POSITIONS), heads, any::<prop::sample::Index>(), uniform2(view()), any::<u32>());
    for_all(64, inputs, |(b, n, (heads, head), open, views, seed)| {
        let (open, width) = (open.index(n + 1), heads * head);
        let [qkv, g] = drawn([&[b, n, 3 * width], &[b, n, width]], views, seed);
        let (out, log_sum) = Flex::fused_attention(qkv.view.clone(), heads, open);
        let reference = composed::attention::<Flex>(qkv.copy.clone(), heads, open);
        close(out.clone(), reference.0, 5e-6, 1.0)?;
        close(log_sum.clone(), reference.1, 5e-6, 1.0)?;
        let state = (out, log_sum);
        let native =
            Flex::fused_attention_backward(qkv.view, state.0.clone(), state.1.clone(), g.view, heads, open);
        let reference = composed::attention_backward::<Flex>(qkv.copy, state.0, state.1, g.copy, heads, open);
        close(native, reference, 2e-5, 1.0)
    });
}

#[test]
fn linear_layers() {
    // On both sides of the sizes at which another product takes over.
    let rows = (1..3usize, select(&[1usize, 4, 5, 8, 9, 16, 40][..]));
    let (inputs, outputs) =
        (select(&[1usize, 3, 17, 64, 767, 768, 801][..]), select(&[1usize, 2, 5, 47, 48, 49, 70, 130][..]));
    let all = (rows, inputs, outputs, any::<bool>(), uniform4(view()), any::<u32>());
    for_all(64, all, |((b, n), inputs, outputs, biased, views, seed)| {
        let [x, weight, g, bias] =
            drawn([&[b, n, inputs], &[outputs, inputs], &[b, n, outputs], &[outputs]], views, seed);
        let native = match biased {
            true => {
                Flex::fused_linear_biased(x.view.clone(), weight.view.clone(), bias.view, Answer::Float32)
            }
            false => Flex::fused_linear(x.view.clone(), weight.view.clone(), Answer::Float32),
        };
        let bias = biased.then_some(bias.copy);
        let reference = composed::linear::<Flex>(x.copy.clone(), weight.copy.clone(), bias, Answer::Float32);
        close_sums(native, reference, inputs)?;
        let native = Flex::fused_linear_backward_input(weight.view, g.view.clone());
        close_sums(native, composed::linear_backward_input::<Flex>(weight.copy, g.copy.clone()), outputs)?;
        let native = Flex::fused_linear_backward_weight(x.view, g.view.clone());
        close_sums(native, composed::linear_backward_weight::<Flex>(x.copy, g.copy.clone()), b * n)?;
        let native = Flex::fused_linear_backward_bias(g.view);
        close_sums(native, composed::backward_bias::<Flex>(g.copy), b * n)
    });
}

#[test]
fn convolutions() {
    let sides = (1..3usize, 1..9usize, 1..9usize);
    let channels = (select(&[1usize, 2, 5, 16][..]), select(&[1usize, 3, 8, 17][..]));
    let strides = select(&[Stride::One, Stride::Two][..]);
    let all = (sides, channels, strides, any::<bool>(), uniform4(view()), any::<u32>());
    for_all(64, all, |((b, h, w), (inputs, outputs), stride, biased, views, seed)| {
        let s = stride.positions();
        let (source, target) = ([b, h * s, w * s, inputs], [b, h, w, outputs]);
        let [x, weight, g, bias] =
            drawn([&source, &[outputs, inputs, 3, 3], &target, &[outputs]], views, seed);
        let native = match biased {
            true => Flex::convolve_biased(x.view.clone(), weight.view.clone(), bias.view, stride),
            false => Flex::convolve(x.view.clone(), weight.view.clone(), stride),
        };
        let bias = biased.then_some(bias.copy);
        let reference = convolution::composed::<Flex>(x.copy.clone(), weight.copy.clone(), bias, stride);
        close(native, reference, 1e-5, 1.0)?;
        let arguments = |x: &Drawn| (x.view.clone(), x.copy.clone());
        let ((x, x_copy), (g, g_copy)) = (arguments(&x), arguments(&g));
        let native = Flex::convolve_backward_input(x.clone(), weight.view.clone(), g.clone(), stride);
        let reference = convolution::composed_backward_input::<Flex>(
            x_copy.clone(),
            weight.copy.clone(),
            g_copy.clone(),
            stride,
        );
        close(native, reference, 1e-5, 1.0)?;
        let native = Flex::convolve_backward_weight(x, weight.view, g, stride);
        let reference = convolution::composed_backward_weight::<Flex>(x_copy, weight.copy, g_copy, stride);
        close(native, reference, 1e-5, 1.0)
    });
}

#[test]
fn optimiser_steps_and_moving_averages() {
    let fractions = uniform4(0.0..1.0f64);
    for_all(64, (shape(), fractions, uniform4(view()), any::<u32>()), |(shape, fractions, views, seed)| {
        let [p, g, m, v] = drawn([&shape; 4], views, seed);
        let square = |v: FlexTensor| composed_square::<Flex>(v);
        let (v, v_copy) = (square(v.view), square(v.copy));
        let [factor, beta1, beta2, correction] = fractions;
        let step = AdamWStep {
            gradient_factor: factor,
            beta1,
            beta2,
            step_size: 0.01,
            second_correction: 0.1 + correction,
            epsilon: 1e-4,
            decay: 0.99,
        };
        let native = Flex::fused_adamw(p.view.clone(), g.view.clone(), m.view, v, step);
        let reference = composed::adamw::<Flex>(p.copy.clone(), g.copy.clone(), m.copy, v_copy, step);
        close(native.0, reference.0, 2e-6, 4.0)?;
        close(native.1, reference.1, 1e-6, 1.0)?;
        close(native.2, reference.2, 1e-6, 1.0)?;
        let native = Flex::fused_blend(p.view, g.view, factor);
        close(native, composed::blend::<Flex>(p.copy, g.copy, factor), 1e-6, 1.0)
    });
}

fn composed_square<B: Backend>(x: B::FloatTensorPrimitive) -> B::FloatTensorPrimitive {
    B::float_mul(x.clone(), x)
}

/// What an operator answers, and its gradients with respect to x and weight.
fn with_gradients<const D: usize, const E: usize>(
    x: &Tensor<D>,
    weight: &Tensor<E>,
    operator: impl Fn(Tensor<D>, Tensor<E>) -> Tensor<D>,
) -> [Vec<f32>; 3] {
    let x = Tensor::from_inner(x.clone()).require_grad();
    let weight = Tensor::from_inner(weight.clone()).require_grad();
    let y = operator(x.clone(), weight.clone());
    let gradients = (y.clone() * y.clone()).sum().backward();
    let values = |data: TensorData| data.try_to_vec::<f32>().unwrap();
    [y.into_data(), x.grad(&gradients).unwrap().into_data(), weight.grad(&gradients).unwrap().into_data()]
        .map(values)
}

#[test]
fn no_bias_is_a_bias_of_zeros() {
    let tensor = |shape: &[usize], seed| noise(shape, seed).into_data();
    let device = Device::flex();
    let zeros = |count: usize| Some(Tensor::from_inner(Tensor::zeros([count], &device)));
    let sizes = (select(&[1usize, 8, 9, 30][..]), select(&[1usize, 40, 768][..]), 1..60usize, any::<u32>());
    for_all(32, sizes, |(rows, inputs, outputs, seed)| {
        let x = Tensor::<2>::from_data(tensor(&[rows, inputs], seed), &device);
        let weight = Tensor::<2>::from_data(tensor(&[outputs, inputs], seed), &device);
        let without = with_gradients(&x, &weight, |x, weight| linear(x, weight, None, Answer::Float32));
        let with =
            with_gradients(&x, &weight, |x, weight| linear(x, weight, zeros(outputs), Answer::Float32));
        prop_assert_eq!(without, with);
        Ok(())
    });
    let sizes = (1..6usize, 1..6usize, select(&[Stride::One, Stride::Two][..]), any::<u32>());
    for_all(32, sizes, |(inputs, outputs, stride, seed)| {
        let x = Tensor::<4>::from_data(tensor(&[1, 4, 6, inputs], seed), &device);
        let weight = Tensor::<4>::from_data(tensor(&[outputs, inputs, 3, 3], seed), &device);
        let without = with_gradients(&x, &weight, |x, weight| convolve(x, weight, None, stride));
        let with = with_gradients(&x, &weight, |x, weight| convolve(x, weight, zeros(outputs), stride));
        prop_assert_eq!(without, with);
        Ok(())
    });
}
