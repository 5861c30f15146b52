//! How close images are to their originals, by several measures, as means over images.

use semanticist::Pixels;
use serde::{Deserialize, Serialize};

use crate::findings::Cell;
use crate::perceptual::{Lpips, PerceptualMeasures};
use crate::quality;

/// A measure of one image beside its original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Metric {
    Psnr,
    Ssim,
    MultiScaleSsim,
    Lpips,
    Dists,
}

impl Metric {
    const ALL: [Self; 5] = [Self::Psnr, Self::Ssim, Self::MultiScaleSsim, Self::Lpips, Self::Dists];

    /// Those that can be told of squares of `size` pixels: PSNR and SSIM always.
    pub fn of(size: usize, perceptual: &PerceptualMeasures) -> Vec<Self> {
        let told = |metric: &Self| match metric {
            Self::Psnr | Self::Ssim => true,
            Self::MultiScaleSsim => quality::has_multi_scale(size),
            Self::Lpips => perceptual.lpips.is_some(),
            Self::Dists => perceptual.dists.is_some(),
        };
        Self::ALL.into_iter().filter(told).collect()
    }

    /// The name of its column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Psnr => "PSNR dB",
            Self::Ssim => "SSIM",
            Self::MultiScaleSsim => "MS-SSIM",
            Self::Lpips => "LPIPS",
            Self::Dists => "DISTS",
        }
    }

    /// How it is measured, in a sentence.
    pub fn protocol(self, perceptual: &PerceptualMeasures) -> String {
        match self {
            Self::Psnr => "Closeness is measured per image on values clamped to [0, 1] and averaged over images.".into(),
            Self::Ssim => {
                "SSIM is that of torchmetrics, which mirrors images beyond their edges; scikit-image's is another.".into()
            }
            Self::MultiScaleSsim => "MS-SSIM is that of torchmetrics, over five scales.".into(),
            Self::Lpips => {
                let network = perceptual.lpips.as_ref().map_or("no network", Lpips::network);
                format!("LPIPS is version 0.1 on {network}; equal images have 0.")
            }
            Self::Dists => "DISTS is on vgg16; equal images have 0.".into(),
        }
    }
}

/// Sums over images.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Sum {
    images: usize,
    totals: [Total; Metric::ALL.len()],
}

/// Of those images of which a measure can be told.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Total {
    images: usize,
    sum: f64,
}

impl Sum {
    pub fn of(originals: &Pixels, others: &Pixels, perceptual: &PerceptualMeasures) -> Self {
        let qualities = quality::compare(originals, others);
        let multi_scale = quality::multi_scale(originals, others);
        let distances = perceptual.compare(originals, others);
        let mut sum = Self::default();
        for ((found, multi_scale), distance) in qualities.into_iter().zip(multi_scale).zip(distances) {
            sum.images += 1;
            for (metric, total) in Metric::ALL.into_iter().zip(&mut sum.totals) {
                let value = match metric {
                    // Equal images would be infinitely good; 8 bits can say no more than this.
                    Metric::Psnr => Some(found.psnr.min(100.0)),
                    Metric::Ssim => found.ssim,
                    Metric::MultiScaleSsim => multi_scale,
                    Metric::Lpips => distance.lpips,
                    Metric::Dists => distance.dists,
                };
                total.images += usize::from(value.is_some());
                total.sum += value.unwrap_or_default();
            }
        }
        sum
    }

    pub fn add(&mut self, other: Self) {
        self.images += other.images;
        for (total, other) in self.totals.iter_mut().zip(other.totals) {
            total.images += other.images;
            total.sum += other.sum;
        }
    }

    pub fn images(&self) -> usize {
        self.images
    }

    /// The mean over all images, if it can be told of each.
    pub fn mean(&self, metric: Metric) -> Option<f64> {
        let total = self.totals[metric as usize];
        (self.images > 0 && total.images == self.images).then(|| total.sum / self.images as f64)
    }

    /// The means as cells of a table.
    pub fn cells(&self, metrics: &[Metric]) -> Vec<Cell> {
        metrics.iter().map(|&metric| self.mean(metric).into()).collect()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use semanticist::image::{RgbImage, to_pixels};

    use super::*;

    #[test]
    fn a_mean_is_told_only_where_it_is_of_all_images() {
        let pixels = |size: u32, value: u8| {
            to_pixels(&[RgbImage::from_pixel(size, size, image::Rgb([value; 3]))], &Device::flex())
        };
        let none = PerceptualMeasures::default();
        let mut sum = Sum::of(&pixels(176, 0), &pixels(176, 255), &none);
        assert_eq!(sum.mean(Metric::Psnr), Some(0.0));
        // Flat images: of the fractions only the constants are left.
        assert!(sum.mean(Metric::Ssim).is_some_and(|ssim| (ssim - 1e-4 / (1.0 + 1e-4)).abs() < 1e-9));
        assert!(sum.mean(Metric::MultiScaleSsim).is_some());
        sum.add(Sum::of(&pixels(64, 9), &pixels(64, 9), &none));
        assert_eq!((sum.images(), sum.mean(Metric::Psnr)), (2, Some(50.0)));
        assert_eq!(sum.mean(Metric::MultiScaleSsim), None, "one of two is too small");
        assert_eq!(Metric::of(64, &none), [Metric::Psnr, Metric::Ssim]);
        assert_eq!(Metric::of(176, &none).len(), 3);
    }
}
