//! How far a quantity may be from its recording: the largest error over the largest recorded value.
//!
//! In bfloat16 the factors of a product are rounded by up to 2⁻⁹ of themselves, 0.2 %, and by half of that as a root
//! of the mean of squares, so a product by 0.15 %. Errors are independent: a sum of products has the same relative to
//! its own size, and n products in a row √n times as much. The recorded networks have 3 or 4 blocks of 6 products in
//! a row (queries and keys, scores, weighted sum, output, up, down): 0.7 %. `docs/precision.md` has the
//! derivation of each number below and what was measured.

use semanticist::Precision;

/// What a quantity is, which decides how roundings add up in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// What a network answers.
    Output,
    /// What guidance of this scale makes of answers, or of all that lead to a sample.
    Guided(f64),
    /// What is float32 in every precision: autoencoders, fixed positions, guidance scales.
    Unrounded,
    /// A mean of squared errors of a network's answers.
    Loss,
    /// The gradient of a loss to one parameter, or the norm of all.
    Gradient,
    /// Losses and norms of gradients over several optimiser steps.
    Course,
    /// A parameter after several optimiser steps, or its average.
    Moved,
    /// A table in float64.
    Table,
    /// Integers, pixels and stored weights.
    Exact,
}

impl Kind {
    /// The largest accepted error.
    pub fn tolerance(self, precision: Precision) -> f64 {
        match (self, precision) {
            (Self::Exact, _) => 0.0,
            (Self::Table, _) => 1e-12,
            (Self::Unrounded, _) | (Self::Output | Self::Guided(_), Precision::Float32) => 2e-4,
            (Self::Loss, Precision::Float32) => 1e-4,
            (Self::Gradient | Self::Course | Self::Moved, Precision::Float32) => 1e-3,
            // Three times the expected 0.7 %, as it is the largest of many errors.
            (Self::Output, Precision::Bfloat16) => 2e-2,
            // `u + s (c - u)` of two answers with independent errors.
            (Self::Guided(scale), Precision::Bfloat16) => 2e-2 * scale.hypot(scale - 1.0),
            // A relative error of 0.7 % counts twice in a square, and most of it averages out.
            (Self::Loss, Precision::Bfloat16) => 1e-2,
            // Three times the products of an answer, and sums over positions that cancel.
            (Self::Gradient, Precision::Bfloat16) => 5e-2,
            (Self::Course, Precision::Bfloat16) => 2e-2,
            // Where rounding decides the sign of a gradient, AdamW goes the other way at full length.
            (Self::Moved, Precision::Bfloat16) => 6e-2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_loosens_what_it_rounds_and_nothing_else() {
        let both = |kind: Kind| [Precision::Float32, Precision::Bfloat16].map(|p| kind.tolerance(p));
        for kind in [Kind::Unrounded, Kind::Table, Kind::Exact] {
            assert_eq!(both(kind)[0], both(kind)[1]);
        }
        assert_eq!(both(Kind::Guided(1.0)), both(Kind::Output));
        assert!((both(Kind::Guided(4.0))[1] - 0.1).abs() < 1e-12);
        assert_eq!(both(Kind::Guided(4.0))[0], 2e-4);
    }
}
