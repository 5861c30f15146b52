//! How a class becomes tokens: what callers ask for, and what a generator's file says where they do not.

use serde::{Deserialize, Serialize};

use super::{GeneratorConfig, GuidanceSchedule, HeadConfig, TokenGuidance};
use crate::diffusion::{Sampler, SamplingPlan};
use crate::error::{Error, Result};

/// How a class becomes tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// How many of the first tokens are drawn.
    pub tokens: usize,
    /// How each of them is.
    pub drawing: DrawOptions,
}

/// How each token is drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrawOptions {
    /// How strongly the class is over-weighted.
    pub guidance: TokenGuidance,
    /// Steps from noise to a token; see [`SamplingPlan::evaluations`].
    pub steps: usize,
    /// In which way; [`HeadProcess::default_sampler`](super::HeadProcess::default_sampler) if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<Sampler>,
    /// Multiplies the noise that stochastic samplers add on the way.
    pub temperature: f64,
}

impl Default for DrawOptions {
    /// What the library, the commands and the samples of training use unless they or the generator's file say otherwise. At this
    /// scale the class of nearly half of the built-in generator's pictures can be told; lower ones are nearer to photos
    /// (models/README.md).
    fn default() -> Self {
        let guidance = TokenGuidance { scale: 4.0, schedule: GuidanceSchedule::default() };
        Self { guidance, steps: 100, sampler: None, temperature: 1.0 }
    }
}

impl DrawOptions {
    /// How each token of a generator with this head is drawn.
    ///
    /// # Errors
    /// As [`SamplingPlan::new`].
    pub(super) fn plan(&self, head: &HeadConfig) -> Result<SamplingPlan> {
        let sampler = self.sampler.unwrap_or(head.process.default_sampler());
        let plan = SamplingPlan::new(head.process.process(), sampler, self.steps)?;
        Ok(plan.with_temperature(self.temperature))
    }

    /// # Errors
    /// Names the first option that a generator with this head cannot follow.
    pub fn validate(&self, head: &HeadConfig) -> Result<()> {
        self.guidance.validate()?;
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            let temperature = self.temperature;
            return Err(Error::Config(format!(
                "temperature {temperature} is not a number of at least 0; 1 is usual"
            )));
        }
        self.plan(head).map(|_| ())
    }
}

impl GenerateOptions {
    /// As this generator draws unless something else is asked for.
    pub fn usual(config: &GeneratorConfig) -> Self {
        Self { tokens: config.usual_tokens(), drawing: config.draw_options() }
    }

    /// # Errors
    /// Names the first option that this generator cannot follow.
    pub fn validate(&self, config: &GeneratorConfig) -> Result<()> {
        if !(1..=config.tokens).contains(&self.tokens) {
            return Err(Error::Config(format!(
                "{} tokens asked of a generator that draws 1 to {}",
                self.tokens, config.tokens
            )));
        }
        self.drawing.validate(&config.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_does_not_say_is_usual() {
        let said: DrawOptions =
            serde_json::from_str(r#"{ "steps": 25, "guidance": { "scale": 3.0 } }"#).unwrap();
        let usual = DrawOptions::default();
        let guidance = TokenGuidance { scale: 3.0, ..usual.guidance };
        assert_eq!(said, DrawOptions { steps: 25, guidance, ..usual });
        assert!(serde_json::from_str::<DrawOptions>(r#"{ "step": 25 }"#).is_err());
    }
}
