//! Pooling with channels innermost: what a backend must do, and the same composed of Burn's pooling.

use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use crate::convolution::{channels_first, channels_last};

/// What becomes of the positions of a neighbourhood; those beyond the edges count for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The largest.
    Max,
    /// The mean.
    Average,
}

/// Pools neighbourhoods of `side × side` positions, with so many beyond each edge.
///
/// # Shapes
/// - `x`: `[B, H, W, C]`
/// - result: `[B, (H + 2 beyond - side) / s + 1, (W + 2 beyond - side) / s + 1, C]` with stride s, rounded down
///
/// # Panics
/// If neighbourhoods do not fit, or some would lie beyond the edges alone.
pub fn pool(x: Tensor<4>, pooling: Pooling, side: usize, stride: usize, beyond: usize) -> Tensor<4> {
    let [_, height, width, _] = x.dims();
    assert!(side <= height.min(width) + 2 * beyond, "{side}×{side} positions in {height}×{width}");
    assert!(beyond < side, "{beyond} positions beyond the edge for {side}×{side}");
    let x = x.into_dispatch();
    Tensor::from_dispatch(<Dispatch as Pools>::pool(x, pooling, side, stride, beyond))
}

#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub(crate) trait Pools: Backend {
    fn pool(
        x: FloatTensor<Self>,
        pooling: Pooling,
        side: usize,
        stride: usize,
        beyond: usize,
    ) -> FloatTensor<Self> {
        composed::<Self>(x, pooling, side, stride, beyond)
    }
}

impl<B: Pools, C: burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy> Pools
    for burn::backend::autodiff::Autodiff<B, C>
{
}

#[cfg(feature = "cube")]
impl Pools for burn::backend::Cube {}

pub(crate) fn composed<B: Backend>(
    x: FloatTensor<B>,
    pooling: Pooling,
    side: usize,
    stride: usize,
    beyond: usize,
) -> FloatTensor<B> {
    let x = channels_first::<B>(x);
    let (sides, strides, around) = ([side; 2], [stride; 2], [beyond; 2]);
    channels_last::<B>(match pooling {
        Pooling::Max => B::max_pool2d(x, sides, strides, around, [1, 1], false),
        Pooling::Average => B::avg_pool2d(x, sides, strides, around, false, false),
    })
}

#[cfg(test)]
mod tests {
    use burn::backend::{Flex, TensorMetadata, flex::FlexTensor};
    use burn::tensor::TensorData;

    use super::*;

    #[test]
    fn the_native_version_matches_the_composition() {
        for ([b, h, w, c], side, stride, beyond) in [
            ([2, 9, 7, 5], 3, 2, 0),
            ([1, 8, 8, 33], 3, 1, 1),
            ([2, 6, 4, 3], 2, 2, 0),
            ([1, 1, 2, 1], 3, 1, 1),
        ] {
            let count = b * h * w * c;
            // All below zero: what lies beyond the edges would be the largest.
            let values: Vec<f32> = (0..count).map(|i| ((i as f32) * 12.9898).sin() - 2.0).collect();
            let x = FlexTensor::from_data(TensorData::new(values, [b, h, w, c]));
            for pooling in [Pooling::Max, Pooling::Average] {
                let native = Flex::pool(x.clone(), pooling, side, stride, beyond);
                let reference = composed::<Flex>(x.clone(), pooling, side, stride, beyond);
                assert_eq!(native.shape(), reference.shape());
                let [native, reference] =
                    [native, reference].map(|x| x.into_data().try_to_vec::<f32>().unwrap());
                for (a, b) in native.iter().zip(&reference) {
                    assert!((a - b).abs() < 1e-6, "{pooling:?}: {a}, expected {b}");
                }
            }
        }
    }
}
