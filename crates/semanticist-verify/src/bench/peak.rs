//! The machine's own speed: a large square matrix product.

use std::time::Instant;

use burn::tensor::Device;
use semanticist::{Noise, Precision};
use semanticist_ops::{self as ops, Answer};

use super::Machine;

const SIDE: usize = 1536;

/// Waits for what the device was asked to do; the processor has done it already.
pub(super) fn finish(device: &Device) {
    device.sync().expect("a device that was given work can be waited for");
}

/// 10⁹ operations per second of the fastest of a few products.
pub fn gflops(Machine { device, precision }: Machine) -> f64 {
    let mut noise = Noise::seeded(0);
    let left = noise.normal([SIDE, SIDE], device);
    let right = noise.normal([SIDE, SIDE], device);
    let [left, right] = match precision {
        Precision::Float32 => [left, right],
        Precision::Bfloat16 => [left, right].map(ops::to_bfloat16),
    };
    finish(device);
    let seconds = (0..4).map(|_| {
        let begun = Instant::now();
        ops::linear(left.clone(), right.clone(), None, Answer::Float32);
        finish(device);
        begun.elapsed().as_secs_f64()
    });
    2.0 * (SIDE as f64).powi(3) / seconds.fold(f64::INFINITY, f64::min) / 1e9
}
