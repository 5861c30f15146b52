//! Resizing that gives Pillow's bytes, and the evaluation crop built on it.
//!
//! Follows `src/libImaging/Resample.c` of Pillow 11: coefficients normalised in `f64`, rounded to
//! 22-bit fixed point, a horizontal pass, rounding to 8 bits, a vertical pass, rounding again.
//!
//! Since version 13 Pillow turns the two passes around where the height shrinks by more than twice
//! as many pixels as the width (pull request 9549), which may move a byte by one. The published
//! models were made with earlier versions, so the order is always horizontal first here.

use std::ops::Range;

use ::image::RgbImage;

/// Fraction bits of a coefficient: 32 less 8 for the pixel and 2 for the overshoot of the filter.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// How neighbouring pixels are weighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Keys' cubic with `a = -0.5`.
    Bicubic,
    /// The mean of the pixels covered.
    Box,
}

/// A rectangle of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first column.
    pub x: usize,
    /// The first row.
    pub y: usize,
    /// How many columns.
    pub width: usize,
    /// How many rows.
    pub height: usize,
}

/// Resizes to `width` x `height`; antialiased, as `PIL.Image.resize`.
///
/// # Panics
/// If any side, old or new, is 0.
pub fn resize(image: &RgbImage, width: usize, height: usize, filter: Filter) -> RgbImage {
    resize_window(image, (width, height), Window { x: 0, y: 0, width, height }, filter)
}

/// The part `window` of the image resized to `full` (width, height), without computing the rest.
///
/// # Panics
/// If any side is 0 or the window reaches beyond `full`.
pub fn resize_window(image: &RgbImage, full: (usize, usize), window: Window, filter: Filter) -> RgbImage {
    let (width, height) = (image.width() as usize, image.height() as usize);
    assert!(width > 0 && height > 0 && window.width > 0 && window.height > 0, "an image side is 0");
    let (columns, rows) = (window.x..window.x + window.width, window.y..window.y + window.height);
    assert!(columns.end <= full.0 && rows.end <= full.1, "{window:?} is not within {full:?}");

    let horizontal = Weights::new(width, full.0, columns, filter);
    let vertical = Weights::new(height, full.1, rows, filter);
    let needed = vertical.sources();
    let narrow = horizontal_pass(image.as_raw(), width, needed.clone(), &horizontal);
    let bytes = vertical_pass(&narrow, window.width * 3, needed.start, &vertical);
    RgbImage::from_raw(window.width as u32, window.height as u32, bytes).expect("the passes fill the window")
}

/// The evaluation crop of ADM: halve while the short side is at least twice `size`, bicubic to
/// `size`, then the centre square.
/// <https://github.com/openai/guided-diffusion/blob/22e0df8183507e13a7813f8d38d51b072ca1e67c/guided_diffusion/image_datasets.py#L126>
///
/// # Panics
/// If `size` or a side of the image is 0.
pub fn center_crop(image: &RgbImage, size: usize) -> RgbImage {
    let sides = |image: &RgbImage| (image.width() as usize, image.height() as usize);
    let mut halved: Option<RgbImage> = None;
    loop {
        let current = halved.as_ref().unwrap_or(image);
        let (width, height) = sides(current);
        if width.min(height) < 2 * size {
            break;
        }
        halved = Some(resize(current, width / 2, height / 2, Filter::Box));
    }
    let current = halved.as_ref().unwrap_or(image);
    let (width, height) = sides(current);
    let scale = size as f64 / width.min(height) as f64;
    // Python's `round` rounds halves to even.
    let scaled = |side: usize| (side as f64 * scale).round_ties_even() as usize;
    let full = (scaled(width), scaled(height));
    let window = Window { x: (full.0 - size) / 2, y: (full.1 - size) / 2, width: size, height: size };
    resize_window(current, full, window, Filter::Bicubic)
}

impl Filter {
    /// Half the width of the filter, in source pixels when not shrinking.
    fn support(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Box => 0.5,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        match self {
            Self::Bicubic => match x.abs() {
                x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
                x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
                _ => 0.0,
            },
            Self::Box if x > -0.5 && x <= 0.5 => 1.0,
            Self::Box => 0.0,
        }
    }
}

/// For each output position along one axis, the first source pixel and the weights from there on.
struct Weights {
    starts: Vec<usize>,
    lengths: Vec<usize>,
    /// `stride` values for each output position, of which `lengths` are used.
    values: Vec<i32>,
    stride: usize,
}

impl Weights {
    /// Weights for the outputs `range` of an axis of `input` pixels resized to `output`.
    fn new(input: usize, output: usize, range: Range<usize>, filter: Filter) -> Self {
        if input == output {
            return Self::identity(range);
        }
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let inverse = 1.0 / filter_scale;
        let mut weights =
            Self { starts: vec![], lengths: vec![], values: vec![0; stride * range.len()], stride };
        let mut exact = vec![0f64; stride];
        for (position, fixed) in range.zip(weights.values.chunks_mut(stride)) {
            let center = (position as f64 + 0.5) * scale;
            // The casts truncate towards zero and clamp at zero, as in C.
            let start = (center - support + 0.5) as usize;
            let length = ((center + support + 0.5) as usize).min(input) - start;
            for (offset, weight) in exact[..length].iter_mut().enumerate() {
                *weight = filter.at(((offset + start) as f64 - center + 0.5) * inverse);
            }
            let total: f64 = exact[..length].iter().sum();
            for (fixed, weight) in fixed.iter_mut().zip(&exact[..length]) {
                *fixed = to_fixed_point(if total == 0.0 { *weight } else { weight / total });
            }
            weights.starts.push(start);
            weights.lengths.push(length);
        }
        weights
    }

