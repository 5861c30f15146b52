//! Convolutions as matrix products with gathered neighbourhoods, a block at a time, so that the
//! copies of the image, nine for 3×3 pixels, never exist at once.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;
use rayon::prelude::*;

use super::linear::{self, Strided, product, repeated};
use super::{contiguous, tensor};
use crate::convolution::{Convolution, Stride};
use crate::profile::timed;

/// Positions of a neighbourhood of 3×3.
const TAPS: usize = 9;
/// Numbers in the neighbourhoods of a block, which one thread gathers and multiplies: half of a
/// second-level cache of 2 MiB, in which they are still when they are multiplied.
const BLOCK: usize = 256 * 1024;
/// Positions of a block at least: with fewer, arranging the weights anew for each takes too long.
const LEAST: usize = 128;
/// Positions per product of gradients, which all threads share. Fixed, as blocks are, so that results
/// do not depend on the number of threads.
const SHARED: usize = 2048;
/// Positions whose neighbourhoods one thread gathers at a time.
const TASK: usize = 64;

impl Convolution for Flex {
    fn convolve_any(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        stride: usize,
        zeros: [usize; 2],
    ) -> FlexTensor {
        timed("convolution", || {
            let (x, weight, bias) = (contiguous(x), contiguous(weight), contiguous(bias));
            let [b, h, w, inputs] = x.layout().shape().dims();
            let [outputs, rows, columns, _] = weight.layout().shape().dims();
            let target = [(h + 2 * zeros[0] - rows) / stride + 1, (w + 2 * zeros[1] - columns) / stride + 1];
            let window = Window {
                source: [h, w, inputs],
                target,
                kernel: [rows, columns],
                stride,
                before: zeros,
                spread: 1,
            };
            let y = forward(x.storage(), weight.storage(), Some(bias.storage()), window);
            tensor(y, Shape::new([b, target[0], target[1], outputs]))
        })
    }

    fn convolve(x: FlexTensor, weight: FlexTensor, stride: Stride) -> FlexTensor {
        convolve(x, weight, None, stride)
    }

    fn convolve_biased(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, stride: Stride) -> FlexTensor {
        convolve(x, weight, Some(bias), stride)
    }

    fn convolve_backward_input(
        x: FlexTensor,
        weight: FlexTensor,
        grad: FlexTensor,
        stride: Stride,
    ) -> FlexTensor {
        timed("convolution, backward to input", || {
            let (weight, grad) = (contiguous(weight), contiguous(grad));
            let [b, h, w, inputs] = x.layout().shape().dims();
            let [_, rows, columns, outputs] = grad.layout().shape().dims();
            // Each input is met by the outputs whose neighbourhood it lies in: a convolution of the
            // gradient, spread by the stride, with the kernels turned round.
            let window = Window {
                source: [rows, columns, outputs],
                target: [h, w],
                kernel: [3, 3],
                stride: 1,
                before: [2 - stride.before(); 2],
                spread: stride.positions(),
            };
            let turned = turned(weight.storage(), inputs);
            let d_x = forward(grad.storage(), &turned, None, window);
            tensor(d_x, Shape::new([b, h, w, inputs]))
        })
    }

    fn convolve_backward_weight(
        x: FlexTensor,
        weight: FlexTensor,
        grad: FlexTensor,
        stride: Stride,
    ) -> FlexTensor {
        timed("convolution, backward to weights", || {
            let (x, grad) = (contiguous(x), contiguous(grad));
            let [_, h, w, inputs] = x.layout().shape().dims();
            let [_, rows, columns, outputs] = grad.layout().shape().dims();
            let window = Window {
                source: [h, w, inputs],
                target: [rows, columns],
                kernel: [3, 3],
                stride: stride.positions(),
                before: [stride.before(); 2],
                spread: 1,
            };
            let d_weight = backward_weight(x.storage(), grad.storage(), outputs, window);
            tensor(d_weight, weight.layout().shape().clone())
        })
    }
}

