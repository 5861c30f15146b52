//! The crops of an image whose tokens a generator learns from.

use semanticist::image::{RgbImage, center_crop};
use serde::{Deserialize, Serialize};

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
}

/// How much larger than the views the images of [`Views::TenCrop`] are, in percent.
const ENLARGED: [usize; 2] = [105, 110];

impl Views {
    /// How many there are per image.
    pub fn count(self) -> usize {
        match self {
            Self::Center => 1,
            Self::Flip => 2,
            Self::TenCrop => 10 * ENLARGED.len(),
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
        for views in [Views::Center, Views::Flip, Views::TenCrop] {
            let found = views.of(&ramp(50), 40);
            assert_eq!(found.len(), views.count());
            assert!(found.iter().all(|view| view.dimensions() == (40, 40)));
        }
        let [center, flipped] = Views::Flip.of(&ramp(40), 40).try_into().unwrap();
        assert_eq!((center.get_pixel(0, 3).0[0], flipped.get_pixel(0, 3).0[0]), (0, 39));
    }
}
