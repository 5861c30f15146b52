//! Real image files of no more bytes than tokens take.

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use semanticist::Result;
use semanticist::image::RgbImage;

/// A kind of image file whose size can be chosen.
#[derive(Debug, Clone, Copy)]
pub(super) enum Codec {
    /// Baseline, with the tables of the standard.
    Jpeg,
    /// Lossy, by libwebp with its default settings.
    WebP,
}

impl Codec {
    pub const ALL: [Self; 2] = [Self::Jpeg, Self::WebP];

    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
        }
    }

    /// # Panics
    /// If the quality is not from 1 to 100.
    fn encode(self, image: &RgbImage, quality: u8) -> Vec<u8> {
        let (width, height) = image.dimensions();
        match self {
            Self::Jpeg => {
                let mut file = Vec::new();
                JpegEncoder::new_with_quality(&mut file, quality)
                    .encode(image.as_raw(), width, height, ExtendedColorType::Rgb8)
                    .expect("memory takes a JPEG");
                file
            }
            Self::WebP => webp::Encoder::from_rgb(image.as_raw(), width, height)
                .encode_simple(false, f32::from(quality))
                .expect("measured squares are smaller than the 16383 pixels of a WebP")
                .to_vec(),
        }
    }

    /// The image as its best file of no more bytes shows it; none if there is none.
    ///
    /// # Errors
    /// If the file cannot be decoded.
    pub fn within(self, image: &RgbImage, bytes: usize) -> Result<Option<RgbImage>> {
        let smallest = self.encode(image, 1);
        if smallest.len() > bytes {
            return Ok(None);
        }
        // The largest quality that fits: sizes grow with it.
        let (mut best, mut fits, mut too_large) = (smallest, 1u8, 101u8);
        while fits + 1 < too_large {
            let middle = fits.midpoint(too_large);
            let file = self.encode(image, middle);
            if file.len() <= bytes {
                (best, fits) = (file, middle);
            } else {
                too_large = middle;
            }
        }
        semanticist::image::decode("a picture that was just encoded", &best).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_file_that_fits_is_taken() {
        let image =
            RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * 4) as u8, (y * 4) as u8, ((x ^ y) * 4) as u8]));
        let error = |other: &RgbImage| -> f64 {
            let pairs = image.as_raw().iter().zip(other.as_raw());
            pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
        };
        for codec in Codec::ALL {
            assert!(codec.within(&image, 20).unwrap().is_none(), "a header alone is larger");
            let [small, large] =
                [900, 2500].map(|bytes| error(&codec.within(&image, bytes).unwrap().unwrap()));
            assert!(large < small, "{codec:?}: {large} {small}");
        }
    }
}
