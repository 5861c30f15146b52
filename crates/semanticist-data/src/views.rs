//! The crops of an image whose tokens a generator learns from.

use semanticist::image::{RgbImage, center_crop};
use semanticist::{Purpose, Seed};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::transform::up_to;

/// Which views of each image there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Views {
    /// The evaluation crop.
    Center,
    /// The evaluation crop and its mirror image.
    Flip,
    /// Ten crops at 1.05 and ten at 1.10 of the size, as published: corners and centre, and the same
    /// mirrored.
    TenCrop,
    /// So many crops at 1 to 1.2 of the size, at random places, half of them mirrored. They are drawn from the image's
    /// own pixels: the same image has the same ones in every data set, and the first of more are those of fewer.
    RandomCrops(usize),
    /// As [`Views::RandomCrops`], at 1 to 1.8 of the size: what is learnt from these is learnt by heart less, and what is shown is
    /// nearer than in the images.
    ZoomedCrops(usize),
}

/// How much larger than the views the images of [`Views::TenCrop`] are, in percent.
const ENLARGED: [usize; 2] = [105, 110];

/// How much larger than the views the images of [`Views::RandomCrops`] are at most, in percent.
const MOST_ENLARGED: usize = 120;

/// The same of [`Views::ZoomedCrops`], which show three tenths of an image at least.
const MOST_ZOOMED: usize = 180;

impl Views {
    /// How many there are per image.
    pub fn count(self) -> usize {
        match self {
            Self::Center => 1,
            Self::Flip => 2,
            Self::TenCrop => 10 * ENLARGED.len(),
            Self::RandomCrops(count) | Self::ZoomedCrops(count) => count,
        }
    }

    /// The views of an image, squares of `size` pixels.
    ///
    /// # Panics
    /// If `size` or a side of the image is 0.
    pub fn of(self, image: &RgbImage, size: usize) -> Vec<RgbImage> {
        match self {
            Self::Center => vec![center_crop(image, size)],
            Self::Flip => {
                let center = center_crop(image, size);
                let mirrored = mirrored(&center);
                vec![center, mirrored]
            }
            Self::TenCrop => {
                ENLARGED.iter().flat_map(|percent| ten_crops(image, size, size * percent / 100)).collect()
            }
            Self::RandomCrops(count) => random_crops(image, size, MOST_ENLARGED, count),
            Self::ZoomedCrops(count) => random_crops(image, size, MOST_ZOOMED, count),
        }
    }
}

/// Corners and centre of the evaluation crop at `enlarged` pixels, then the same mirrored; the order is
/// that of torchvision's `TenCrop`.
fn ten_crops(image: &RgbImage, size: usize, enlarged: usize) -> Vec<RgbImage> {
    let square = center_crop(image, enlarged);
    let room = (enlarged - size) as u32;
    // Python rounds halves to the even number.
    let middle = (f64::from(room) / 2.0).round_ties_even() as u32;
    let places = [(0, 0), (room, 0), (0, room), (room, room), (middle, middle)];
    let cut = |from: &RgbImage| {
        places.map(|(x, y)| image::imageops::crop_imm(from, x, y, size as u32, size as u32).to_image())
    };
    [cut(&square), cut(&mirrored(&square))].concat()
}

/// Squares of `size` pixels from the evaluation crop at a size between that and `percent` of it: size, place and
/// mirroring are drawn evenly.
fn random_crops(image: &RgbImage, size: usize, percent: usize, count: usize) -> Vec<RgbImage> {
    let mut noise = Seed::new(number_of(image)).of(Purpose::Augmentation).noise();
    let mut crop = || {
        let draws = noise.uniform(4);
        let room = up_to(size * percent / 100 - size, draws[0]);
        let square = center_crop(image, size + room);
        let [x, y] = [draws[1], draws[2]].map(|draw| up_to(room, draw) as u32);
        let crop = image::imageops::crop_imm(&square, x, y, size as u32, size as u32).to_image();
        if draws[3] < 0.5 { mirrored(&crop) } else { crop }
    };
    (0..count).map(|_| crop()).collect()
}

