//! The machine's own speed: a large square matrix product.

use std::time::Instant;

use burn::tensor::Device;
use semanticist::Noise;
use semanticist_ops as ops;

const SIDE: usize = 1536;

/// Waits for what the device was asked to do; the processor has done it already.
pub(super) fn finish(device: &Device) {
    device.sync().expect("a device that was given work can be waited for");
}

/// 10⁹ operations per second of the fastest of a few products.
pub fn gflops(device: &Device) -> f64 {
    let mut noise = Noise::seeded(0);
    let left = noise.normal([SIDE, SIDE], device);
    let right = noise.normal([SIDE, SIDE], device);
    finish(device);
    let seconds = (0..4).map(|_| {
        let begun = Instant::now();
        ops::linear(left.clone(), right.clone(), None);
        finish(device);
        begun.elapsed().as_secs_f64()
    });
    2.0 * (SIDE as f64).powi(3) / seconds.fold(f64::INFINITY, f64::min) / 1e9
}
