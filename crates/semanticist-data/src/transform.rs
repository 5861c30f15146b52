//! What is done to an image before it is used, in training and in evaluation.

use semanticist::Noise;
use semanticist::image::{Filter, RgbImage, Window, center_crop, resize, resize_window};

/// Which part of an image a training view shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Crop {
    /// As much as a square can, at a random place.
    Largest,
    /// That of evaluation: as much as a square can, in the middle.
    Center,
    /// A part of another size, shape and place each time.
    Scaled {
        /// Of the image's area, the least that is shown; above 0 and at most 1.
        least: f32,
    },
}

/// What training shows of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// A square.
    pub image: RgbImage,
    /// Whether left and right have changed places.
    pub mirrored: bool,
}

impl View {
    fn mirrored_if(mirrored: bool, mut image: RgbImage) -> Self {
        if mirrored {
            image::imageops::flip_horizontal_in_place(&mut image);
        }
        Self { image, mirrored }
    }
}

impl Crop {
    /// The training view of an image, a square of `size` pixels, mirrored with probability `flip`.
    ///
    /// # Panics
    /// If `size` or a side of the image is 0.
    pub fn of(self, image: &RgbImage, size: usize, flip: f32, noise: &mut Noise) -> View {
        match self {
            Self::Largest => largest(image, size, flip, noise),
            Self::Center => View::mirrored_if(noise.uniform(1)[0] < flip, evaluation(image, size)),
            Self::Scaled { least } => scaled(image, size, least, flip, noise),
        }
    }
}

/// The view of [`Crop::Largest`]: the short side resized to `size` (bicubic, antialiased, as torchvision), a
/// random square of that size, mirrored with probability `flip`.
///
/// Always takes three draws, whatever the image.
///
/// # Panics
/// If `size` or a side of the image is 0.
fn largest(image: &RgbImage, size: usize, flip: f32, noise: &mut Noise) -> View {
    let draws = noise.uniform(3);
    let full = resized(image, size);
    let (x, y) = (up_to(full.0 - size, draws[0]), up_to(full.1 - size, draws[1]));
    let view = resize_window(image, full, Window { x, y, width: size, height: size }, Filter::Bicubic);
    View::mirrored_if(draws[2] < flip, view)
}

/// One of the numbers from 0 to `most`, all as likely, for a draw from [0, 1).
pub(crate) fn up_to(most: usize, draw: f32) -> usize {
    // A draw is below 1, but its product with a large f32 may round up to the bound.
    ((draw * (most + 1) as f32) as usize).min(most)
}

/// Of how many rectangles the first is taken that fits into the image.
const ATTEMPTS: usize = 10;

/// The view of [`Crop::Scaled`]: a rectangle of `least` to all of the image's area and of an aspect ratio from 3:4 to
/// 4:3, at a random place, resized to a square (Szegedy et al., 2015; torchvision's `RandomResizedCrop`, which
/// takes the centre as well if no rectangle fits).
///
/// The draws that are taken depend on the image's shape.
fn scaled(image: &RgbImage, size: usize, least: f32, flip: f32, noise: &mut Noise) -> View {
    let (width, height) = (image.width() as f64, image.height() as f64);
    let between = |low: f64, high: f64, draw: f32| low + (high - low) * f64::from(draw);
    let ratios = (4.0f64 / 3.0).ln();
    let mut rectangles = (0..ATTEMPTS).map(|_| {
        let draws = noise.uniform(2);
        let area = width * height * between(f64::from(least), 1.0, draws[0]);
        let ratio = between(-ratios, ratios, draws[1]).exp();
        ((area * ratio).sqrt().round(), (area / ratio).sqrt().round())
    });
    let fits = |&(w, h): &(f64, f64)| (1.0..=width).contains(&w) && (1.0..=height).contains(&h);
    let found = rectangles.find(fits);
    // All of the image, but for what its shape has beyond the ratios.
    let (w, h) = found.unwrap_or_else(|| {
        ((height * 4.0 / 3.0).round().min(width), (width * 4.0 / 3.0).round().min(height))
    });
    let draws = noise.uniform(3);
    let offset = |draw: f32, room: f64| match found {
        Some(_) => (f64::from(draw) * (room + 1.0)).min(room) as u32,
        None => (room / 2.0) as u32,
    };
    let (x, y) = (offset(draws[0], width - w), offset(draws[1], height - h));
    let part = image::imageops::crop_imm(image, x, y, w as u32, h as u32).to_image();
    View::mirrored_if(draws[2] < flip, resize(&part, size, size, Filter::Bicubic))
}

/// The evaluation view: the centre crop of ADM.
///
/// # Panics
/// If `size` or a side of the image is 0.
pub fn evaluation(image: &RgbImage, size: usize) -> RgbImage {
    center_crop(image, size)
}

/// Width and height once the short side is `size`; the long side is rounded down.
fn resized(image: &RgbImage, size: usize) -> (usize, usize) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width <= height { (size, size * height / width) } else { (size * width / height, size) }
}

