//! Products in bfloat16 against the same products of the rounded numbers in float32, and the
//! processor's instruction against its emulation, bit for bit.

use burn::backend::{Flex, flex::FlexTensor};
use burn::tensor::{TensorData, bf16};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestCaseResult, TestRunner};

use super::product::{Left, Order, ROWS, Right, transposed};
use super::sums::{EMULATES_TILES, LANES, PairSums, Task, emulated, with_emulated_tiles};
use super::{Stored, rounded, widened};
use crate::backend::{Activation, Answer, Operators};
use crate::composed;

/// Values in `[-2, 2]`.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    (0..count).map(|i| 2.0 * ((i as f32 + (seed % 1000) as f32 * 1.37) * 12.9898).sin()).collect()
}

fn tensor(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.to_vec()))
}

/// The same numbers rounded, in bfloat16 and in float32.
fn both(values: &[f32], shape: &[usize]) -> (FlexTensor, FlexTensor) {
    let narrow = rounded(values);
    let wide = tensor(widened(&narrow), shape);
    (FlexTensor::from_data(TensorData::new(narrow, shape.to_vec())), wide)
}

fn values(x: FlexTensor) -> Vec<f32> {
    x.into_data().convert::<f32>().try_to_vec().unwrap()
}

fn close(found: FlexTensor, reference: FlexTensor, tolerance: f32, least: f32) -> TestCaseResult {
    let (found, reference) = (values(found), values(reference));
    prop_assert_eq!(found.len(), reference.len());
    let largest = reference.iter().fold(least, |m, v| m.max(v.abs()));
    for (a, b) in found.iter().zip(&reference) {
        prop_assert!((a - b).abs() <= tolerance * largest, "{} instead of {} beside {}", a, b, largest);
    }
    Ok(())
}

fn for_all<S: Strategy>(cases: u32, strategy: S, property: impl Fn(S::Value) -> TestCaseResult) {
    let config = ProptestConfig { cases, ..ProptestConfig::default() };
    if let Err(error) = TestRunner::new(config).run(&strategy, property) {
        panic!("{error}");
    }
}

#[test]
fn rounding_is_that_of_the_half_crate() {
    for high in 0..=u16::MAX {
        for low in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            let x = f32::from_bits(u32::from(high) << 16 | low);
            let expected =
                if x.is_subnormal() { bf16::from_f32(0f32.copysign(x)) } else { bf16::from_f32(x) };
            assert_eq!(bf16::write(x).to_bits(), expected.to_bits(), "{:#x}", x.to_bits());
        }
    }
}

#[test]
fn linear_layers_are_the_products_of_rounded_numbers() {
    let rows = select(&[1usize, 2, 3, 5, 8, 9, 12, 13, 40][..]);
    let (inputs, outputs) = (
        select(&[1usize, 2, 3, 17, 32, 64, 65, 801, 4096, 4099][..]),
        select(&[1usize, 2, 5, 15, 16, 17, 64, 65, 130][..]),
    );
    for_all(96, (rows, inputs, outputs, any::<u32>()), |(rows, inputs, outputs, seed)| {
        let (x, wide_x) = both(&noise(rows * inputs, seed), &[rows, inputs]);
        let (weight, wide_weight) = both(&noise(outputs * inputs, seed ^ 1), &[outputs, inputs]);
        let (grad, wide_grad) = both(&noise(rows * outputs, seed ^ 2), &[rows, outputs]);
        let bias = tensor(noise(outputs, seed ^ 3), &[outputs]);
        let sum_error = |terms: usize| 3e-6 + 3e-8 * terms as f32;
        let root = |terms: usize| (terms as f32).sqrt();

        let found = Flex::fused_linear_biased(x.clone(), weight.clone(), bias.clone(), Answer::Float32);
        let reference = composed::linear::<Flex>(
            wide_x.clone(),
            wide_weight.clone(),
            Some(bias.clone()),
            Answer::Float32,
        );
        close(found, reference.clone(), sum_error(inputs), root(inputs))?;
        // What comes in float32 is rounded first.
        let found = Flex::fused_linear(
            tensor(noise(rows * inputs, seed), &[rows, inputs]),
            weight.clone(),
            Answer::AsWeight,
        );
        let without = composed::linear::<Flex>(wide_x.clone(), wide_weight.clone(), None, Answer::Float32);
        close(found, without, 0.005, root(inputs))?;
        let found = Flex::fused_linear_backward_input(weight, grad.clone());
        let reference = composed::linear_backward_input::<Flex>(wide_weight, wide_grad.clone());
        close(found, reference, sum_error(outputs), root(outputs))?;
        let found = Flex::fused_linear_backward_weight(x, grad.clone());
        let reference = composed::linear_backward_weight::<Flex>(wide_x, wide_grad.clone());
        close(found, reference, sum_error(rows), root(rows))?;
        close(
            Flex::fused_linear_backward_bias(grad),
            composed::backward_bias::<Flex>(wide_grad),
            sum_error(rows),
            root(rows),
        )
    });
}

