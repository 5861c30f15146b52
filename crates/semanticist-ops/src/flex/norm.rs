//! Normalisation of rows with a scale and a shift per row group.

use rayon::prelude::*;

use super::Rows;
use super::numeric::{self, LANES, vectorised};
use crate::backend::Norm;

/// Rows per task.
const BLOCK: usize = 32;

/// Scale and shift have as many rows as each other; where there is no shift, nothing is added.
pub fn norm(
    x: &[f32],
    (scale, shift): (&[f32], Option<&[f32]>),
    rows: Rows,
    norm: Norm,
    eps: f32,
) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let block = BLOCK * rows.width;
    y.par_chunks_mut(block).zip(x.par_chunks(block)).enumerate().for_each(|(index, (y, x))| {
        vectorised(
            #[inline(always)]
            || {
                let lines = y.chunks_exact_mut(rows.width).zip(x.chunks_exact(rows.width));
                for (line, (y, x)) in lines.enumerate() {
                    let start = rows.parameter(index * BLOCK + line);
                    let scale = &scale[start..start + rows.width];
                    let (mean, inverse) = moments(x, norm, eps);
                    match shift.map(|shift| &shift[start..start + rows.width]) {
                        Some(shift) => {
                            for i in 0..y.len() {
                                y[i] = (x[i] - mean) * inverse * scale[i] + shift[i];
                            }
                        }
                        None => {
                            for i in 0..y.len() {
                                y[i] = (x[i] - mean) * inverse * scale[i];
                            }
                        }
                    }
                }
            },
        )
    });
    y
}

/// The mean of a row and one over its standard deviation; for [`Norm::Rms`], 0 and one over its root
/// mean square.
#[inline(always)]
fn moments(x: &[f32], norm: Norm, eps: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = match norm {
        Norm::Layer => numeric::sum(x, |v| v) / count,
        Norm::Rms => 0.0,
    };
    let variance = numeric::sum(x, |v| (v - mean) * (v - mean)) / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

pub fn norm_backward(
    x: &[f32],
    scale: &[f32],
    grad: &[f32],
    rows: Rows,
    norm: Norm,
    eps: f32,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let width = rows.width;
    let groups = scale.len() / width;
    // A parameter shared by all rows is split into parts, so that both cores have work; the sums
    // of the parts are added in order, so that the result does not depend on who was first.
    let total = x.len() / width;
    let parts = if groups == 1 { total.div_ceil(256).max(1) } else { groups };
    let per_part = total.div_ceil(parts);
    let mut d_x = vec![0.0; x.len()];
    let mut sums = vec![0.0; parts * 2 * width];
    d_x.par_chunks_mut(per_part * width)
        .zip(sums.par_chunks_mut(2 * width))
        .zip(x.par_chunks(per_part * width))
        .zip(grad.par_chunks(per_part * width))
        .enumerate()
        .for_each(|(part, (((d_x, sums), x), grad))| {
            let group = part * per_part / rows.per_group;
            let scale = &scale[group * width..(group + 1) * width];
            let (d_scale, d_shift) = sums.split_at_mut(width);
            vectorised(
                #[inline(always)]
                || {
                    let lines = d_x.chunks_exact_mut(width).zip(x.chunks_exact(width));
                    for ((d_x, x), grad) in lines.zip(grad.chunks_exact(width)) {
                        backward_row([d_x, d_scale, d_shift], [x, scale, grad], norm, eps);
                    }
                },
            )
        });
    let (mut d_scale, mut d_shift) = (vec![0.0; scale.len()], vec![0.0; scale.len()]);
    for (part, sums) in sums.chunks_exact(2 * width).enumerate() {
        let group = if groups == 1 { 0 } else { part };
        let (scale_part, shift_part) = sums.split_at(width);
        for i in 0..width {
            d_scale[group * width + i] += scale_part[i];
            d_shift[group * width + i] += shift_part[i];
        }
    }
    (d_x, d_scale, d_shift)
}

#[inline(always)]
fn backward_row(
    [d_x, d_scale, d_shift]: [&mut [f32]; 3],
    [x, scale, grad]: [&[f32]; 3],
    norm: Norm,
    eps: f32,
) {
    let width = x.len();
    let (mean, inverse) = moments(x, norm, eps);
    let mut sums = [[0.0f32; LANES]; 2];
    // Blocks of known length, so that each becomes a few vectors.
    let (blocks, rest) = x.as_chunks::<LANES>();
    let (grad_blocks, grad_rest) = grad.as_chunks::<LANES>();
    let (scale_blocks, scale_rest) = scale.as_chunks::<LANES>();
    let (d_scale_blocks, d_scale_rest) = d_scale.as_chunks_mut::<LANES>();
    let (d_shift_blocks, d_shift_rest) = d_shift.as_chunks_mut::<LANES>();
    for i in 0..blocks.len() {
        let (d_scale, d_shift) = (&mut d_scale_blocks[i], &mut d_shift_blocks[i]);
        along_block(
            [&blocks[i], &grad_blocks[i], &scale_blocks[i]],
            [d_scale, d_shift],
            &mut sums,
            (mean, inverse),
        );
    }
    along_block([rest, grad_rest, scale_rest], [d_scale_rest, d_shift_rest], &mut sums, (mean, inverse));
    let [total, along] = sums.map(|sums| numeric::total(sums) / width as f32);
    let total = if norm == Norm::Rms { 0.0 } else { total };
    for ((d_x, x), (grad, scale)) in d_x.iter_mut().zip(x).zip(grad.iter().zip(scale)) {
        let normal = (x - mean) * inverse;
        *d_x = inverse * (grad * scale - total - normal * along);
    }
}

/// Adds what some columns of a row give to the gradients of scale and shift, and to the sums over the row
/// of the scaled gradient, alone and along the normalised row.
#[inline(always)]
fn along_block(
    [x, grad, scale]: [&[f32]; 3],
    [d_scale, d_shift]: [&mut [f32]; 2],
    [total, along]: &mut [[f32; LANES]; 2],
    (mean, inverse): (f32, f32),
) {
    for i in 0..x.len() {
        let normal = (x[i] - mean) * inverse;
        let scaled = grad[i] * scale[i];
        total[i] += scaled;
        along[i] += scaled * normal;
        d_scale[i] += grad[i] * normal;
        d_shift[i] += grad[i];
    }
}
