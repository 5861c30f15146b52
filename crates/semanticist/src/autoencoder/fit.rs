//! Fits a linear autoencoder: principal components of the patches of images that pass by.

use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use nalgebra::{DMatrix, DVector, SymmetricEigen};

use super::linear::{LinearAutoencoder, patch_values, validate};
use crate::{Error, Result};

/// Fits a [`LinearAutoencoder`] to images that pass by: only sums are kept.
#[derive(Debug, Clone)]
pub struct LinearFit {
    patch_size: usize,
    patches: usize,
    /// `[3pp]`, sum of the patches.
    sum: DVector<f64>,
    /// `[3pp, 3pp]`, sum of their products with themselves.
    products: DMatrix<f64>,
}

/// How good the fitted autoencoder is on the images it was fitted to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitReport {
    /// Share of the patches' variance that the components keep, in `[0, 1]`.
    pub explained: f64,
    /// Of the pooled squared error before clamping, in dB; infinite if nothing is lost.
    pub psnr: f64,
}

impl LinearFit {
    /// Starts with no images.
    pub fn new(patch_size: usize) -> Self {
        let values = patch_values(patch_size);
        Self { patch_size, patches: 0, sum: DVector::zeros(values), products: DMatrix::zeros(values, values) }
    }

    /// Takes in images, of any sizes.
    ///
    /// # Errors
    /// If the patch size does not divide the size of an image.
    pub fn add(&mut self, images: &[RgbImage]) -> Result<()> {
        for image in images {
            let patches = self.patches_of(image)?; // [3pp, N]
            self.patches += patches.ncols();
            self.sum += patches.column_sum();
            self.products.gemm(1.0, &patches, &patches.transpose(), 1.0);
        }
        Ok(())
    }

    /// The autoencoder of all images so far.
    ///
    /// # Errors
    /// If there are not more patches than values in a patch, they are all the same, or the options
    /// are outside the ranges of `AutoencoderConfig::Linear`.
    pub fn finish(
        &self,
        channels: usize,
        whitening: f64,
        device: &Device,
    ) -> Result<(LinearAutoencoder, FitReport)> {
        validate(self.patch_size, channels, whitening)?;
        let values = patch_values(self.patch_size);
        if self.patches <= values {
            return Err(Error::Config(format!(
                "{} patches are too few to fit a linear autoencoder; at least {} are needed, so give more images",
                self.patches,
                values + 1
            )));
        }
        let mean = &self.sum / self.patches as f64;
        let covariance = &self.products / self.patches as f64 - &mean * mean.transpose();
        let (variances, components) = principal_components(covariance);
        let (kept, lost) = variances.split_at(channels);
        if kept[0] <= 0.0 {
            return Err(Error::Config("all patches are the same; fit the autoencoder to real images".into()));
        }
        let scales = scales(kept, whitening);
        let floats = |values: &[f64]| -> Vec<f32> { values.iter().map(|&v| v as f32).collect() };
        let components: Vec<f32> =
            components[..channels].iter().flat_map(|row| floats(row.as_slice())).collect();
        let autoencoder = LinearAutoencoder {
            patch_size: self.patch_size,
            mean: Tensor::from_data(TensorData::new(floats(mean.as_slice()), [values]), device),
            components: Tensor::from_data(TensorData::new(components, [channels, values]), device),
            scales: Tensor::from_data(TensorData::new(floats(&scales), [channels]), device),
            overlap: None,
        };
        Ok((autoencoder, report(kept, lost)))
    }

    /// The patches of an image in `[-1, 1]`, one per column, in the order of `patchify`.
    fn patches_of(&self, image: &RgbImage) -> Result<DMatrix<f64>> {
        let (width, height, p) = (image.width() as usize, image.height() as usize, self.patch_size);
        if p == 0 || !width.is_multiple_of(p) || !height.is_multiple_of(p) {
            return Err(Error::Config(format!(
                "an image of {width}×{height} pixels does not divide into patches of {p}; crop or scale it first"
            )));
        }
        let columns = width / p;
        Ok(DMatrix::from_fn(patch_values(p), columns * (height / p), |value, patch| {
            let (channel, row, column) = (value / (p * p), value / p % p, value % p);
            let (x, y) = (patch % columns * p + column, patch / columns * p + row);
            f64::from(image.as_raw()[(y * width + x) * 3 + channel]) / 127.5 - 1.0
        }))
    }
}

/// Eigenvalues, never negative, descending, and their eigenvectors, the largest entry of each positive.
fn principal_components(covariance: DMatrix<f64>) -> (Vec<f64>, Vec<DVector<f64>>) {
    let eigen = SymmetricEigen::new(covariance);
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    order
        .into_iter()
        .map(|i| {
            let component = eigen.eigenvectors.column(i).into_owned();
            let sign = component[component.iamax()].signum();
            (eigen.eigenvalues[i].max(0.0), component * sign)
        })
        .unzip()
}

/// The factor of each latent channel: its variance to the power of `-whitening`, times one number
/// that makes the mean variance of the latents 1.
fn scales(variances: &[f64], whitening: f64) -> Vec<f64> {
    // A channel without variance must not be blown up without bound.
    let floor = variances[0] * 1e-9;
    let scales: Vec<f64> = variances.iter().map(|v| v.max(floor).powf(-whitening)).collect();
    let total: f64 = variances.iter().zip(&scales).map(|(variance, scale)| variance * scale * scale).sum();
    let gain = (variances.len() as f64 / total).sqrt();
    scales.into_iter().map(|scale| scale * gain).collect()
}

fn report(kept: &[f64], lost: &[f64]) -> FitReport {
    let (kept_variance, lost_variance) = (kept.iter().sum::<f64>(), lost.iter().sum::<f64>());
    let psnr = psnr(lost_variance / (kept.len() + lost.len()) as f64);
    FitReport { explained: kept_variance / (kept_variance + lost_variance), psnr }
}

/// In dB, of the mean squared error of patches, whose values lie in `[-1, 1]`: in `[0, 1]` it is a quarter.
pub(super) fn psnr(error: f64) -> f64 {
    -10.0 * (error / 4.0).log10()
}
