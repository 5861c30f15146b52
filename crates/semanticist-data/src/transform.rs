//! What is done to an image before it is used, in training and in evaluation.

use semanticist::Noise;
use semanticist::image::{Filter, RgbImage, Window, center_crop, resize_window};

/// The training view: the short side resized to `size` (bicubic, antialiased, as torchvision), a
/// random square of that size, mirrored with probability `flip`.
///
/// Always takes three draws, whatever the image.
///
/// # Panics
/// If `size` or a side of the image is 0.
pub fn training(image: &RgbImage, size: usize, flip: f32, noise: &mut Noise) -> RgbImage {
    let draws = noise.uniform(3);
    let full = resized(image, size);
    // A draw is below 1, but its product with a large f32 may round up to the bound.
    let offset = |draw: f32, room: usize| ((draw * (room + 1) as f32) as usize).min(room);
    let (x, y) = (offset(draws[0], full.0 - size), offset(draws[1], full.1 - size));
    let mut view = resize_window(image, full, Window { x, y, width: size, height: size }, Filter::Bicubic);
    if draws[2] < flip {
        image::imageops::flip_horizontal_in_place(&mut view);
    }
    view
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
        assert_eq!(training(&image, 32, 0.0, &mut Noise::seeded(1)), image);
        let mirrored = training(&image, 32, 1.0, &mut Noise::seeded(1));
        assert_eq!(mirrored.get_pixel(0, 5).0, [31, 5, 7]);
    }

    #[test]
    fn the_view_is_a_part_of_the_resized_image() {
        let image = ramp(50, 30);
        let whole = resize(&image, 26, 16, Filter::Bicubic);
        // Offsets 0.5 * (26 - 16 + 1) = 5 and 0.
        let view = training(&image, 16, 0.5, &mut Noise::recorded([vec![0.5, 0.9, 0.6]]));
        assert_eq!(view, image::imageops::crop_imm(&whole, 5, 0, 16, 16).to_image());
    }

    #[test]
    fn crops_reach_both_ends_and_mirror_half_of_the_time() {
        let image = ramp(40, 20);
        let views: Vec<_> =
            (0..400).map(|seed| training(&image, 20, 0.5, &mut Noise::seeded(seed))).collect();
        let mirrored = |view: &RgbImage| view.get_pixel(0, 0).0[0] > view.get_pixel(19, 0).0[0];
        let flips = views.iter().filter(|view| mirrored(view)).count();
        assert!((160..240).contains(&flips), "{flips}");
        let left = |view: &RgbImage| view.get_pixel(0, 0).0[0].min(view.get_pixel(19, 0).0[0]);
        assert_eq!(views.iter().map(left).min(), Some(0));
        assert_eq!(views.iter().map(left).max(), Some(20));
    }
}
