//! What an optimiser does to every parameter, in one pass each.

use rayon::prelude::*;

use super::numeric::{self, vectorised};
use crate::backend::AdamWStep;

/// Elements per task.
const CHUNK: usize = 32 * 1024;

/// Makes a parameter, its first and its second moment the new ones.
pub fn adamw(parameter: &mut [f32], gradient: &[f32], [first, second]: [&mut [f32]; 2], step: AdamWStep) {
    assert_eq!([gradient.len(), first.len(), second.len()], [parameter.len(); 3], "numbers of one parameter");
    parameter
        .par_chunks_mut(CHUNK)
        .zip(first.par_chunks_mut(CHUNK))
        .zip(second.par_chunks_mut(CHUNK))
        .zip(gradient.par_chunks(CHUNK))
        .for_each(|(((parameter, first), second), gradient)| {
            vectorised(
                #[inline(always)]
                || adamw_chunk(parameter, first, second, gradient, step),
            )
        });
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

/// Makes `a` the mean of both.
pub fn blend(a: &mut [f32], b: &[f32], weight: f64) {
    assert_eq!(a.len(), b.len(), "numbers of one parameter");
    let (keep, weight) = ((1.0 - weight) as f32, weight as f32);
    a.par_chunks_mut(CHUNK).zip(b.par_chunks(CHUNK)).for_each(|(a, b)| {
        vectorised(
            #[inline(always)]
            || {
                for (a, &b) in a.iter_mut().zip(b) {
                    *a = keep * *a + weight * b;
                }
            },
        )
    });
}

/// The sum of the squares, in parts of fixed size so that it does not depend on the threads.
pub fn square_sum(x: &[f32]) -> f64 {
    let square = |chunk: &[f32]| {
        vectorised(
            #[inline(always)]
            || f64::from(numeric::sum(chunk, |v| v * v)),
        )
    };
    x.par_chunks(CHUNK).map(square).collect::<Vec<_>>().into_iter().sum()
}
