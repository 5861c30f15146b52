//! How an image of any shape becomes the square that a model looks at.

use ::image::imageops::{crop_imm, replace};
use ::image::{Rgb, RgbImage};
use serde::{Deserialize, Serialize};

use super::{Filter, Window, center_crop, resize};

/// What is done with an image that is not square. It is never squeezed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// The square in the middle; what lies beside it is lost.
    #[default]
    Crop,
    /// All of it, with grey beside it.
    Pad,
}

/// Halfway between black and white: no colour is nearer to all others.
const PADDING: Rgb<u8> = Rgb([128; 3]);

impl Fit {
    /// Which part of a square of side `size` is not padding, of an image of this width and height.
    ///
    /// # Panics
    /// If a side of the image or the square is 0.
    pub fn window(self, (width, height): (u32, u32), size: usize) -> Window {
        assert!(width > 0 && height > 0 && size > 0, "an image side is 0");
        let scale = size as f64 / f64::from(width.max(height));
        let scaled = |side: u32| ((f64::from(side) * scale).round() as usize).clamp(1, size);
        let (width, height) = match self {
            Self::Crop => (size, size),
            Self::Pad => (scaled(width), scaled(height)),
        };
        Window { x: (size - width) / 2, y: (size - height) / 2, width, height }
    }
}

/// The square of side `size` for an image: the evaluation crop, or the image as large as it fits.
///
/// # Panics
/// If `size` or a side of the image is 0.
pub fn fit(image: &RgbImage, size: usize, how: Fit) -> RgbImage {
    let Window { x, y, width, height } = how.window(image.dimensions(), size);
    match how {
        Fit::Crop => center_crop(image, size),
        Fit::Pad => {
            let mut square = RgbImage::from_pixel(size as u32, size as u32, PADDING);
            replace(&mut square, &resize(image, width, height, Filter::Bicubic), x as i64, y as i64);
            square
        }
    }
}

impl Window {
    /// This part of an image.
    ///
    /// # Panics
    /// If it reaches beyond the image.
    pub fn of(&self, image: &RgbImage) -> RgbImage {
        let Self { x, y, width, height } = *self;
        assert!(x + width <= image.width() as usize && y + height <= image.height() as usize, "{self:?}");
        crop_imm(image, x as u32, y as u32, width as u32, height as u32).to_image()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_keeps_the_shape_and_the_window_gives_it_back() {
        let photo = RgbImage::from_fn(40, 20, |x, y| Rgb([x as u8 * 6, y as u8 * 12, 7]));
        let square = fit(&photo, 20, Fit::Pad);
        let window = Fit::Pad.window(photo.dimensions(), 20);
        assert_eq!(window, Window { x: 0, y: 5, width: 20, height: 10 });
        assert_eq!(window.of(&square), resize(&photo, 20, 10, Filter::Bicubic));
        for (x, y) in [(0, 4), (19, 15), (7, 0)] {
            assert_eq!(square.get_pixel(x, y), &PADDING);
        }
    }

    #[test]
    fn a_crop_fills_the_square_and_a_square_needs_neither() {
        let photo = RgbImage::from_fn(40, 20, |x, y| Rgb([x as u8 * 6, y as u8 * 12, 7]));
        assert_eq!(fit(&photo, 10, Fit::Crop), center_crop(&photo, 10));
        let all = Window { x: 0, y: 0, width: 10, height: 10 };
        assert_eq!([Fit::Crop.window((40, 20), 10), Fit::Pad.window((7, 7), 10)], [all, all]);
        let square = RgbImage::from_fn(10, 10, |x, y| Rgb([x as u8, y as u8, 9]));
        assert_eq!([fit(&square, 10, Fit::Crop), fit(&square, 10, Fit::Pad)], [square.clone(), square]);
    }

    #[test]
    fn extreme_shapes_leave_at_least_a_line() {
        for (width, height) in [(32_768, 1), (1, 32_768), (1, 1)] {
            let window = Fit::Pad.window((width, height), 16);
            assert!(window.width >= 1 && window.height >= 1 && window.x + window.width <= 16, "{window:?}");
            assert_eq!(fit(&RgbImage::new(width, height), 16, Fit::Pad).dimensions(), (16, 16));
        }
    }
}
