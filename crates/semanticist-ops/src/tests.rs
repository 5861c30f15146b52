//! Each native operator against the same operator composed of Burn's operations, and each gradient
//! against the composed gradient and finite differences.

use burn::backend::{Backend, Flex, tensor::FloatTensor};
use burn::tensor::{Device, FloatDType, Shape, Tensor, TensorData};

use super::*;
use crate::composed;

fn noise<const D: usize>(shape: [usize; D], seed: u32) -> Tensor<D> {
    // A fixed, cheap sequence: the sine of large multiples is spread over [-2, 2].
    let count: usize = shape.iter().product();
    let values =
        (0..count).map(|i| 2.0 * (((i as u32 * 7 + seed * 13) as f32) * 12.9898).sin()).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn primitive<const D: usize>(x: &Tensor<D>) -> FloatTensor<Flex> {
    burn::backend::flex::FlexTensor::from_data(x.to_data())
}

fn values(x: FloatTensor<Flex>) -> Vec<f32> {
    x.into_data().try_to_vec().unwrap()
}

#[track_caller]
fn assert_close(a: FloatTensor<Flex>, b: FloatTensor<Flex>, tolerance: f32) {
    let (a, b) = (values(a), values(b));
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let error = a.iter().zip(&b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(error <= tolerance * largest, "error {error} beside {largest}");
}

#[test]
fn activations_match_their_compositions() {
    let (x, g) = (noise([40_000], 1) * 3.0, noise([40_000], 2));
    for kind in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
        let (x, g) = (primitive(&x), primitive(&g));
        assert_close(
            Flex::fused_activate(x.clone(), kind),
            composed::activate::<Flex>(x.clone(), kind),
            1e-6,
        );
        let native = Flex::fused_activate_backward(x.clone(), g.clone(), kind);
        assert_close(native, composed::activate_backward::<Flex>(x, g, kind), 2e-6);
    }
}

#[test]
fn gated_linear_units_match_their_compositions() {
    let [gate, up, g] = [1, 2, 3].map(|seed| primitive(&noise([40_000], seed)));
    let native = Flex::fused_swiglu(gate.clone(), up.clone());
    assert_close(native, composed::swiglu::<Flex>(gate.clone(), up.clone()), 1e-6);
    let native = Flex::fused_swiglu_backward(gate.clone(), up.clone(), g.clone());
    let reference = composed::swiglu_backward::<Flex>(gate, up, g);
    assert_close(native.0, reference.0, 2e-6);
    assert_close(native.1, reference.1, 2e-6);
}

#[test]
fn norms_match_their_compositions_for_shared_and_own_parameters() {
    let (x, g) = (primitive(&noise([3, 200, 33], 1)), primitive(&noise([3, 200, 33], 2)));
    for (groups, norm) in [(1, Norm::Layer), (3, Norm::Layer), (1, Norm::Rms), (3, Norm::Rms)] {
        let (scale, shift) = (primitive(&noise([groups, 33], 3)), primitive(&noise([groups, 33], 4)));
        let native = Flex::fused_norm(x.clone(), scale.clone(), shift.clone(), norm, 1e-6);
        assert_close(native, composed::norm::<Flex>(x.clone(), scale.clone(), Some(shift), norm, 1e-6), 2e-6);
        let native = Flex::fused_norm_backward(x.clone(), scale.clone(), g.clone(), norm, 1e-6);
        let reference = composed::norm_backward::<Flex>(x.clone(), scale, g.clone(), norm, 1e-6);
        assert_close(native.0, reference.0, 1e-5);
        assert_close(native.1, reference.1, 1e-5);
        assert_close(native.2, reference.2, 1e-5);
    }
}

#[test]
fn gated_residuals_match_their_compositions() {
    let (x, y) = (primitive(&noise([2, 50, 20], 1)), primitive(&noise([2, 50, 20], 2)));
    let g = primitive(&noise([2, 50, 20], 4));
    for groups in [1, 2] {
        let gate = primitive(&noise([groups, 20], 3));
        let native = Flex::fused_gated_add(x.clone(), y.clone(), gate.clone());
        assert_close(native, composed::gated_add::<Flex>(x.clone(), y.clone(), gate.clone()), 1e-6);
        let native = Flex::fused_gated_add_backward(y.clone(), gate.clone(), g.clone());
        let reference = composed::gated_add_backward::<Flex>(y.clone(), gate, g.clone());
        assert_close(native.0, reference.0, 1e-6);
        assert_close(native.1, reference.1, 1e-5);
    }
}

#[test]
fn attention_matches_its_composition_across_tile_borders() {
    let qkv = primitive(&noise([2, 150, 3 * 24], 1));
    let g = primitive(&noise([2, 150, 24], 2));
    for open in [150, 100, 1, 0] {
        let (out, log_sum) = Flex::fused_attention(qkv.clone(), 3, open);
        let reference = composed::attention::<Flex>(qkv.clone(), 3, open);
        assert_close(out.clone(), reference.0, 2e-6);
        assert_close(log_sum.clone(), reference.1, 2e-6);
        let native =
            Flex::fused_attention_backward(qkv.clone(), out.clone(), log_sum.clone(), g.clone(), 3, open);
        let reference = composed::attention_backward::<Flex>(qkv.clone(), out, log_sum, g.clone(), 3, open);
        assert_close(native, reference, 1e-5);
    }
}

#[test]
fn linear_layers_match_their_compositions() {
    let (weight, bias) = (primitive(&noise([150, 19], 3)), primitive(&noise([150], 4)));
    for rows in [1, 3, 600] {
        let x = primitive(&noise([2, rows, 19], 1));
        let native = Flex::fused_linear_biased(x.clone(), weight.clone(), bias.clone(), Answer::Float32);
        let reference = composed::linear::<Flex>(x, weight.clone(), Some(bias.clone()), Answer::Float32);
        assert_close(native, reference, 2e-6);
    }
    // Long rows, which are taken in parts, beside whole and cut tiles.
    let (weight_long, bias_long) = (primitive(&noise([100, 2500], 3)), primitive(&noise([100], 4)));
    for rows in [9, 16, 61] {
        let x = primitive(&noise([1, rows, 2500], 1));
        let native =
            Flex::fused_linear_biased(x.clone(), weight_long.clone(), bias_long.clone(), Answer::Float32);
        let reference =
            composed::linear::<Flex>(x, weight_long.clone(), Some(bias_long.clone()), Answer::Float32);
        assert_close(native, reference, 5e-6);
    }
    let (x, g) = (primitive(&noise([2, 600, 19], 1)), primitive(&noise([2, 600, 150], 2)));
    let native = Flex::fused_linear_backward_input(weight.clone(), g.clone());
    assert_close(native, composed::linear_backward_input::<Flex>(weight, g.clone()), 2e-6);
    let native = Flex::fused_linear_backward_weight(x.clone(), g.clone());
    assert_close(native, composed::linear_backward_weight::<Flex>(x, g.clone()), 1e-5);
    assert_close(Flex::fused_linear_backward_bias(g.clone()), composed::backward_bias::<Flex>(g), 1e-5);
}

#[test]
fn open_positions_ignore_later_ones_and_later_ones_what_follows() {
    let qkv = noise([1, 9, 3 * 8], 1);
    let changed = Tensor::cat(vec![qkv.clone().narrow(1, 0, 7), noise([1, 2, 3 * 8], 5)], 1);
    let visibility = Visibility::Ordered { open: 4 };
    let prefix = |qkv| attention(qkv, 2, visibility).narrow(1, 0, 7).into_data();
    assert_eq!(prefix(qkv), prefix(changed));
}

/// `sum(f(x + step · direction) · weights)`.
fn objective<B: Backend>(
    [x, direction, weights]: [FloatTensor<B>; 3],
    step: f64,
    f: &impl Fn(FloatTensor<B>) -> FloatTensor<B>,
) -> FloatTensor<B> {
    let y = f(B::float_add(x, B::float_mul_scalar(direction, step.into())));
    B::float_sum(B::float_mul(y, weights))
}

/// The same numbers in float64.
fn double<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_cast(x, FloatDType::F64)
}

