//! The Fréchet distance of two sets of images in the space of a feature network: how far apart two normal
//! distributions are that have the sets' means and covariances (Dowson and Landau, 1982; Heusel et al., 2017).
//!
//! `d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (√Σ₁ Σ₂ √Σ₁)^½`. What is under the last root is symmetric and has no negative
//! eigenvalue, so both roots are exact through eigenvalues, where pytorch-fid takes the root of the product Σ₁ Σ₂, which
//! is not symmetric, and adds 1e-6 to the diagonals when that fails.

use std::sync::OnceLock;

use burn::tensor::Tensor;
use nalgebra::{DMatrix, DVector, SymmetricEigen};

/// Why a distance would say nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FrechetError {
    /// Fewer images than a covariance of full rank takes.
    #[error(
        "{images} images in a space of {dimensions} dimensions: a Fréchet distance needs at least {}, and says \
         little below several times that; take more images, or a feature network of fewer dimensions",
        .dimensions + 1
    )]
    TooFewImages {
        /// How many there were.
        images: usize,
        /// Numbers per image.
        dimensions: usize,
    },
    /// Statistics of two feature networks.
    #[error("features of {0} numbers against features of {1}; both sets must go through the same network")]
    OtherDimensions(usize, usize),
    /// A feature network gave something else than numbers, or a file of statistics holds it.
    #[error("the {0} of the features is not finite; look for images or weights that are damaged")]
    NotFinite(&'static str),
}

/// What to do with fewer images than the dimensions of the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFew {
    /// It is an error: their covariance is that of a flat distribution, and every distance from it too large.
    Refuse,
    /// They are taken all the same, two at least.
    Accept,
}

/// Mean and covariance of features while they come in, in memory that does not grow with their number.
#[derive(Debug, Clone)]
pub struct FeatureStatistics {
    count: usize,
    /// `[D]`
    mean: DVector<f64>,
    /// `[D, D]`: the sum of the products of differences from the mean.
    scatter: DMatrix<f64>,
}

impl FeatureStatistics {
    /// Of no image yet, in a space of so many dimensions.
    pub fn new(dimensions: usize) -> Self {
        Self { count: 0, mean: DVector::zeros(dimensions), scatter: DMatrix::zeros(dimensions, dimensions) }
    }

    /// Takes some more images in. The sums are those of Chan et al. (1983), which do not lose digits to a mean that is
    /// large beside the deviation.
    ///
    /// # Shapes
    /// `[B, D]`
    ///
    /// # Panics
    /// If D is another.
    pub fn add(&mut self, features: &Tensor<2>) {
        let [batch, dimensions] = features.dims();
        assert_eq!(dimensions, self.mean.len(), "features of another network");
        if batch == 0 {
            return;
        }
        // One image is a row of the tensor and a column here: both lie together in memory.
        let mut features = DMatrix::from_iterator(dimensions, batch, features.to_data().iter::<f64>()); // [D, B]
        let mean = features.column_mean();
        features.column_iter_mut().for_each(|mut column| column -= &mean);
        let (before, now) = (self.count as f64, batch as f64);
        let moved = mean - &self.mean;
        self.scatter.gemm(1.0, &features, &features.transpose(), 1.0);
        self.scatter.ger(before * now / (before + now), &moved, &moved, 1.0);
        self.mean.axpy(now / (before + now), &moved, 1.0);
        self.count += batch;
    }

    /// How many images were taken in.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The normal distribution of their mean and unbiased covariance.
    ///
    /// # Errors
    /// If there are too few, or features that are not finite.
    pub fn gaussian(&self, on_few: OnFew) -> Result<Gaussian, FrechetError> {
        let (images, dimensions) = (self.count, self.mean.len());
        let least = if on_few == OnFew::Refuse { dimensions + 1 } else { 2 };
        if images < least {
            return Err(FrechetError::TooFewImages { images, dimensions });
        }
        Gaussian::of(self.mean.clone(), &self.scatter / (images - 1) as f64)
    }
}

/// A normal distribution in the space of a feature network.
#[derive(Debug, Clone)]
pub struct Gaussian {
    /// `[D]`
    mean: DVector<f64>,
    /// `[D, D]`
    covariance: DMatrix<f64>,
    /// Of the covariance, once a distance was asked for: at 2048 dimensions it takes most of the time of one.
    root: OnceLock<DMatrix<f64>>,
}

