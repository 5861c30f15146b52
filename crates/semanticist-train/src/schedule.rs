//! The learning rate of each step.

use serde::{Deserialize, Serialize};

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Half a cosine down to 0.
    Cosine,
    /// The peak, to the end.
    Constant,
}

/// A linear warm-up, then a decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRate {
    /// The highest learning rate.
    pub peak: f64,
    /// Steps until the peak.
    pub warmup_steps: u64,
    /// What follows.
    pub decay: Decay,
    /// Steps from the peak until the cosine reaches 0. By default the run's steps less the warm-up;
    /// the published trainer takes all the run's steps, so that it ends above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine_steps: Option<u64>,
}

impl LearningRate {
    /// The learning rate of step `step`, counted from 1, of a run of `steps`.
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        if step <= self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        match self.decay {
            Decay::Constant => self.peak,
            Decay::Cosine => {
                let horizon = self.cosine_steps.unwrap_or(steps.saturating_sub(self.warmup_steps)).max(1);
                let progress = ((step - self.warmup_steps) as f64 / horizon as f64).min(1.0);
                self.peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_ends_at_zero_and_the_published_one_above() {
        let own = LearningRate { peak: 2e-4, warmup_steps: 50, decay: Decay::Cosine, cosine_steps: None };
        assert_eq!(own.at(50, 200), 2e-4);
        assert!(own.at(200, 200) < 1e-18);
        let published = LearningRate { cosine_steps: Some(200), ..own };
        // Recorded from the published trainer: reference/lr_schedules.json, steps 1, 50, 51 and 52.
        for (step, rate) in
            [(1, 4e-6), (50, 2e-4), (51, 1.999_876_632_481_660_7e-4), (52, 1.999_506_560_365_731_6e-4)]
        {
            assert!((published.at(step, 200) - rate).abs() < 1e-15, "{step}");
        }
        assert!((published.at(200, 200) / 2e-4 - 0.146).abs() < 1e-3);
    }
}
