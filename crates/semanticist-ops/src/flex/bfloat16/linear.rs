//! Products of a linear layer whose weight is in bfloat16.

use std::borrow::Cow;
use std::ops::Range;

use burn::tensor::bf16;
use rayon::prelude::*;

use super::Stored;
use super::product::{COLUMNS, Left, ROWS, Right, Sums, par_transposed, product};
use super::sums::{LANES, PairSums, Task, dispatch, order};
use crate::backend::Activation;
use crate::flex::linear::FEW;
use crate::flex::{Shared, numeric};

/// x `[rows, inputs]`, weight `[outputs, inputs]`, bias `[outputs]` -> `[rows, outputs]`.
pub fn forward<T: Stored>(x: &[bf16], weight: &[bf16], bias: Option<&[f32]>, inputs: usize) -> Vec<T> {
    let [rows, outputs] = sizes(x, weight, bias, inputs);
    written([rows, outputs], |y| {
        each_sum(
            x,
            weight,
            inputs,
            #[inline(always)]
            |row, columns, sums| {
                if let Some(bias) = bias {
                    add_bias(sums, &bias[columns.clone()]);
                }
                // SAFETY: inside the result, and each place is finished by one task.
                unsafe { write(y, [row, outputs], columns, sums) };
            },
        );
    })
}

/// [`forward`], activated, and if it is `kept`, before the activation. The layer is its weight and bias.
pub fn forward_activated(
    x: &[bf16],
    layer: (&[bf16], &[f32]),
    inputs: usize,
    activation: Activation,
    kept: bool,
) -> (Vec<bf16>, Option<Vec<bf16>>) {
    match activation {
        Activation::Gelu => activated(x, layer, inputs, numeric::gelu, kept),
        Activation::GeluTanh => activated(x, layer, inputs, numeric::gelu_tanh, kept),
        Activation::Silu => activated(x, layer, inputs, numeric::silu, kept),
    }
}

fn activated(
    x: &[bf16],
    (weight, bias): (&[bf16], &[f32]),
    inputs: usize,
    activation: impl Fn(f32) -> f32 + Copy + Send + Sync,
    kept: bool,
) -> (Vec<bf16>, Option<Vec<bf16>>) {
    let [rows, outputs] = sizes(x, weight, Some(bias), inputs);
    let fill = |after, before: Option<Shared<bf16>>| {
        each_sum(
            x,
            weight,
            inputs,
            #[inline(always)]
            |row, columns, sums| {
                add_bias(sums, &bias[columns.clone()]);
                if let Some(before) = before {
                    // SAFETY: inside the results, and each place is finished by one task.
                    unsafe { write(before, [row, outputs], columns.clone(), sums) };
                }
                // All rows in one loop, so that the chains of several vectors overlap.
                for sum in sums.as_flattened_mut() {
                    *sum = activation(*sum);
                }
                // SAFETY: as above.
                unsafe { write(after, [row, outputs], columns, sums) };
            },
        );
    };
    if !kept {
        return (written([rows, outputs], |after| fill(after, None)), None);
    }
    let mut before = Vec::new();
    let after = written([rows, outputs], |after| {
        before = written([rows, outputs], |before| fill(after, Some(before)));
    });
    (after, Some(before))
}

#[inline(always)]
fn add_bias(sums: &mut Sums, bias: &[f32]) {
    for row in sums {
        for (sum, &bias) in row.iter_mut().zip(bias) {
            *sum += bias;
        }
    }
}

/// Sums into the rows from `row` on of a matrix of rows of `width`.
///
/// # Safety
/// The rows and columns must lie inside the matrix, and nobody else use them meanwhile.
#[inline(always)]
unsafe fn write<T: Stored>(y: Shared<T>, [row, width]: [usize; 2], columns: Range<usize>, sums: &mut Sums) {
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: the caller vouches for it.
        let y = unsafe { y.slice((row + r) * width + columns.start, columns.len()) };
        for (y, &sum) in y.iter_mut().zip(sums) {
            *y = T::write(sum);
        }
    }
}

/// A matrix all of whose places `fill` writes.
fn written<T>([rows, columns]: [usize; 2], fill: impl FnOnce(Shared<T>)) -> Vec<T> {
    // Not zeroed: that would be one more pass over memory, by one thread.
    let mut y = Vec::with_capacity(rows * columns);
    fill(Shared(y.as_mut_ptr()));
    // SAFETY: the callers' products finish every place.
    unsafe { y.set_len(rows * columns) };
    y
}

