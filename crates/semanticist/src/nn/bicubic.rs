//! A square grid of vectors on a grid of another side, as a product with constant matrices: gradients
//! pass through it.
//!
//! Not for images, whose resampling is Pillow's (`image`): antialiased, with another cubic.

use burn::tensor::{Device, Tensor, TensorData};

/// Keys' cubic as PyTorch has it; Pillow's has -0.5.
const A: f64 = -0.75;

/// Vectors of `side`² places, row by row, for `new`² places: bicubic, without antialiasing, the
/// corners not aligned, the border repeated. As
/// `torch.nn.functional.interpolate(…, mode="bicubic", align_corners=False)`, which the published code
/// uses. A grid that has the new side already is returned as it is.
///
/// # Shapes
/// `[B, side², W]` -> `[B, new², W]`
///
/// # Panics
/// If the grid is not of `side`² places.
pub fn resize_grid(grid: Tensor<3>, side: usize, new: usize) -> Tensor<3> {
    let [b, count, width] = grid.dims();
    assert_eq!(count, side * side, "vectors of a square grid");
    if side == new {
        return grid;
    }
    let weights = weights(side, new, &grid.device()); // [1, new, side]
    let rows = grid.reshape([b, side, side * width]);
    let rows = weights.clone().matmul(rows); // [B, new, side W]
    let columns = rows.reshape([b * new, side, width]);
    weights.matmul(columns).reshape([b, new * new, width])
}

/// How much of each old place along one axis is in each new one: `[1, new, side]`.
fn weights(side: usize, new: usize, device: &Device) -> Tensor<3> {
    let scale = side as f64 / new as f64;
    let mut weights = vec![0f64; new * side];
    for (place, weights) in weights.chunks_exact_mut(side).enumerate() {
        let center = (place as f64 + 0.5) * scale - 0.5;
        for tap in 0..4 {
            let at = center.floor() - 1.0 + f64::from(tap);
            let source = at.clamp(0.0, (side - 1) as f64) as usize;
            weights[source] += cubic((center - at).abs());
        }
    }
    let weights: Vec<f32> = weights.into_iter().map(|weight| weight as f32).collect();
    Tensor::from_data(TensorData::new(weights, [1, new, side]), device)
}

fn cubic(distance: f64) -> f64 {
    match distance {
        x if x <= 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::noise::Noise;

    #[derive(Deserialize)]
    struct Recording {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        side: usize,
        new: usize,
        grid: Vec<f32>,
        resized: Vec<f32>,
    }

    /// Recorded by `scripts/record_positions.py`.
    #[test]
    fn grids_are_those_of_pytorch() {
        let recording = include_str!("../../tests/data/positions.json");
        let Recording { cases } = serde_json::from_str(recording).unwrap();
        assert_eq!(cases.len(), 6);
        for Case { side, new, grid, resized } in cases {
            let grid = TensorData::new(grid, [1, side * side, 2]);
            let found = resize_grid(Tensor::from_data(grid, &Device::flex()), side, new);
            assert_eq!(found.dims(), [1, new * new, 2]);
            let found = found.into_data().try_to_vec::<f32>().unwrap();
            let worst = found.iter().zip(&resized).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-6, "{side} to {new}: off by {worst}");
        }
    }

    #[test]
    fn samples_do_not_mix_and_the_same_side_changes_nothing() {
        let grids = Noise::seeded(0).normal([2, 9, 3], &Device::flex());
        let second = grids.clone().narrow(0, 1, 1);
        let both = resize_grid(grids.clone(), 3, 4);
        assert_eq!(both.narrow(0, 1, 1).into_data(), resize_grid(second, 3, 4).into_data());
        assert_eq!(resize_grid(grids.clone(), 3, 3).into_data(), grids.into_data());
    }

    /// Whatever the size, every new place is a mean of old ones, whose weights add up to 1.
    #[test]
    fn gradients_reach_the_old_places() {
        let device = Device::flex().autodiff();
        let grid = Noise::seeded(1).normal([2, 9, 3], &device).require_grad();
        let gradients = resize_grid(grid.clone(), 3, 5).sum().backward();
        let found = grid.grad(&gradients).unwrap();
        let total = found.sum().into_scalar::<f32>();
        assert!((total - (2 * 25 * 3) as f32).abs() < 1e-3, "{total}");
    }
}
