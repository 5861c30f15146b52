//! Products of a linear layer whose weight is in bfloat16.

use std::borrow::Cow;

use burn::tensor::bf16;
use rayon::prelude::*;

use super::Stored;
use super::product::{Left, Right, par_transposed, product};
use super::sums::{LANES, PairSums, Task, dispatch};
use crate::backend::Activation;
use crate::flex::linear::FEW;
use crate::flex::{Shared, numeric};

/// Outputs per task of a product of few rows.
const STRIP: usize = 64;

/// x `[rows, inputs]`, weight `[outputs, inputs]`, bias `[outputs]` -> `[rows, outputs]`.
pub fn forward<T: Stored>(x: &[bf16], weight: &[bf16], bias: Option<&[f32]>, inputs: usize) -> Vec<T> {
    let [rows, outputs] = sizes(x, weight, bias, inputs);
    let mut y = Vec::with_capacity(rows * outputs);
    let out = Shared(y.as_mut_ptr());
    each_sum(
        x,
        weight,
        inputs,
        #[inline(always)]
        |row, first, sums| {
            let bias = bias.map_or(&[] as &[f32], |bias| &bias[first..first + sums.len()]);
            // SAFETY: inside the result, and each place is written by one task.
            let out = unsafe { out.slice(row * outputs + first, sums.len()) };
            if bias.is_empty() {
                for (out, &sum) in out.iter_mut().zip(sums) {
                    *out = T::write(sum);
                }
            } else {
                for ((out, &sum), &bias) in out.iter_mut().zip(sums).zip(bias) {
                    *out = T::write(sum + bias);
                }
            }
        },
    );
    // SAFETY: the product gives every place.
    unsafe { y.set_len(rows * outputs) };
    y
}

/// [`forward`], activated, and before the activation.
pub fn forward_activated(
    x: &[bf16],
    weight: &[bf16],
    bias: &[f32],
    inputs: usize,
    activation: Activation,
) -> (Vec<bf16>, Vec<bf16>) {
    match activation {
        Activation::Gelu => activated(x, weight, bias, inputs, numeric::gelu),
        Activation::GeluTanh => activated(x, weight, bias, inputs, numeric::gelu_tanh),
        Activation::Silu => activated(x, weight, bias, inputs, numeric::silu),
    }
}

#[inline(always)]
fn activated(
    x: &[bf16],
    weight: &[bf16],
    bias: &[f32],
    inputs: usize,
    activation: impl Fn(f32) -> f32 + Copy + Send + Sync,
) -> (Vec<bf16>, Vec<bf16>) {
    let [rows, outputs] = sizes(x, weight, Some(bias), inputs);
    let [mut after, mut before] = [(); 2].map(|()| Vec::with_capacity(rows * outputs));
    let shared = [&mut after, &mut before].map(|y| Shared(y.as_mut_ptr()));
    each_sum(
        x,
        weight,
        inputs,
        #[inline(always)]
        |row, first, sums| {
            let bias = &bias[first..first + sums.len()];
            // SAFETY: inside the results, and each place is written by one task.
            let [after, before] =
                shared.map(|y: Shared<bf16>| unsafe { y.slice(row * outputs + first, sums.len()) });
            for (((after, before), &sum), &bias) in after.iter_mut().zip(before).zip(sums).zip(bias) {
                let y = sum + bias;
                *before = bf16::write(y);
                *after = bf16::write(activation(y));
            }
        },
    );
    // SAFETY: the product gives every place.
    unsafe {
        after.set_len(rows * outputs);
        before.set_len(rows * outputs);
    }
    (after, before)
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
    F: Fn(usize, usize, &[f32]) + Sync + Send + Copy,
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
    F: Fn(usize, usize, &[f32]) + Sync + Send + Copy,
{
    weight.par_chunks(STRIP * inputs).enumerate().for_each(|(strip, weight)| {
        dispatch(FewRows { x, weight, inputs, first: strip * STRIP, finish });
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

impl<F: Fn(usize, usize, &[f32])> Task for FewRows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<K: PairSums>(self, k: K) {
        let Self { x, weight, inputs, first, finish } = self;
        let rows = x.len() / inputs;
        let outputs = weight.len() / inputs;
        let mut sums = [[0.0f32; STRIP]; FEW];
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
        for (row, sums) in sums[..rows].iter().enumerate() {
            finish(row, first, &sums[..outputs]);
        }
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
    out: &mut [[f32; STRIP]; FEW],
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
        out[row + r][output] = numeric::sum(&lanes[0], |v| v) + numeric::sum(&lanes[1], |v| v) + rest;
    }
    R
}

/// weight `[outputs, inputs]`, grad `[rows, outputs]` -> `[rows, inputs]`.
pub fn backward_input(weight: &[bf16], grad: &[bf16], outputs: usize, inputs: usize) -> Vec<f32> {
    assert_eq!(weight.len(), outputs * inputs, "weights [{outputs}, {inputs}]");
    let rows = grad.len() / outputs;
    let (grad, stride) = even(grad, outputs);
    let right = Right::Plain { values: weight, stride: inputs };
    written([rows, inputs, outputs], Left::rows(&grad, stride), right)
}

/// x `[rows, inputs]`, grad `[rows, outputs]` -> `[outputs, inputs]`.
pub fn backward_weight(x: &[bf16], grad: &[bf16], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = x.len() / inputs;
    assert_eq!(grad.len(), rows * outputs, "a row of gradients for each row of x");
    let packed = par_transposed(grad, outputs, [outputs, rows]);
    let right = Right::Plain { values: x, stride: inputs };
    written([outputs, inputs, rows], Left::transposed(&packed, rows.div_ceil(2)), right)
}

/// The product, row after row.
fn written([rows, columns, depth]: [usize; 3], left: Left, right: Right) -> Vec<f32> {
    let mut y = Vec::with_capacity(rows * columns);
    let out = Shared(y.as_mut_ptr());
    product(
        [rows, columns, depth],
        left,
        right,
        #[inline(always)]
        |row, first, sums| {
            // SAFETY: inside the result, and each place is written by one task.
            unsafe { out.slice(row * columns + first, sums.len()) }.copy_from_slice(sums);
        },
    );
    // SAFETY: the product gives every place.
    unsafe { y.set_len(rows * columns) };
    y
}
