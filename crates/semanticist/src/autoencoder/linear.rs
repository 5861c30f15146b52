//! Principal components of image patches: a linear autoencoder that is fitted, not trained.
//!
//! A patch `x` of `3 · p · p` values in `[-1, 1]` (channel, row, column) becomes
//! `z_i = s_i · u_i · (x − mean)` with orthonormal `u_i`. Decoding is the exact inverse on the space
//! the components span, so the loss is the variance of those left out, and nothing else.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use nalgebra::{DMatrix, DVector, SymmetricEigen};

use crate::weights::{HostTensor, Weights};
use crate::{Error, Latents, Pixels, Result};

/// Where a model file holds `[3pp]`, the mean patch.
const MEAN: &str = "autoencoder.mean";
/// Where a model file holds `[C, 3pp]`, the components in rows, strongest first.
const COMPONENTS: &str = "autoencoder.components";
/// Where a model file holds `[C]`, the factor of each latent channel.
const SCALES: &str = "autoencoder.scales";

/// Values per patch.
fn patch_values(patch_size: usize) -> usize {
    3 * patch_size * patch_size
}

/// Checks the fields of `AutoencoderConfig::Linear`.
pub(super) fn validate(patch_size: usize, channels: usize, whitening: f64) -> Result<()> {
    let values = patch_values(patch_size);
    if patch_size == 0 {
        return Err(Error::Config("the linear autoencoder's patch size is 0; 8 is usual".into()));
    }
    if !(1..=values).contains(&channels) {
        return Err(Error::Config(format!(
            "{channels} channels asked of patches of {patch_size}×{patch_size} pixels; use 1 to {values}"
        )));
    }
    if !(0.0..=0.5).contains(&whitening) {
        return Err(Error::Config(format!("whitening {whitening} is not between 0 and 0.5; 0.25 is usual")));
    }
    Ok(())
}

/// A fitted linear autoencoder on a device.
#[derive(Debug, Clone)]
pub struct LinearAutoencoder {
    patch_size: usize,
    /// `[3pp]`, patches in `[-1, 1]`.
    mean: Tensor<1>,
    /// `[C, 3pp]`, orthonormal rows, strongest first.
    components: Tensor<2>,
    /// `[C]`, positive.
    scales: Tensor<1>,
}

/// The shapes of what a model file holds of a linear autoencoder, by name.
pub(super) fn shapes(patch_size: usize, channels: usize) -> BTreeMap<String, Vec<usize>> {
    let values = patch_values(patch_size);
    [(MEAN, vec![values]), (COMPONENTS, vec![channels, values]), (SCALES, vec![channels])]
        .map(|(name, shape)| (name.to_owned(), shape))
        .into()
}

impl LinearAutoencoder {
    /// # Shapes
    /// `[B, 3, H, W]` → `[B, C, H / p, W / p]`.
    ///
    /// # Panics
    /// If the patch size does not divide height and width.
    pub fn encode(&self, pixels: &Pixels) -> Latents {
        let [batch, _, height, width] = pixels.0.dims();
        let (rows, columns) = self.grid(height, width);
        let patches = self.patchify(pixels.0.clone() * 2.0 - 1.0) - self.mean.clone().unsqueeze(); // [B·N, 3pp]
        let latents = patches.matmul(self.components.clone().transpose()) * self.scales.clone().unsqueeze(); // [B·N, C]
        let channels = self.channels();
        Latents(latents.reshape([batch, rows, columns, channels]).permute([0, 3, 1, 2])) // [B, C, h, w]
    }

    /// # Shapes
    /// `[B, C, h, w]` → `[B, 3, h · p, w · p]`, not clamped to `[0, 1]`.
    ///
    /// # Panics
    /// If the latents have another number of channels.
    pub fn decode(&self, latents: &Latents) -> Pixels {
        let [batch, channels, rows, columns] = latents.0.dims();
        let latents = latents.0.clone().permute([0, 2, 3, 1]).reshape([batch * rows * columns, channels]); // [B·N, C]
        let patches = (latents / self.scales.clone().unsqueeze()).matmul(self.components.clone())
            + self.mean.clone().unsqueeze(); // [B·N, 3pp]
        let p = self.patch_size;
        let grid = patches.reshape([batch, rows, columns, 3, p, p]).permute([0, 3, 1, 4, 2, 5]); // [B, 3, h, p, w, p]
        let image = grid.reshape([batch, 3, rows * p, columns * p]); // [B, 3, H, W]
        Pixels((image + 1.0) / 2.0)
    }

    /// How many channels latents have.
    pub fn channels(&self) -> usize {
        self.scales.dims()[0]
    }

    /// Side of a patch in pixels.
    pub fn patch_size(&self) -> usize {
        self.patch_size
    }

    /// How many numbers were fitted.
    pub(super) fn num_params(&self) -> usize {
        self.mean.shape().num_elements()
            + self.components.shape().num_elements()
            + self.scales.shape().num_elements()
    }

