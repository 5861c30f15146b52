//! What a process is, as data: Gaussian diffusion or a flow.

use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::{Deserialize, Serialize};

use super::schedule;
use crate::{Error, Result};

/// What the noising process is and what the network predicts about it.
///
/// Written with a `kind`; without one it is Gaussian diffusion, as it was before there were flows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum DiffusionConfig {
    /// Gaussian diffusion, as published.
    Gaussian(GaussianConfig),
    /// A straight line from noise to data.
    Flow(FlowConfig),
}

/// Gaussian diffusion with learned variance, in whole timesteps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaussianConfig {
    /// How many steps lead from clean data to noise.
    pub steps: usize,
    /// How the noise grows over the steps.
    pub schedule: Schedule,
    /// What the first half of the network's output channels means.
    pub prediction: Prediction,
}

/// A straight line from noise to data: rectified flows, and the stochastic interpolants of the published
/// token head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlowConfig {
    /// What the network's output means.
    pub prediction: FlowPrediction,
    /// At which times the network is trained.
    pub times: TrainingTimes,
    /// The time of the data as the network is told it; that of noise is 0. Sinusoids tell times apart over
    /// 1000; the published head is told the bare share, 1. Average velocities want 1, their default: they are
    /// learned from derivatives in time, in which at 1000 the fastest sinusoid drowns the others
    /// (docs/recipes.md).
    pub time_scale: f64,
}

impl Default for DiffusionConfig {
    fn default() -> Self {
        Self::Gaussian(GaussianConfig::default())
    }
}

impl Default for GaussianConfig {
    /// The process of the published checkpoints: 1000 steps, linear, noise prediction.
    fn default() -> Self {
        Self { steps: 1000, schedule: Schedule::Linear, prediction: Prediction::Noise }
    }
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self { prediction: FlowPrediction::Velocity, times: TrainingTimes::Uniform {}, time_scale: 1000.0 }
    }
}

/// How the noise grows over the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Betas linear from 1e-4 to 0.02 at 1000 steps (Ho et al. 2020, section 4).
    Linear,
    /// Cumulative signal as a squared cosine (Nichol & Dhariwal 2021, eq. 17).
    Cosine,
}

/// What the network predicts besides the variance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// The noise ε that was added.
    Noise,
    /// The velocity `√ᾱ ε − √(1 − ᾱ) x₀` (Salimans & Ho 2022, appendix D).
    Velocity,
}

/// What the network predicts about a flow. Either way the loss is the velocity's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowPrediction {
    /// The velocity `x − ε`.
    Velocity,
    /// The data (JiT, arXiv 2511.13720): a network is not asked for the noise, which it has no room for if a
    /// patch has more numbers than its width.
    Clean,
    /// The average velocity from here to a later share of the way (MeanFlow, arXiv 2505.13447), of which the
    /// network is told how far that is: so few steps, even one, lead to the data. At a distance of 0 it is the
    /// velocity.
    AverageVelocity,
}

/// The times at which a flow is trained, as shares of the way from noise to data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TrainingTimes {
    /// All alike.
    Uniform {},
    /// The logistic function of normal numbers (Esser et al. 2024, eq. 19): most in the middle, and the
    /// nearer to the noise the lower the mean. JiT has −0.8 and 0.8.
    LogitNormal {
        /// Of the normal numbers; below 0, most times are nearer to the noise.
        mean: f64,
        /// Of the normal numbers.
        deviation: f64,
    },
}

impl DiffusionConfig {
    /// # Errors
    /// If there is no such process; says which would do.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Gaussian(config) => schedule::betas(config).map(|_| ()),
            Self::Flow(config) => config.validate(),
        }
    }

    /// How many numbers the network gives per channel of the data: Gaussian diffusion learns a variance, too.
    pub fn outputs_per_channel(&self) -> usize {
        match self {
            Self::Gaussian(_) => 2,
            Self::Flow(_) => 1,
        }
    }

    /// Whether the network is told, besides the time, how far its answer reaches.
    pub fn tells_span(&self) -> bool {
        matches!(self, Self::Flow(FlowConfig { prediction: FlowPrediction::AverageVelocity, .. }))
    }
}