fn reshaped<B: Backend>(x: FloatTensor<B>, shape: Shape) -> FloatTensor<B> {
    B::float_reshape(x, shape)
}

fn twice<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_add(x.clone(), x)
}

/// The operator's own gradient along a direction, against central differences of its composition in
/// float64.
#[track_caller]
fn check_gradient<const D: usize>(
    x: Tensor<D>,
    native: impl Fn(Tensor<D>) -> Tensor<3>,
    composed: impl Fn(FloatTensor<Flex>) -> FloatTensor<Flex>,
) {
    let direction = noise(x.dims(), 9);
    let leaf = Tensor::from_inner(x.clone()).require_grad();
    let y = native(leaf.clone());
    let weights = noise(y.dims(), 8);
    let total = (y * Tensor::from_inner(weights.clone())).sum();
    let gradient = leaf.grad(&total.backward()).unwrap();
    let slope = f64::from((gradient * direction.clone()).sum().into_scalar::<f32>());
    let at = [primitive(&x), primitive(&direction), primitive(&weights)].map(double::<Flex>);
    let step = 1e-5;
    let value = |step| {
        let total = objective::<Flex>(at.clone(), step, &composed);
        total.into_data().iter::<f64>().sum::<f64>()
    };
    let exact = (value(step) - value(-step)) / (2.0 * step);
    assert!((slope - exact).abs() < 2e-5 * (1.0 + exact.abs()), "native {slope}, differences {exact}");
}

