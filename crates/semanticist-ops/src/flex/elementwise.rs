//! Activations and the gated residual.

use rayon::prelude::*;

use super::Rows;
use super::numeric::{self, vectorised};
use crate::backend::Activation;

/// Elements per task: large enough to hide the hand-over, small enough for two cores to share.
const CHUNK: usize = 16 * 1024;

pub fn activate(x: &[f32], activation: Activation) -> Vec<f32> {
    match activation {
        Activation::Gelu => map(x, numeric::gelu),
        Activation::GeluTanh => map(x, numeric::gelu_tanh),
        Activation::Silu => map(x, numeric::silu),
    }
}

pub fn activate_backward(x: &[f32], grad: &[f32], activation: Activation) -> Vec<f32> {
    match activation {
        Activation::Gelu => map_with(x, grad, |x, g| g * numeric::gelu_slope(x)),
        Activation::GeluTanh => map_with(x, grad, |x, g| g * numeric::gelu_tanh_slope(x)),
        Activation::Silu => map_with(x, grad, |x, g| g * numeric::silu_slope(x)),
    }
}

#[inline(always)]
fn map(x: &[f32], f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        vectorised(
            #[inline(always)]
            || y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)),
        )
    });
    y
}

#[inline(always)]
fn map_with(x: &[f32], grad: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(grad.par_chunks(CHUNK)).for_each(|((y, x), g)| {
        vectorised(
            #[inline(always)]
            || {
                for ((y, &x), &g) in y.iter_mut().zip(x).zip(g) {
                    *y = f(x, g);
                }
            },
        )
    });
    y
}

pub fn gated_add(x: &[f32], y: &[f32], gate: &[f32], rows: Rows) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    let group = rows.per_group * rows.width;
    out.par_chunks_mut(group)
        .zip(x.par_chunks(group))
        .zip(y.par_chunks(group))
        .zip(gate.par_chunks(rows.width))
        .for_each(|(((out, x), y), gate)| {
            vectorised(
                #[inline(always)]
                || {
                    let lines = out.chunks_exact_mut(rows.width).zip(x.chunks_exact(rows.width));
                    for ((out, x), y) in lines.zip(y.chunks_exact(rows.width)) {
                        for (((out, &x), &y), &gate) in out.iter_mut().zip(x).zip(y).zip(gate) {
                            *out = x + gate * y;
                        }
                    }
                },
            )
        });
    out
}

pub fn gated_add_backward(y: &[f32], gate: &[f32], grad: &[f32], rows: Rows) -> (Vec<f32>, Vec<f32>) {
    let mut d_y = vec![0.0; y.len()];
    let mut d_gate = vec![0.0; gate.len()];
    let group = rows.per_group * rows.width;
    d_y.par_chunks_mut(group)
        .zip(d_gate.par_chunks_mut(rows.width))
        .zip(y.par_chunks(group))
        .zip(gate.par_chunks(rows.width))
        .zip(grad.par_chunks(group))
        .for_each(|((((d_y, d_gate), y), gate), grad)| {
            vectorised(
                #[inline(always)]
                || {
                    let lines = d_y.chunks_exact_mut(rows.width).zip(y.chunks_exact(rows.width));
                    for ((d_y, y), grad) in lines.zip(grad.chunks_exact(rows.width)) {
                        for i in 0..rows.width {
                            d_y[i] = grad[i] * gate[i];
                            d_gate[i] += grad[i] * y[i];
                        }
                    }
                },
            )
        });
    (d_y, d_gate)
}
