//! How much power an image has at each spatial frequency: the squared magnitudes of its two-dimensional Fourier
//! transform, averaged over rings (paper, section 5.4).

use rustfft::FftPlanner;
use rustfft::num_complex::Complex;
use semanticist::image::RgbImage;

/// Weights of red, green and blue in luminance (ITU-R BT.601), as Pillow's `L`.
const LUMINANCE: [f64; 3] = [0.299, 0.587, 0.114];

/// The mean power of rings around frequency 0, of square images of side S: ring `r` holds the frequencies whose
/// distance from 0 rounds to `r` cycles per image, from 0 to S / 2. Values are in `[0, 1]` and the transform is divided
/// by S, so that the sum of all powers is that of all squares.
///
/// # Shapes
/// S × S pixels → S / 2 + 1 numbers
///
/// # Panics
/// If the image is not square.
pub fn radial_power(image: &RgbImage) -> Vec<f64> {
    let side = image.width() as usize;
    assert_eq!(image.dimensions(), (side as u32, side as u32), "rings are of square images");
    let power = power(luminance(image), side);
    let (mut sums, mut counts) = (vec![0.0; side / 2 + 1], vec![0usize; side / 2 + 1]);
    let signed = |at: usize| at.min(side - at) as f64;
    for row in 0..side {
        for column in 0..side {
            let ring = signed(row).hypot(signed(column)).round() as usize;
            if ring <= side / 2 {
                sums[ring] += power[row * side + column];
                counts[ring] += 1;
            }
        }
    }
    sums.into_iter().zip(counts).map(|(sum, count)| sum / count as f64).collect()
}

/// S × S numbers, row by row.
fn luminance(image: &RgbImage) -> Vec<f64> {
    let of_pixel = |pixel: &image::Rgb<u8>| {
        pixel.0.iter().zip(LUMINANCE).map(|(&value, weight)| f64::from(value) / 255.0 * weight).sum()
    };
    image.pixels().map(of_pixel).collect()
}

/// The squared magnitudes of the transform over S: `[S, S]`.
fn power(values: Vec<f64>, side: usize) -> Vec<f64> {
    let fft = FftPlanner::new().plan_fft_forward(side);
    let mut grid: Vec<Complex<f64>> = values.into_iter().map(|value| Complex::new(value, 0.0)).collect();
    for _ in 0..2 {
        // Rows first; then columns, which are rows after transposition.
        fft.process(&mut grid);
        grid = (0..side * side).map(|at| grid[at % side * side + at / side]).collect();
    }
    let scale = (side * side) as f64;
    grid.into_iter().map(|value| value.norm_sqr() / scale).collect()
}

/// How far one spectrum is from another: the root mean square of the difference of decimal logarithms over rings from 1
/// on, times 10: decibels. Ring 0, the mean brightness, is no structure. None if a ring has no power.
///
/// # Panics
/// If they have different numbers of rings.
pub fn distance(spectrum: &[f64], original: &[f64]) -> Option<f64> {
    assert_eq!(spectrum.len(), original.len(), "spectra of images of one size");
    let differences = spectrum.iter().zip(original).skip(1).map(|(a, b)| 10.0 * (a / b).log10());
    let squares: Vec<f64> = differences.map(|difference| difference * difference).collect();
    let mean = squares.iter().sum::<f64>() / squares.len() as f64;
    mean.is_finite().then(|| mean.sqrt())
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Recorded {
        side: u32,
        power: Vec<f64>,
    }

    /// Recorded by scripts/record_evaluation.py from numpy.
    #[test]
    fn rings_are_those_of_numpy() {
        let text = include_str!("../tests/data/spectrum.json");
        let cases: Vec<Recorded> = serde_json::from_str(text).unwrap();
        for Recorded { side, power } in cases {
            let image = RgbImage::from_fn(side, side, |x, y| {
                Rgb([(x * 7 + y * 13) as u8, (x * y * 3) as u8, (x * x + 5 * y) as u8])
            });
            let found = radial_power(&image);
            assert_eq!(found.len(), power.len());
            for (found, expected) in found.iter().zip(&power) {
                assert!((found - expected).abs() < 1e-9 * expected.abs().max(1e-3), "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_wave_has_its_power_at_its_frequency() {
        let wave = |x: u32| {
            (127.5 + 127.5 * (f64::from(x) * 4.0 * std::f64::consts::TAU / 32.0).cos()).round() as u8
        };
        let found = radial_power(&RgbImage::from_fn(32, 32, |x, _| Rgb([wave(x); 3])));
        let largest = (1..found.len()).max_by(|&a, &b| found[a].total_cmp(&found[b])).unwrap();
        assert_eq!(largest, 4);
        assert!(found[4] > 1000.0 * found[5]);
    }

    #[test]
    fn white_noise_has_its_variance_at_every_frequency() {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut sums = [0.0; 17];
        const IMAGES: usize = 200;
        for _ in 0..IMAGES {
            let image = RgbImage::from_fn(32, 32, |_, _| Rgb([rng.random_range(0..=255u8); 3]));
            sums.iter_mut().zip(radial_power(&image)).for_each(|(sum, power)| *sum += power);
        }
        // Of 256 equally probable values, in units of the largest.
        let variance = (256.0f64 * 256.0 - 1.0) / 12.0 / (255.0 * 255.0);
        for (ring, sum) in sums.iter().enumerate().skip(1) {
            let found = sum / IMAGES as f64;
            assert!((found / variance - 1.0).abs() < 0.15, "{ring}: {found} {variance}");
        }
    }

    #[test]
    fn ten_times_the_power_is_ten_decibels() {
        let original = [5.0, 4.0, 2.0, 1.0];
        let louder = original.map(|power| power * 10.0);
        assert!((distance(&louder, &original).unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(distance(&original, &original), Some(0.0));
        assert_eq!(distance(&[5.0, 4.0, 0.0, 1.0], &original), None);
    }
}