impl FlowConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if !(self.time_scale.is_finite() && self.time_scale > 0.0) {
            let scale = self.time_scale;
            return Err(Error::Config(format!(
                "diffusion: time_scale {scale} is not a number above 0; 1000 is usual"
            )));
        }
        match self.times {
            TrainingTimes::LogitNormal { mean, deviation }
                if !(mean.is_finite() && deviation.is_finite() && deviation > 0.0) =>
            {
                Err(Error::Config(format!(
                    "diffusion: logit-normal times of mean {mean} and deviation {deviation}; use a finite mean and \
                     a deviation above 0, such as 0 and 1"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// A configuration as files have it: the fields of every kind.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<Schedule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prediction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_scale: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<TrainingTimes>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Gaussian,
    Flow,
}

impl TryFrom<Written> for DiffusionConfig {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        let Written { kind, steps, schedule, prediction, time_scale, times } = written;
        let foreign =
            |fields: [(&str, bool); 2], home: &str, here: &str| match fields.iter().find(|(_, given)| *given)
            {
                Some((field, _)) => Err(Error::Config(format!(
                    "diffusion: `{field}` belongs to kind = \"{home}\"; this one is {here}"
                ))),
                None => Ok(()),
            };
        match kind.unwrap_or(Kind::Gaussian) {
            Kind::Gaussian => {
                let here = if kind.is_some() { "\"gaussian\"" } else { "\"gaussian\", as no kind is given" };
                foreign([("time_scale", time_scale.is_some()), ("times", times.is_some())], "flow", here)?;
                let usual = GaussianConfig::default();
                Ok(Self::Gaussian(GaussianConfig {
                    steps: steps.unwrap_or(usual.steps),
                    schedule: schedule.unwrap_or(usual.schedule),
                    prediction: named(prediction.as_deref())?.unwrap_or(usual.prediction),
                }))
            }
            Kind::Flow => {
                let fields = [("steps", steps.is_some()), ("schedule", schedule.is_some())];
                foreign(fields, "gaussian", "\"flow\"")?;
                let usual = FlowConfig::default();
                let prediction = named(prediction.as_deref())?.unwrap_or(usual.prediction);
                let scale =
                    if prediction == FlowPrediction::AverageVelocity { 1.0 } else { usual.time_scale };
                Ok(Self::Flow(FlowConfig {
                    prediction,
                    times: times.unwrap_or(usual.times),
                    time_scale: time_scale.unwrap_or(scale),
                }))
            }
        }
    }
}

/// A prediction by its name, which the kinds share the field of.
fn named<'a, T: Deserialize<'a>>(name: Option<&'a str>) -> Result<Option<T>> {
    let parse = |name| T::deserialize(StrDeserializer::<ValueError>::new(name));
    name.map(parse).transpose().map_err(|error| Error::Config(format!("diffusion.prediction: {error}")))
}

impl From<DiffusionConfig> for Written {
    /// Gaussian diffusion is written without its kind, so that older builds read what this one writes.
    fn from(config: DiffusionConfig) -> Self {
        match config {
            DiffusionConfig::Gaussian(GaussianConfig { steps, schedule, prediction }) => {
                let prediction = match prediction {
                    Prediction::Noise => "noise",
                    Prediction::Velocity => "velocity",
                };
                let (steps, schedule) = (Some(steps), Some(schedule));
                Self { steps, schedule, prediction: Some(prediction.into()), ..Self::default() }
            }
            DiffusionConfig::Flow(FlowConfig { prediction, times, time_scale }) => {
                let prediction = match prediction {
                    FlowPrediction::Velocity => "velocity",
                    FlowPrediction::Clean => "clean",
                    FlowPrediction::AverageVelocity => "average-velocity",
                };
                let (times, time_scale) = (Some(times), Some(time_scale));
                let (kind, prediction) = (Some(Kind::Flow), Some(prediction.into()));
                Self { kind, prediction, times, time_scale, ..Self::default() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn read(text: &str) -> DiffusionConfig {
        serde_json::from_str(text).unwrap()
    }

    /// As `models/tokenizer-tiny.safetensors` has it.
    const OLD: &str = r#"{"steps":1000,"schedule":"linear","prediction":"velocity"}"#;

    #[test]
    fn files_from_before_the_kinds_are_gaussian_and_written_as_they_were() {
        let config = read(OLD);
        let velocity = GaussianConfig { prediction: Prediction::Velocity, ..GaussianConfig::default() };
        assert_eq!(config, DiffusionConfig::Gaussian(velocity));
        assert_eq!(serde_json::to_string(&config).unwrap(), OLD);
        assert_eq!(read("{}"), DiffusionConfig::default());
        let cosine = GaussianConfig { schedule: Schedule::Cosine, steps: 50, ..GaussianConfig::default() };
        let written = r#"{"kind": "gaussian", "steps": 50, "schedule": "cosine"}"#;
        assert_eq!(read(written), DiffusionConfig::Gaussian(cosine));
    }

    #[test]
    fn flows_are_read_and_written() {
        assert_eq!(read(r#"{"kind": "flow"}"#), DiffusionConfig::Flow(FlowConfig::default()));
        let text = r#"{"kind":"flow","prediction":"clean","time_scale":1.0,"times":{"kind":"logit-normal","mean":-0.8,"deviation":0.8}}"#;
        let config = read(text);
        let DiffusionConfig::Flow(FlowConfig { prediction, times, time_scale }) = config else { panic!() };
        assert_eq!((prediction, time_scale), (FlowPrediction::Clean, 1.0));
        assert_eq!(times, TrainingTimes::LogitNormal { mean: -0.8, deviation: 0.8 });
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
        assert!(!config.tells_span());
        let average = read(r#"{"kind": "flow", "prediction": "average-velocity"}"#);
        assert!(average.tells_span());
        let written = serde_json::to_string(&average).unwrap();
        assert!(written.contains(r#""prediction":"average-velocity","time_scale":1.0"#), "{written}");
    }

    #[test]
    fn what_does_not_belong_is_named_with_its_home() {
        for (text, part) in [
            (r#"{"step": 50}"#, "unknown field `step`"),
            (r#"{"kind": "ode"}"#, "expected `gaussian` or `flow`"),
            (
                r#"{"time_scale": 1}"#,
                "`time_scale` belongs to kind = \"flow\"; this one is \"gaussian\", as no",
            ),
            (r#"{"kind": "flow", "schedule": "linear"}"#, "`schedule` belongs to kind = \"gaussian\""),
            (r#"{"kind": "flow", "prediction": "noise"}"#, "expected one of `velocity`, `clean`"),
            (r#"{"prediction": "clean"}"#, "expected `noise` or `velocity`"),
            (r#"{"kind": "flow", "times": {"kind": "uniform", "mean": 1}}"#, "unknown field `mean`"),
        ] {
            let message = serde_json::from_str::<DiffusionConfig>(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn impossible_processes_are_refused() {
        let message = |text: &str| read(text).validate().unwrap_err().to_string();
        assert!(message(r#"{"steps": 20}"#).contains("at least 21"));
        assert!(message(r#"{"kind": "flow", "time_scale": 0}"#).contains("time_scale 0"));
        let times = r#"{"kind": "flow", "times": {"kind": "logit-normal", "mean": 0, "deviation": 0}}"#;
        assert!(message(times).contains("deviation above 0"));
    }
}
