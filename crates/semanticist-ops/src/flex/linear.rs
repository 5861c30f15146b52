//! Matrix products of a linear layer.

use rayon::prelude::*;

use super::numeric::vectorised;

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

pub fn forward(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let outputs = bias.len();
    let inputs = weight.len() / outputs;
    let sizes = [x.len() / inputs, outputs, inputs];
    let mut y = Vec::with_capacity(sizes[0] * outputs);
    for _ in 0..sizes[0] {
        y.extend_from_slice(bias);
    }
    let (left, right) = (by_rows(x.as_ptr(), inputs), transposed(weight.as_ptr(), inputs));
    let out = by_rows(y.as_mut_ptr(), outputs);
    // SAFETY: y was filled to [rows, outputs]; x and weight hold whole rows by the divisions above.
    unsafe { product(sizes, out, Some(1.0), left, right, 1.0, parallelism(sizes)) };
    y
}

pub fn backward_input(weight: &[f32], grad: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let sizes = [grad.len() / outputs, inputs, outputs];
    let mut d_x = vec![0.0; sizes[0] * inputs];
    let (left, right) = (by_rows(grad.as_ptr(), outputs), by_rows(weight.as_ptr(), inputs));
    // SAFETY: as in `forward`.
    unsafe { product(sizes, by_rows(d_x.as_mut_ptr(), inputs), None, left, right, 1.0, parallelism(sizes)) };
    d_x
}

pub fn backward_parameters(x: &[f32], grad: &[f32], inputs: usize, outputs: usize) -> (Vec<f32>, Vec<f32>) {
    let sizes = [outputs, inputs, x.len() / inputs];
    let mut d_weight = vec![0.0; outputs * inputs];
    let (left, right) = (transposed(grad.as_ptr(), outputs), by_rows(x.as_ptr(), inputs));
    // SAFETY: as in `forward`.
    unsafe {
        product(sizes, by_rows(d_weight.as_mut_ptr(), inputs), None, left, right, 1.0, parallelism(sizes))
    };
    (d_weight, column_sums(grad, outputs))
}

/// Sums over rows, in parts of fixed size so that the result does not depend on the threads.
fn column_sums(x: &[f32], width: usize) -> Vec<f32> {
    const ROWS: usize = 512;
    let partial: Vec<Vec<f32>> = x
        .par_chunks(ROWS * width)
        .map(|rows| {
            let mut sums = vec![0.0f32; width];
            vectorised(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact(width) {
                        for (sum, &v) in sums.iter_mut().zip(row) {
                            *sum += v;
                        }
                    }
                },
            );
            sums
        })
        .collect();
    let mut sums = vec![0.0; width];
    for part in partial {
        for (sum, v) in sums.iter_mut().zip(part) {
            *sum += v;
        }
    }
    sums
}
