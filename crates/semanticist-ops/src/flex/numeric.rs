//! Scalar functions without branches or library calls, so that loops over them become vectors, and
//! the switch that picks the vector width.

#![expect(
    clippy::approx_constant,
    clippy::excessive_precision,
    reason = "coefficients stand as they were published and fitted, not as the constants that they resemble"
)]

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

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

/// The error function; absolute error below 2e-7 (the rational approximation of Eigen and XLA).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let x = x.clamp(-3.832_506_8, 3.832_506_8);
    let z = x * x;
    let mut p = 2.290_506_6e-4f32;
    p = p * z + 3.408_291e-3;
    p = p * z + 5.095_569_5e-2;
    p = p * z + 1.852_083_2e-1;
    p = p * z + 1.128_379_1;
    let mut q = -1.179_160_3e-7f32;
    q = q * z + 2.354_796_6e-5;
    q = q * z + 1.017_962_5e-3;
    q = q * z + 1.407_047e-2;
    q = q * z + 1.109_850_5e-1;
    q = q * z + 4.974_692_5e-1;
    q = q * z + 1.0;
    x * p / q
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
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

#[inline(always)]
pub fn gelu_slope(x: f32) -> f32 {
    const DENSITY: f32 = 0.398_942_3; // 1 / √(2π)
    0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)) + x * DENSITY * exp(-0.5 * x * x)
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
    partial.iter().sum::<f32>() + rest.iter().map(|&v| f(v)).sum::<f32>()
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
    partial.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &v| m.max(v))
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
    partial.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(range: std::ops::Range<i32>, step: f32, f: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
        range
            .map(|i| i as f32 * step)
            .map(|x| (f64::from(f(x)) - exact(f64::from(x))).abs() / exact(f64::from(x)).abs().max(1e-2))
            .fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_exact_to_float32() {
        assert!(worst(-8600..8700, 0.01, exp, f64::exp) < 2e-7);
    }

    #[test]
    fn activations_are_exact_to_2e_6() {
        assert!(worst(-1000..1000, 0.01, silu, |x| x / (1.0 + (-x).exp())) < 2e-6);
        let tanh = |x: f64| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        };
        assert!(worst(-1000..1000, 0.01, gelu_tanh, tanh) < 2e-6);
        // Φ by Simpson's rule from 0, since std has no erf.
        let exact = |x: f64| {
            let n = 2000;
            let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let h = x / f64::from(n);
            let inner: f64 =
                (1..n).map(|i| if i % 2 == 1 { 4.0 } else { 2.0 } * density(f64::from(i) * h)).sum();
            x * (0.5 + (density(0.0) + inner + density(x)) * h / 3.0)
        };
        // 1 + erf cancels in the negative tail, where the result itself is nearly nothing.
        assert!(worst(-25..100, 0.08, gelu, exact) < 2e-6);
        assert!(worst(-100..100, 0.08, gelu, exact) < 1e-4);
    }
}