#[test]
fn gradients_are_the_slopes_of_the_composition_in_float64() {
    // A constant as the operator needs it beside a tracked tensor, and as its composition does.
    let constant = |shape: [usize; 2], seed| noise(shape, seed);
    let lifted = |x: &Tensor<2>| Tensor::from_inner(x.clone());
    let exact = |x: &Tensor<2>| double::<Flex>(primitive(x));
    let x = noise([2, 6, 24], 1);
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
        let composed = |x| composed::activate::<Flex>(x, activation);
        check_gradient(x.clone(), |x| activate(x, activation), composed);
    }
    for groups in [1, 2] {
        let (a, b) = (constant([groups, 24], 2), constant([groups, 24], 3));
        check_gradient(
            x.clone(),
            |x| layer_norm(x, lifted(&a), lifted(&b), 1e-6),
            |x| composed::norm::<Flex>(x, exact(&a), Some(exact(&b)), Norm::Layer, 1e-6),
        );
        check_gradient(
            x.clone(),
            |x| rms_norm(x, lifted(&a), 1e-6),
            |x| composed::norm::<Flex>(x, exact(&a), None, Norm::Rms, 1e-6),
        );
        // With respect to the scale.
        let (lifted_x, exact_x) = (Tensor::from_inner(x.clone()), double::<Flex>(primitive(&x)));
        check_gradient(
            a.clone(),
            |scale| layer_norm(lifted_x.clone(), scale, lifted(&b), 1e-6),
            |scale| composed::norm::<Flex>(exact_x.clone(), scale, Some(exact(&b)), Norm::Layer, 1e-6),
        );
        check_gradient(
            a.clone(),
            |scale| rms_norm(lifted_x.clone(), scale, 1e-6),
            |scale| composed::norm::<Flex>(exact_x.clone(), scale, None, Norm::Rms, 1e-6),
        );
        check_gradient(
            x.clone(),
            |x| gated_add(x.clone(), x, lifted(&a)),
            |x| composed::gated_add::<Flex>(x.clone(), x, exact(&a)),
        );
        check_gradient(
            a.clone(),
            |gate| gated_add(Tensor::from_inner(x.clone()), Tensor::from_inner(x.clone()), gate),
            |gate| {
                composed::gated_add::<Flex>(
                    double::<Flex>(primitive(&x)),
                    double::<Flex>(primitive(&x)),
                    gate,
                )
            },
        );
    }
    check_gradient(
        x.clone(),
        |x| swiglu(x.clone() * 2.0, x),
        |x| composed::swiglu::<Flex>(twice::<Flex>(x.clone()), x),
    );
    for open in [0, 3, 6] {
        check_gradient(
            x.clone(),
            |x| attention(x, 2, Visibility::Ordered { open }),
            |x| composed::attention::<Flex>(x, 2, open).0,
        );
    }
    let (weight, bias) = (constant([5, 24], 2), constant([1, 5], 3));
    let flat = |x| reshaped::<Flex>(x, Shape::new([5]));
    check_gradient(
        x.clone(),
        |x| linear(x, lifted(&weight), Some(lifted(&bias).reshape([5])), Answer::Float32),
        |x| composed::linear::<Flex>(x, exact(&weight), Some(flat(exact(&bias))), Answer::Float32),
    );
    let (down, down_bias) = (constant([7, 5], 4), constant([1, 7], 5));
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
        check_gradient(
            x.clone(),
            |x| {
                let up = (lifted(&weight), lifted(&bias).reshape([5]));
                mlp(x, up, (lifted(&down), lifted(&down_bias).reshape([7])), activation)
            },
            |x| {
                let hidden =
                    composed::linear::<Flex>(x, exact(&weight), Some(flat(exact(&bias))), Answer::Float32);
                let hidden = composed::activate::<Flex>(hidden, activation);
                let bias = Some(reshaped::<Flex>(exact(&down_bias), Shape::new([7])));
                composed::linear::<Flex>(hidden, exact(&down), bias, Answer::Float32)
            },
        );
    }
    check_gradient(
        weight.clone(),
        |weight| linear(Tensor::from_inner(x.clone()), weight, None, Answer::Float32),
        |weight| composed::linear::<Flex>(double::<Flex>(primitive(&x)), weight, None, Answer::Float32),
    );
}

