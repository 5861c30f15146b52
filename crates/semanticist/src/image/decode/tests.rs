use ::image::codecs::jpeg::JpegEncoder;
use ::image::{ImageBuffer, ImageEncoder, Luma, LumaA, Rgb, Rgba};

use super::*;

/// Smooth enough for JPEG, different at every pixel.
fn picture(width: u32, height: u32) -> DynamicImage {
    let at = |x: u32, y: u32| Rgb([(x * 8) as u8, (y * 8) as u8, (x * 3 + y * 5) as u8]);
    DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, at))
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn problem(bytes: &[u8]) -> String {
    decode("it.png", bytes).unwrap_err().to_string()
}

#[test]
fn every_format_is_known_by_its_content() {
    let image = picture(23, 17);
    for (format, name) in ACCEPTED {
        let found = decode("misnamed.txt", &encoded(&image, format)).unwrap();
        assert_eq!(found.dimensions(), (23, 17), "{name}");
        let exact = !matches!(format, ImageFormat::Jpeg | ImageFormat::Gif);
        assert!(!exact || DynamicImage::ImageRgb8(found) == image, "{name}");
    }
}

#[test]
fn transparency_is_laid_over_white_at_every_depth() {
    let one =
        |image: DynamicImage| decode("it", &encoded(&image, ImageFormat::Png)).unwrap().get_pixel(0, 0).0;
    let rgba8 = ImageBuffer::from_pixel(1, 1, Rgba([255u8, 100, 0, 51]));
    assert_eq!(one(rgba8.into()), [255, 224, 204]);
    let rgba16 = ImageBuffer::from_pixel(1, 1, Rgba([65_535u16, 25_700, 0, 13_107]));
    assert_eq!(one(rgba16.into()), [255, 224, 204]);
    let grey8 = ImageBuffer::from_pixel(1, 1, LumaA([100u8, 0]));
    assert_eq!(one(grey8.into()), [255; 3]);
    let grey16 = ImageBuffer::from_pixel(1, 1, LumaA([25_700u16, 65_535]));
    assert_eq!(one(grey16.into()), [100; 3]);
    let opaque16 = ImageBuffer::from_pixel(1, 1, Luma([25_700u16]));
    assert_eq!(one(opaque16.into()), [100; 3]);
}

#[test]
fn the_orientation_of_a_photo_is_applied() {
    // EXIF: big-endian TIFF with one entry, 0x0112 (orientation) = 6, turn by 90 degrees.
    let mut exif = b"MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
    for turned in [true, false] {
        exif[19] = if turned { 6 } else { 1 };
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new(&mut bytes);
        encoder.set_exif_metadata(exif.clone()).unwrap();
        encoder.encode_image(&picture(30, 20)).unwrap();
        let expected = if turned { (20, 30) } else { (30, 20) };
        assert_eq!(decode("it", &bytes).unwrap().dimensions(), expected);
    }
}

#[test]
fn problems_are_named() {
    assert_eq!(problem(b""), "it.png: the file is empty (0 bytes)");
    let text = problem(b"hello, this is text");
    assert!(
        text.starts_with("it.png: not an image: starts with \"hello, this is t\"; accepted: PNG"),
        "{text}"
    );
    let binary = problem(&[0, 1, 2, 255]);
    assert!(binary.contains("starts with 00 01 02 FF"), "{binary}");
    let folder = tempfile::tempdir().unwrap();
    assert!(open(folder.path()).unwrap_err().to_string().contains("is a folder"));
    assert!(open(&folder.path().join("none.png")).unwrap_err().to_string().contains("cannot read"));
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    // A PNG header alone is enough to say no.
    let mut bytes = encoded(&picture(4, 4), ImageFormat::Bmp);
    bytes[18..22].copy_from_slice(&40_000u32.to_le_bytes());
    let wide = problem(&bytes);
    assert!(wide.contains("40000 x 4 pixels") && wide.contains("up to 32768"), "{wide}");
    bytes[18..22].copy_from_slice(&32_000u32.to_le_bytes());
    bytes[22..26].copy_from_slice(&32_000u32.to_le_bytes());
    let large = problem(&bytes);
    assert!(large.contains("2930 MiB decoded; accepted") && large.contains("1024 MiB"), "{large}");
}

/// Wherever a file is cut, the answer is an error or the whole image, never part of it.
#[test]
fn a_truncated_file_is_an_error() {
    let image = picture(23, 17);
    for (format, name) in ACCEPTED {
        let bytes = encoded(&image, format);
        let whole = decode(name, &bytes).unwrap();
        for length in 0..bytes.len() {
            if let Ok(found) = decode(name, &bytes[..length]) {
                assert!(found == whole, "{name} cut to {length} of {} bytes", bytes.len());
            }
        }
    }
    let jpeg = encoded(&image, ImageFormat::Jpeg);
    let cut = problem(&jpeg[..jpeg.len() - 40]);
    assert!(cut.contains("truncated JPEG"), "{cut}");
    // Bytes after the end do no harm.
    assert!(decode("it", &[&jpeg[..], &[0; 100]].concat()).is_ok());
}

#[test]
fn no_bytes_make_it_panic() {
    let image = picture(23, 17);
    for (format, name) in ACCEPTED {
        let bytes = encoded(&image, format);
        for at in 0..bytes.len() {
            for value in [0, 0xFF, bytes[at] ^ 1, bytes[at].wrapping_add(0x40)] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let _ = decode(name, &changed);
            }
        }
    }
}