#[test]
fn two_layers_and_their_gradients_are_those_of_the_rounded_numbers() {
    let rows = select(&[1usize, 5, 9, 13][..]);
    let widths = select(&[1usize, 3, 16, 64, 65, 130][..]);
    let kinds = select(&[Activation::Gelu, Activation::GeluTanh, Activation::Silu][..]);
    for_all(48, (rows, widths.clone(), widths, kinds, any::<u32>()), |(rows, width, hidden, kind, seed)| {
        let (x, wide_x) = both(&noise(rows * width, seed), &[rows, width]);
        let (up, wide_up) = both(&noise(hidden * width, seed ^ 1), &[hidden, width]);
        let (down, wide_down) = both(&noise(width * hidden, seed ^ 2), &[width, hidden]);
        let (grad, wide_grad) = both(&noise(rows * width, seed ^ 3), &[rows, width]);
        let [up_bias, down_bias] = [hidden, width].map(|count| tensor(noise(count, seed ^ 4), &[count]));
        let root = |terms: usize| (terms as f32).sqrt();

        let mlp = |kept| {
            let biases = (up_bias.clone(), down_bias.clone());
            Flex::fused_mlp(x.clone(), up.clone(), biases.0, down.clone(), biases.1, kind, kept)
        };
        let (y, before, after) = mlp(true);
        let reference = composed::linear::<Flex>(wide_x, wide_up, Some(up_bias.clone()), Answer::Float32);
        close(before.clone(), reference.clone(), 0.005, root(width))?;
        let reference = composed::activate::<Flex>(reference, kind);
        close(after.clone(), reference, 0.005, root(width))?;
        let bias = Some(down_bias.clone());
        let hidden_rounded = tensor(values(after), &[rows, hidden]);
        let reference = composed::linear::<Flex>(hidden_rounded, wide_down.clone(), bias, Answer::Float32);
        close(y.clone(), reference, 1e-5, root(width) * root(hidden))?;
        prop_assert_eq!(values(mlp(false).0), values(y));

        let found = Flex::fused_linear_backward_activated(down, grad, before.clone(), kind);
        let d_hidden = composed::linear_backward_input::<Flex>(wide_down, wide_grad);
        let wide_before = tensor(values(before), &[rows, hidden]);
        let reference = composed::activate_backward::<Flex>(wide_before, d_hidden, kind);
        close(found, reference, 0.005, root(width))
    });
}