    /// Pillow skips a pass that changes nothing; a weight of exactly one has the same effect.
    fn identity(range: Range<usize>) -> Self {
        let count = range.len();
        Self {
            starts: range.collect(),
            lengths: vec![1; count],
            values: vec![1 << PRECISION_BITS; count],
            stride: 1,
        }
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let used = self.values.chunks(self.stride).zip(&self.lengths).map(|(all, &length)| &all[..length]);
        self.starts.iter().copied().zip(used)
    }

    /// The source positions that any output needs.
    fn sources(&self) -> Range<usize> {
        let start = self.iter().map(|(start, _)| start).min().unwrap_or(0);
        start..self.iter().map(|(start, values)| start + values.len()).max().unwrap_or(0)
    }
}

fn to_fixed_point(weight: f64) -> i32 {
    // Halves away from zero, then truncated by the cast.
    (0.5f64.copysign(weight) + weight * f64::from(1 << PRECISION_BITS)) as i32
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Resizes the rows `rows` of an RGB image of `width` columns.
fn horizontal_pass(image: &[u8], width: usize, rows: Range<usize>, weights: &Weights) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows.len() * weights.starts.len() * 3);
    for row in rows {
        let row = &image[row * width * 3..(row + 1) * width * 3];
        for (start, values) in weights.iter() {
            let mut sums = [HALF; 3];
            let (pixels, _) = row[start * 3..(start + values.len()) * 3].as_chunks::<3>();
            for (pixel, weight) in pixels.iter().zip(values) {
                for channel in 0..3 {
                    sums[channel] += i32::from(pixel[channel]) * weight;
                }
            }
            bytes.extend(sums.map(to_byte));
        }
    }
    bytes
}

/// Resizes along the rows; `image` begins at source row `first` and has `stride` bytes a row.
fn vertical_pass(image: &[u8], stride: usize, first: usize, weights: &Weights) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(weights.starts.len() * stride);
    let mut sums = vec![0i32; stride];
    for (start, values) in weights.iter() {
        sums.fill(HALF);
        for (row, weight) in image[(start - first) * stride..].chunks_exact(stride).zip(values) {
            for (sum, byte) in sums.iter_mut().zip(row) {
                *sum += i32::from(*byte) * weight;
            }
        }
        bytes.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::open;

    fn recorded(name: &str) -> RgbImage {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/preprocess");
        open(&folder.join(name)).unwrap()
    }

    /// Against `center_crop_arr` of ADM on Pillow; the three cases need up to three halvings.
    #[test]
    fn the_evaluation_crop_is_pixel_exact() {
        for (name, size) in [("chelsea", 64), ("chelsea", 256), ("rocket", 64)] {
            let expected = recorded(&format!("{name}.center{size}.png"));
            let found = center_crop(&recorded(&format!("{name}.png")), size);
            assert_eq!(found.dimensions(), expected.dimensions());
            assert!(found == expected, "{name} at {size} differs");
        }
    }

    #[test]
    fn a_window_is_a_part_of_the_whole() {
        let image = recorded("chelsea.center64.png");
        for full in [(90, 75), (31, 64), (64, 64), (1, 200)] {
            let whole = resize(&image, full.0, full.1, Filter::Bicubic);
            let window = Window { x: full.0 / 3, y: full.1 / 4, width: full.0.div_ceil(2), height: 20 };
            let part = resize_window(&image, full, window, Filter::Bicubic);
            for (x, y, pixel) in part.enumerate_pixels() {
                assert_eq!(pixel, whole.get_pixel(x + window.x as u32, y + window.y as u32));
            }
        }
    }

    #[test]
    fn a_constant_stays_constant_and_the_same_size_changes_nothing() {
        let grey = RgbImage::from_pixel(13, 7, ::image::Rgb([77, 1, 255]));
        for filter in [Filter::Bicubic, Filter::Box] {
            let large = resize(&grey, 29, 3, filter);
            assert!(large.pixels().all(|pixel| pixel.0 == [77, 1, 255]));
        }
        let image = recorded("chelsea.center64.png");
        assert_eq!(resize(&image, 64, 64, Filter::Bicubic), image);
    }

    #[test]
    fn extreme_shapes_need_no_more_than_the_crop() {
        for (width, height) in [(1, 1), (1, 32_768), (32_768, 1), (3, 500)] {
            let crop = center_crop(&RgbImage::new(width, height), 64);
            assert_eq!(crop.dimensions(), (64, 64));
        }
    }
}
