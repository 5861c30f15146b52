//! How close an image is to its original: PSNR and SSIM of one image, in `f64`.
//!
//! Values are clamped to `[0, 1]` first, as a screen would.

use semanticist::Pixels;
use serde::Serialize;

use crate::ssim::{has_five_scales, multi_scale_ssim, ssim};

/// The quality of one image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quality {
    /// Peak signal-to-noise ratio in dB. Infinite for equal images, which JSON writes as null.
    pub psnr: f64,
    /// Structural similarity, at most 1, as torchmetrics computes it; none if a side has fewer than 6 pixels.
    pub ssim: Option<f64>,
}

/// Compares each image with the original at the same place of its batch.
///
/// # Shapes
/// Both `[B, C, H, W]` → B.
///
/// # Panics
/// If the shapes differ.
pub fn compare(originals: &Pixels, others: &Pixels) -> Vec<Quality> {
    each_pair(originals, others, |a, b, size| Quality { psnr: psnr(a, b), ssim: ssim(a, b, size) })
}

/// Whether a square of `size` pixels is large enough for [`multi_scale`].
pub fn has_multi_scale(size: usize) -> bool {
    has_five_scales(size)
}

/// The structural similarity over five scales of each image to the original at the same place of its batch, as torchmetrics
/// computes it; none if a side has no more than 160 pixels.
///
/// # Shapes
/// Both `[B, C, H, W]` → B.
///
/// # Panics
/// If the shapes differ.
pub fn multi_scale(originals: &Pixels, others: &Pixels) -> Vec<Option<f64>> {
    let [images, _, height, width] = originals.0.dims();
    // Most of what is measured here is smaller: its values need not be read a second time.
    if !has_multi_scale(height.min(width)) {
        return vec![None; images];
    }
    each_pair(originals, others, multi_scale_ssim)
}

fn each_pair<T>(
    originals: &Pixels,
    others: &Pixels,
    measure: impl Fn(&[f64], &[f64], (usize, usize)) -> T,
) -> Vec<T> {
    let [_, channels, height, width] = originals.0.dims();
    assert_eq!(originals.0.dims(), others.0.dims(), "images are compared with originals of their size");
    let (a, b) = (values(originals), values(others));
    let image = channels * height * width;
    a.chunks(image).zip(b.chunks(image)).map(|(a, b)| measure(a, b, (height, width))).collect()
}

/// All values, clamped.
fn values(pixels: &Pixels) -> Vec<f64> {
    let data = pixels.0.clone().into_data().convert::<f32>();
    let values = data.as_slice::<f32>().expect("the data was just converted to f32");
    values.iter().map(|&value| f64::from(value).clamp(0.0, 1.0)).collect()
}

/// `10 log₁₀(1 / mse)`.
fn psnr(a: &[f64], b: &[f64]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
    if squares == 0.0 {
        return f64::INFINITY;
    }
    -10.0 * (squares / a.len() as f64).log10()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData};
    use semanticist::image::{RgbImage, to_pixels};

    use super::*;

    fn image((height, width): (u32, u32), value: impl Fn(u32, u32, u32) -> u32) -> Pixels {
        let pixel = |x, y| image::Rgb([0, 1, 2].map(|c| (value(x, y, c) % 256) as u8));
        to_pixels(&[RgbImage::from_fn(width, height, pixel)], &Device::flex())
    }

    /// Recorded from scikit-image 0.26: `peak_signal_noise_ratio(a, b, data_range=1)`.
    #[test]
    fn psnr_is_that_of_scikit_image() {
        let ramp = |x: u32, y: u32, c: u32| x * 7 + y * 13 + c * 29;
        let near = |x: u32, y: u32, c: u32| ramp(x, y, c) + (x * x + 3 * y + c * 5) % 23;
        let far = |x: u32, y: u32, c: u32| x * y * 3 + c * 71;
        let cases = [
            ((16, 13), [14.047033951700701, 8.697716920381119]),
            ((32, 24), [13.75096786113696, 8.125125302956413]),
        ];
        for (size, expected) in cases {
            let found = [image(size, near), image(size, far)].map(|b| compare(&image(size, ramp), &b)[0]);
            for (Quality { psnr, .. }, expected) in found.into_iter().zip(expected) {
                // The images are read back from f32.
                assert!((psnr - expected).abs() < 1e-5, "{size:?}: {psnr}, not {expected}");
            }
        }
    }

    #[test]
    fn equal_pictures_are_perfect_and_small_ones_have_no_similarity() {
        let picture = image((6, 12), |x, y, c| x * 9 + y * 5 + c);
        let quality = compare(&picture, &picture)[0];
        assert_eq!(quality.psnr, f64::INFINITY);
        assert!((quality.ssim.unwrap() - 1.0).abs() < 1e-12);
        assert!(serde_json::to_string(&quality).unwrap().starts_with(r#"{"psnr":null,"ssim":"#));
        let narrow = image((12, 5), |x, y, c| x + y + c);
        assert_eq!(compare(&narrow, &narrow)[0].ssim, None);
    }

    #[test]
    fn values_are_clamped_and_images_are_kept_apart() {
        let batch = |values: [f32; 2]| {
            let values = values.map(|value| vec![value; 12]).concat();
            Pixels(Tensor::from_data(TensorData::new(values, [2, 3, 2, 2]), &Device::flex()))
        };
        // A difference of 0.1 everywhere is 20 dB; what lies above 1 counts as 1.
        let found = compare(&batch([0.5, 1.0]), &batch([0.6, 1.7]));
        assert!((found[0].psnr - 20.0).abs() < 1e-5, "{found:?}");
        assert_eq!(found[1].psnr, f64::INFINITY);
    }
}
