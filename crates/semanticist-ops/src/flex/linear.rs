//! Matrix products of a linear layer.

use rayon::prelude::*;

use super::bfloat16::Stored;
use super::numeric::{self, vectorised};

/// A matrix in memory: where it starts and how far apart its rows and columns are.
#[derive(Clone, Copy)]
pub struct Strided<P> {
    pub start: P,
    pub rows: isize,
    pub columns: isize,
}

/// `out = keep · out + factor · left right`, with `out` `[m, n]`, `left` `[m, k]`, `right` `[k, n]`.
///
/// # Safety
/// The three matrices must lie within memory the caller may read, and write in the case of `out`.
pub unsafe fn product(
    [m, n, k]: [usize; 3],
    out: Strided<*mut f32>,
    keep: Option<f32>,
    left: Strided<*const f32>,
    right: Strided<*const f32>,
    factor: f32,
    parallelism: gemm::Parallelism,
) {
    // SAFETY: the caller vouches for the three matrices, and nothing else is touched.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.start,
            out.columns,
            out.rows,
            keep.is_some(),
            left.start,
            left.columns,
            left.rows,
            right.start,
            right.columns,
            right.rows,
            keep.unwrap_or(0.0),
            factor,
            false,
            false,
            false,
            parallelism,
        )
    }
}

/// Threads pay off above about this many multiplications.
fn parallelism(sizes: [usize; 3]) -> gemm::Parallelism {
    const WORTH_SHARING: usize = 128 * 128 * 64;
    if sizes.iter().product::<usize>() >= WORTH_SHARING {
        gemm::Parallelism::Rayon(0)
    } else {
        gemm::Parallelism::None
    }
}

/// Rows side by side.
fn by_rows<P>(start: P, width: usize) -> Strided<P> {
    Strided { start, rows: width as isize, columns: 1 }
}

/// The transpose of a matrix whose rows lie side by side.
fn transposed<P>(start: P, width: usize) -> Strided<P> {
    Strided { start, rows: 1, columns: width as isize }
}

/// Up to so many rows, a product is as fast as the weights come from memory; packing them for the
/// general product would take several times as long.
pub const FEW: usize = 8;

/// From so many inputs on, the general product loses a fifth of its speed to the weights' long rows,
/// which it reads across; our own turns them in squares.
const LONG: usize = 768;

/// Outputs per task of a product of few rows.
const STRIP: usize = 128;

/// x `[rows, inputs]`, weight `[outputs, inputs]`, bias `[outputs]` -> `[rows, outputs]`.
pub fn forward(x: &[f32], weight: &[f32], bias: Option<&[f32]>, inputs: usize) -> Vec<f32> {
    let [rows, outputs] = [x, weight].map(|matrix| matrix.len() / inputs);
    assert_eq!(x.len(), rows * inputs, "weights for {inputs} inputs");
    if rows <= FEW {
        return forward_few(x, weight, bias, inputs);
    }
    if inputs >= LONG {
        return super::product::product(x, weight, bias, inputs);
    }
    let sizes = [rows, outputs, inputs];
    let mut y = repeated(bias, rows, outputs);
    let (left, right) = (by_rows(x.as_ptr(), inputs), transposed(weight.as_ptr(), inputs));
    let out = by_rows(y.as_mut_ptr(), outputs);
    // SAFETY: y holds [rows, outputs]; x and weight hold whole rows by the divisions above.
    unsafe { product(sizes, out, bias.map(|_| 1.0), left, right, 1.0, parallelism(sizes)) };
    y
}

/// The bias in each of so many rows, to which a product is added; without one, zeros.
///
/// # Panics
/// If there is not one bias for each output.
pub fn repeated(bias: Option<&[f32]>, rows: usize, outputs: usize) -> Vec<f32> {
    let Some(bias) = bias else {
        return vec![0.0; rows * outputs];
    };
    assert_eq!(bias.len(), outputs, "one bias for each output");
    let mut y = Vec::with_capacity(rows * outputs);
    for _ in 0..rows {
        y.extend_from_slice(bias);
    }
    y
}

/// Each weight is read once, and meets all rows then.
fn forward_few(x: &[f32], weight: &[f32], bias: Option<&[f32]>, inputs: usize) -> Vec<f32> {
    let [rows, outputs] = [x, weight].map(|matrix| matrix.len() / inputs);
    // [outputs, rows], so that a task writes in one place.
    let mut by_output = vec![0.0; rows * outputs];
    by_output.par_chunks_mut(STRIP * rows).enumerate().for_each(|(strip, out)| {
        vectorised(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(rows).enumerate() {
                    let output = strip * STRIP + i;
                    let weights = &weight[output * inputs..][..inputs];
                    let bias = bias.map_or(0.0, |bias| bias[output]);
                    for (out, x) in out.iter_mut().zip(x.chunks_exact(inputs)) {
                        *out = bias + numeric::dot(x, weights);
                    }
                }
            },
        )
    });
    let mut y = vec![0.0; rows * outputs];
    for (output, values) in by_output.chunks_exact(rows).enumerate() {
        for (row, &value) in values.iter().enumerate() {
            y[row * outputs + output] = value;
        }
    }
    y
}

pub fn backward_input(weight: &[f32], grad: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let sizes = [grad.len() / outputs, inputs, outputs];
    assert_eq!(weight.len(), outputs * inputs, "weights [{outputs}, {inputs}]");
    let mut d_x = vec![0.0; sizes[0] * inputs];
    let (left, right) = (by_rows(grad.as_ptr(), outputs), by_rows(weight.as_ptr(), inputs));
    // SAFETY: d_x holds [rows, inputs], the gradient whole rows and the weight all it should.
    unsafe { product(sizes, by_rows(d_x.as_mut_ptr(), inputs), None, left, right, 1.0, parallelism(sizes)) };
    d_x
}

pub fn backward_weight(x: &[f32], grad: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let sizes = [outputs, inputs, x.len() / inputs];
    assert_eq!(grad.len(), sizes[2] * outputs, "a row of gradients for each row of x");
    let mut d_weight = vec![0.0; outputs * inputs];
    let (left, right) = (transposed(grad.as_ptr(), outputs), by_rows(x.as_ptr(), inputs));
    // SAFETY: d_weight holds [outputs, inputs]; x and gradient have as many whole rows.
    unsafe {
        product(sizes, by_rows(d_weight.as_mut_ptr(), inputs), None, left, right, 1.0, parallelism(sizes))
    };
    d_weight
}

/// Sums over rows, in parts of fixed size so that the result does not depend on the threads.
pub fn backward_bias<G: Stored>(grad: &[G], outputs: usize) -> Vec<f32> {
    const ROWS: usize = 512;
    let partial: Vec<Vec<f32>> = grad
        .par_chunks(ROWS * outputs)
        .map(|rows| {
            let mut sums = vec![0.0f32; outputs];
            vectorised(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact(outputs) {
                        for (sum, v) in sums.iter_mut().zip(row) {
                            *sum += v.read();
                        }
                    }
                },
            );
            sums
        })
        .collect();
    let mut sums = vec![0.0; outputs];
    for part in partial {
        for (sum, v) in sums.iter_mut().zip(part) {
            *sum += v;
        }
    }
    sums
}
