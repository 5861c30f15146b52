//! Pooling, a row of the result at a time.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;
use rayon::prelude::*;

use super::numeric::vectorised;
use super::{contiguous, tensor};
use crate::pooling::{Pooling, Pools};
use crate::profile::timed;

impl Pools for Flex {
    fn pool(x: FlexTensor, pooling: Pooling, side: usize, stride: usize, beyond: usize) -> FlexTensor {
        timed("pooling", || {
            let x = contiguous(x);
            let [b, h, w, channels] = x.layout().shape().dims();
            let [rows, columns] = [h, w].map(|length| (length + 2 * beyond - side) / stride + 1);
            let mut y = vec![0.0; b * rows * columns * channels];
            let values: &[f32] = x.storage();
            y.par_chunks_mut(columns * channels).enumerate().for_each(|(line, y)| {
                let (image, row) = (line / rows, line % rows);
                let image = &values[image * h * w * channels..][..h * w * channels];
                // Which rows or columns of the image a position sees.
                let seen = |position: usize, length: usize| {
                    let start = position * stride;
                    start.saturating_sub(beyond)..(start + side - beyond).min(length)
                };
                vectorised(
                    #[inline(always)]
                    || {
                        for (column, y) in y.chunks_exact_mut(channels).enumerate() {
                            let mut count = 0;
                            for row in seen(row, h) {
                                for column in seen(column, w) {
                                    let x = &image[(row * w + column) * channels..][..channels];
                                    match (count, pooling) {
                                        (0, _) => y.copy_from_slice(x),
                                        (_, Pooling::Max) => {
                                            y.iter_mut().zip(x).for_each(|(y, x)| *y = y.max(*x));
                                        }
                                        (_, Pooling::Average) => {
                                            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
                                        }
                                    }
                                    count += 1;
                                }
                            }
                            if pooling == Pooling::Average {
                                let share = 1.0 / count as f32;
                                y.iter_mut().for_each(|y| *y *= share);
                            }
                        }
                    },
                );
            });
            tensor(y, Shape::new([b, rows, columns, channels]))
        })
    }
}
