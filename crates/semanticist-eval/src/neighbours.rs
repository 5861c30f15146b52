//! Two sets of pictures compared by what lies near what in the space of a feature network: the kernel distance, precision
//! and recall, and whether pictures lie suspiciously near to those that a model learnt from.

use burn::tensor::{Int, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Pairs of subsets that the kernel distance is averaged over, and how many pictures are in each at most: no more than half
/// of the smaller set, or they would hardly differ.
const SUBSETS: usize = 50;
const SUBSET: usize = 1000;

/// A picture belongs to a set if it is as near to one of its members as that member's so-many-th neighbour.
const NEIGHBOUR: usize = 3;

/// Rows whose distances from all others are in memory at once.
const ROWS: usize = 1024;

/// A kernel distance, and how it varies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KernelDistance {
    /// About 0 for sets of one distribution, and below it as often as above. Pictures that were made of the very images that
    /// they are compared with are a little nearer: they are no independent set.
    pub mean: f64,
    /// The standard deviation over subsets.
    pub deviation: f64,
}

/// The squared maximum mean discrepancy with the kernel `(x · y / D + 1)³`, without bias, averaged over random subsets
/// (Bińkowski et al., 2018, section 4; subsets as in torch-fidelity): KID, were the features those of Inception-v3.
///
/// # Shapes
/// `[N, D]`, `[M, D]`
///
/// # Panics
/// If a set has fewer than two rows.
pub fn kernel_distance(a: &Tensor<2>, b: &Tensor<2>, seed: u64) -> KernelDistance {
    let size = SUBSET.min(a.dims()[0].min(b.dims()[0]).div_ceil(2)).max(2);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut subset = |rows: &Tensor<2>| {
        let all = rows.dims()[0];
        let mut chosen: Vec<i64> = (0..all as i64).collect();
        (0..size).for_each(|at| chosen.swap(at, rng.random_range(at..all)));
        chosen.truncate(size);
        rows.clone().select(0, Tensor::<1, Int>::from_data(TensorData::new(chosen, [size]), &rows.device()))
    };
    let found: Vec<f64> = (0..SUBSETS).map(|_| discrepancy(subset(a), subset(b))).collect();
    let mean = found.iter().sum::<f64>() / SUBSETS as f64;
    let variance = found.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / SUBSETS as f64;
    KernelDistance { mean, deviation: variance.sqrt() }
}

/// Of two sets of equal size.
fn discrepancy(a: Tensor<2>, b: Tensor<2>) -> f64 {
    let [n, dimensions] = a.dims();
    let kernel = |x: &Tensor<2>, y: &Tensor<2>| {
        x.clone().matmul(y.clone().transpose()).div_scalar(dimensions as f32).add_scalar(1.0).powi_scalar(3)
    };
    // Rows are summed in f32 and their sums in f64.
    let total = |values: Tensor<2>| values.sum_dim(1).into_data().iter::<f64>().sum::<f64>();
    let own = |x: &Tensor<2>| {
        let lengths = x.clone().square().sum_dim(1).div_scalar(dimensions as f32).add_scalar(1.0);
        (total(kernel(x, x)) - total(lengths.powi_scalar(3))) / (n * (n - 1)) as f64
    };
    own(&a) + own(&b) - 2.0 * total(kernel(&a, &b)) / (n * n) as f64
}

/// How much of a set lies where another one does (Kynkäänniemi et al., 2019, eq. 1, with k = 3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecall {
    /// The share of pictures that lie among the originals, in `[0, 1]`.
    pub precision: f64,
    /// The share of originals that lie among the pictures, in `[0, 1]`.
    pub recall: f64,
}

/// # Shapes
/// `[N, D]`, `[M, D]`
///
/// # Panics
/// If a set has no more rows than neighbours are looked at, 3.
pub fn precision_recall(originals: &Tensor<2>, pictures: &Tensor<2>) -> PrecisionRecall {
    let share = |of: &Tensor<2>, among: &Tensor<2>| {
        let radii = radii(among);
        let inside = |row: &[f32]| row.iter().zip(&radii).any(|(distance, radius)| distance <= radius);
        each_row(of, among, |_, row| inside(row)).into_iter().filter(|inside| *inside).count() as f64
            / of.dims()[0] as f64
    };
    PrecisionRecall { precision: share(pictures, originals), recall: share(originals, pictures) }
}

/// The squared distance from each row to its third neighbour.
fn radii(rows: &Tensor<2>) -> Vec<f32> {
    assert!(rows.dims()[0] > NEIGHBOUR, "a set of more rows than neighbours");
    each_row(rows, rows, |at, row| {
        let mut others = row.to_vec();
        others.swap_remove(at);
        *others.select_nth_unstable_by(NEIGHBOUR - 1, f32::total_cmp).1
    })
}