#[test]
fn an_optimiser_step_matches_its_composition() {
    let [p, g, m] = [1, 2, 3].map(|seed| primitive(&noise([70_000], seed)));
    let v = primitive(&noise([70_000], 4).square());
    let step = AdamWStep {
        gradient_factor: 0.5,
        beta1: 0.9,
        beta2: 0.95,
        step_size: 0.01,
        second_correction: 0.7,
        epsilon: 1e-8,
        decay: 0.99,
    };
    let native = Flex::fused_adamw(p.clone(), g.clone(), m.clone(), v.clone(), step);
    let reference = composed::adamw::<Flex>(p.clone(), g.clone(), m, v, step);
    assert_close(native.0, reference.0, 1e-6);
    assert_close(native.1, reference.1, 1e-6);
    assert_close(native.2, reference.2, 1e-6);
    assert_close(
        Flex::fused_blend(p.clone(), g.clone(), 0.1),
        composed::blend::<Flex>(p.clone(), g.clone(), 0.1),
        1e-6,
    );
    let squares = values(g.clone()).iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    assert!((f64::from(values(Flex::fused_square_sum(g))[0]) / squares - 1.0).abs() < 1e-6);
    // What somebody else holds was not touched.
    assert_eq!(values(p), values(primitive(&noise([70_000], 1))));
}

#[test]
fn a_profile_counts_what_ran_while_it_was_on() {
    profile::start();
    let x = noise([2, 3, 8], 1);
    gelu(gelu(x));
    let timings = profile::stop();
    assert!(timings["activation"].calls >= 2);
    assert!(profile::stop().is_empty());
}