#[cfg(test)]
mod tests {
    use semanticist::image::resize;

    use super::*;

    /// Red is the column, green the row.
    fn ramp(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 7]))
    }

    #[test]
    fn nothing_happens_to_an_image_of_the_size() {
        let image = ramp(32, 32);
        assert_eq!(largest(&image, 32, 0.0, &mut Noise::seeded(1)).image, image);
        let mirrored = largest(&image, 32, 1.0, &mut Noise::seeded(1)).image;
        assert_eq!(mirrored.get_pixel(0, 5).0, [31, 5, 7]);
    }

    #[test]
    fn the_view_is_a_part_of_the_resized_image() {
        let image = ramp(50, 30);
        let whole = resize(&image, 26, 16, Filter::Bicubic);
        // Offsets 0.5 * (26 - 16 + 1) = 5 and 0.
        let view = largest(&image, 16, 0.5, &mut Noise::recorded([vec![0.5, 0.9, 0.6]])).image;
        assert_eq!(view, image::imageops::crop_imm(&whole, 5, 0, 16, 16).to_image());
    }

    #[test]
    fn crops_reach_both_ends_and_mirror_half_of_the_time() {
        let image = ramp(40, 20);
        let views: Vec<_> =
            (0..400).map(|seed| largest(&image, 20, 0.5, &mut Noise::seeded(seed)).image).collect();
        let mirrored = |view: &RgbImage| view.get_pixel(0, 0).0[0] > view.get_pixel(19, 0).0[0];
        let flips = views.iter().filter(|view| mirrored(view)).count();
        assert!((160..240).contains(&flips), "{flips}");
        let left = |view: &RgbImage| view.get_pixel(0, 0).0[0].min(view.get_pixel(19, 0).0[0]);
        assert_eq!(views.iter().map(left).min(), Some(0));
        assert_eq!(views.iter().map(left).max(), Some(20));
    }

    #[test]
    fn the_view_of_evaluation_is_mirrored_half_of_the_time_and_says_so() {
        let image = ramp(40, 20);
        let center = evaluation(&image, 16);
        let other = image::imageops::flip_horizontal(&center);
        let views: Vec<View> =
            (0..100).map(|seed| Crop::Center.of(&image, 16, 0.5, &mut Noise::seeded(seed))).collect();
        assert!(views.iter().all(|view| &view.image == if view.mirrored { &other } else { &center }));
        let mirrored = views.iter().filter(|view| view.mirrored).count();
        assert!((30..70).contains(&mirrored), "{mirrored}");
        let never =
            (0..100).all(|seed| !Crop::Largest.of(&image, 16, 0.0, &mut Noise::seeded(seed)).mirrored);
        assert!(never);
    }

    #[test]
    fn scaled_crops_show_parts_of_the_size_asked_for_and_reach_all_places() {
        let image = ramp(120, 120);
        let views: Vec<_> =
            (0..400).map(|seed| scaled(&image, 30, 0.25, 0.0, &mut Noise::seeded(seed)).image).collect();
        let extent = |view: &RgbImage, channel: usize| {
            let (first, last) = (view.get_pixel(0, 0).0[channel], view.get_pixel(29, 29).0[channel]);
            // The centres of the first and last pixel are 29 / 30 of the part apart.
            f64::from(last - first) * 30.0 / 29.0
        };
        for view in &views {
            let (w, h) = (extent(view, 0), extent(view, 1));
            assert!((0.22..1.03).contains(&(w * h / 14400.0)), "{w} {h}");
            assert!((0.7..1.43).contains(&(w / h)), "{w} {h}");
        }
        let areas = views.iter().map(|view| extent(view, 0) * extent(view, 1) / 14400.0).sum::<f64>() / 400.0;
        // Uniform from 0.25 to 1 but for the few of the largest that do not fit: below 0.625.
        assert!((0.52..0.62).contains(&areas), "{areas}");
        let corner = |view: &RgbImage| view.get_pixel(0, 0).0[0];
        assert!(views.iter().map(corner).min().unwrap() < 4 && views.iter().map(corner).max().unwrap() > 50);
        let mirrored = scaled(&image, 30, 0.25, 1.0, &mut Noise::seeded(3)).image;
        assert_eq!(image::imageops::flip_horizontal(&mirrored), views[3]);
    }

    #[test]
    fn of_an_image_that_no_rectangle_fits_the_middle_is_shown() {
        // All of an area of 100 x 10 pixels at a ratio of at most 4:3 is higher than the image.
        let view = scaled(&ramp(100, 10), 8, 1.0, 0.0, &mut Noise::seeded(1)).image;
        let middle = image::imageops::crop_imm(&ramp(100, 10), 43, 0, 13, 10).to_image();
        assert_eq!(view, resize(&middle, 8, 8, Filter::Bicubic));
    }
}