fn convolve(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>, stride: Stride) -> FlexTensor {
    timed("convolution", || {
        let (x, weight, bias) = (contiguous(x), contiguous(weight), bias.map(contiguous));
        let [b, h, w, inputs] = x.layout().shape().dims();
        let outputs = weight.layout().shape()[0];
        let s = stride.positions();
        let window = Window {
            source: [h, w, inputs],
            target: [h / s, w / s],
            kernel: [3, 3],
            stride: s,
            before: [stride.before(); 2],
            spread: 1,
        };
        let bias = bias.as_ref().map(|bias| bias.storage());
        let y = forward(x.storage(), &by_tap(weight.storage(), inputs), bias, window);
        tensor(y, Shape::new([b, h / s, w / s, outputs]))
    })
}

/// How a position of the target meets its neighbourhood in the source.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// Rows, columns, channels.
    source: [usize; 3],
    /// Rows, columns.
    target: [usize; 2],
    /// Rows and columns of a neighbourhood.
    kernel: [usize; 2],
    /// How far neighbourhoods are apart.
    stride: usize,
    /// Zeros before the first row and the first column.
    before: [usize; 2],
    /// How far the source's positions are apart; zeros lie between.
    spread: usize,
}

impl Window {
    /// Numbers in a neighbourhood.
    fn width(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.source[2]
    }

    /// Whether a neighbourhood is the position itself, so that nothing has to be gathered.
    fn is_point(&self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && self.spread == 1 && self.before == [0, 0]
    }

    /// The row (axis 0) or column (1) of the source for tap `tap` at `position`, if it is not padding.
    fn index(&self, axis: usize, position: usize, tap: usize) -> Option<usize> {
        let spread = (position * self.stride + tap).checked_sub(self.before[axis])?;
        let there = spread.is_multiple_of(self.spread) && spread / self.spread < self.source[axis];
        there.then(|| spread / self.spread)
    }

    /// The neighbourhoods of the positions from `first` on, in parallel.
    fn gather_block(&self, x: &[f32], first: usize, out: &mut [f32]) {
        out.par_chunks_mut(TASK * self.width())
            .enumerate()
            .for_each(|(task, out)| self.gather(x, first + task * TASK, out));
    }

    /// Writes the neighbourhoods of the positions from `first` on, which count through all images: a
    /// vector of channels for each tap.
    fn gather(&self, x: &[f32], first: usize, out: &mut [f32]) {
        let [rows, columns, channels] = self.source;
        let [target_rows, target_columns] = self.target;
        let across = self.kernel[1];
        for (i, out) in out.chunks_exact_mut(self.width()).enumerate() {
            let position = first + i;
            let (line, column) = (position / target_columns, position % target_columns);
            let (image, row) = (line / target_rows, line % target_rows);
            // Neighbours side by side, none of them padding, are copied together.
            let whole =
                self.index(1, column, 0).filter(|start| self.spread == 1 && start + across <= columns);
            for (tap_row, out) in out.chunks_exact_mut(across * channels).enumerate() {
                let Some(row) = self.index(0, row, tap_row) else {
                    out.fill(0.0);
                    continue;
                };
                let line = &x[(image * rows + row) * columns * channels..][..columns * channels];
                if let Some(start) = whole {
                    out.copy_from_slice(&line[start * channels..][..across * channels]);
                    continue;
                }
                for (tap, out) in out.chunks_exact_mut(channels).enumerate() {
                    match self.index(1, column, tap) {
                        Some(column) => out.copy_from_slice(&line[column * channels..][..channels]),
                        None => out.fill(0.0),
                    }
                }
            }
        }
    }
}

/// `[O, I, 3, 3]` -> `[O, 9, I]`.
fn by_tap(weight: &[f32], inputs: usize) -> Vec<f32> {
    let mut out = vec![0.0; weight.len()];
    let kernels = weight.par_chunks_exact(TAPS * inputs);
    out.par_chunks_exact_mut(TAPS * inputs).zip(kernels).for_each(|(out, kernel)| {
        for (tap, out) in out.chunks_exact_mut(inputs).enumerate() {
            for (out, taps) in out.iter_mut().zip(kernel.chunks_exact(TAPS)) {
                *out = taps[tap];
            }
        }
    });
    out
}

