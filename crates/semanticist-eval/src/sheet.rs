//! The contact sheet: images side by side, each with what it is below it.

use std::convert::Infallible;

use embedded_graphics::Drawable;
use embedded_graphics::Pixel;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle, ascii};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::text::{Alignment, Baseline, Text};
use image::Rgb;
use image::imageops::{self, FilterType};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{BackendColor, BackendTextStyle, DrawingBackend, DrawingErrorKind};
use semanticist::image::RgbImage;

/// Images are magnified by whole numbers, smoothly, until their shorter side has this many pixels.
const CELL: u32 = 192;
/// White between and around the cells, in pixels.
const GAP: u32 = 12;
/// From an image to the text below it, in pixels.
const TEXT_GAP: u32 = 4;
/// The longest row; more cells go on in the next, so that a sheet fits a screen.
const COLUMNS: usize = 8;

const CAPTION: MonoFont = ascii::FONT_9X15_BOLD;
const DETAIL: MonoFont = ascii::FONT_9X15;
/// Of plots.
const SMALL: MonoFont = ascii::FONT_7X13;
const BLACK: Rgb888 = Rgb888::BLACK;
const GREY: Rgb888 = Rgb888::new(96, 96, 96);

/// An image and the two lines below it.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Of any size; a row is as high as its highest.
    pub picture: RgbImage,
    /// What the image is.
    pub caption: String,
    /// A number about it; may be empty.
    pub detail: String,
}

impl Cell {
    /// An image with one line below it.
    pub fn captioned(picture: RgbImage, caption: impl Into<String>) -> Self {
        Self { picture, caption: caption.into(), detail: String::new() }
    }

    /// The image that everything else on the sheet is compared with.
    pub fn original(picture: RgbImage) -> Self {
        Self::captioned(picture, "original")
    }

    /// What was decoded from the first `count` tokens.
    pub fn decoded(picture: RgbImage, count: usize) -> Self {
        Self::captioned(picture, if count == 1 { "1 token".into() } else { format!("{count} tokens") })
    }

    /// The same with a line below its caption.
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }
}

/// One row per image: the original, then what was decoded from `counts` tokens.
pub fn rows(rows: &[Vec<RgbImage>], counts: &[usize]) -> RgbImage {
    let cells = |row: &Vec<RgbImage>| {
        let decoded =
            row.iter().skip(1).zip(counts).map(|(picture, &count)| Cell::decoded(picture.clone(), count));
        row.iter().take(1).cloned().map(Cell::original).chain(decoded).collect()
    };
    draw(&rows.iter().map(cells).collect::<Vec<_>>())
}

/// Draws a sheet with one row of cells, or as many as it needs, for each of `rows`.
pub fn draw(rows: &[Vec<Cell>]) -> RgbImage {
    let lines: Vec<&[Cell]> = rows.iter().flat_map(|row| row.chunks(balanced(row.len()))).collect();
    let sizes = || lines.iter().flat_map(|line| line.iter()).map(|cell| cell.picture.dimensions());
    let scale = sizes().map(|(width, height)| CELL.div_ceil(width.min(height).max(1))).max().unwrap_or(1);
    let width = sizes().map(|size| size.0).max().unwrap_or(0) * scale;
    let height = sizes().map(|size| size.1).max().unwrap_or(0) * scale;
    let columns = lines.iter().map(|line| line.len()).max().unwrap_or(0) as u32;
    let (step_x, step_y) = (width + GAP, height + text_height(&lines) + GAP);
    let mut sheet = Canvas::white((GAP + columns * step_x, GAP + lines.len() as u32 * step_y));
    for (line, y) in lines.iter().zip((GAP..).step_by(step_y as usize)) {
        for (cell, x) in line.iter().zip((GAP..).step_by(step_x as usize)) {
            sheet.cell(cell, scale, (x, y), (width, height));
        }
    }
    sheet.0
}

/// How many cells of a row stand side by side, so that its lines are about equally long.
fn balanced(cells: usize) -> usize {
    let lines = cells.div_ceil(COLUMNS).max(1);
    cells.div_ceil(lines).max(1)
}

fn text_height(lines: &[&[Cell]]) -> u32 {
    let any_detail = lines.iter().flat_map(|line| line.iter()).any(|cell| !cell.detail.is_empty());
    let detail = if any_detail { DETAIL.character_size.height } else { 0 };
    TEXT_GAP + CAPTION.character_size.height + detail
}

/// An image that text can be drawn on.
pub(crate) struct Canvas(pub RgbImage);

impl Canvas {
    /// Nothing yet.
    pub fn white((width, height): (u32, u32)) -> Self {
        Self(RgbImage::from_pixel(width, height, Rgb([255; 3])))
    }

    fn cell(&mut self, cell: &Cell, scale: u32, (x, y): (u32, u32), (width, height): (u32, u32)) {
        let (from_width, from_height) = cell.picture.dimensions();
        let (wide, high) = (from_width * scale, from_height * scale);
        // Squares as large as 3×3 pixels would be seen as blocks of the model.
        let picture = imageops::resize(&cell.picture, wide, high, FilterType::CatmullRom);
        imageops::replace(&mut self.0, &picture, x.into(), y.into());
        let (middle, top) = (x + width / 2, y + height + TEXT_GAP);
        self.text(&cell.caption, MonoTextStyle::new(&CAPTION, BLACK), (middle, top));
        let below = top + CAPTION.character_size.height;
        self.text(&cell.detail, MonoTextStyle::new(&DETAIL, GREY), (middle, below));
    }

