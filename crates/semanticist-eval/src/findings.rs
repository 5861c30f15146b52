//! What a measurement found, in one form for all of them: tables and figures with every point, and how they came
//! about. A page and a terminal show it without knowing what was measured.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plot::Figure;

/// The result of one kind of measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Findings {
    /// Which measurement: `reconstruction`, `variance`, `probe`, `spectrum`, `zero-shot` or `ablation`.
    pub kind: String,
    /// How it was made.
    pub made: Made,
    /// What the numbers mean, one sentence each: definitions and choices that the paper leaves open.
    pub protocol: Vec<String>,
    /// What they say, one sentence each.
    pub sentences: Vec<String>,
    /// The numbers.
    pub tables: Vec<Table>,
    /// The same as plots; each holds its points.
    pub figures: Vec<Figure>,
}

/// How findings came about, so that they can be made again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// The command line.
    pub command: String,
    /// The version of this program.
    pub version: String,
    /// What errors call the model, and SHA-256 of its configuration and weights; none if only folders were compared.
    pub model: Option<Model>,
    /// Which data: the number of images, a colon and 16 hexadecimal digits, as a training run records it.
    pub data: String,
    /// The same of the images that components and probes were fitted to.
    pub training: String,
    /// How many images were measured.
    pub images: usize,
    /// The side of the squares that were measured, in pixels.
    pub image_size: usize,
    /// How images became squares of that size.
    pub crop: String,
    /// What products were computed in.
    pub precision: String,
    /// Everything else that was asked for: counts, steps, seeds.
    pub options: Value,
    /// How long it took, in seconds, without what an interrupted run had done before.
    pub seconds: f64,
}

impl Made {
    /// All that decides what is found: not the words of the command, nor how long it took.
    pub fn identity(&self) -> Value {
        let Self { version, model, data, training, images, image_size, precision, options, .. } = self;
        let model = model.as_ref().map(|model| &model.hash);
        serde_json::json!([version, model, data, training, images, image_size, precision, options])
    }
}

/// A model by name and identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its file or built-in name.
    pub name: String,
    /// SHA-256, in hexadecimal.
    pub hash: String,
}

/// A table of numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// One name per column, with units.
    pub columns: Vec<String>,
    /// One cell per column in every row.
    pub rows: Vec<Vec<Cell>>,
}

/// What stands at one place of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    /// A whole number.
    Count(u64),
    /// A measured one; null in JSON if it is not finite.
    Number(f64),
    /// A name.
    Text(String),
    /// Nothing could be measured here.
    Missing(()),
}

impl From<usize> for Cell {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        if number.is_finite() { Self::Number(number) } else { Self::Missing(()) }
    }
}

impl From<Option<f64>> for Cell {
    fn from(number: Option<f64>) -> Self {
        number.map_or(Self::Missing(()), Self::from)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Cell {
    /// How it is shown: four significant digits, and `-` for what is missing.
    pub fn shown(&self) -> String {
        match self {
            Self::Count(count) => count.to_string(),
            Self::Number(number) => significant(*number),
            Self::Text(text) => text.clone(),
            Self::Missing(()) => "-".into(),
        }
    }
}

/// Four significant digits, with an exponent only where there would be many zeros.
fn significant(number: f64) -> String {
    if number == 0.0 {
        return "0".into();
    }
    let digits = 3 - number.abs().log10().floor() as i32;
    match digits {
        ..=0 => format!("{number:.0}"),
        1..=7 => format!("{number:.*}", digits as usize),
        _ => format!("{number:.3e}"),
    }
}

impl Table {
    /// A table without rows yet.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(ToString::to_string).collect();
        Self { title: title.into(), columns, rows: Vec::new() }
    }

    /// # Panics
    /// If there is not one cell per column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let cells: Vec<Cell> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.columns.len(), "one cell per column of {}", self.title);
        self.rows.push(cells);
    }

    /// The table for a terminal.
    pub fn text(&self) -> String {
        let shown: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(Cell::shown).collect()).collect();
        let width = |column: usize| {
            let cells = shown.iter().map(|row| row[column].chars().count());
            cells.chain([self.columns[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).enumerate().map(|(at, (cell, width))| match at {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
        };
        let lines = [&self.columns].into_iter().chain(&shown).map(|cells| line(cells));
        format!("{}\n{}", self.title, lines.collect::<Vec<_>>().join("\n"))
    }
}

impl Table {
    /// The table for a page.
    pub fn markdown(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = String>| {
            format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
        };
        let mut lines = vec![
            line(&mut self.columns.iter().cloned()),
            line(
                &mut self
                    .columns
                    .iter()
                    .enumerate()
                    .map(|(at, _)| if at == 0 { "---" } else { "---:" }.into()),
            ),
        ];
        lines.extend(self.rows.iter().map(|row| line(&mut row.iter().map(Cell::shown))));
        lines.join("\n")
    }
}

impl Findings {
    /// All of it for a terminal, without the protocol.
    pub fn text(&self) -> String {
        let tables = self.tables.iter().map(Table::text);
        let parts = tables.chain((!self.sentences.is_empty()).then(|| self.sentences.join("\n")));
        format!("{} images\n\n{}", self.made.images, parts.collect::<Vec<_>>().join("\n\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_shown_and_read_back() {
        let cells = [Cell::from(3), Cell::from(0.5), Cell::from("a"), Cell::from(f64::NAN)];
        let text = serde_json::to_string(&cells).unwrap();
        assert_eq!(text, r#"[3,0.5,"a",null]"#);
        assert_eq!(serde_json::from_str::<[Cell; 4]>(&text).unwrap(), cells);
        for (number, shown) in [
            (21.123456, "21.12"),
            (0.0123456, "0.01235"),
            (123456.7, "123457"),
            (-0.5, "-0.5000"),
            (0.0, "0"),
            (1.5e-9, "1.500e-9"),
            (9.99999, "10.000"),
        ] {
            assert_eq!(Cell::from(number).shown(), shown);
        }
    }

    #[test]
    fn a_table_is_aligned() {
        let mut table = Table::new("quality", &["what", "dB"]);
        table.row(["8 tokens".into(), 1.0.into()]);
        table.row(["floor".into(), None.into()]);
        assert_eq!(table.text(), "quality\nwhat         dB\n8 tokens  1.000\nfloor         -");
        assert_eq!(table.markdown(), "| what | dB |\n| --- | ---: |\n| 8 tokens | 1.000 |\n| floor | - |");
    }
}