impl Gaussian {
    /// Of statistics that were computed elsewhere.
    ///
    /// # Shapes
    /// `mean`: D numbers, `covariance`: `[D, D]`, D² numbers, row by row
    ///
    /// # Errors
    /// If a number is not finite, or the covariance is of another D.
    pub fn new(mean: Vec<f64>, covariance: &[f64]) -> Result<Self, FrechetError> {
        let dimensions = mean.len();
        if covariance.len() != dimensions * dimensions {
            return Err(FrechetError::OtherDimensions(dimensions, covariance.len().isqrt()));
        }
        Self::of(DVector::from_vec(mean), DMatrix::from_row_slice(dimensions, dimensions, covariance))
    }

    fn of(mean: DVector<f64>, covariance: DMatrix<f64>) -> Result<Self, FrechetError> {
        if !mean.iter().all(|value| value.is_finite()) {
            return Err(FrechetError::NotFinite("mean"));
        }
        if !covariance.iter().all(|value| value.is_finite()) {
            return Err(FrechetError::NotFinite("covariance"));
        }
        Ok(Self { mean, covariance, root: OnceLock::new() })
    }

    /// Numbers of the space.
    pub fn dimensions(&self) -> usize {
        self.mean.len()
    }

    /// D numbers.
    pub fn mean(&self) -> &[f64] {
        self.mean.as_slice()
    }

    /// `[D, D]`: by rows or by columns is the same.
    pub fn covariance(&self) -> &[f64] {
        self.covariance.as_slice()
    }

    /// The squared Fréchet distance, which is what FID reports; 0 for equal distributions, to rounding.
    ///
    /// # Errors
    /// If the other is of another space.
    pub fn distance(&self, other: &Self) -> Result<f64, FrechetError> {
        let (dimensions, others) = (self.mean.len(), other.mean.len());
        if dimensions != others {
            return Err(FrechetError::OtherDimensions(dimensions, others));
        }
        let root = self.root.get_or_init(|| root(self.covariance.clone()));
        let product = root * &other.covariance * root;
        // Rounding makes it a little unsymmetric, and its least eigenvalues negative.
        let symmetric = (&product + product.transpose()) * 0.5;
        let overlap: f64 = symmetric.symmetric_eigenvalues().iter().map(|value| value.max(0.0).sqrt()).sum();
        let apart = (&self.mean - &other.mean).norm_squared();
        // Of the same images rounding leaves a little more or less than nothing.
        Ok((apart + self.covariance.trace() + other.covariance.trace() - 2.0 * overlap).max(0.0))
    }
}

