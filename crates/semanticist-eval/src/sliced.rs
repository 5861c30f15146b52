//! How far two sets of features are from one another along random lines.

use burn::tensor::{Device, Tensor};
use semanticist::Noise;

/// Lines that the distance is averaged over.
pub const LINES: usize = 1024;

/// Lines whose projections are in memory at once.
const TOGETHER: usize = 128;

/// The sliced squared Wasserstein distance times the number of features: the mean over random lines of what it costs to carry the
/// projections of one set to those of the other (Rabin et al., 2011). Sets that differ by a shift are apart by its square, as in a
/// Fréchet distance. No covariance is estimated, so that few pictures serve (Berthet et al., 2026, have it with 1,000 to 5,000 in
/// the features of Inception-v3, as MIND); two sets of one distribution are apart by what chance gives, which falls with their size.
///
/// # Shapes
/// `[N, D]`, `[M, D]`
///
/// # Panics
/// If a set is empty.
pub fn sliced_distance(a: &Tensor<2>, b: &Tensor<2>, seed: u64) -> f64 {
    let ([n, dimensions], [m, _]) = (a.dims(), b.dims());
    let mut noise = Noise::seeded(seed);
    let device: Device = a.device();
    let mut total = 0.0;
    for first in (0..LINES).step_by(TOGETHER) {
        let lines: Tensor<2> = noise.normal([TOGETHER.min(LINES - first), dimensions], &device);
        let lengths = lines.clone().square().sum_dim(1).sqrt();
        let lines = (lines / lengths).transpose();
        let projected = |rows: &Tensor<2>| -> Vec<f32> {
            rows.clone().matmul(lines.clone()).transpose().into_data().iter().collect()
        };
        let (a, b) = (projected(a), projected(b));
        total += a.chunks(n).zip(b.chunks(m)).map(|(a, b)| transport(sorted(a), sorted(b))).sum::<f64>();
    }
    total / LINES as f64 * dimensions as f64
}

fn sorted(values: &[f32]) -> Vec<f32> {
    let mut values = values.to_vec();
    values.sort_unstable_by(f32::total_cmp);
    values
}

/// The mean square of how far the quantiles of two sorted lists are apart.
fn transport(a: Vec<f32>, b: Vec<f32>) -> f64 {
    let (n, m) = (a.len(), b.len());
    let (mut i, mut j, mut at, mut total) = (0, 0, 0, 0.0);
    // The quantiles are steps, at multiples of 1/n and 1/m; counted in units of 1/nm.
    while i < n && j < m {
        let next = ((i + 1) * m).min((j + 1) * n);
        total += (f64::from(a[i]) - f64::from(b[j])).powi(2) * (next - at) as f64;
        at = next;
        i += usize::from(at == (i + 1) * m);
        j += usize::from(at == (j + 1) * n);
    }
    total / (n * m) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(count: usize, dimensions: usize, seed: u64) -> Tensor<2> {
        Noise::seeded(seed).normal([count, dimensions], &Device::flex())
    }

    #[test]
    fn quantiles_of_lists_of_any_length_are_carried_to_one_another() {
        assert_eq!(transport(vec![0.0, 1.0], vec![2.0, 5.0]), (4.0 + 16.0) / 2.0);
        // Each of three thirds, against halves: 1/3 of it at (0, 0), 1/6 at (1, 0), 1/6 at (1, 6), 1/3 at (2, 6).
        let expected = (0.0 / 3.0 + 1.0 / 6.0) + (25.0 / 6.0 + 16.0 / 3.0);
        assert!((transport(vec![0.0, 1.0, 2.0], vec![0.0, 6.0]) - expected).abs() < 1e-12);
    }

    #[test]
    fn sets_are_apart_by_the_square_of_a_shift_and_not_by_how_often_they_are_told() {
        let (a, shift) = (drawn(50, 6, 1), drawn(1, 6, 2));
        let expected: f64 = shift.clone().square().sum().into_scalar::<f32>().into();
        let found = sliced_distance(&a, &(a.clone() + shift), 3);
        // Of 1024 lines: the mean of squares of cosines is known to about 5 %.
        assert!((found / expected - 1.0).abs() < 0.15, "{found} {expected}");
        let twice = Tensor::cat(vec![a.clone(), a.clone()], 0);
        assert!(sliced_distance(&a, &twice, 3) < 1e-9);
        // On one axis there is one line.
        let (a, b) = (drawn(40, 1, 4), drawn(40, 1, 5));
        let column = |x: &Tensor<2>| sorted(&x.clone().into_data().iter().collect::<Vec<f32>>());
        let expected = transport(column(&a), column(&b));
        assert!((sliced_distance(&a, &b, 6) - expected).abs() < 1e-6 * (1.0 + expected));
    }

    #[test]
    fn sets_of_one_distribution_come_together_and_others_do_not() {
        let apart = |count| sliced_distance(&drawn(count, 8, 1), &drawn(count, 8, 2), 3);
        assert!(apart(800) < apart(100) / 3.0, "{} {}", apart(800), apart(100));
        // Twice as wide: (2 - 1)² for each of 8 axes.
        let wider = sliced_distance(&drawn(800, 8, 1), &(drawn(800, 8, 2) * 2.0), 3);
        assert!((wider - 8.0).abs() < 1.5, "{wider}");
    }
}
