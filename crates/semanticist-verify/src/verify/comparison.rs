//! Where a case lays recorded and computed values side by side.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use semanticist::weights::HostTensor;
use semanticist::{Precision, Result};

use super::recording::Recording;
use super::report::{Check, Verdict};
use super::tolerance::Kind;

/// Values with their shape, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Values {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Values {
    /// Numbers in a row.
    pub fn vector(values: Vec<f64>) -> Self {
        Self { shape: vec![values.len()], values }
    }

    /// Floats of up to 32 bits.
    pub fn from_host(tensor: &HostTensor) -> Option<Self> {
        let values = tensor.to_f32()?.into_iter().map(f64::from).collect();
        Some(Self { shape: tensor.shape().to_vec(), values })
    }
}

impl<const D: usize> From<Tensor<D>> for Values {
    fn from(tensor: Tensor<D>) -> Self {
        let shape = tensor.dims().to_vec();
        Self { shape, values: tensor.into_data().iter::<f64>().collect() }
    }
}

/// The checks of one case as they are made.
pub(super) struct Comparison<'a> {
    pub folder: &'a Path,
    /// What products are computed in.
    pub precision: Precision,
    pub device: &'a Device,
    case: &'static str,
    pub checks: Vec<Check>,
    /// Recorded tensors that were not used.
    pub unknown: Vec<String>,
}

impl<'a> Comparison<'a> {
    pub fn new(case: &'static str, folder: &'a Path, precision: Precision, device: &'a Device) -> Self {
        Self { folder, precision, device, case, checks: Vec::new(), unknown: Vec::new() }
    }

    pub fn open(&self, file: &str) -> Result<Recording> {
        Recording::open(self.folder, file)
    }

    /// Compares what was computed with the tensor of that name in the recording.
    pub fn compare(&mut self, recording: &mut Recording, name: &str, found: Values, kind: Kind) {
        match recording.floats(name, &found.shape) {
            Ok(recorded) => self.record(name, &recorded, &found.values, kind),
            Err(error) => self.unreadable(name, error.to_string()),
        }
    }

    /// Compares two rows of numbers.
    pub fn record(&mut self, quantity: &str, recorded: &[f64], found: &[f64], kind: Kind) {
        let tolerance = kind.tolerance(self.precision);
        if recorded.len() != found.len() {
            let (recorded, found) = (recorded.len(), found.len());
            let reason = format!("{recorded} values are recorded where this build computes {found}");
            return self.unreadable(quantity, reason);
        }
        if recorded.is_empty() {
            return self.unreadable(quantity, "no values are recorded; expected at least one".into());
        }
        let (max_absolute, max_relative) = largest_errors(recorded, found);
        // A comparison with NaN is false.
        let verdict = if max_relative <= tolerance { Verdict::Pass } else { Verdict::Fail };
        let (case, quantity) = (self.case.to_string(), quantity.to_string());
        self.checks.push(Check { case, quantity, max_absolute, max_relative, tolerance, verdict });
    }

    /// Notes that there is nothing to compare a quantity with.
    pub fn unreadable(&mut self, quantity: &str, reason: String) {
        self.unmeasured(quantity, Verdict::Unreadable(reason));
    }

    /// Notes that the case's file is not there.
    pub fn absent(&mut self, file: &str) {
        let reason = "the file is not there; record it, or choose the cases to check".to_string();
        self.unmeasured(file, Verdict::Absent(reason));
    }

    fn unmeasured(&mut self, quantity: &str, verdict: Verdict) {
        let (case, quantity) = (self.case.to_string(), quantity.to_string());
        let unmeasured = f64::NAN;
        self.checks.push(Check {
            case,
            quantity,
            max_absolute: unmeasured,
            max_relative: unmeasured,
            tolerance: unmeasured,
            verdict,
        });
    }

    /// Lists what a recording holds and nobody asked for.
    pub fn close(&mut self, recording: &Recording) {
        let unused = recording.names().map(|name| format!("{}: {name}", recording.file()));
        self.unknown.extend(unused);
    }
}

/// The largest difference, and the same over the largest recorded absolute value; NaN if any value is.
fn largest_errors(recorded: &[f64], found: &[f64]) -> (f64, f64) {
    let largest = |values: &mut dyn Iterator<Item = f64>| {
        values.fold(0.0, |largest: f64, v| if v.is_nan() || v > largest { v } else { largest })
    };
    let pairs = recorded.iter().zip(found);
    // Infinities must not cancel: what is not finite in both is no number to rely on.
    let absolute = largest(&mut pairs.map(|(r, f)| (r - f).abs()));
    let scale = largest(&mut recorded.iter().map(|r| r.abs()));
    let relative = if absolute == 0.0 { 0.0 } else { absolute / scale };
    (absolute, relative)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_the_largest_recorded_value() {
        assert_eq!(largest_errors(&[1.0, -4.0], &[1.5, -4.0]), (0.5, 0.125));
        assert_eq!(largest_errors(&[0.0], &[0.0]), (0.0, 0.0));
        assert_eq!(largest_errors(&[0.0], &[1.0]), (1.0, f64::INFINITY));
    }

    #[test]
    fn what_is_no_number_agrees_with_nothing() {
        let device = Device::flex();
        let mut comparison = Comparison::new("case", Path::new("."), Precision::Bfloat16, &device);
        let (nan, infinite) = (f64::NAN, f64::INFINITY);
        for (recorded, found) in [
            ([nan, 1.0], [nan, 1.0]),
            ([1.0, 2.0], [1.0, nan]),
            ([nan, 2.0], [1.0, 2.0]),
            ([nan, 2.0], [0.0, 3.0]),
            ([infinite, 1.0], [infinite, 1.0]),
            ([infinite, 1.0], [1.0, 1.0]),
        ] {
            // However much is accepted.
            comparison.record("x", &recorded, &found, Kind::Guided(1e12));
        }
        assert!(
            comparison.checks.iter().all(|check| check.verdict == Verdict::Fail),
            "{:?}",
            comparison.checks
        );
    }
}
