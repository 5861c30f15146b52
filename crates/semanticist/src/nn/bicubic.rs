//! A square grid of vectors on a grid of another side, as a product with constant matrices: gradients
//! pass through it.
//!
//! Not for files, whose resampling is Pillow's (`image`).

use burn::tensor::{Device, Tensor, TensorData};

/// Keys' cubic as PyTorch has it.
const SHARP: f64 = -0.75;

/// The same where PyTorch smooths, as Pillow does.
const SMOOTH: f64 = -0.5;

/// How a grid is resized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GridResize {
    /// As [`resize_grid`] does.
    Plain,
    /// As if the new side were longer by so much: `scale_factor=(new + offset) / side`.
    Offset(f64),
    /// `antialias=True`: a smaller grid is a mean of more of the larger one.
    Antialiased,
}

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
    resize_grid_as(grid, side, new, GridResize::Plain)
}

/// [`resize_grid`] in one of PyTorch's other ways.
///
/// # Panics
/// If the grid is not of `side`² places.
pub fn resize_grid_as(grid: Tensor<3>, side: usize, new: usize, how: GridResize) -> Tensor<3> {
    let [b, count, width] = grid.dims();
    assert_eq!(count, side * side, "vectors of a square grid");
    if side == new {
        return grid;
    }
    let weights = weights(side, new, how, &grid.device()); // [1, new, side]
    let rows = grid.reshape([b, side, side * width]);
    let rows = weights.clone().matmul(rows); // [B, new, side W]
    let columns = rows.reshape([b * new, side, width]);
    weights.matmul(columns).reshape([b, new * new, width])
}

/// How much of each old place along one axis is in each new one: `[1, new, side]`.
fn weights(side: usize, new: usize, how: GridResize, device: &Device) -> Tensor<3> {
    let mut weights = vec![0f64; new * side];
    for (place, weights) in weights.chunks_exact_mut(side).enumerate() {
        match how {
            GridResize::Plain => four_taps(place, side as f64 / new as f64, weights),
            GridResize::Offset(offset) => four_taps(place, side as f64 / (new as f64 + offset), weights),
            GridResize::Antialiased => wide_taps(place, side as f64 / new as f64, weights),
        }
    }
    let weights: Vec<f32> = weights.into_iter().map(|weight| weight as f32).collect();
    Tensor::from_data(TensorData::new(weights, [1, new, side]), device)
}

/// The four old places around the new one, those beyond the border being the border.
fn four_taps(place: usize, scale: f64, weights: &mut [f64]) {
    let center = (place as f64 + 0.5) * scale - 0.5;
    for tap in 0..4 {
        let at = center.floor() - 1.0 + f64::from(tap);
        let source = at.clamp(0.0, (weights.len() - 1) as f64) as usize;
        weights[source] += cubic((center - at).abs(), SHARP);
    }
}

/// All old places within the cubic, which is as wide as the new places are apart; none beyond the border.
fn wide_taps(place: usize, scale: f64, weights: &mut [f64]) {
    let stretch = scale.max(1.0);
    let center = (place as f64 + 0.5) * scale - 0.5;
    for (at, weight) in weights.iter_mut().enumerate() {
        *weight = cubic((center - at as f64).abs() / stretch, SMOOTH);
    }
    let total: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
}

fn cubic(distance: f64, a: f64) -> f64 {
    match distance {
        x if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
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
