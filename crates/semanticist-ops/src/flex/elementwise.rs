//! Activations, the gated linear unit and the gated residual.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::Rows;
use super::bfloat16::Stored;
use super::numeric::{self, vectorised};
use crate::backend::Activation;

/// Elements per task: large enough to hide the hand-over, small enough for two cores to share.
const CHUNK: usize = 16 * 1024;

pub fn activate<T: Stored>(x: &[T], activation: Activation) -> Vec<T> {
    match activation {
        Activation::Gelu => map(x, numeric::gelu),
        Activation::GeluTanh => map(x, numeric::gelu_tanh),
        Activation::Silu => map(x, numeric::silu),
    }
}

/// The gradient is stored as x is, whatever that of the answer is stored in.
pub fn activate_backward<T: Stored, G: Stored>(x: &[T], grad: &[G], activation: Activation) -> Vec<T> {
    match activation {
        Activation::Gelu => map_with(x, grad, |x, g| g * numeric::gelu_slope(x)),
        Activation::GeluTanh => map_with(x, grad, |x, g| g * numeric::gelu_tanh_slope(x)),
        Activation::Silu => map_with(x, grad, |x, g| g * numeric::silu_slope(x)),
    }
}

#[inline(always)]
fn map<T: Stored>(x: &[T], f: impl Fn(f32) -> f32 + Sync) -> Vec<T> {
    written(x.len(), |y| {
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            vectorised(
                #[inline(always)]
                || {
                    for (y, &x) in y.iter_mut().zip(x) {
                        y.write(T::write(f(x.read())));
                    }
                },
            )
        });
    })
}

#[inline(always)]
fn map_with<T: Stored, G: Stored>(x: &[T], grad: &[G], f: impl Fn(f32, f32) -> f32 + Sync) -> Vec<T> {
    assert_eq!(x.len(), grad.len(), "one gradient for each number");
    written(x.len(), |y| {
        let parts = y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(grad.par_chunks(CHUNK));
        parts.for_each(|((y, x), g)| {
            vectorised(
                #[inline(always)]
                || {
                    for ((y, &x), &g) in y.iter_mut().zip(x).zip(g) {
                        y.write(T::write(f(x.read(), g.read())));
                    }
                },
            )
        });
    })
}

/// `len` numbers, all of which `write` writes. They are not zeroed first, which would be one more pass
/// over memory, by one thread.
fn written<T>(len: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut y = Vec::with_capacity(len);
    write(&mut y.spare_capacity_mut()[..len]);
    // SAFETY: both callers walk over all of it, beside inputs of the same length.
    unsafe { y.set_len(len) };
    y
}

pub fn swiglu<T: Stored>(gate: &[T], up: &[T]) -> Vec<T> {
    map_with(gate, up, |gate, up| numeric::silu(gate) * up)
}

/// The gradients of gate and up, stored as they are.
pub fn swiglu_backward<T: Stored, G: Stored>(gate: &[T], up: &[T], grad: &[G]) -> (Vec<T>, Vec<T>) {
    let mut d_gate = vec![T::default(); gate.len()];
    let mut d_up = vec![T::default(); up.len()];
    d_gate
        .par_chunks_mut(CHUNK)
        .zip(d_up.par_chunks_mut(CHUNK))
        .zip(gate.par_chunks(CHUNK))
        .zip(up.par_chunks(CHUNK))
        .zip(grad.par_chunks(CHUNK))
        .for_each(|((((d_gate, d_up), gate), up), grad)| {
            vectorised(
                #[inline(always)]
                || {
                    for i in 0..d_gate.len() {
                        let (gate, grad) = (gate[i].read(), grad[i].read());
                        d_gate[i] = T::write(grad * up[i].read() * numeric::silu_slope(gate));
                        d_up[i] = T::write(grad * numeric::silu(gate));
                    }
                },
            )
        });
    (d_gate, d_up)
}

/// Rows per task.
const BLOCK: usize = 32;

pub fn gated_add(x: &[f32], y: &[f32], gate: &[f32], rows: Rows) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    let block = BLOCK * rows.width;
    out.par_chunks_mut(block).zip(x.par_chunks(block)).zip(y.par_chunks(block)).enumerate().for_each(
        |(index, ((out, x), y))| {
            vectorised(
                #[inline(always)]
                || {
                    let lines = out.chunks_exact_mut(rows.width).zip(x.chunks_exact(rows.width));
                    for (line, ((out, x), y)) in lines.zip(y.chunks_exact(rows.width)).enumerate() {
                        let gate = &gate[rows.parameter(index * BLOCK + line)..][..rows.width];
                        for (((out, &x), &y), &gate) in out.iter_mut().zip(x).zip(y).zip(gate) {
                            *out = x + gate * y;
                        }
                    }
                },
            )
        },
    );
    out
}

/// The gradients of y and gate. A gate that all rows share has its sums from one task.
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