    fn text(&mut self, text: &str, style: MonoTextStyle<Rgb888>, (middle, top): (u32, u32)) {
        let place = Point::new(middle as i32, top as i32);
        let mut text = Text::with_alignment(text, place, style, Alignment::Center);
        text.text_style.baseline = Baseline::Top;
        let Ok(_) = text.draw(self);
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.0.width(), self.0.height())
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, color) in pixels {
            // Text that is wider than the sheet is cut.
            let place = u32::try_from(x).ok().zip(u32::try_from(y).ok());
            if let Some(pixel) = place.and_then(|(x, y)| self.0.get_pixel_mut_checked(x, y)) {
                *pixel = Rgb([color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}

/// Plots are drawn on it, too, with the same letters: those of plotters would need a font of the system.
impl DrawingBackend for &mut Canvas {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.0.dimensions()
    }

    fn ensure_prepared(&mut self) -> Result<(), DrawingErrorKind<Infallible>> {
        Ok(())
    }

    fn present(&mut self) -> Result<(), DrawingErrorKind<Infallible>> {
        Ok(())
    }

    fn draw_pixel(
        &mut self,
        (x, y): (i32, i32),
        color: BackendColor,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        let place = u32::try_from(x).ok().zip(u32::try_from(y).ok());
        if let Some(pixel) = place.and_then(|(x, y)| self.0.get_pixel_mut_checked(x, y)) {
            let (r, g, b) = color.rgb;
            for (below, above) in pixel.0.iter_mut().zip([r, g, b]) {
                let mixed = f64::from(*below) * (1.0 - color.alpha) + f64::from(above) * color.alpha;
                *below = mixed.round() as u8;
            }
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        (x, y): (i32, i32),
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        let (r, g, b) = style.color().rgb;
        let font = if style.size() > 17.0 { &CAPTION } else { &SMALL };
        let alignment = match style.anchor().h_pos {
            HPos::Left => Alignment::Left,
            HPos::Center => Alignment::Center,
            HPos::Right => Alignment::Right,
        };
        let colour = Rgb888::new(r, g, b);
        let mut text =
            Text::with_alignment(text, Point::new(x, y), MonoTextStyle::new(font, colour), alignment);
        text.text_style.baseline = match style.anchor().v_pos {
            VPos::Top => Baseline::Top,
            VPos::Center => Baseline::Middle,
            VPos::Bottom => Baseline::Bottom,
        };
        let Ok(_) = text.draw(&mut **self);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(shade: u8) -> Cell {
        Cell::decoded(RgbImage::from_pixel(64, 64, Rgb([shade; 3])), 2)
    }

    #[test]
    fn small_pictures_are_magnified_smoothly() {
        let mut original = Cell::original(RgbImage::from_pixel(64, 64, Rgb([10, 20, 30])));
        (0..64).for_each(|y| (32..64).for_each(|x| original.picture.put_pixel(x, y, Rgb([210, 20, 30]))));
        let sheet = draw(&[vec![original, cell(7)]]);
        assert_eq!(sheet.dimensions(), (2 * (192 + GAP) + GAP, 192 + TEXT_GAP + 15 + 2 * GAP));
        assert_eq!(sheet.get_pixel(0, 0).0, [255; 3]);
        assert_eq!(sheet.get_pixel(GAP + 191, GAP + 191).0, [210, 20, 30]);
        assert_eq!(sheet.get_pixel(GAP + 192, GAP + 191).0, [255; 3]);
        assert_eq!(sheet.get_pixel(GAP + 192 + GAP, GAP).0, [7; 3]);
        // Between the halves, which meet at 96, no step is as high as the whole edge.
        let reds: Vec<i32> = (90..103).map(|x| i32::from(sheet.get_pixel(GAP + x, GAP + 96).0[0])).collect();
        assert!(reds.windows(2).all(|pair| (pair[1] - pair[0]).abs() < 120), "{reds:?}");
        assert_eq!((reds[0], reds[12]), (10, 210));
    }

    #[test]
    fn text_is_below_the_picture_and_in_the_middle() {
        let sheet = draw(&[vec![cell(255).with_detail("20.00 dB")]]);
        let dark = |(_, _, pixel): &(u32, u32, &Rgb<u8>)| pixel.0[0] < 128;
        let (mut columns, mut lines): (Vec<_>, Vec<_>) =
            sheet.enumerate_pixels().filter(dark).map(|(x, y, _)| (x, y)).unzip();
        columns.sort_unstable();
        lines.sort_unstable();
        let middle = (columns[0] + columns[columns.len() - 1]) / 2;
        assert!(middle.abs_diff(sheet.width() / 2) <= 4, "{middle} of {}", sheet.width());
        assert!(lines[0] >= GAP + 192 + TEXT_GAP, "{}", lines[0]);
        assert!(lines[lines.len() - 1] < sheet.height() - GAP);
    }

    #[test]
    fn long_rows_are_broken_evenly_and_nothing_is_no_panic() {
        assert_eq!([1, 7, 8, 9, 10, 17].map(balanced), [1, 7, 8, 5, 5, 6]);
        let sheet = draw(&[vec![cell(0); 9]]);
        assert_eq!(sheet.width(), 5 * (192 + GAP) + GAP);
        assert_eq!(draw(&[]).dimensions(), (GAP, GAP));
    }

    #[test]
    fn rows_of_pictures_get_their_captions() {
        let picture = RgbImage::from_pixel(64, 64, Rgb([0; 3]));
        let named = vec![Cell::original(picture.clone()), Cell::decoded(picture.clone(), 1)];
        assert_eq!(rows(&[vec![picture.clone(), picture]], &[1]), draw(&[named]));
    }
}
