//! Principal components of whole images, or of anything else that is a row of numbers: what the paper's tokens are
//! compared with.
//!
//! Fitted by subspace iteration (Halko, Martinsson and Tropp, 2011, algorithms 4.4 and 5.1) on all rows at once in
//! `f32`, with sums over components in `f64`: the covariance of 12,288 pixels would take 1.2 GB, this takes a few
//! matrices of components × pixels.

use burn::tensor::{Device, Tensor, TensorData};
use nalgebra::{DMatrix, SymmetricEigen};
use semanticist::{Error, Noise, Result};

/// Times that the subspace is multiplied by the covariance.
const ITERATIONS: usize = 6;

/// Directions more than asked for while iterating, which makes the last ones exact.
const EXTRA: usize = 10;

/// Orthonormal directions, those of most variance first.
#[derive(Debug, Clone)]
pub struct PrincipalComponents {
    /// `[1, D]`
    mean: Tensor<2>,
    /// `[R, D]`, orthonormal rows.
    components: Tensor<2>,
    /// R, of the rows they were fitted on, unbiased.
    variances: Vec<f64>,
}

impl PrincipalComponents {
    /// Fits `count` components to rows, or as many as there can be: fewer than rows, and no more than numbers in
    /// one.
    ///
    /// # Shapes
    /// `rows`: `[N, D]`
    ///
    /// # Errors
    /// If there are fewer than two rows, or numbers that are not finite.
    pub fn fit(rows: Tensor<2>, count: usize) -> Result<Self> {
        let [n, d] = rows.dims();
        if n < 2 {
            return Err(Error::Data(format!("{n} images to fit principal components to; give at least 2")));
        }
        let mean = rows.clone().mean_dim(0); // [1, D]
        let centred = rows - mean.clone();
        let total: f32 = centred.clone().square().sum().into_scalar();
        if !total.is_finite() {
            return Err(Error::Data(
                "principal components cannot be fitted to numbers that are not finite; look for damaged images".into(),
            ));
        }
        let rank = count.min(n - 1).min(d);
        let width = (rank + EXTRA).min(n - 1).min(d);
        let device = centred.device();
        let mut basis: Tensor<2> = Noise::seeded(0).normal([width, d], &device);
        for _ in 0..ITERATIONS {
            basis = orthonormal(basis, &device);
            let scores = centred.clone().matmul(basis.transpose()); // [N, W]
            basis = scores.transpose().matmul(centred.clone()); // [W, D]
        }
        let basis = orthonormal(basis, &device);
        let scores = centred.matmul(basis.clone().transpose()); // [N, W]
        let (values, vectors) = eigen(gram(&scores.transpose())); // of [W, W]
        let turn = tensor(&vectors.columns(0, rank).transpose(), &device); // [R, W]
        let variances = values[..rank].iter().map(|value| value.max(0.0) / (n - 1) as f64).collect();
        Ok(Self { mean, components: turn.matmul(basis), variances })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.variances.len()
    }

    /// The variance along each, of the rows that they were fitted on.
    pub fn variances(&self) -> &[f64] {
        &self.variances
    }

    /// Along all components, the strongest first.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, R]`
    pub fn scores(&self, rows: Tensor<2>) -> Tensor<2> {
        (rows - self.mean.clone()).matmul(self.components.clone().transpose())
    }

    /// The rows that the first `count` scores describe, or all of them if there are fewer.
    ///
    /// # Shapes
    /// `[N, R]` → `[N, D]`
    pub fn rows(&self, scores: &Tensor<2>, count: usize) -> Tensor<2> {
        let (count, n) = (count.min(self.count()), scores.dims()[0]);
        if count == 0 {
            return self.mean.clone().repeat_dim(0, n);
        }
        let kept = scores.clone().narrow(1, 0, count);
        kept.matmul(self.components.clone().narrow(0, 0, count)) + self.mean.clone()
    }

    /// Of each row the squared distance from what the first `counts` scores describe: one list per count, of one number
    /// per row. The squares are summed in `f64`.
    pub fn residuals(&self, rows: Tensor<2>, counts: &[usize]) -> Vec<Vec<f64>> {
        let scores: Vec<f64> = squares(self.scores(rows.clone()));
        let (all, n) = (self.count(), rows.dims()[0]);
        let distances = (rows - self.mean.clone()).square().sum_dim(1);
        let distances: Vec<f64> = distances.into_data().iter().collect();
        let rest = |row: usize, count: usize| {
            let kept: f64 = scores[row * all..row * all + count.min(all)].iter().sum();
            (distances[row] - kept).max(0.0)
        };
        counts.iter().map(|&count| (0..n).map(|row| rest(row, count)).collect()).collect()
    }
}

fn squares(x: Tensor<2>) -> Vec<f64> {
    x.into_data().iter::<f64>().map(|value| value * value).collect()
}

