//! How close an image is to its original: PSNR and SSIM of one image, in `f64`.
//!
//! Both are the definitions that torchmetrics and scikit-image agree on. Values are clamped to
//! `[0, 1]` first, as a screen would.

use semanticist::Pixels;
use serde::Serialize;

/// Taps of the Gaussian window on either side of its middle: 11 in all.
const RADIUS: usize = 5;
/// Its standard deviation, in pixels.
const SIGMA: f64 = 1.5;
/// Keep the fractions of SSIM finite where an image is flat (Wang et al. 2004): `(K L)²` with
/// K₁ = 0.01, K₂ = 0.03 and values of range L = 1.
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;

/// The quality of one image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quality {
    /// Peak signal-to-noise ratio in dB. Infinite for equal images, which JSON writes as null.
    pub psnr: f64,
    /// Structural similarity, at most 1; none if a side has fewer than the 11 pixels of its window.
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
    let [_, channels, height, width] = originals.0.dims();
    assert_eq!(originals.0.dims(), others.0.dims(), "images are compared with originals of their size");
    let (a, b) = (values(originals), values(others));
    let image = channels * height * width;
    let pairs = a.chunks(image).zip(b.chunks(image));
    pairs.map(|(a, b)| Quality { psnr: psnr(a, b), ssim: ssim(a, b, (height, width)) }).collect()
}

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

/// The mean over all channels and all places where the window fits into the image.
///
/// Source: Wang et al. 2004, eq. 13, with biased (co)variances.
fn ssim(a: &[f64], b: &[f64], (height, width): (usize, usize)) -> Option<f64> {
    if height.min(width) <= 2 * RADIUS {
        return None;
    }
    let planes = a.chunks(height * width).zip(b.chunks(height * width));
    let means: Vec<f64> = planes.map(|(a, b)| plane_ssim(a, b, width)).collect();
    Some(means.iter().sum::<f64>() / means.len() as f64)
}

fn plane_ssim(a: &[f64], b: &[f64], width: usize) -> f64 {
    let window = gaussian();
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).collect::<Vec<f64>>();
    let blurred = |plane: &[f64]| blur(plane, width, &window);
    let (mean_a, mean_b) = (blurred(a), blurred(b));
    let (aa, bb, ab) = (blurred(&product(a, a)), blurred(&product(b, b)), blurred(&product(a, b)));
    let at = |i: usize| {
        let (a, b) = (mean_a[i], mean_b[i]);
        let (variances, covariance) = (aa[i] - a * a + bb[i] - b * b, ab[i] - a * b);
        (2.0 * a * b + C1) * (2.0 * covariance + C2) / ((a * a + b * b + C1) * (variances + C2))
    };
    (0..mean_a.len()).map(at).sum::<f64>() / mean_a.len() as f64
}

fn gaussian() -> [f64; 2 * RADIUS + 1] {
    let weights = std::array::from_fn(|i| {
        let distance = i as f64 - RADIUS as f64;
        (-distance * distance / (2.0 * SIGMA * SIGMA)).exp()
    });
    let sum: f64 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}

/// The weighted means at every place where the window fits.
fn blur(plane: &[f64], width: usize, window: &[f64]) -> Vec<f64> {
    let taps = window.len();
    let narrow = width - taps + 1;
    let rows: Vec<f64> = plane
        .chunks(width)
        .flat_map(|row| row.windows(taps).map(|part| part.iter().zip(window).map(|(v, w)| v * w).sum()))
        .collect();
    let heights = rows.len() / narrow - taps + 1;
    let down = |at: usize| window.iter().enumerate().map(|(tap, w)| rows[at + tap * narrow] * w).sum();
    (0..heights * narrow).map(down).collect()
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

    /// Recorded from scikit-image 0.26: `peak_signal_noise_ratio(a, b, data_range=1)` and
    /// `structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    /// data_range=1, channel_axis=2, win_size=11)`, which averages where the window fits.
    #[test]
    fn values_are_those_of_scikit_image() {
        let ramp = |x: u32, y: u32, c: u32| x * 7 + y * 13 + c * 29;
        let near = |x: u32, y: u32, c: u32| ramp(x, y, c) + (x * x + 3 * y + c * 5) % 23;
        let far = |x: u32, y: u32, c: u32| x * y * 3 + c * 71;
        let cases = [
            ((16, 13), [(14.047033951700701, 0.7894523495203397), (8.697716920381119, 0.1396387921143063)]),
            ((32, 24), [(13.75096786113696, 0.7226211531634776), (8.125125302956413, 0.018352149413067533)]),
        ];
        for (size, expected) in cases {
            let found = [image(size, near), image(size, far)].map(|b| compare(&image(size, ramp), &b)[0]);
            for (Quality { psnr, ssim }, (expected_psnr, expected_ssim)) in found.into_iter().zip(expected) {
                let ssim = ssim.unwrap();
                // The images are read back from f32.
                assert!((psnr - expected_psnr).abs() < 1e-5, "{size:?}: {psnr}, not {expected_psnr}");
                assert!((ssim - expected_ssim).abs() < 1e-6, "{size:?}: {ssim}, not {expected_ssim}");
            }
        }
    }

    #[test]
    fn equal_pictures_are_perfect_and_small_ones_have_no_window() {
        let picture = image((11, 12), |x, y, c| x * 9 + y * 5 + c);
        let quality = compare(&picture, &picture)[0];
        assert_eq!(quality.psnr, f64::INFINITY);
        assert!((quality.ssim.unwrap() - 1.0).abs() < 1e-12);
        assert!(serde_json::to_string(&quality).unwrap().starts_with(r#"{"psnr":null,"ssim":"#));
        let narrow = image((12, 10), |x, y, c| x + y + c);
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
