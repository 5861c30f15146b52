//! Learned positions of a square grid of patches, on a grid of another side.

use burn::tensor::{Tensor, TensorData};

/// Keys' cubic as PyTorch has it; Pillow's has -0.5.
const A: f64 = -0.75;

/// Positions of `side`² patches, row by row, for `new`² patches: bicubic, without antialiasing, the
/// corners not aligned, the border repeated. As
/// `torch.nn.functional.interpolate(…, mode="bicubic", align_corners=False)`, which the published code
/// uses.
///
/// # Shapes
/// `[1, side², W]` -> `[1, new², W]`
///
/// # Panics
/// If the positions are not `side`² rows.
pub(super) fn interpolate(positions: Tensor<3>, side: usize, new: usize) -> Tensor<3> {
    let [_, count, width] = positions.dims();
    assert_eq!(count, side * side, "positions of a square grid");
    let device = positions.device();
    let values = positions.into_data().convert::<f32>();
    let values = values.as_slice::<f32>().expect("the data was just converted to f32");
    let taps = taps(side, new);
    let mut resized = Vec::with_capacity(new * new * width);
    let mut sums = vec![0f64; width];
    for rows in &taps {
        for columns in &taps {
            sums.fill(0.0);
            for (row, row_weight) in rows {
                for (column, column_weight) in columns {
                    let source = &values[(row * side + column) * width..][..width];
                    let weight = row_weight * column_weight;
                    sums.iter_mut().zip(source).for_each(|(sum, &value)| *sum += weight * f64::from(value));
                }
            }
            resized.extend(sums.iter().map(|&sum| sum as f32));
        }
    }
    Tensor::from_data(TensorData::new(resized, [1, new * new, width]), &device)
}

/// For each new place along one axis, four old places and their weights.
fn taps(side: usize, new: usize) -> Vec<[(usize, f64); 4]> {
    let scale = side as f64 / new as f64;
    let places = (0..new).map(|place| (place as f64 + 0.5) * scale - 0.5);
    places
        .map(|center| {
            let first = center.floor() - 1.0;
            std::array::from_fn(|tap| {
                let at = first + tap as f64;
                (at.clamp(0.0, (side - 1) as f64) as usize, cubic((center - at).abs()))
            })
        })
        .collect()
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
    use burn::tensor::Device;
    use serde::Deserialize;

    use super::*;

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
    fn positions_are_those_of_pytorch() {
        let recording = include_str!("../../tests/data/positions.json");
        let Recording { cases } = serde_json::from_str(recording).unwrap();
        assert_eq!(cases.len(), 6);
        for Case { side, new, grid, resized } in cases {
            let grid = TensorData::new(grid, [1, side * side, 2]);
            let found = interpolate(Tensor::from_data(grid, &Device::flex()), side, new);
            assert_eq!(found.dims(), [1, new * new, 2]);
            let found = found.into_data().try_to_vec::<f32>().unwrap();
            let worst = found.iter().zip(&resized).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-6, "{side} to {new}: off by {worst}");
        }
    }
}
