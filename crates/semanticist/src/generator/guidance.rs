//! How guidance away from what a generator would draw without a class grows over the tokens; the formula is
//! that of [`crate::diffusion::guidance`].

use serde::{Deserialize, Serialize};

use crate::diffusion::guidance::validate_scale;
use crate::error::Result;

/// How the scale grows over the tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuidanceSchedule {
    /// Token i of n, counted from 0, has the scale `1 + (s − 1)(i + 1) / n`, as published.
    Linear,
    /// All tokens have the same: the first ones, which set the scene, need to know its class (models/README.md).
    #[default]
    Constant,
}

/// How strongly the class is over-weighted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenGuidance {
    /// 1: none. That of the last token, with a linear schedule.
    pub scale: f64,
    /// How the scale grows over the tokens.
    #[serde(default)]
    pub schedule: GuidanceSchedule,
}

impl TokenGuidance {
    /// The networks as they are.
    pub const NONE: Self = Self { scale: 1.0, schedule: GuidanceSchedule::Constant };

    /// # Errors
    /// If the scale is not a number of at least 0.
    pub fn validate(&self) -> Result<()> {
        validate_scale(self.scale)
    }

    /// The scale of the token at `position`, counted from 0, of `count`.
    pub fn scale_of(&self, position: usize, count: usize) -> f64 {
        match self.schedule {
            GuidanceSchedule::Constant => self.scale,
            GuidanceSchedule::Linear => 1.0 + (self.scale - 1.0) * (position + 1) as f64 / count as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_schedule_ends_at_the_scale_and_a_constant_one_begins_there() {
        let linear = TokenGuidance { scale: 6.0, schedule: GuidanceSchedule::Linear };
        assert_eq!(linear.scale_of(31, 32), 6.0);
        assert_eq!(linear.scale_of(0, 5), 2.0);
        let constant = TokenGuidance { scale: 6.0, schedule: GuidanceSchedule::Constant };
        assert_eq!((constant.scale_of(0, 32), constant.scale_of(31, 32)), (6.0, 6.0));
        assert_eq!(TokenGuidance { scale: 1.0, ..linear }.scale_of(3, 9), 1.0);
        assert!(TokenGuidance { scale: f64::NAN, ..linear }.validate().is_err());
    }
}
