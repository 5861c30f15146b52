//! Files of many formats, pixel by pixel, against what Pillow makes of them: recorded by
//! `scripts/record_images.py` with Pillow 13.0.0.
//!
//! `NAME.pillow.png` is what the published evaluation sees, `NAME.meant.png` what this project means to
//! see where that is something else (`semanticist::image` says why). That the crop of equal pixels is
//! Pillow's is tested in `image/resample.rs`; here it shows what is left of a difference.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use semanticist::image::{RgbImage, center_crop, open};

/// Side of the crops: the files of 43×29 pixels are halved once on the way.
const CROP: usize = 12;

/// The largest and the mean absolute difference, in levels of 255.
type Difference = (u8, f64);

const NONE: Difference = (0, 0.0);

/// A file; its difference from Pillow's image, and that of its crop. Measured, the means rounded up.
const AS_PILLOW: [(&str, Difference, Difference); 16] = [
    ("grey.png", NONE, NONE),
    ("colour.png", NONE, NONE),
    ("palette.png", NONE, NONE),
    ("one_bit.png", NONE, NONE),
    // The cosine transforms round differently, rarely.
    ("grey.jpg", (1, 0.006), (1, 0.007)),
    ("rgb.jpg", (1, 0.016), (1, 0.017)),
    ("cmyk.jpg", (1, 0.014), (1, 0.010)),
    ("cmyk_without_adobe.jpg", (1, 0.014), (1, 0.010)),
    // So do luminance and colour on their way to red, green and blue.
    ("colour444.jpg", (2, 0.025), (1, 0.026)),
    ("progressive444.jpg", (2, 0.012), (1, 0.007)),
    ("ycck.jpg", (2, 0.017), (1, 0.021)),
    // Colours at half the size are enlarged by the same triangle, rounded once more.
    ("colour422.jpg", (3, 0.195), (2, 0.251)),
    ("colour420.jpg", (3, 0.339), (2, 0.311)),
    ("progressive420.jpg", (3, 0.235), (2, 0.315)),
    ("profile.jpg", (3, 0.235), (2, 0.315)),
    ("orientation1.jpg", (2, 0.323), (3, 0.422)),
];

/// A file; the difference from what is meant, and how far that is from what Pillow shows.
const OTHERWISE: [(&str, Difference, Difference); 7] = [
    // What lies under transparent pixels is not part of the image.
    ("rgba.png", NONE, (242, 81.847)),
    ("grey_alpha.png", NONE, (203, 97.318)),
    ("palette_transparent.png", NONE, (52, 3.820)),
    ("grey_hole.png", NONE, (188, 7.086)),
    ("colour_hole.png", NONE, (180, 9.207)),
    // Pillow cuts 16-bit colours off and takes all that is above 255 in 16-bit grey for white.
    ("deep_colour.png", NONE, (1, 0.171)),
    ("deep_grey.png", NONE, (218, 196.469)),
];

/// Each orientation of EXIF but the first; Pillow's image would be that of `orientation1.jpg`.
const TURNED: std::ops::RangeInclusive<u8> = 2..=8;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formats")
}

fn read(name: &str) -> RgbImage {
    open(&folder().join(name)).unwrap()
}

fn difference(a: &RgbImage, b: &RgbImage) -> Difference {
    assert_eq!(a.dimensions(), b.dimensions());
    let levels = || a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b));
    let sum: f64 = levels().map(f64::from).sum();
    (levels().max().unwrap(), sum / a.as_raw().len() as f64)
}

#[track_caller]
fn assert_within(found: Difference, limit: Difference, what: &str) {
    assert!(found.0 <= limit.0 && found.1 <= limit.1, "{what}: {found:?}, at most {limit:?}");
}

#[track_caller]
fn assert_close(name: &str, reference: &str, whole: Difference, crop: Difference) {
    let (found, expected) = (read(name), read(reference));
    assert_within(difference(&found, &expected), whole, name);
    let crops = difference(&center_crop(&found, CROP), &center_crop(&expected, CROP));
    assert_within(crops, crop, &format!("the crop of {name}"));
}

#[test]
fn pixels_are_those_of_pillow_within_the_rounding_of_decoders() {
    for (name, whole, crop) in AS_PILLOW {
        assert_close(name, &format!("{name}.pillow.png"), whole, crop);
    }
}

#[test]
fn what_is_shown_otherwise_is_exactly_what_is_meant() {
    for (name, limit, from_pillow) in OTHERWISE {
        let (found, meant) = (read(name), read(&format!("{name}.meant.png")));
        assert_within(difference(&found, &meant), limit, name);
        let pillow = difference(&found, &read(&format!("{name}.pillow.png")));
        assert_within(pillow, from_pillow, &format!("{name} beside Pillow"));
        // The table says how much is at stake, so it must not claim too much.
        assert_eq!(pillow.0, from_pillow.0, "{name} beside Pillow");
    }
}

#[test]
fn every_orientation_is_turned_upright() {
    for orientation in TURNED {
        let name = format!("orientation{orientation}.jpg");
        assert_close(&name, &format!("{name}.meant.png"), (2, 0.323), (3, 0.461));
    }
}

/// The published evaluation would see the first image whatever the orientation says.
#[test]
fn orientations_share_their_pixels() {
    let sorted = |image: RgbImage| {
        let mut pixels: Vec<_> = image.pixels().map(|pixel| pixel.0).collect();
        pixels.sort_unstable();
        pixels
    };
    let first = sorted(read("orientation1.jpg"));
    for orientation in TURNED {
        assert_eq!(sorted(read(&format!("orientation{orientation}.jpg"))), first, "{orientation}");
    }
}

#[test]
fn every_recorded_file_is_asked_for() {
    let turned = TURNED.map(|orientation| format!("orientation{orientation}.jpg"));
    let named = AS_PILLOW.iter().chain(&OTHERWISE).map(|(name, ..)| name.to_string());
    let asked: BTreeSet<String> = named.chain(turned).collect();
    let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let recorded: BTreeSet<String> =
        files.filter(|name| !name.ends_with(".pillow.png") && !name.ends_with(".meant.png")).collect();
    assert_eq!(asked, recorded);
}