/// `[O, 9, I]` -> `[O, I, 3, 3]`.
fn by_channel(weight: &[f32], inputs: usize) -> Vec<f32> {
    let mut out = vec![0.0; weight.len()];
    let kernels = weight.par_chunks_exact(TAPS * inputs);
    out.par_chunks_exact_mut(TAPS * inputs).zip(kernels).for_each(|(out, kernel)| {
        for (channel, out) in out.chunks_exact_mut(TAPS).enumerate() {
            for (tap, out) in out.iter_mut().enumerate() {
                *out = kernel[tap * inputs + channel];
            }
        }
    });
    out
}

/// `[O, I, 3, 3]` -> `[I, 9, O]`, the taps from last to first.
fn turned(weight: &[f32], inputs: usize) -> Vec<f32> {
    let outputs = weight.len() / (TAPS * inputs);
    let mut out = vec![0.0; weight.len()];
    out.par_chunks_exact_mut(TAPS * outputs).enumerate().for_each(|(input, out)| {
        for (tap, out) in out.chunks_exact_mut(outputs).enumerate() {
            for (output, out) in out.iter_mut().enumerate() {
                *out = weight[(output * inputs + input) * TAPS + TAPS - 1 - tap];
            }
        }
    });
    out
}

/// `weight` is `[outputs, rows and columns of the kernel, channels of the source]`.
fn forward(x: &[f32], weight: &[f32], bias: Option<&[f32]>, window: Window) -> Vec<f32> {
    let width = window.width();
    if window.is_point() {
        return linear::forward(x, weight, bias, width);
    }
    let outputs = weight.len() / width;
    let [rows, columns, channels] = window.source;
    let images = x.len() / (rows * columns * channels);
    let positions = images * window.target[0] * window.target[1];
    let mut y = repeated(bias, positions, outputs);
    let together = (BLOCK / width).max(LEAST).next_multiple_of(TASK);
    let block = |patches: &mut Vec<f32>, (block, y): (usize, &mut [f32])| {
        let count = y.len() / outputs;
        patches.resize(together * width, 0.0);
        let patches = &mut patches[..count * width];
        window.gather(x, block * together, patches);
        let left = Strided { start: patches.as_ptr(), rows: width as isize, columns: 1 };
        let right = Strided { start: weight.as_ptr(), rows: 1, columns: width as isize };
        let out = Strided { start: y.as_mut_ptr(), rows: outputs as isize, columns: 1 };
        let sizes = [count, outputs, width];
        // SAFETY: y holds [count, outputs], patches [count, width] and weight [outputs, width].
        unsafe { product(sizes, out, bias.map(|_| 1.0), left, right, 1.0, gemm::Parallelism::None) };
    };
    y.par_chunks_mut(together * outputs).enumerate().for_each_init(Vec::new, block);
    y
}

/// `[outputs, channels of the source, 3, 3]`.
fn backward_weight(x: &[f32], grad: &[f32], outputs: usize, window: Window) -> Vec<f32> {
    let (width, positions) = (window.width(), grad.len() / outputs);
    let mut d_weight = vec![0.0; outputs * width];
    let mut patches = vec![0.0f32; SHARED.min(positions) * width];
    for (block, grad) in grad.chunks(SHARED * outputs).enumerate() {
        let count = grad.len() / outputs;
        let patches = &mut patches[..count * width];
        window.gather_block(x, block * SHARED, patches);
        let left = Strided { start: grad.as_ptr(), rows: 1, columns: outputs as isize };
        let right = Strided { start: patches.as_ptr(), rows: width as isize, columns: 1 };
        let out = Strided { start: d_weight.as_mut_ptr(), rows: width as isize, columns: 1 };
        let sizes = [outputs, width, count];
        // SAFETY: grad holds [count, outputs], patches [count, width] and d_weight [outputs, width].
        unsafe { product(sizes, out, Some(1.0), left, right, 1.0, gemm::Parallelism::Rayon(0)) };
    }
    by_channel(&d_weight, window.source[2])
}
