//! What a verification found: one line per compared quantity.

use std::fmt::Write;

use serde::Serialize;

/// One quantity, compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Which kind of recording.
    pub case: String,
    /// The recorded tensor, or the file if it is the file that cannot be used.
    pub quantity: String,
    /// The largest difference from the recording; NaN (`null` in JSON) if there is none to measure.
    pub max_absolute: f64,
    /// The same over the largest recorded absolute value.
    pub max_relative: f64,
    /// The largest accepted `max_relative`.
    pub tolerance: f64,
    /// Whether the differences are within the tolerance.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Whether a quantity agrees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", content = "reason", rename_all = "lowercase")]
pub enum Verdict {
    /// Within the tolerance.
    Pass,
    /// Over the tolerance, or not a number.
    Fail,
    /// There is nothing to compare with: why, and what was expected.
    Unreadable(String),
    /// The file of a demanded case is not there.
    Absent(String),
}

impl Verdict {
    /// In one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unreadable(_) => "unreadable",
            Self::Absent(_) => "absent",
        }
    }

    /// What is wrong, beyond numbers.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Pass | Self::Fail => None,
            Self::Unreadable(reason) | Self::Absent(reason) => Some(reason),
        }
    }
}

/// All checks of a folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// Files, and tensors in known files, that nothing was compared with.
    pub unknown: Vec<String>,
}

impl Report {
    /// Whether there was something to check and all of it agrees.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.verdict == Verdict::Pass)
    }

    /// The checks as aligned columns of text, one per line, under a line of headings; what is not
    /// known follows in a line of its own.
    pub fn table(&self) -> String {
        let heading = ["case", "quantity", "abs error", "rel error", "tolerance", "verdict"];
        let mut rows = vec![heading.map(String::from)];
        rows.extend(self.checks.iter().map(row));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 5] = std::array::from_fn(width);
        let mut text = String::new();
        for [case, quantity, absolute, relative, tolerance, verdict] in &rows {
            let [a, b, c, d, e] = widths;
            writeln!(
                text,
                "{case:<a$}  {quantity:<b$}  {absolute:>c$}  {relative:>d$}  {tolerance:>e$}  {verdict}"
            )
            .expect("a string takes all that is written to it");
        }
        if !self.unknown.is_empty() {
            text += &format!("\nnot known to this build and not checked: {}\n", self.unknown.join(", "));
        }
        text
    }
}

fn row(check: &Check) -> [String; 6] {
    let Check { case, quantity, max_absolute, max_relative, tolerance, verdict } = check;
    let verdict = match verdict.reason() {
        Some(reason) => format!("{}: {reason}", verdict.name()),
        None => verdict.name().to_string(),
    };
    let measured = !(max_absolute.is_nan() && check.verdict.reason().is_some());
    let number = |value: &f64| match value {
        _ if !measured => "-".to_string(),
        value if *value == 0.0 => "0".to_string(),
        value => format!("{value:.1e}"),
    };
    [case.clone(), quantity.clone(), number(max_absolute), number(max_relative), number(tolerance), verdict]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let check = |quantity: &str, error: f64, verdict| Check {
            case: "encoder".into(),
            quantity: quantity.into(),
            max_absolute: error,
            max_relative: error / 2.0,
            tolerance: 2e-4,
            verdict,
        };
        Report {
            checks: vec![
                check("features", 2e-6, Verdict::Pass),
                check("tokens", f64::NAN, Verdict::Fail),
                check("raw", f64::NAN, Verdict::Unreadable("is not there".into())),
            ],
            unknown: vec![],
        }
    }

    #[test]
    fn a_table_has_aligned_columns() {
        let expected = "\
case     quantity  abs error  rel error  tolerance  verdict
encoder  features     2.0e-6     1.0e-6     2.0e-4  pass
encoder  tokens          NaN        NaN     2.0e-4  fail
encoder  raw               -          -          -  unreadable: is not there
";
        assert_eq!(report().table(), expected);
        let unknown = vec!["a".to_string(), "b/".to_string()];
        let table = Report { unknown, ..report() }.table();
        assert_eq!(table, format!("{expected}\nnot known to this build and not checked: a, b/\n"));
    }

    #[test]
    fn verdict_and_reason_are_fields_of_a_check_in_json() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["checks"][0]["verdict"], "pass");
        assert_eq!(json["checks"][1]["max_absolute"], serde_json::Value::Null);
        assert_eq!(json["checks"][2]["verdict"], "unreadable");
        assert_eq!(json["checks"][2]["reason"], "is not there");
    }

    #[test]
    fn only_passes_pass_and_nothing_is_not_enough() {
        let mut report = report();
        assert!(!report.passed());
        report.checks.truncate(1);
        assert!(report.passed());
        report.checks.clear();
        assert!(!report.passed());
    }
}
