//! Pictures side by side.

use semanticist::image::RgbImage;

/// One row per image, one column per picture of it.
pub fn rows(rows: &[Vec<RgbImage>], _counts: &[usize]) -> RgbImage {
    let (w, h) = rows.first().and_then(|row| row.first()).map_or((0, 0), RgbImage::dimensions);
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let mut sheet =
        RgbImage::from_pixel(columns * (w + 2), rows.len() as u32 * (h + 2), image::Rgb([255; 3]));
    for (y, row) in rows.iter().enumerate() {
        for (x, picture) in row.iter().enumerate() {
            image::imageops::replace(
                &mut sheet,
                picture,
                (x as u32 * (w + 2)).into(),
                (y as u32 * (h + 2)).into(),
            );
        }
    }
    sheet
}