/// The distance from each row to the nearest of `others`.
///
/// # Shapes
/// `[N, D]`, `[M, D]` → N numbers
///
/// # Panics
/// If there is no other.
pub fn nearest(rows: &Tensor<2>, others: &Tensor<2>) -> Vec<f64> {
    assert!(others.dims()[0] > 0, "there is something to be near to");
    let least = |row: &[f32]| row.iter().copied().fold(f32::INFINITY, f32::min);
    each_row(rows, others, |_, row| f64::from(least(row)).sqrt())
}

/// Of how many pictures the nearest training image is nearer than it is of 99 of 100 images that the model did not learn from:
/// a hundredth, if nothing is copied.
///
/// # Panics
/// If a list is empty.
pub fn copied(pictures: &[f64], held_out: &[f64]) -> f64 {
    let mut sorted = held_out.to_vec();
    sorted.sort_by(f64::total_cmp);
    let near = sorted[sorted.len() / 100];
    pictures.iter().filter(|distance| **distance < near).count() as f64 / pictures.len() as f64
}

/// What `of_row` makes of each row's number and squared distances from all others.
fn each_row<T>(rows: &Tensor<2>, others: &Tensor<2>, of_row: impl Fn(usize, &[f32]) -> T) -> Vec<T> {
    let [count, _] = rows.dims();
    // Squares of numbers around 0 lose the fewest digits.
    let middle = others.clone().mean_dim(0);
    let (rows, others) = (rows.clone() - middle.clone(), others.clone() - middle);
    let lengths = |x: &Tensor<2>| x.clone().square().sum_dim(1);
    let of_others = lengths(&others).transpose(); // [1, M]
    let mut found = Vec::with_capacity(count);
    for first in (0..count).step_by(ROWS) {
        let part = rows.clone().narrow(0, first, ROWS.min(count - first));
        let products = part.clone().matmul(others.clone().transpose());
        let squares = (lengths(&part) + of_others.clone() - products.mul_scalar(2.0)).clamp_min(0.0);
        let values: Vec<f32> = squares.into_data().iter().collect();
        let rows = values.chunks(others.dims()[0]).enumerate();
        found.extend(rows.map(|(at, row)| of_row(first + at, row)));
    }
    found
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use semanticist::Noise;

    use super::*;

    fn line(places: &[f32]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(places.to_vec(), [places.len(), 1]), &Device::flex())
    }

    #[test]
    fn the_discrepancy_is_its_sum_over_pairs() {
        let (a, b) = ([0.5f64, -1.0, 2.0], [1.5, 0.0, 3.0]);
        let kernel = |x: f64, y: f64| (x * y + 1.0).powi(3);
        let mut expected = 0.0;
        for i in 0..3 {
            for j in 0..3 {
                if i != j {
                    expected += (kernel(a[i], a[j]) + kernel(b[i], b[j])) / 6.0;
                }
                expected -= 2.0 * kernel(a[i], b[j]) / 9.0;
            }
        }
        let found = discrepancy(line(&a.map(|x| x as f32)), line(&b.map(|x| x as f32)));
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }

    #[test]
    fn sets_of_one_distribution_are_at_no_kernel_distance_and_moved_ones_are() {
        let drawn = Noise::seeded(1).normal([600, 8], &Device::flex());
        let (a, b) = (drawn.clone().narrow(0, 0, 300), drawn.narrow(0, 300, 300));
        let same = kernel_distance(&a, &b, 1);
        assert!(same.mean.abs() < 0.02, "{same:?}");
        let moved = kernel_distance(&a, &(b + 1.0), 1);
        assert!(moved.mean > 1.0, "{moved:?}");
    }

    #[test]
    fn pictures_among_originals_are_precise_and_those_that_lack_some_recall_less() {
        let originals = line(&[0.0, 1.0, 2.0, 3.0, 100.0, 101.0, 102.0, 103.0]);
        let pictures = line(&[0.5, 1.5, 2.5, 3.5, 500.0]);
        // Four of five lie among the originals; of those, the first four among the pictures, and those at 100 within the
        // neighbourhood of the picture at 500.
        let found = precision_recall(&originals, &pictures);
        assert_eq!(found, PrecisionRecall { precision: 0.8, recall: 1.0 });
        let found = precision_recall(&originals, &pictures.narrow(0, 0, 4));
        assert_eq!(found, PrecisionRecall { precision: 1.0, recall: 0.5 });
    }

    #[test]
    fn the_nearest_is_found_in_all_parts_and_copies_are_counted() {
        let others: Vec<f32> = (0..50).map(|x| x as f32 * 10.0).collect();
        let rows: Vec<f32> = (0..2 * ROWS).map(|x| x as f32 / 8.0).collect();
        let found = nearest(&line(&rows), &line(&others));
        for (row, found) in rows.iter().zip(found) {
            let expected = others.iter().map(|other| (row - other).abs()).fold(f32::INFINITY, f32::min);
            let (found, expected) = (found * found, f64::from(expected * expected));
            assert!((found - expected).abs() < 0.1, "{row}: {found} {expected}");
        }
        let held_out: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((copied(&[0.0, 0.5, 3.0, 1.5], &held_out), copied(&held_out, &held_out)), (0.75, 0.01));
    }
}