    /// What a model file holds.
    pub fn to_weights(&self) -> Weights {
        let mut weights = Weights::new();
        weights.insert(MEAN, to_host(self.mean.clone()));
        weights.insert(COMPONENTS, to_host(self.components.clone()));
        weights.insert(SCALES, to_host(self.scales.clone()));
        weights
    }

    /// What [`LinearAutoencoder::to_weights`] gave, taken out of `weights`.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape or type, or a scale is not positive.
    pub fn from_weights(
        patch_size: usize,
        channels: usize,
        weights: &mut Weights,
        device: &Device,
    ) -> Result<Self> {
        let values = patch_values(patch_size);
        let mean = take(weights, MEAN, &[values])?;
        let components = take(weights, COMPONENTS, &[channels, values])?;
        let scales = take(weights, SCALES, &[channels])?;
        if !scales.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
            return Err(Error::Config(format!(
                "\"{SCALES}\" holds a scale that is not positive; fit it anew"
            )));
        }
        Ok(Self {
            patch_size,
            mean: Tensor::from_data(TensorData::new(mean, [values]), device),
            components: Tensor::from_data(TensorData::new(components, [channels, values]), device),
            scales: Tensor::from_data(TensorData::new(scales, [channels]), device),
        })
    }

    /// `[B, 3, H, W]` → `[B·N, 3pp]`.
    fn patchify(&self, image: Tensor<4>) -> Tensor<2> {
        let [batch, _, height, width] = image.dims();
        let (rows, columns) = self.grid(height, width);
        let p = self.patch_size;
        image
            .reshape([batch, 3, rows, p, columns, p])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch * rows * columns, patch_values(p)])
    }

    fn grid(&self, height: usize, width: usize) -> (usize, usize) {
        let p = self.patch_size;
        assert!(
            height.is_multiple_of(p) && width.is_multiple_of(p),
            "an image of {width}×{height} pixels does not divide into patches of {p}"
        );
        (height / p, width / p)
    }
}

fn to_host<const D: usize>(tensor: Tensor<D>) -> HostTensor {
    let shape = tensor.dims();
    let values: Vec<f32> =
        tensor.into_data().try_to_vec().expect("the tensors of an autoencoder are made as f32");
    HostTensor::from_f32(&shape, &values)
}

