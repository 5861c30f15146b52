//! Bytes of any accepted format to 8-bit RGB, upright and opaque; never a panic, never a bomb.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use crate::error::{Error, Result};

/// Extensions of files that may be images. The content decides what a file really is.
pub const EXTENSIONS: [&str; 8] = ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff"];

/// The longest accepted side, in pixels.
pub const MAX_SIDE: u32 = 32_768;

/// The most memory that a decoded image may take, in bytes.
pub const MAX_DECODED_BYTES: u64 = 1 << 30;

const ACCEPTED: [(ImageFormat, &str); 6] = [
    (ImageFormat::Png, "PNG"),
    (ImageFormat::Jpeg, "JPEG"),
    (ImageFormat::WebP, "WebP"),
    (ImageFormat::Bmp, "BMP"),
    (ImageFormat::Gif, "GIF"),
    (ImageFormat::Tiff, "TIFF"),
];

/// Reads and decodes an image file, whatever its extension.
pub fn open(path: &Path) -> Result<RgbImage> {
    decode(&path.display().to_string(), &read(path)?)
}

/// Decodes PNG, JPEG, WebP, BMP, GIF (the first frame) or TIFF to 8-bit RGB.
///
/// The EXIF orientation is applied, transparency is laid over white, 16 bits are rounded to 8; see
/// [`crate::image`] for what Pillow does.
/// `name` is used in errors only.
pub fn decode(name: &str, bytes: &[u8]) -> Result<RgbImage> {
    decode_within(name, bytes, MAX_DECODED_BYTES)
}

/// [`decode`] with a lower limit than [`MAX_DECODED_BYTES`] on what the decoded image takes, in bytes.
pub fn decode_within(name: &str, bytes: &[u8], most: u64) -> Result<RgbImage> {
    decode_bytes(bytes, most.min(MAX_DECODED_BYTES)).map_err(|problem| Error::image(name, problem))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error| Error::io(path, "read", error);
    let mut file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(Error::file(path, "is a folder; expected one image file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn decode_bytes(bytes: &[u8], most: u64) -> Result<RgbImage, String> {
    if bytes.is_empty() {
        return Err("the file is empty (0 bytes)".into());
    }
    let (format, format_name) = ::image::guess_format(bytes)
        .ok()
        .and_then(|guess| ACCEPTED.into_iter().find(|(format, _)| *format == guess))
        .ok_or_else(|| not_an_image(bytes))?;
    if format == ImageFormat::Jpeg && !has_jpeg_end(bytes) {
        return Err("truncated JPEG: the data stops before the end marker (FF D9)".into());
    }
    let failed = |error: ImageError| match error {
        ImageError::Limits(_) => {
            let most = most >> 20;
            format!(
                "{format_name} image too large: decoding it would take more than {most} MiB; reduce it first"
            )
        }
        other => format!("broken {format_name} image: {}", first_line(&other.to_string())),
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::no_limits();
    // The decoder's own scratch memory comes on top of the image.
    limits.max_alloc = Some(2 * most);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(failed)?;
    check_size(decoder.dimensions(), decoder.total_bytes(), most)?;
    // An image with unreadable metadata is still an image.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(failed)?;
    image.apply_orientation(orientation);
    Ok(over_white(image))
}

/// Judges an image by its header, before anything is allocated for it.
fn check_size((width, height): (u32, u32), decoded_bytes: u64, most: u64) -> Result<(), String> {
    if width == 0 || height == 0 {
        return Err(format!("the image is {width} x {height} pixels; each side must be at least 1"));
    }
    let bytes = decoded_bytes.max(u64::from(width) * u64::from(height) * 3);
    if width > MAX_SIDE || height > MAX_SIDE || bytes > most {
        return Err(format!(
            "image too large: {width} x {height} pixels, {} MiB decoded; accepted: sides up to \
             {MAX_SIDE} pixels and {} MiB",
            bytes.div_ceil(1 << 20),
            most >> 20
        ));
    }
    Ok(())
}

fn not_an_image(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(16)];
    let shown = match std::str::from_utf8(start) {
        Ok(text) if !text.contains('\0') => format!("{text:?}"),
        _ => start.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(" "),
    };
    let accepted = ACCEPTED.map(|(_, name)| name).join(", ");
    format!("not an image: starts with {shown}; accepted: {accepted}")
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Whether an end marker follows the first scan of a JPEG.
///
/// The decoder fills what is missing with grey and reports success, so a truncated file must be
/// found here. Within a scan FF is always followed by 00 or a restart marker, so FF D9 there is the
/// end; the header is walked because an embedded thumbnail has an end marker of its own.
fn has_jpeg_end(bytes: &[u8]) -> bool {
    const SCAN: u8 = 0xDA;
    let is_end = |pair: &[u8]| pair == [0xFF, 0xD9];
    let mut at = 2;
    while let Some(&[first, marker]) = bytes.get(at..at + 2) {
        match (first, marker) {
            (0xFF, SCAN) => return bytes[at..].windows(2).any(is_end),
            // Not a marker, padding, or a marker without a body: look one byte on.
            (0xFF, 0x00 | 0x01 | 0xD0..=0xD9 | 0xFF) | (0..=0xFE, _) => at += 1,
            (0xFF, _) => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
    false
}

/// Lays an image with transparency over white, at its own depth, and then reduces to 8 bits.
fn over_white(image: DynamicImage) -> RgbImage {
    match image {
        DynamicImage::ImageLumaA8(_) | DynamicImage::ImageRgba8(_) => {
            let rgba = image.into_rgba8();
            rgb_from(rgba.dimensions(), rgba.pixels().map(|pixel| pixel.0.map(u32::from)), 255)
        }
        DynamicImage::ImageLumaA16(_) | DynamicImage::ImageRgba16(_) | DynamicImage::ImageRgba32F(_) => {
            let rgba = image.into_rgba16();
            rgb_from(rgba.dimensions(), rgba.pixels().map(|pixel| pixel.0.map(u32::from)), 65_535)
        }
        opaque => opaque.into_rgb8(),
    }
}

/// `pixels` are red, green, blue and opacity in `0..=full`.
fn rgb_from((width, height): (u32, u32), pixels: impl Iterator<Item = [u32; 4]>, full: u32) -> RgbImage {
    let blend = |colour: u32, alpha: u32| {
        let (colour, alpha, full) = (u64::from(colour), u64::from(alpha), u64::from(full));
        let sum = colour * alpha + full * (full - alpha);
        // One rounding for both the blend and the reduction to 8 bits.
        ((sum * 255 + full * full / 2) / (full * full)) as u8
    };
    let mut bytes = Vec::with_capacity(width as usize * height as usize * 3);
    bytes.extend(pixels.flat_map(|[r, g, b, alpha]| [r, g, b].map(|colour| blend(colour, alpha))));
    RgbImage::from_raw(width, height, bytes).expect("three bytes were written for each pixel")
}

#[cfg(test)]
mod tests;
