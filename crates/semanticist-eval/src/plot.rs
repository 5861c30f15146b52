//! Figures: lines over one axis, with every point. They are drawn as SVG, whose text
//! the viewer's fonts show, or as PNG with the letters of the contact sheets; neither needs a font of this machine.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use semanticist::files::write_atomically;
use semanticist::image::save_png;
use semanticist::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::sheet::Canvas;

/// Width and height, in pixels.
const SIZE: (u32, u32) = (760, 460);

/// Okabe and Ito's colours, which the colour-blind tell apart, without yellow, which white swallows.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

/// How an axis is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By powers; what is not positive is left out.
    Logarithmic,
}

/// One axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// What is measured along it, with its unit.
    pub label: String,
    /// How it is divided.
    pub scale: Scale,
}

impl Axis {
    /// An even one.
    pub fn linear(label: impl Into<String>) -> Self {
        Self { label: label.into(), scale: Scale::Linear }
    }

    /// One of powers.
    pub fn logarithmic(label: impl Into<String>) -> Self {
        Self { label: label.into(), scale: Scale::Logarithmic }
    }
}

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
    /// The lower and upper end of an interval for every point, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Vec<(f64, f64)>>,
}

impl Series {
    /// A line through those points that are finite.
    pub fn line(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let finite = |point: &(f64, f64)| point.0.is_finite() && point.1.is_finite();
        Self { name: name.into(), points: points.into_iter().filter(finite).collect(), interval: None }
    }

    /// The same with an interval at every point, unless one of its numbers is not finite.
    #[must_use]
    pub fn within(self, interval: Vec<(f64, f64)>) -> Self {
        let finite = interval.iter().all(|ends| ends.0.is_finite() && ends.1.is_finite());
        let interval = (finite && interval.len() == self.points.len()).then_some(interval);
        Self { interval, ..self }
    }
}

/// Lines over one axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What it shows.
    pub title: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
}

/// Writes figures one below the other, as the extension says: `.svg` or `.png`.
///
/// # Errors
/// If the extension is another, there is nothing to draw, or the file cannot be written.
pub fn save(figures: &[Figure], path: &Path) -> Result<()> {
    check_name(path)?;
    if path.extension().is_some_and(|extension| extension == "png") {
        let mut canvas = Canvas::white(size(figures));
        draw_all(figures, canvas_area(&mut canvas))?;
        return save_png(&canvas.0, path);
    }
    let text = svg(figures)?;
    write_atomically(path, |file| std::io::Write::write_all(file, text.as_bytes()))
}

/// Figures one below the other as the text of an SVG file.
///
/// # Errors
/// If there is nothing to draw.
pub fn svg(figures: &[Figure]) -> Result<String> {
    let mut text = String::new();
    draw_all(figures, SVGBackend::with_string(&mut text, size(figures)).into_drawing_area())?;
    Ok(text)
}

/// Width and height of figures one below the other, in pixels.
fn size(figures: &[Figure]) -> (u32, u32) {
    (SIZE.0, SIZE.1 * figures.len().max(1) as u32)
}

/// # Errors
/// If figures cannot be saved under this name.
pub fn check_name(path: &Path) -> Result<()> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg" | "png") => Ok(()),
        _ => Err(Error::file(path, "is not a name for a plot; expected .svg or .png")),
    }
}

fn canvas_area(canvas: &mut Canvas) -> DrawingArea<&mut Canvas, Shift> {
    DrawingArea::from(canvas)
}

fn draw_all<B: DrawingBackend>(figures: &[Figure], area: DrawingArea<B, Shift>) -> Result<()> {
    for (figure, part) in figures.iter().zip(area.split_evenly((figures.len().max(1), 1))) {
        figure.draw(part)?;
    }
    area.present().map_err(undrawn)
}

fn undrawn(error: impl std::fmt::Display) -> Error {
    Error::Data(format!("the plot cannot be drawn: {error}"))
}

/// From least to largest, a little wider; none without numbers.
fn range(values: impl Iterator<Item = f64>, scale: Scale) -> Option<(f64, f64)> {
    let fits = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
    let (low, high) = values
        .filter(fits)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return None;
    }
    Some(match scale {
        Scale::Logarithmic => (low / 1.3, high * 1.3),
        Scale::Linear => {
            let margin = if high > low { 0.04 * (high - low) } else { low.abs().max(1.0) * 0.1 };
            (low - margin, high + margin)
        }
    })
}

impl Figure {
    fn draw<B: DrawingBackend>(&self, area: DrawingArea<B, Shift>) -> Result<()> {
        area.fill(&WHITE).map_err(undrawn)?;
        let text = |text: &str, size: i32, at: (i32, i32)| {
            area.draw(&Text::new(text.to_string(), at, ("sans-serif", size).into_font())).map_err(undrawn)
        };
        text(&self.title, 19, (14, 10))?;
        text(&self.y.label, 15, (14, 34))?;
        lines(&area, &self.x, &self.y, &self.series)?;
        area.present().map_err(undrawn)
    }
}

/// A point where the axes have it: of powers, the decimal logarithm.
fn placed(value: f64, scale: Scale) -> f64 {
    match scale {
        Scale::Linear => value,
        Scale::Logarithmic => value.log10(),
    }
}