fn take(weights: &mut Weights, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let tensor = weights.remove(name).ok_or_else(|| {
        Error::Config(format!(
            "the linear autoencoder's tensor \"{name}\" is missing; fit the autoencoder first"
        ))
    })?;
    match tensor.to_f32() {
        Some(values) if tensor.shape() == shape => Ok(values),
        _ => Err(Error::Config(format!(
            "\"{name}\" has shape {:?} of {}, the configuration needs floats of {shape:?}",
            tensor.shape(),
            tensor.dtype()
        ))),
    }
}

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
    // Latents are fitted to [-1, 1]: squared errors in [0, 1] are a quarter.
    let error = lost_variance / (kept.len() + lost.len()) as f64 / 4.0;
    FitReport { explained: kept_variance / (kept_variance + lost_variance), psnr: -10.0 * error.log10() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Noise;

    /// Images whose neighbouring pixels are alike, so that components differ in strength.
    fn images(count: usize) -> Vec<RgbImage> {
        let mut noise = Noise::seeded(6);
        (0..count)
            .map(|_| {
                let draws = noise.uniform(8);
                RgbImage::from_fn(16, 8, |x, y| {
                    let wave = |c: usize| {
                        let phase = draws[c] * 6.0 + draws[3] * x as f32 + draws[4] * y as f32;
                        let rough = draws[5 + c] * ((x * 7 + y * 13 + 5 * c as u32) as f32 * draws[c]).sin();
                        (phase.sin() * 90.0 + rough * 30.0 + 128.0) as u8
                    };
                    image::Rgb([wave(0), wave(1), wave(2)])
                })
            })
            .collect()
    }

    fn pixels(images: &[RgbImage], device: &Device) -> Pixels {
        let (width, height) = (images[0].width() as usize, images[0].height() as usize);
        let values = images.iter().flat_map(|image| image.as_raw()).map(|&v| f32::from(v) / 255.0).collect();
        let tensor =
            Tensor::<4>::from_data(TensorData::new(values, [images.len(), height, width, 3]), device);
        Pixels(tensor.permute([0, 3, 1, 2]))
    }

    fn fitted(images: &[RgbImage], channels: usize, whitening: f64) -> (LinearAutoencoder, FitReport) {
        let mut fit = LinearFit::new(4);
        fit.add(images).unwrap();
        fit.finish(channels, whitening, &Device::flex()).unwrap()
    }

    fn mean_square(tensor: Tensor<4>) -> f64 {
        f64::from(tensor.square().mean().into_scalar::<f32>())
    }

    #[test]
    fn with_all_channels_decoding_undoes_encoding() {
        let images = images(40);
        let (autoencoder, report) = fitted(&images, 48, 0.25);
        let pixels = pixels(&images, &Device::flex());
        let latents = autoencoder.encode(&pixels);
        assert_eq!(latents.0.dims(), [40, 48, 2, 4]);
        let difference = (autoencoder.decode(&latents).0 - pixels.0).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-4, "{difference}");
        assert!((report.explained - 1.0).abs() < 1e-12 && report.psnr > 100.0);
    }

    #[test]
    fn the_error_is_the_variance_left_out() {
        let images = images(100);
        let pixels = pixels(&images, &Device::flex());
        for channels in [1, 4, 12] {
            let (autoencoder, report) = fitted(&images, channels, 0.25);
            let error = mean_square(autoencoder.decode(&autoencoder.encode(&pixels)).0 - pixels.0.clone());
            assert!((-10.0 * error.log10() - report.psnr).abs() < 1e-3, "{channels}: {error} {report:?}");
        }
    }

    #[test]
    fn latents_have_mean_zero_and_variance_one_overall() {
        let images = images(100);
        for whitening in [0.0, 0.25, 0.5] {
            let (autoencoder, _) = fitted(&images, 12, whitening);
            let latents = autoencoder.encode(&pixels(&images, &Device::flex())).0;
            let mean = latents.clone().mean_dims(&[0, 2, 3]).abs().max().into_scalar::<f32>();
            assert!(mean < 1e-4, "{mean}");
            assert!((mean_square(latents) - 1.0).abs() < 1e-3);
        }
    }

    /// `z` has variance `λ^(1 − 2·whitening)` up to one factor: all 1 at 0.5, `λ` itself at 0.
    #[test]
    fn whitening_evens_out_falling_variances() {
        let images = images(100);
        let variances = |whitening| {
            let latents = fitted(&images, 6, whitening).0.encode(&pixels(&images, &Device::flex())).0;
            latents.square().mean_dims(&[0, 2, 3]).into_data().try_to_vec::<f32>().unwrap()
        };
        assert!(variances(0.5).iter().all(|v| (v - 1.0).abs() < 1e-3));
        let (natural, rooted) = (variances(0.0), variances(0.25));
        assert!(natural.is_sorted_by(|a, b| a >= b));
        for (natural_ratio, rooted_ratio) in
            natural.iter().zip(&rooted).map(|(n, r)| (n / natural[0], r / rooted[0]))
        {
            assert!((natural_ratio.sqrt() - rooted_ratio).abs() < 1e-3);
        }
    }

    #[test]
    fn components_are_orthonormal_and_have_fixed_signs() {
        let components = fitted(&images(100), 12, 0.25).0.components;
        let products = components.clone().matmul(components.clone().transpose());
        let difference = (products - Tensor::eye(12, &Device::flex())).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{difference}");
        let (highest, lowest) = (components.clone().max_dim(1), components.min_dim(1));
        assert!((highest + lowest).min().into_scalar::<f32>() >= 0.0);
    }

    #[test]
    fn images_may_arrive_in_parts() {
        let images = images(60);
        let mut fit = LinearFit::new(4);
        images.chunks(7).for_each(|part| fit.add(part).unwrap());
        assert_eq!(fit.finish(5, 0.25, &Device::flex()).unwrap().1, fitted(&images, 5, 0.25).1);
    }

    #[test]
    fn weights_make_the_same_autoencoder_and_are_taken() {
        let device = Device::flex();
        let (autoencoder, _) = fitted(&images(40), 6, 0.25);
        let mut weights = autoencoder.to_weights();
        let again = LinearAutoencoder::from_weights(4, 6, &mut weights, &device).unwrap();
        assert!(weights.is_empty());
        let components = |autoencoder: &LinearAutoencoder| autoencoder.components.to_data();
        assert_eq!(components(&again), components(&autoencoder));
        let refusal = |channels, mut weights: Weights| {
            LinearAutoencoder::from_weights(4, channels, &mut weights, &device).unwrap_err().to_string()
        };
        assert!(refusal(7, autoencoder.to_weights()).contains("needs floats of [7, 48]"));
        let mut partial = autoencoder.to_weights();
        partial.remove("autoencoder.scales");
        assert!(refusal(6, partial).contains("\"autoencoder.scales\" is missing"));
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        let device = Device::flex();
        let mut fit = LinearFit::new(4);
        assert!(fit.add(&[RgbImage::new(10, 8)]).is_err());
        fit.add(&images(6)).unwrap();
        assert!(fit.finish(4, 0.25, &device).unwrap_err().to_string().contains("at least 49"));
        fit.add(&images(40)).unwrap();
        assert!(fit.finish(49, 0.25, &device).is_err());
        let mut flat = LinearFit::new(4);
        flat.add(&vec![RgbImage::new(16, 16); 10]).unwrap();
        assert!(flat.finish(4, 0.25, &device).unwrap_err().to_string().contains("the same"));
    }
}
