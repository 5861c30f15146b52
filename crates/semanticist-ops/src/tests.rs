//! Each native operator against the same operator composed of Burn's operations, and each gradient
//! against the composed gradient and finite differences.

use burn::backend::{Flex, tensor::FloatTensor};
use burn::tensor::{Device, Tensor, TensorData};

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
fn norms_match_their_compositions_for_shared_and_own_parameters() {
    let (x, g) = (primitive(&noise([3, 200, 33], 1)), primitive(&noise([3, 200, 33], 2)));
    for groups in [1, 3] {
        let (scale, shift) = (primitive(&noise([groups, 33], 3)), primitive(&noise([groups, 33], 4)));
        let native = Flex::fused_layer_norm(x.clone(), scale.clone(), shift.clone(), 1e-6);
        assert_close(native, composed::layer_norm::<Flex>(x.clone(), scale.clone(), shift, 1e-6), 2e-6);
        let native = Flex::fused_layer_norm_backward(x.clone(), scale.clone(), g.clone(), 1e-6);
        let reference = composed::layer_norm_backward::<Flex>(x.clone(), scale, g.clone(), 1e-6);
        assert_close(native.0, reference.0, 1e-5);
        assert_close(native.1, reference.1, 1e-5);
        assert_close(native.2, reference.2, 1e-5);
    }
}

#[test]
fn gated_residuals_match_their_compositions() {
    let (x, y) = (primitive(&noise([2, 5, 20], 1)), primitive(&noise([2, 5, 20], 2)));
    let (gate, g) = (primitive(&noise([2, 20], 3)), primitive(&noise([2, 5, 20], 4)));
    let native = Flex::fused_gated_add(x.clone(), y.clone(), gate.clone());
    assert_close(native, composed::gated_add::<Flex>(x, y.clone(), gate.clone()), 1e-6);
    let native = Flex::fused_gated_add_backward(y.clone(), gate.clone(), g.clone());
    let reference = composed::gated_add_backward::<Flex>(y, gate, g);
    assert_close(native.0, reference.0, 1e-6);
    assert_close(native.1, reference.1, 1e-5);
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
    let (x, g) = (primitive(&noise([2, 600, 19], 1)), primitive(&noise([2, 600, 23], 2)));
    let (weight, bias) = (primitive(&noise([23, 19], 3)), primitive(&noise([23], 4)));
    let native = Flex::fused_linear(x.clone(), weight.clone(), bias.clone());
    assert_close(native, composed::linear::<Flex>(x.clone(), weight.clone(), bias), 2e-6);
    let native = Flex::fused_linear_backward_input(weight.clone(), g.clone());
    assert_close(native, composed::linear_backward_input::<Flex>(weight, g.clone()), 2e-6);
    let native = Flex::fused_linear_backward_parameters(x.clone(), g.clone());
    let reference = composed::linear_backward_parameters::<Flex>(x, g);
    assert_close(native.0, reference.0, 1e-5);
    assert_close(native.1, reference.1, 1e-5);
}

#[test]
fn open_positions_ignore_later_ones_and_later_ones_what_follows() {
    let qkv = noise([1, 9, 3 * 8], 1);
    let changed = Tensor::cat(vec![qkv.clone().narrow(1, 0, 7), noise([1, 2, 3 * 8], 5)], 1);
    let visibility = Visibility::Ordered { open: 4 };
    let prefix = |qkv| attention(qkv, 2, visibility).narrow(1, 0, 7).into_data();
    assert_eq!(prefix(qkv), prefix(changed));
}

/// The derivative of `sum(f(x) · weights)` along a direction, by autodiff and by differences.
#[track_caller]
fn check_gradient<const D: usize>(x: Tensor<D>, f: impl Fn(Tensor<D>) -> Tensor<3>) {
    let direction = noise(x.dims(), 9);
    let objective = |x: Tensor<D>| {
        let y = f(x);
        let weights = noise(y.dims(), 8);
        let weights = if y.is_autodiff() { Tensor::from_inner(weights) } else { weights };
        (y * weights).sum()
    };
    let leaf = Tensor::from_inner(x.clone()).require_grad();
    let gradient = leaf.grad(&objective(leaf.clone()).backward()).unwrap();
    let slope = (gradient * direction.clone()).sum().into_scalar::<f32>();
    let step = 1e-2;
    let shifted =
        |sign: f64| objective(x.clone() + direction.clone().mul_scalar(sign * step)).into_scalar::<f32>();
    let difference = (shifted(1.0) - shifted(-1.0)) / (2.0 * step as f32);
    assert!(
        (slope - difference).abs() < 1e-2 * (1.0 + difference.abs()),
        "autodiff {slope}, differences {difference}"
    );
}

#[test]
fn gradients_are_the_slopes() {
    let lift = |like: &Tensor<3>, x: Tensor<2>| if like.is_autodiff() { Tensor::from_inner(x) } else { x };
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
        check_gradient(noise([2, 3, 8], 1), |x| activate(x, activation));
    }
    check_gradient(noise([2, 3, 8], 1), |x| {
        let (scale, shift) = (lift(&x, noise([2, 8], 2)), lift(&x, noise([2, 8], 3)));
        layer_norm(x, scale, shift, 1e-6)
    });
    check_gradient(noise([2, 6, 24], 1), |x| attention(x, 2, Visibility::Ordered { open: 3 }));
    check_gradient(noise([2, 3, 8], 1), |x| {
        let gate = lift(&x, noise([2, 8], 2));
        gated_add(x.clone(), x, gate)
    });
    check_gradient(noise([2, 3, 8], 1), |x| {
        let weight = lift(&x, noise([5, 8], 2));
        let bias = lift(&x, noise([1, 5], 3)).reshape([5]);
        linear(x, weight, bias)
    });
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
    assert_close(Flex::fused_blend(p.clone(), g.clone(), 0.1), composed::blend::<Flex>(p, g, 0.1), 1e-6);
}