#[test]
fn attention_is_that_of_the_rounded_numbers() {
    let positions = select(&[1usize, 2, 3, 59, 60, 61, 64, 65, 130][..]);
    let widths = select(&[1usize, 2, 3, 16, 32, 34, 64, 80][..]);
    let all = (1..3usize, positions, 1..4usize, widths, 0..3usize, any::<u32>());
    for_all(64, all, |(batch, n, heads, each, open, seed)| {
        let width = heads * each;
        let open = [0, n / 2, n][open];
        let (qkv, wide_qkv) = both(&noise(batch * n * 3 * width, seed), &[batch, n, 3 * width]);
        let (grad, wide_grad) = both(&noise(batch * n * width, seed ^ 1), &[batch, n, width]);
        let (out, log_sum) = Flex::fused_attention(qkv.clone(), heads, open);
        let (wide_out, wide_log_sum) = composed::attention::<Flex>(wide_qkv.clone(), heads, open);
        close(log_sum.clone(), wide_log_sum.clone(), 1e-5, 1.0)?;
        // The answer and the weights in it have 8 significant bits.
        close(out.clone(), wide_out.clone(), 0.008, 0.1)?;
        let found = Flex::fused_attention_backward(qkv, out, log_sum, grad, heads, open);
        let reference =
            composed::attention_backward::<Flex>(wide_qkv, wide_out, wide_log_sum, wide_grad, heads, open);
        close(found, reference, 0.02, 0.1)
    });
}

/// A product with one kind of sums: the right matrix `[pairs, LANES]` as a panel.
struct Product<'a> {
    left: Left<'a>,
    rows: usize,
    panel: &'a [u32],
    width: usize,
}

impl Task for Product<'_> {
    type Output = Vec<u32>;

    fn run<K: PairSums>(self, k: K) -> Vec<u32> {
        let mut bits = Vec::new();
        k.by_panel(self.left, 0..self.rows, self.panel, self.width, |_, sums| {
            for sums in sums {
                bits.extend(sums[..self.width].iter().map(|sum| sum.to_bits()));
            }
        });
        bits
    }
}

/// Magnitudes from 2⁻⁴⁰ to 2⁴⁰: sums are rounded at every step, none is subnormal.
fn spread(count: usize, seed: u32) -> Vec<bf16> {
    let exponent = |i: usize| ((i as u32 * 2_654_435_761) >> 25) as i32 % 41;
    noise(count, seed).iter().enumerate().map(|(i, v)| bf16::write(v * 2f32.powi(exponent(i)))).collect()
}

#[test]
fn the_emulation_gives_the_bits_of_the_instructions() {
    println!("instructions: {:?}", crate::bfloat16_instructions());
    // With tiles, all numbers of rows and columns of tiles, whole and not, and depths.
    for rows in [1, 16, 17, 33, 70] {
        for depth in [2, 32, 34, 514] {
            for width in [1, 2, 3, 4].map(|vectors| vectors * LANES) {
                let (x, y) = (spread(rows * depth, 1), spread(depth * width, 2));
                let mut panel = vec![0; depth / 2 * width];
                Right::Plain { values: &y, stride: width }.pack(&mut panel, 0..width, [0, depth], width);
                let product = || Product { left: Left::rows(&x, depth), rows, panel: &panel, width };
                let same = |found: Vec<u32>, expected: Vec<u32>| {
                    assert!(found == expected, "[{rows}, {depth}] × [{depth}, {width}]");
                };
                if super::sums::has_tiles() {
                    same(super::sums::dispatch(product()), with_emulated_tiles(product()));
                }
                if let Some(found) = super::sums::with_vectors(product()) {
                    same(found, emulated(product()));
                }
            }
        }
    }
}

#[test]
fn a_tile_sums_low_and_high_halves_apart() {
    // Large numbers that cancel one another, each beside a 1: apart, both 1 are left.
    let values = |numbers: [f32; 4]| numbers.map(bf16::from_f32);
    let left = values([16_777_216.0, 1.0, -16_777_216.0, 1.0]);
    let right = rounded(&[1.0; 4 * LANES]);
    let mut panel = vec![0; 2 * LANES];
    Right::Plain { values: &right, stride: LANES }.pack(&mut panel, 0..LANES, [0, 4], LANES);
    let product = || Product { left: Left::rows(&left, 4), rows: 1, panel: &panel, width: LANES };
    let first = |bits: Vec<u32>| f32::from_bits(bits[0]);
    assert_eq!((first(with_emulated_tiles(product())), first(emulated(product()))), (2.0, 0.0));
}

