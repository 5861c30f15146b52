//! What the latents around a patch say of it: the difference between patches painted one by one and an image.
//!
//! Principal components paint every patch for itself, so that the edges of patches are seen wherever something is left
//! out. The latents of a patch and its eight neighbours say more of it than its own do: here a linear map of them, fitted
//! by least squares, is added to the patch. Latents stay what they are.

use burn::tensor::{Device, Tensor, TensorData};
use nalgebra::{Cholesky, DMatrix};
use semanticist_ops as ops;

use super::fit::psnr;
use super::linear::{LinearAutoencoder, patch_values};
use crate::weights::HostTensor;
use crate::{Error, Pixels, Result};

/// Latents that say something of a patch, its own included.
const NEIGHBOURS: usize = 9;
/// What is added to the variance of every latent, as a share of their mean, so that there is one answer.
const RIDGE: f64 = 1e-6;

/// A linear map from the latents of 3×3 patches to what is added to the one in the middle.
#[derive(Debug, Clone)]
pub(super) struct Overlap {
    /// `[3pp, 3, 3, C]`
    weight: Tensor<4>,
}

impl Overlap {
    /// Where a model file holds it.
    pub const NAME: &str = "autoencoder.overlap";

    /// Of the map for patches of so many values.
    pub fn shape(values: usize, channels: usize) -> [usize; 4] {
        [values, 3, 3, channels]
    }

    /// From the numbers of a file, in the order of [`Overlap::shape`].
    pub fn new(weight: Vec<f32>, shape: [usize; 4], device: &Device) -> Self {
        Self { weight: Tensor::from_data(TensorData::new(weight, shape), device) }
    }

    /// What is added to each patch; beyond the edges of the image its outermost latents go on.
    ///
    /// # Shapes
    /// `[B, h, w, C]` → `[B, h, w, 3pp]`
    pub fn forward(&self, latents: Tensor<4>) -> Tensor<4> {
        let none = Tensor::zeros([self.weight.dims()[0]], &self.weight.device());
        ops::convolve_any(bordered(latents), self.weight.clone(), none, 1, [0, 0])
    }

    pub fn num_params(&self) -> usize {
        self.weight.shape().num_elements()
    }

    pub fn to_host(&self) -> HostTensor {
        let values = self.weight.to_data().iter::<f32>().collect::<Vec<_>>();
        HostTensor::from_f32(&self.weight.dims(), &values)
    }
}

/// `[B, h, w, C]` → `[B, h + 2, w + 2, C]`: the first and last rows and columns twice.
fn bordered(x: Tensor<4>) -> Tensor<4> {
    [1, 2].into_iter().fold(x, |x, axis| {
        let last = x.dims()[axis] - 1;
        Tensor::cat(vec![x.clone().narrow(axis, 0, 1), x.clone(), x.narrow(axis, last, 1)], axis)
    })
}

/// Fits the overlap of a [`LinearAutoencoder`] that has none to images that pass by: only sums are kept.
#[derive(Debug)]
pub struct OverlapFit {
    autoencoder: LinearAutoencoder,
    /// `[9C, 9C]`, of latents around a patch with themselves.
    products: DMatrix<f64>,
    /// `[9C, 3pp]`, of them with what the patch's own latents leave out of it.
    with_rest: DMatrix<f64>,
    /// The square of that, summed.
    rest: f64,
    patches: usize,
}

impl OverlapFit {
    /// Starts with no images.
    pub fn new(autoencoder: LinearAutoencoder) -> Self {
        let around = NEIGHBOURS * autoencoder.channels();
        let values = patch_values(autoencoder.patch_size());
        Self {
            autoencoder,
            products: DMatrix::zeros(around, around),
            with_rest: DMatrix::zeros(around, values),
            rest: 0.0,
            patches: 0,
        }
    }

    /// Takes in images.
    ///
    /// # Panics
    /// If patches do not divide them.
    pub fn add(&mut self, pixels: &Pixels) {
        let (latents, rest) = self.autoencoder.left_out(pixels);
        let [b, h, w, c] = latents.dims();
        let latents = bordered(latents);
        let tap =
            |tap: usize| latents.clone().slice([0..b, tap / 3..tap / 3 + h, tap % 3..tap % 3 + w, 0..c]);
        let around = Tensor::cat((0..NEIGHBOURS).map(tap).collect(), 3);
        let patches = b * h * w;
        let columns = |tensor: Tensor<4>| {
            let rows = tensor.dims()[3];
            DMatrix::from_iterator(rows, patches, tensor.into_data().iter::<f32>().map(f64::from))
        };
        let (around, rest) = (columns(around), columns(rest)); // [9C, N], [3pp, N]
        self.products.gemm(1.0, &around, &around.transpose(), 1.0);
        self.with_rest.gemm(1.0, &around, &rest.transpose(), 1.0);
        self.rest += rest.norm_squared();
        self.patches += patches;
    }