/// A number that tells an image from others.
fn number_of(image: &RgbImage) -> u64 {
    let digest =
        Sha256::new().chain_update(image.width().to_le_bytes()).chain_update(image.as_raw()).finalize();
    digest.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn mirrored(image: &RgbImage) -> RgbImage {
    image::imageops::flip_horizontal(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red is the column, green the row.
    fn ramp(side: u32) -> RgbImage {
        RgbImage::from_fn(side, side, |x, y| image::Rgb([x as u8, y as u8, 0]))
    }

    #[test]
    fn ten_crops_lie_where_torchvision_cuts_them() {
        // 22 pixels, views of 20: room 2, middle 1; then 21 with room 1, whose half rounds to 0.
        for (enlarged, middle) in [(22, 1), (21, 0)] {
            let crops = ten_crops(&ramp(enlarged as u32), 20, enlarged);
            let corner = |crop: &RgbImage| [crop.get_pixel(0, 0).0[0], crop.get_pixel(0, 0).0[1]];
            let room = enlarged as u8 - 20;
            let places = [[0, 0], [room, 0], [0, room], [room, room], [middle, middle]];
            assert_eq!(crops[..5].iter().map(corner).collect::<Vec<_>>(), places);
            // In a mirrored image, the left edge is the right edge of the original.
            let mirrored = places.map(|[x, y]| [enlarged as u8 - 1 - x, y]);
            assert_eq!(crops[5..].iter().map(corner).collect::<Vec<_>>(), mirrored);
        }
    }

    #[test]
    fn there_are_as_many_as_counted_and_all_of_the_size() {
        for views in
            [Views::Center, Views::Flip, Views::TenCrop, Views::RandomCrops(3), Views::ZoomedCrops(2)]
        {
            let found = views.of(&ramp(50), 40);
            assert_eq!(found.len(), views.count());
            assert!(found.iter().all(|view| view.dimensions() == (40, 40)));
        }
        let [center, flipped] = Views::Flip.of(&ramp(40), 40).try_into().unwrap();
        assert_eq!((center.get_pixel(0, 3).0[0], flipped.get_pixel(0, 3).0[0]), (0, 39));
    }

    #[test]
    fn random_crops_are_parts_of_all_sizes_and_places_and_half_of_them_mirrored() {
        // Enlarged by the most, 40 pixels become 48 or 72: a crop shows 40 / 48 or 40 / 72 to all of the 200 columns, whose red
        // rises by 1 each. The means are those of 40 / 40 to 40 / 48 and to 40 / 72; the most that a crop is moved down by is
        // a sixth of the image, and four ninths.
        for (views, least, mean, lowest) in
            [(Views::RandomCrops(400), 0.82, 0.912, 28), (Views::ZoomedCrops(400), 0.54, 0.735, 72)]
        {
            let image = ramp(200);
            let crops = views.of(&image, 40);
            let red = |crop: &RgbImage, x: u32| f64::from(crop.get_pixel(x, 20).0[0]);
            let shown: Vec<f64> =
                crops.iter().map(|crop| (red(crop, 39) - red(crop, 0)).abs() / 195.0).collect();
            assert!(shown.iter().all(|share| (least..1.01).contains(share)), "{views:?}: {shown:?}");
            let shown = shown.iter().sum::<f64>() / 400.0;
            assert!((shown - mean).abs() < 0.02, "{views:?}: {shown}");
            let flipped = crops.iter().filter(|crop| red(crop, 0) > red(crop, 39)).count();
            assert!((160..240).contains(&flipped), "{views:?}: {flipped}");
            let top = |crop: &RgbImage| crop.get_pixel(20, 0).0[1];
            let (least, most) = (crops.iter().map(top).min(), crops.iter().map(top).max());
            assert!(least < Some(5) && most > Some(lowest), "{views:?}: {least:?} to {most:?}");
        }
    }

    #[test]
    fn an_image_has_its_own_random_crops_and_the_first_of_more_are_those_of_fewer() {
        let crops = |image: &RgbImage, count| Views::RandomCrops(count).of(image, 40);
        assert_eq!(crops(&ramp(50), 9)[..4], crops(&ramp(50), 4));
        let mut other = ramp(50);
        other.get_pixel_mut(0, 0).0[2] = 1;
        assert_ne!(crops(&other, 4), crops(&ramp(50), 4));
    }
}
