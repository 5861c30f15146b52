//! Principal components of image patches: a linear autoencoder that is fitted, not trained.
//!
//! A patch `x` of `3 · p · p` values in `[-1, 1]` (channel, row, column) becomes
//! `z_i = s_i · u_i · (x − mean)` with orthonormal `u_i`. Decoding is the exact inverse on the space
//! the components span, so the loss is the variance of those left out, and nothing else; an [`Overlap`] gives some of
//! that back.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};

use super::overlap::Overlap;
use crate::weights::{HostTensor, Weights};
use crate::{Error, Latents, Pixels, Result};

/// Where a model file holds `[3pp]`, the mean patch.
const MEAN: &str = "autoencoder.mean";
/// Where a model file holds `[C, 3pp]`, the components in rows, strongest first.
const COMPONENTS: &str = "autoencoder.components";
/// Where a model file holds `[C]`, the factor of each latent channel.
const SCALES: &str = "autoencoder.scales";

/// Values per patch.
pub(super) fn patch_values(patch_size: usize) -> usize {
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
    pub(super) patch_size: usize,
    /// `[3pp]`, patches in `[-1, 1]`.
    pub(super) mean: Tensor<1>,
    /// `[C, 3pp]`, orthonormal rows, strongest first.
    pub(super) components: Tensor<2>,
    /// `[C]`, positive.
    pub(super) scales: Tensor<1>,
    /// What neighbours add to a patch.
    pub(super) overlap: Option<Overlap>,
}

/// The shapes of what a model file holds of a linear autoencoder, by name.
pub(super) fn shapes(patch_size: usize, channels: usize, overlap: bool) -> BTreeMap<String, Vec<usize>> {
    let values = patch_values(patch_size);
    let overlap = overlap.then(|| (Overlap::NAME, Overlap::shape(values, channels).to_vec()));
    [(MEAN, vec![values]), (COMPONENTS, vec![channels, values]), (SCALES, vec![channels])]
        .into_iter()
        .chain(overlap)
        .map(|(name, shape)| (name.to_owned(), shape))
        .collect()
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
        let grid = latents.0.clone().permute([0, 2, 3, 1]); // [B, h, w, C]
        let latents = grid.clone().reshape([batch * rows * columns, channels]); // [B·N, C]
        let patches = (latents / self.scales.clone().unsqueeze()).matmul(self.components.clone())
            + self.mean.clone().unsqueeze(); // [B·N, 3pp]
        let patches = match &self.overlap {
            Some(overlap) => patches.clone() + overlap.forward(grid).reshape(patches.dims()),
            None => patches,
        };
        let p = self.patch_size;
        let grid = patches.reshape([batch, rows, columns, 3, p, p]).permute([0, 3, 1, 4, 2, 5]); // [B, 3, h, p, w, p]
        let image = grid.reshape([batch, 3, rows * p, columns * p]); // [B, 3, H, W]
        Pixels((image + 1.0) / 2.0)
    }

    /// How many channels latents have.
    pub fn channels(&self) -> usize {
        self.scales.dims()[0]
    }

    /// The latents of images, and what they leave out of each patch, whose own values lie in `[-1, 1]`.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` → `[B, h, w, C]` and `[B, h, w, 3pp]`
    pub(super) fn left_out(&self, pixels: &Pixels) -> (Tensor<4>, Tensor<4>) {
        let latents = self.encode(pixels);
        let rest = self.patchify((pixels.0.clone() - self.decode(&latents).0) * 2.0);
        let latents = latents.0.permute([0, 2, 3, 1]);
        let [batch, rows, columns, _] = latents.dims();
        (latents, rest.reshape([batch, rows, columns, patch_values(self.patch_size)]))
    }

    /// Whether neighbours add something to patches.
    pub fn overlaps(&self) -> bool {
        self.overlap.is_some()
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
            + self.overlap.as_ref().map_or(0, Overlap::num_params)
    }

    /// What a model file holds.
    pub fn to_weights(&self) -> Weights {
        let mut weights = Weights::new();
        weights.insert(MEAN, to_host(self.mean.clone()));
        weights.insert(COMPONENTS, to_host(self.components.clone()));
        weights.insert(SCALES, to_host(self.scales.clone()));
        if let Some(overlap) = &self.overlap {
            weights.insert(Overlap::NAME, overlap.to_host());
        }
        weights
    }

    /// What [`LinearAutoencoder::to_weights`] gave, taken out of `weights`.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape or type, or a scale is not positive.
    pub fn from_weights(
        patch_size: usize,
        channels: usize,
        overlap: bool,
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
        let shape = Overlap::shape(values, channels);
        let overlap = if overlap { Some(take(weights, Overlap::NAME, &shape)?) } else { None };
        Ok(Self {
            overlap: overlap.map(|weight| Overlap::new(weight, shape, device)),
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

#[cfg(test)]
pub(super) mod tests {
    use image::RgbImage;

    use super::super::fit::{FitReport, LinearFit};
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

    pub fn pixels(images: &[RgbImage], device: &Device) -> Pixels {
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
        let again = LinearAutoencoder::from_weights(4, 6, false, &mut weights, &device).unwrap();
        assert!(weights.is_empty());
        let components = |autoencoder: &LinearAutoencoder| autoencoder.components.to_data();
        assert_eq!(components(&again), components(&autoencoder));
        let refusal = |channels, mut weights: Weights| {
            LinearAutoencoder::from_weights(4, channels, false, &mut weights, &device)
                .unwrap_err()
                .to_string()
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