/// The products of all pairs of rows, in `f64`.
fn gram(rows: &Tensor<2>) -> DMatrix<f64> {
    let [n, d] = rows.dims();
    // A row of the tensor is a column here: both lie together in memory.
    let columns = DMatrix::from_iterator(d, n, rows.to_data().iter::<f64>());
    columns.tr_mul(&columns)
}

/// Eigenvalues, the largest first, and their vectors as columns.
fn eigen(symmetric: DMatrix<f64>) -> (Vec<f64>, DMatrix<f64>) {
    let SymmetricEigen { eigenvalues, eigenvectors } = SymmetricEigen::new(symmetric);
    let mut order: Vec<usize> = (0..eigenvalues.len()).collect();
    order.sort_by(|&a, &b| eigenvalues[b].total_cmp(&eigenvalues[a]));
    let values = order.iter().map(|&at| eigenvalues[at]).collect();
    (values, eigenvectors.select_columns(&order))
}

/// Orthonormal rows of the same space; directions of no extent become 0.
fn orthonormal(rows: Tensor<2>, device: &Device) -> Tensor<2> {
    // Twice, because the first leaves what rounding makes of nearly equal rows.
    let once = |rows: Tensor<2>| {
        let (values, vectors) = eigen(gram(&rows));
        let largest = values[0].max(f64::MIN_POSITIVE);
        let mut turn = vectors.transpose();
        for (mut row, value) in turn.row_iter_mut().zip(values) {
            row *= if value > largest * 1e-13 { value.sqrt().recip() } else { 0.0 };
        }
        tensor(&turn, device).matmul(rows)
    };
    once(once(rows))
}

fn tensor(matrix: &DMatrix<f64>, device: &Device) -> Tensor<2> {
    let (rows, columns) = matrix.shape();
    let values: Vec<f32> = matrix.transpose().iter().map(|&value| value as f32).collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(n: usize, d: usize) -> Tensor<2> {
        let device = Device::flex();
        let decay: Vec<f32> = (0..d).map(|at| 0.8f32.powi(at as i32)).collect();
        let decay = Tensor::<2>::from_data(TensorData::new(decay, [1, d]), &device);
        let mixing: Tensor<2> = Noise::seeded(5).normal([d, d], &device);
        (Noise::seeded(4).normal::<2>([n, d], &device) * decay).matmul(mixing) + 3.0
    }

    /// The covariance in `f64` with nalgebra's eigenvectors.
    #[test]
    fn components_are_the_eigenvectors_of_the_covariance() {
        let rows = data(60, 24);
        let fitted = PrincipalComponents::fit(rows.clone(), 6).unwrap();
        let matrix = DMatrix::from_iterator(24, 60, rows.to_data().iter::<f64>());
        let mean = matrix.column_mean();
        let mut centred = matrix;
        centred.column_iter_mut().for_each(|mut column| column -= &mean);
        let (values, vectors) = eigen(&centred * centred.transpose() / 59.0);
        for (found, expected) in fitted.variances().iter().zip(&values) {
            assert!((found / expected - 1.0).abs() < 1e-4, "{found} {expected}");
        }
        let components: Vec<f64> = fitted.components.to_data().iter().collect();
        for number in 0..6 {
            let cosine: f64 = (0..24).map(|at| components[number * 24 + at] * vectors[(at, number)]).sum();
            assert!((cosine.abs() - 1.0).abs() < 1e-4, "{number}: {cosine}");
        }
        let residuals = fitted.residuals(rows.clone(), &[0, 3, 6]);
        for (residuals, from) in residuals.iter().zip([0, 3, 6]) {
            let expected: f64 = values[from..].iter().sum::<f64>() * 59.0;
            assert!((residuals.iter().sum::<f64>() / expected - 1.0).abs() < 1e-3);
            let painted = fitted.rows(&fitted.scores(rows.clone()), from);
            let error: f32 = (rows.clone() - painted).square().sum().into_scalar();
            assert!((f64::from(error) / expected - 1.0).abs() < 1e-3);
        }
    }

    #[test]
    fn of_few_rows_there_are_few_components() {
        let rows = data(5, 24);
        let fitted = PrincipalComponents::fit(rows.clone(), 100).unwrap();
        assert_eq!(fitted.count(), 4);
        let painted = fitted.rows(&fitted.scores(rows.clone()), 100);
        let error: f32 = (rows.clone() - painted).abs().max().into_scalar();
        assert!(error < 1e-3, "{error}");
        assert!(PrincipalComponents::fit(rows.clone().narrow(0, 0, 1), 3).is_err());
        let broken = rows * f32::NAN;
        assert!(PrincipalComponents::fit(broken, 3).unwrap_err().to_string().contains("not finite"));
    }
}