/// What stands at a place of the axis.
fn tick(value: f64, scale: Scale) -> String {
    let value = match scale {
        Scale::Linear => value,
        Scale::Logarithmic => 10f64.powf(value),
    };
    match value.abs() {
        size if size != 0.0 && !(1e-3..1e5).contains(&size) => format!("{value:.0e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        _ => {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        }
    }
}

fn lines<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    x: &Axis,
    y: &Axis,
    series: &[Series],
) -> Result<()> {
    let points = || series.iter().flat_map(|series| &series.points);
    let ends = || series.iter().filter_map(|series| series.interval.as_ref()).flatten();
    let nothing = || undrawn("there is no point in it");
    let (left, right) = range(points().map(|point| point.0), x.scale).ok_or_else(nothing)?;
    let heights = points().map(|point| point.1).chain(ends().flat_map(|ends| [ends.0, ends.1]));
    let (bottom, top) = range(heights, y.scale).ok_or_else(nothing)?;
    let [left, right] = [left, right].map(|value| placed(value, x.scale));
    let [bottom, top] = [bottom, top].map(|value| placed(value, y.scale));
    let mut chart = ChartBuilder::on(area)
        .margin_top(54)
        .margin_right(18)
        .margin_bottom(6)
        .x_label_area_size(44)
        .y_label_area_size(58)
        .build_cartesian_2d(left..right, bottom..top)
        .map_err(undrawn)?;
    let grey = RGBColor(225, 225, 225);
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(grey)
        .x_desc(x.label.clone())
        .x_labels(9)
        .y_labels(9)
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .x_label_formatter(&|value| tick(*value, x.scale))
        .y_label_formatter(&|value| tick(*value, y.scale))
        .draw()
        .map_err(undrawn)?;
    let at = |point: &(f64, f64)| (placed(point.0, x.scale), placed(point.1, y.scale));
    let drawable = |point: &(f64, f64)| point.0.is_finite() && point.1.is_finite();
    for (number, Series { name, points, interval }) in series.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        if let Some(interval) = interval {
            let edge = |end: fn(&(f64, f64)) -> f64| {
                let pairs = points.iter().zip(interval);
                pairs.map(move |(point, ends)| (point.0, end(ends))).map(|point| at(&point)).filter(drawable)
            };
            let outline: Vec<_> = edge(|ends| ends.0)
                .chain(edge(|ends| ends.1).collect::<Vec<_>>().into_iter().rev())
                .collect();
            chart.draw_series([Polygon::new(outline, colour.mix(0.15))]).map_err(undrawn)?;
        }
        let line: Vec<_> = points.iter().map(at).filter(drawable).collect();
        let marks = line.len() <= 40;
        let drawn =
            chart.draw_series(LineSeries::new(line.clone(), colour.stroke_width(2))).map_err(undrawn)?;
        drawn
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        if marks {
            chart
                .draw_series(line.into_iter().map(|point| Circle::new(point, 3, colour.filled())))
                .map_err(undrawn)?;
        }
    }
    let place = match (series.len() > 1, rising(series)) {
        (false, _) => return Ok(()),
        (true, true) => SeriesLabelPosition::LowerRight,
        (true, false) => SeriesLabelPosition::UpperRight,
    };
    let labels = &mut chart.configure_series_labels();
    let labels = labels.position(place).label_font(("sans-serif", 14)).margin(8).legend_area_size(20);
    labels.background_style(WHITE.mix(0.85)).border_style(grey).draw().map_err(undrawn)
}

/// Whether most lines end above where they begin, so that the room is at the lower right.
fn rising(series: &[Series]) -> bool {
    let rises = |series: &&Series| match (series.points.first(), series.points.last()) {
        (Some(first), Some(last)) => last.1 > first.1,
        _ => false,
    };
    2 * series.iter().filter(rises).count() > series.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> [Figure; 2] {
        let series = |name: &str, factor: f64| Series {
            name: name.into(),
            points: (0..6).map(|x| (f64::from(x), factor * f64::from(x))).collect(),
            interval: Some(
                (0..6).map(|x| (factor * f64::from(x) - 0.1, factor * f64::from(x) + 0.1)).collect(),
            ),
        };
        let figure = |title: &str| Figure {
            title: title.into(),
            x: Axis::linear("tokens"),
            y: Axis::linear("share"),
            series: vec![series("first", 1.0), series("second", 2.0)],
        };
        [figure("A & B"), figure("C")]
    }

    #[test]
    fn figures_are_drawn_without_fonts_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["plot.svg", "plot.png"] {
            save(&figures(), &folder.path().join(name)).unwrap();
        }
        let picture = semanticist::image::open(&folder.path().join("plot.png")).unwrap();
        assert_eq!(picture.dimensions(), (SIZE.0, 2 * SIZE.1));
        let dark = |top: u32| (0..SIZE.0).any(|x| (top..top + 30).any(|y| picture.get_pixel(x, y).0[0] < 90));
        assert!(dark(0) && dark(SIZE.1), "both titles are written");
        let svg = std::fs::read_to_string(folder.path().join("plot.svg")).unwrap();
        assert!(svg.contains("A &amp; B") && svg.contains("second"), "{svg}");
        let text = serde_json::to_string(&figures()).unwrap();
        assert_eq!(serde_json::from_str::<[Figure; 2]>(&text).unwrap(), figures());
    }

    #[test]
    fn what_cannot_be_drawn_is_said() {
        let axis = || Axis::logarithmic("power");
        let empty = Figure { title: "none".into(), x: axis(), y: axis(), series: Vec::new() };
        let folder = tempfile::tempdir().unwrap();
        let error = save(&[empty], &folder.path().join("plot.svg")).unwrap_err().to_string();
        assert!(error.contains("no point"), "{error}");
        assert!(check_name("plot.pdf".as_ref()).unwrap_err().to_string().contains(".svg or .png"));
    }
}