/// Rows and outputs.
fn sizes(x: &[bf16], weight: &[bf16], bias: Option<&[f32]>, inputs: usize) -> [usize; 2] {
    let [rows, outputs] = [x, weight].map(|matrix| matrix.len() / inputs);
    assert_eq!([x, weight].map(<[_]>::len), [rows, outputs].map(|count| count * inputs), "whole rows");
    assert!(bias.is_none_or(|bias| bias.len() == outputs), "one bias for each output");
    [rows, outputs]
}

/// The product `x weightᵀ`, handed on in pieces of rows.
fn each_sum<F>(x: &[bf16], weight: &[bf16], inputs: usize, finish: F)
where
    F: Fn(usize, Range<usize>, &mut Sums) + Sync + Send + Copy,
{
    let [rows, outputs] = [x, weight].map(|matrix| matrix.len() / inputs);
    if rows <= FEW {
        return few_rows(x, weight, inputs, finish);
    }
    let (x, stride) = even(x, inputs);
    let right = Right::Transposed { values: weight, stride: inputs };
    product([rows, outputs, inputs], Left::rows(&x, stride), right, finish);
}

/// Rows of an even length, the last of each 0 if it had to be added.
fn even(x: &[bf16], width: usize) -> (Cow<'_, [bf16]>, usize) {
    if width.is_multiple_of(2) {
        return (Cow::Borrowed(x), width);
    }
    let mut padded = vec![bf16::default(); x.len() / width * (width + 1)];
    for (to, from) in padded.chunks_exact_mut(width + 1).zip(x.chunks_exact(width)) {
        to[..width].copy_from_slice(from);
    }
    (Cow::Owned(padded), width + 1)
}

/// Each weight is read once, and meets all rows then.
fn few_rows<F>(x: &[bf16], weight: &[bf16], inputs: usize, finish: F)
where
    F: Fn(usize, Range<usize>, &mut Sums) + Sync + Send + Copy,
{
    weight.par_chunks(COLUMNS * inputs).enumerate().for_each(|(strip, weight)| {
        dispatch(FewRows { x, weight, inputs, first: strip * COLUMNS, finish });
    });
}

/// Some outputs of a product of few rows.
struct FewRows<'a, F> {
    x: &'a [bf16],
    weight: &'a [bf16],
    inputs: usize,
    first: usize,
    finish: F,
}

impl<F: Fn(usize, Range<usize>, &mut Sums)> Task for FewRows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<K: PairSums>(self, k: K) {
        let Self { x, weight, inputs, first, finish } = self;
        let rows = x.len() / inputs;
        let outputs = weight.len() / inputs;
        let mut sums = [[0.0; COLUMNS]; FEW];
        for (output, weight) in weight.chunks_exact(inputs).enumerate() {
            let mut row = 0;
            while row < rows {
                let x = &x[row * inputs..];
                // As many rows as there are at once, so that the weight is loaded for several.
                row += match rows - row {
                    1 => dots::<K, 1>(k, x, weight, row, output, &mut sums),
                    2 | 3 => dots::<K, 2>(k, x, weight, row, output, &mut sums),
                    _ => dots::<K, 4>(k, x, weight, row, output, &mut sums),
                };
            }
        }
        finish(0, first..first + outputs, &mut sums[..rows]);
    }
}

/// The inner products of the first `R` rows of `x` with `weight`.
#[inline(always)]
fn dots<K: PairSums, const R: usize>(
    k: K,
    x: &[bf16],
    weight: &[bf16],
    row: usize,
    output: usize,
    out: &mut [[f32; COLUMNS]; FEW],
) -> usize {
    /// Values that a vector of pairs holds.
    const STEP: usize = 2 * LANES;
    let inputs = weight.len();
    let x: [&[bf16]; R] = std::array::from_fn(|r| &x[r * inputs..][..inputs]);
    let mut sums = [[k.zero(); 2]; R];
    let whole = inputs / STEP * STEP;
    // Two sums for each row: one addition need not wait for the one before.
    for at in (0..whole).step_by(STEP) {
        let odd = at / STEP % 2;
        // SAFETY: a whole vector from `at` on lies inside each row.
        unsafe {
            let weight = k.load(weight.as_ptr().add(at).cast());
            for r in 0..R {
                let x = k.load(x[r].as_ptr().add(at).cast());
                sums[r][odd] = k.add(sums[r][odd], x, weight);
            }
        }
    }
    for r in 0..R {
        let mut lanes = [[0.0f32; LANES]; 2];
        for (lanes, sums) in lanes.iter_mut().zip(sums[r]) {
            // SAFETY: room for a vector.
            unsafe { k.store(lanes.as_mut_ptr(), sums) };
        }
        let rest = x[r][whole..].iter().zip(&weight[whole..]).map(|(x, w)| x.read() * w.read()).sum::<f32>();
        out[row + r][output] = numeric::total(lanes[0]) + numeric::total(lanes[1]) + rest;
    }
    R
}

