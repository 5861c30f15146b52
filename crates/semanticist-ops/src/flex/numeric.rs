//! Scalar functions without branches or library calls, so that loops over them become vectors, and
//! the switch that picks the vector width.

#![expect(clippy::excessive_precision, reason = "coefficients stand as they were published and fitted")]

use std::f32::consts::LOG2_E;

/// Runs a loop compiled for the processor at hand.
#[inline(always)]
pub fn vectorised<R>(run: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(run)
}

/// eˣ for x in [-87, 88], clamped outside; relative error below 1e-7 (Cephes expf).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer, which then stands in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4;
    let r = r - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4f32;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.000_000_1e-1;
    let y = p * (r * r) + r + 1.0;
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// The standard normal distribution's upper tail 1 - Φ(x) and density, at x ≥ 0.
///
/// The tail is the bell times t P(t) with t = 1 / (1 + 0.31 x); P is of degree 9, fitted for the
/// least relative error on [0, 13], which is 3e-7 in float32 (1 + erf would cancel there).
#[inline(always)]
fn normal_tail(x: f32) -> (f32, f32) {
    const DENSITY: f32 = 0.398_942_3; // 1 / √(2π)
    let t = 1.0 / (1.0 + 0.31 * x);
    let mut p = -0.019_080_64f32;
    p = p * t + 0.093_983_315;
    p = p * t - 0.161_636_41;
    p = p * t + 0.089_510_83;
    p = p * t - 0.009_941_163;
    p = p * t + 0.059_085_935;
    p = p * t + 0.089_459_285;
    p = p * t + 0.111_191_414;
    p = p * t + 0.123_760_156;
    p = p * t + 0.123_667_26;
    let bell = exp(-0.5 * x * x);
    (p * t * bell, DENSITY * bell)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// 2 √(2/π) and the cubic's factor: tanh(u) = 2 σ(2u) - 1.
const TANH_SCALE: f32 = 1.595_769_1;
const TANH_CUBIC: f32 = 0.044_715;

#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    let (tail, _) = normal_tail(x.abs());
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

#[inline(always)]
pub fn gelu_slope(x: f32) -> f32 {
    let (tail, density) = normal_tail(x.abs());
    x * density + if x < 0.0 { tail } else { 1.0 - tail }
}

#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    x * sigmoid(TANH_SCALE * (x + TANH_CUBIC * x * x * x))
}

#[inline(always)]
pub fn gelu_tanh_slope(x: f32) -> f32 {
    let s = sigmoid(TANH_SCALE * (x + TANH_CUBIC * x * x * x));
    s + x * s * (1.0 - s) * TANH_SCALE * (1.0 + 3.0 * TANH_CUBIC * x * x)
}

#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

#[inline(always)]
pub fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s + x * s * (1.0 - s)
}

/// How many partial sums a reduction keeps, so that it can run in vectors.
pub const LANES: usize = 16;

/// The sum of partial sums, halved again and again: four additions wait for one another, not fifteen.
#[inline(always)]
pub fn total(mut partial: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            partial[i] += partial[i + half];
        }
    }
    partial[0]
}

/// The first [`LANES`] numbers of a slice; 0 for those that are not there.
#[inline(always)]
pub fn lanes<T: Copy + Default>(x: &[T]) -> [T; LANES] {
    if let Some(whole) = x.first_chunk() {
        return *whole;
    }
    let mut padded = [T::default(); LANES];
    padded[..x.len()].copy_from_slice(x);
    padded
}

/// Writes as many of `lanes` as there is room for.
#[inline(always)]
pub fn put<T: Copy>(to: &mut [T], lanes: [T; LANES]) {
    if let Some(whole) = to.first_chunk_mut() {
        *whole = lanes;
    } else {
        to.copy_from_slice(&lanes[..to.len()]);
    }
}

/// The sum of `f` over a slice, in [`LANES`] partial sums.
#[inline(always)]
pub fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut partial = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (p, &v) in partial.iter_mut().zip(chunk) {
            *p += f(v);
        }
    }
    total(partial) + rest.iter().map(|&v| f(v)).sum::<f32>()
}

/// The largest value of a slice.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut partial = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (p, &v) in partial.iter_mut().zip(chunk) {
            *p = p.max(v);
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            partial[i] = partial[i].max(partial[i + half]);
        }
    }
    rest.iter().fold(partial[0], |m, &v| m.max(v))
}

/// The inner product of two slices of equal length.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut partial = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for ((p, a), b) in partial.iter_mut().zip(a).zip(b) {
            *p += a * b;
        }
    }
    total(partial) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest relative error where the exact value is at least 1e-4.
    fn worst(range: std::ops::Range<i32>, step: f32, f: fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        range
            .map(|i| i as f32 * step)
            .map(|x| (f64::from(f(x)), exact(f64::from(x))))
            .map(|(found, exact)| (found - exact).abs() / exact.abs().max(1e-4))
            .fold(0.0, f64::max)
    }

    fn density(x: f64) -> f64 {
        (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }

    /// Φ by Simpson's rule, since std has no erf: the tail from x outwards, so that nothing cancels.
    fn normal(x: f64) -> f64 {
        let n = 2000;
        let (from, h) = (x.abs(), 12.0 / f64::from(n));
        let inner: f64 =
            (1..n).map(|i| if i % 2 == 1 { 4.0 } else { 2.0 } * density(from + f64::from(i) * h)).sum();
        let tail = (density(from) + inner + density(from + 12.0)) * h / 3.0;
        if x < 0.0 { tail } else { 1.0 - tail }
    }

    #[test]
    fn exp_is_exact_to_float32() {
        assert!(worst(-8600..8700, 0.01, exp, f64::exp) < 2e-7);
    }

    #[test]
    fn activations_and_their_slopes_are_exact_to_2e_6() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let u = |x: f64| 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        let du = |x: f64| 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
        let errors = [
            worst(-2000..1000, 0.01, silu, |x| x * sigmoid(x)),
            worst(-2000..1000, 0.01, gelu_tanh, |x| x * sigmoid(u(x))),
            worst(-100..100, 0.083, gelu, |x| x * normal(x)),
        ];
        assert!(errors.iter().all(|&error| error < 2e-6), "{errors:?}");
        // Slopes pass through 0, where a relative error means nothing: they are of order 1.
        let slope =
            |range: std::ops::Range<i32>, step: f32, f: fn(f32) -> f32, exact: &dyn Fn(f64) -> f64| {
                range
                    .map(|i| i as f32 * step)
                    .map(|x| (f64::from(f(x)) - exact(f64::from(x))).abs())
                    .fold(0.0, f64::max)
            };
        let errors = [
            slope(-2000..1000, 0.01, silu_slope, &|x| sigmoid(x) * (1.0 + x * sigmoid(-x))),
            slope(-2000..1000, 0.01, gelu_tanh_slope, &|x| {
                sigmoid(u(x)) * (1.0 + x * sigmoid(-u(x)) * du(x))
            }),
            slope(-100..100, 0.083, gelu_slope, &|x| normal(x) + x * density(x)),
        ];
        assert!(errors.iter().all(|&error| error < 2e-6), "{errors:?}");
    }
}
