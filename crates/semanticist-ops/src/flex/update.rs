//! What an optimiser does to every parameter, in one pass each.

use rayon::prelude::*;

use super::numeric::vectorised;
use crate::backend::AdamWStep;

/// Elements per task.
const CHUNK: usize = 32 * 1024;

/// The new parameter, first and second moment.
pub fn adamw(
    parameter: &[f32],
    gradient: &[f32],
    [first, second]: [&[f32]; 2],
    step: AdamWStep,
) -> [Vec<f32>; 3] {
    let mut out = [parameter.to_vec(), first.to_vec(), second.to_vec()];
    let [parameters, firsts, seconds] = &mut out;
    parameters
        .par_chunks_mut(CHUNK)
        .zip(firsts.par_chunks_mut(CHUNK))
        .zip(seconds.par_chunks_mut(CHUNK))
        .zip(gradient.par_chunks(CHUNK))
        .for_each(|(((parameter, first), second), gradient)| {
            vectorised(
                #[inline(always)]
                || adamw_chunk(parameter, first, second, gradient, step),
            )
        });
    out
}

#[inline(always)]
fn adamw_chunk(
    parameter: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[f32],
    step: AdamWStep,
) {
    let AdamWStep { gradient_factor, beta1, beta2, step_size, second_correction, epsilon, decay } = step;
    let (factor, decay, step_size) = (gradient_factor as f32, decay as f32, step_size as f32);
    // What is left of 1 is small, and would lose most of its digits as a difference in float32.
    let (rest1, rest2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
    let (beta1, beta2, epsilon) = (beta1 as f32, beta2 as f32, epsilon as f32);
    let correction = 1.0 / second_correction as f32;
    for (((p, m), v), g) in parameter.iter_mut().zip(first).zip(second).zip(gradient) {
        let g = g * factor;
        *m = beta1 * *m + rest1 * g;
        *v = beta2 * *v + rest2 * g * g;
        *p = *p * decay - step_size * *m / (v.sqrt() * correction + epsilon);
    }
}

pub fn blend(a: &[f32], b: &[f32], weight: f64) -> Vec<f32> {
    let (keep, weight) = ((1.0 - weight) as f32, weight as f32);
    let mut out = vec![0.0; a.len()];
    out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((out, a), b)| {
        vectorised(
            #[inline(always)]
            || {
                for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                    *out = keep * a + weight * b;
                }
            },
        )
    });
    out
}