#[test]
fn a_transposed_matrix_gives_the_same_product() {
    for sizes @ [rows, columns, depth] in [[13, 20, 33], [40, 64, 96], [1, 1, 1]] {
        let (x, y) = (rounded(&noise(rows * depth, 1)), rounded(&noise(depth * columns, 2)));
        let turned: Vec<bf16> = (0..depth * rows).map(|i| x[i % rows * depth + i / rows]).collect();
        let pairs = depth.div_ceil(2);
        let width = columns.next_multiple_of(LANES);
        let mut panel = vec![0; pairs * width];
        Right::Plain { values: &y, stride: columns }.pack(&mut panel, 0..columns, [0, depth], width);
        for order in [Order::Interleaved, Order::Rows] {
            let mut packed = vec![bf16::NAN; rows.next_multiple_of(ROWS) * 2 * pairs];
            transposed(&turned, rows, [rows, depth], order, &mut packed);
            assert_eq!(packed, super::product::par_transposed(&turned, rows, [rows, depth], order));
            let product =
                Product { left: Left::transposed(&packed, pairs, order), rows, panel: &panel, width };
            let found = match order {
                Order::Interleaved => emulated(product),
                Order::Rows => with_emulated_tiles(product),
            };
            for row in 0..rows {
                for column in 0..columns {
                    let exact: f64 = (0..depth)
                        .map(|i| {
                            f64::from(x[row * depth + i].read()) * f64::from(y[i * columns + column].read())
                        })
                        .sum();
                    let found = f64::from(f32::from_bits(found[row * width + column]));
                    let place = format!("{sizes:?}, {order:?}, row {row}, column {column}");
                    assert!((found - exact).abs() < 1e-4, "{place}: {found} instead of {exact}");
                }
            }
        }
    }
}

#[test]
fn operators_are_the_same_with_tiles() {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(2);
    let pool = threads.start_handler(|_| EMULATES_TILES.set(true)).build().unwrap();
    pool.install(|| {
        assert!(super::sums::has_tiles());
        linear_layers_are_the_products_of_rounded_numbers();
        two_layers_and_their_gradients_are_those_of_the_rounded_numbers();
        attention_is_that_of_the_rounded_numbers();
        what_is_no_number_stays_in_its_row_and_infinity_infinite();
    });
}

#[test]
fn what_is_no_number_stays_in_its_row_and_infinity_infinite() {
    let (rows, inputs, outputs) = (20, 65, 30);
    let mut x = noise(rows * inputs, 1);
    x[3 * inputs + 64] = f32::NAN;
    x[7 * inputs] = f32::INFINITY;
    let weight = FlexTensor::from_data(TensorData::new(vec![bf16::ONE; outputs * inputs], [outputs, inputs]));
    let y = values(Flex::fused_linear(tensor(x, &[rows, inputs]), weight, Answer::Float32));
    for (row, y) in y.chunks_exact(outputs).enumerate() {
        let right = |v: &f32| match row {
            3 => v.is_nan(),
            7 => *v == f32::INFINITY,
            _ => v.is_finite(),
        };
        assert!(y.iter().all(right), "row {row}: {y:?}");
    }
}

#[test]
fn activations_round_once() {
    let x = rounded(&noise(1000, 1));
    let narrow = FlexTensor::from_data(TensorData::new(x.clone(), [1000]));
    for kind in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
        let wide = Flex::fused_activate(tensor(widened(&x), &[1000]), kind);
        let expected = rounded(&values(wide));
        let found = Flex::fused_activate(narrow.clone(), kind).into_data().try_to_vec::<bf16>().unwrap();
        assert_eq!(found, expected);
    }
}