    /// The autoencoder with the overlap of all images so far, and its PSNR on them in dB: of the pooled squared error
    /// before clamping.
    ///
    /// # Errors
    /// If there are too few images, or they are all the same.
    pub fn finish(self) -> Result<(LinearAutoencoder, f64)> {
        let Self { autoencoder, products, with_rest, rest, patches } = self;
        let around = products.nrows();
        let ridge = RIDGE * products.trace() / around as f64;
        let ridged = &products + DMatrix::identity(around, around) * ridge;
        let solved = if patches > around { Cholesky::new(ridged) } else { None };
        let Some(solved) = solved else {
            return Err(Error::Config(format!(
                "{patches} patches are too few, or too much alike, to fit an overlap of {around} numbers to; give more images"
            )));
        };
        let map = solved.solve(&with_rest); // [9C, 3pp]
        let error = rest - 2.0 * map.dot(&with_rest) + map.dot(&(&products * &map));
        let values = map.ncols();
        let psnr = psnr(error / (patches * values) as f64);
        // A column of the map is all that is seen by one value of a patch.
        let weight = map.iter().map(|&value| value as f32).collect();
        let overlap =
            Overlap::new(weight, Overlap::shape(values, autoencoder.channels()), &autoencoder.mean.device());
        Ok((LinearAutoencoder { overlap: Some(overlap), ..autoencoder }, psnr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::RgbImage;

    use super::super::linear::tests::pixels;
    use crate::Noise;
    use crate::autoencoder::LinearFit;

    /// Ramps of 16×16 pixels: what one brightness per patch of 4×4 leaves out, its neighbours tell.
    fn ramps(count: usize) -> Vec<RgbImage> {
        let mut noise = Noise::seeded(3);
        (0..count)
            .map(|_| {
                let draws = noise.uniform(3);
                RgbImage::from_fn(16, 16, |x, y| {
                    let value =
                        60.0 + 60.0 * draws[0] + 4.0 * draws[1] * x as f32 + 4.0 * draws[2] * y as f32;
                    image::Rgb([value as u8; 3])
                })
            })
            .collect()
    }

    fn fitted(images: &[RgbImage]) -> LinearAutoencoder {
        let mut fit = LinearFit::new(4);
        fit.add(images).unwrap();
        fit.finish(1, 0.0, &Device::flex()).unwrap().0
    }

    fn error(autoencoder: &LinearAutoencoder, pixels: &Pixels) -> f64 {
        let back = autoencoder.decode(&autoencoder.encode(pixels));
        (back.0 - pixels.0.clone()).square().mean().into_scalar::<f32>().into()
    }

    #[test]
    fn neighbours_tell_what_a_patch_leaves_out_and_latents_stay() {
        let (device, images) = (Device::flex(), ramps(40));
        let alone = fitted(&images);
        let mut fit = OverlapFit::new(alone.clone());
        for part in [&images[..10], &images[10..]] {
            fit.add(&pixels(part, &device));
        }
        let (together, psnr) = fit.finish().unwrap();
        let all = pixels(&images, &device);
        assert_eq!(alone.encode(&all).0.into_data(), together.encode(&all).0.into_data());
        let errors = [&alone, &together].map(|autoencoder| error(autoencoder, &all));
        // Three in four patches lie at an edge, beyond which nothing tells.
        assert!(errors[1] * 2.0 < errors[0], "{errors:?}");
        assert!((-10.0 * errors[1].log10() - psnr).abs() < 0.01, "{errors:?} {psnr}");
        // As it is found in a file.
        let mut weights = together.to_weights();
        let read = LinearAutoencoder::from_weights(4, 1, true, &mut weights, &device).unwrap();
        assert!(weights.is_empty());
        assert_eq!(error(&read, &all), errors[1]);
        assert_eq!(read.num_params() - alone.num_params(), 48 * 9);
    }

    #[test]
    fn too_few_images_are_refused() {
        let images = ramps(20);
        let mut fit = OverlapFit::new(fitted(&images));
        // Sixteen patches for maps of nine numbers are enough.
        fit.add(&pixels(&images[..1], &Device::flex()));
        assert!(fit.finish().is_ok());
        let none = OverlapFit::new(fitted(&images));
        assert!(none.finish().unwrap_err().to_string().contains("0 patches are too few"));
    }
}