/// The symmetric root of a covariance.
fn root(covariance: DMatrix<f64>) -> DMatrix<f64> {
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(covariance);
    // U √√Λ: times its transpose, the root.
    let mut scaled = eigenvectors;
    for (mut column, value) in scaled.column_iter_mut().zip(&eigenvalues) {
        column *= value.max(0.0).sqrt().sqrt();
    }
    &scaled * scaled.transpose()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use burn::tensor::{Device, TensorData};
    use semanticist::Noise;
    use serde::Deserialize;

    use super::*;

    fn tensor(values: &[f32], dimensions: usize) -> Tensor<2> {
        let shape = [values.len() / dimensions, dimensions];
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
    }

    fn statistics(features: &Tensor<2>, batch: usize) -> FeatureStatistics {
        let [count, dimensions] = features.dims();
        let mut statistics = FeatureStatistics::new(dimensions);
        for first in (0..count).step_by(batch) {
            statistics.add(&features.clone().narrow(0, first, batch.min(count - first)));
        }
        statistics
    }

    fn diagonal(variances: &[f64]) -> Vec<f64> {
        DMatrix::from_diagonal(&DVector::from_row_slice(variances)).as_slice().to_vec()
    }

    #[test]
    fn of_independent_axes_it_is_the_distance_of_means_and_deviations() {
        let a = Gaussian::new(vec![1.0, 2.0, 0.0], &diagonal(&[4.0, 9.0, 0.0])).unwrap();
        let b = Gaussian::new(vec![1.0, 4.0, 0.0], &diagonal(&[1.0, 25.0, 4.0])).unwrap();
        // 2² + (2 - 1)² + (3 - 5)² + (0 - 2)²
        assert!((a.distance(&b).unwrap() - 13.0).abs() < 1e-12);
        assert!((b.distance(&a).unwrap() - 13.0).abs() < 1e-12);
        assert!(a.distance(&a).unwrap().abs() < 1e-12);
    }

    #[derive(Deserialize)]
    struct Case {
        name: String,
        dimensions: usize,
        first: Vec<f32>,
        second: Vec<f32>,
        mean: Vec<f64>,
        covariance: Vec<f64>,
        distance: f64,
    }

    #[derive(Deserialize)]
    struct Recording {
        cases: Vec<Case>,
    }

    fn close(found: f64, expected: f64, scale: f64, what: &str) {
        assert!((found - expected).abs() <= 1e-6 * scale, "{what}: {found}, expected {expected}");
    }

    #[test]
    fn statistics_and_distances_are_those_of_numpy_and_scipy() {
        let Recording { cases } = serde_json::from_str(include_str!("../tests/data/frechet.json")).unwrap();
        assert!(cases.len() >= 4);
        for Case { name, dimensions, first, second, mean, covariance, distance } in cases {
            let [first, second] = [first, second].map(|values| tensor(&values, dimensions));
            // In whatever parts the features come.
            for batch in [1, 7, 1000] {
                let [first, second] = [&first, &second]
                    .map(|features| statistics(features, batch).gaussian(OnFew::Refuse).unwrap());
                for (found, expected) in first.mean.iter().zip(&mean) {
                    close(*found, *expected, expected.abs(), &name);
                }
                let scale = covariance.iter().fold(0.0f64, |most, value| most.max(value.abs()));
                for (found, expected) in first.covariance.iter().zip(&covariance) {
                    close(*found, *expected, scale, &name);
                }
                close(first.distance(&second).unwrap(), distance, distance, &name);
                close(second.distance(&first).unwrap(), distance, distance, &name);
            }
        }
    }

    #[test]
    fn what_says_nothing_is_refused() {
        let few = statistics(&Noise::seeded(1).normal([4, 4], &Device::flex()), 4);
        let error = few.gaussian(OnFew::Refuse).unwrap_err();
        assert_eq!(error, FrechetError::TooFewImages { images: 4, dimensions: 4 });
        assert!(error.to_string().contains("4 images in a space of 4 dimensions"), "{error}");
        assert!(error.to_string().contains("at least 5"), "{error}");
        let flat = few.gaussian(OnFew::Accept).unwrap();
        // An eigenvalue that should be 0 is 1e-16, and its root 1e-8.
        assert!(flat.distance(&flat).unwrap().abs() < 1e-6);
        let none = FeatureStatistics::new(4).gaussian(OnFew::Accept).unwrap_err();
        assert_eq!(none, FrechetError::TooFewImages { images: 0, dimensions: 4 });

        let other = Gaussian::new(vec![0.0; 2], &diagonal(&[1.0, 1.0])).unwrap();
        assert_eq!(flat.distance(&other).unwrap_err(), FrechetError::OtherDimensions(4, 2));
        let mut damaged = few.clone();
        damaged.add(&tensor(&[0.0, f32::NAN, 0.0, 0.0], 4));
        assert_eq!(damaged.gaussian(OnFew::Refuse).unwrap_err(), FrechetError::NotFinite("mean"));
        assert!(Gaussian::new(vec![0.0; 2], &[1.0; 3]).is_err());
    }

    #[test]
    #[ignore = "measures the largest feature space in use, that of Inception-v3: a minute"]
    fn inception_sized() {
        let features = Noise::seeded(1).normal([2200, 2048], &Device::flex());
        let begun = Instant::now();
        let statistics = statistics(&features, 64);
        println!("statistics of 2200 images: {:.1} s", begun.elapsed().as_secs_f64());
        let gaussian = statistics.gaussian(OnFew::Refuse).unwrap();
        let begun = Instant::now();
        let distance = gaussian.distance(&gaussian).unwrap();
        println!("distance: {:.1} s", begun.elapsed().as_secs_f64());
        assert!(distance.abs() < 1e-6, "{distance}");
    }
}