/// weight `[outputs, inputs]`, grad `[rows, outputs]` -> `[rows, inputs]`.
pub fn backward_input(weight: &[bf16], grad: &[bf16], outputs: usize, inputs: usize) -> Vec<f32> {
    assert_eq!(weight.len(), outputs * inputs, "weights [{outputs}, {inputs}]");
    let rows = grad.len() / outputs;
    let (grad, stride) = even(grad, outputs);
    let right = Right::Plain { values: weight, stride: inputs };
    plain([rows, inputs, outputs], Left::rows(&grad, stride), right)
}

/// The gradient of `before` `[rows, inputs]`, which was activated before the layer.
pub fn backward_activated(
    weight: &[bf16],
    grad: &[bf16],
    sizes: [usize; 2],
    before: &[bf16],
    activation: Activation,
) -> Vec<bf16> {
    match activation {
        Activation::Gelu => sloped(weight, grad, sizes, before, numeric::gelu_slope),
        Activation::GeluTanh => sloped(weight, grad, sizes, before, numeric::gelu_tanh_slope),
        Activation::Silu => sloped(weight, grad, sizes, before, numeric::silu_slope),
    }
}

fn sloped(
    weight: &[bf16],
    grad: &[bf16],
    [outputs, inputs]: [usize; 2],
    before: &[bf16],
    slope: impl Fn(f32) -> f32 + Copy + Send + Sync,
) -> Vec<bf16> {
    let rows = grad.len() / outputs;
    assert_eq!([weight.len(), before.len()], [outputs * inputs, rows * inputs], "sizes of one layer");
    let (grad, stride) = even(grad, outputs);
    let right = Right::Plain { values: weight, stride: inputs };
    written([rows, inputs], |y| {
        product(
            [rows, inputs, outputs],
            Left::rows(&grad, stride),
            right,
            #[inline(always)]
            |row, columns, sums| {
                let mut slopes = [[0.0; COLUMNS]; ROWS];
                let slopes = &mut slopes[..sums.len()];
                for (r, slopes) in slopes.iter_mut().enumerate() {
                    let before = &before[(row + r) * inputs..][columns.clone()];
                    for (slope, before) in slopes.iter_mut().zip(before) {
                        *slope = before.read();
                    }
                }
                for (sum, before) in sums.as_flattened_mut().iter_mut().zip(slopes.as_flattened()) {
                    *sum *= slope(*before);
                }
                // SAFETY: inside the result, and each place is finished by one task.
                unsafe { write(y, [row, inputs], columns, sums) };
            },
        );
    })
}

/// x `[rows, inputs]`, grad `[rows, outputs]` -> `[outputs, inputs]`.
pub fn backward_weight(x: &[bf16], grad: &[bf16], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = x.len() / inputs;
    assert_eq!(grad.len(), rows * outputs, "a row of gradients for each row of x");
    let order = order();
    let packed = par_transposed(grad, outputs, [outputs, rows], order);
    let right = Right::Plain { values: x, stride: inputs };
    plain([outputs, inputs, rows], Left::transposed(&packed, rows.div_ceil(2), order), right)
}

/// The product and nothing else.
fn plain([rows, columns, depth]: [usize; 3], left: Left, right: Right) -> Vec<f32> {
    written([rows, columns], |y| {
        product(
            [rows, columns, depth],
            left,
            right,
            #[inline(always)]
            |row, range, sums| {
                // SAFETY: inside the result, and each place is finished by one task.
                unsafe { write(y, [row, columns], range, sums) };
            },
        );
    })
}
