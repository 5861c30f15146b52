//! Which way leads from noise to data, by name, and how often it evaluates the network.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Guidance, Process, SamplingPlan};
use crate::{Error, Result};

/// Which way leads from noise to data: the first four in Gaussian diffusion, the next ones in a
/// flow, the last one in either.
///
/// Written as `ddpm`, `ddim` (η = 0), `ddim:0.5` (η = 0.5), `ddim-trailing`, `dpm++`, `sde`, `euler`, `heun`,
/// `ab2` or `fitted`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Sampler {
    /// Ancestral sampling with the learned variance (Nichol & Dhariwal 2021): the published one.
    Ddpm,
    /// Implicit sampling (Song et al. 2021). The timesteps are an integer stride apart if a stride
    /// gives that many steps, as in guided-diffusion, and otherwise evenly spaced.
    Ddim {
        /// Share of the ancestral noise, in `[0, 1]`; 0 draws none at all.
        eta: f64,
    },
    /// Implicit sampling without noise on the way whose timesteps are counted from the last one
    /// ([`Respacing::Trailing`](super::Respacing::Trailing)): the way for few steps, even one. The others
    /// begin below the last timestep, with 2 steps of [`Sampler::Ddim`] halfway, where pure noise is not what
    /// the network expects.
    DdimTrailing,
    /// Second-order multistep solver (DPM-Solver++ 2M, Lu et al. 2022), deterministic. The timesteps
    /// are spaced quadratically: on even ones its last steps are so long in log signal-to-noise
    /// ratio that 20 of them are less exact than 20 of DDIM.
    DpmSolverPlusPlus,
    /// Euler-Maruyama on the reverse stochastic equation with diffusion `1 − t`, as published.
    EulerMaruyama,
    /// Euler's method on the ordinary equation; of a network that gives average velocities
    /// ([`FlowPrediction::AverageVelocity`](super::FlowPrediction::AverageVelocity)) each over its whole step.
    Euler,
    /// Heun's: of second order, two evaluations per step.
    Heun,
    /// That of Adams and Bashforth with two steps: of second order, one evaluation per step. It goes on as the last
    /// two velocities say; its first step is Euler's. Steps are shorter near noise.
    AdamsBashforth,
    /// The one that was fitted to this network in as many steps ([`FittedSampler`](super::FittedSampler)): one evaluation per
    /// step.
    Fitted,
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ddpm => f.write_str("ddpm"),
            Self::Ddim { eta: 0.0 } => f.write_str("ddim"),
            Self::Ddim { eta } => write!(f, "ddim:{eta}"),
            Self::DdimTrailing => f.write_str("ddim-trailing"),
            Self::DpmSolverPlusPlus => f.write_str("dpm++"),
            Self::EulerMaruyama => f.write_str("sde"),
            Self::Euler => f.write_str("euler"),
            Self::Heun => f.write_str("heun"),
            Self::AdamsBashforth => f.write_str("ab2"),
            Self::Fitted => f.write_str("fitted"),
        }
    }
}

/// The names that fit Gaussian diffusion, as messages list them.
pub(super) const GAUSSIAN: &str =
    "\"ddpm\", \"ddim\", \"ddim:ETA\" with ETA from 0 to 1, \"ddim-trailing\", \"dpm++\" or \"fitted\"";
/// The same of a flow.
pub(super) const FLOW: &str = "\"sde\", \"euler\", \"heun\", \"ab2\" or \"fitted\"";

impl FromStr for Sampler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let eta = |text: &str| text.parse().ok().filter(|eta| (0.0..=1.0).contains(eta));
        match name {
            "ddpm" => Some(Self::Ddpm),
            "ddim" => Some(Self::Ddim { eta: 0.0 }),
            "ddim-trailing" => Some(Self::DdimTrailing),
            "dpm++" => Some(Self::DpmSolverPlusPlus),
            "sde" => Some(Self::EulerMaruyama),
            "euler" => Some(Self::Euler),
            "heun" => Some(Self::Heun),
            "ab2" => Some(Self::AdamsBashforth),
            "fitted" => Some(Self::Fitted),
            _ => name.strip_prefix("ddim:").and_then(eta).map(|eta| Self::Ddim { eta }),
        }
        .ok_or_else(|| {
            Error::Config(format!("unknown sampler \"{name}\"; use {GAUSSIAN}; of a flow, {FLOW}"))
        })
    }
}

impl TryFrom<String> for Sampler {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Sampler> for String {
    fn from(sampler: Sampler) -> Self {
        sampler.to_string()
    }
}

/// How to decode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeOptions {
    /// Steps from noise to data, as few as the sampler allows; see [`SamplingPlan::evaluations`].
    pub steps: usize,
    /// In which way; [`Process::usual_sampler`] if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<Sampler>,
    /// How strongly the tokens are over-weighted.
    pub guidance: Guidance,
}

impl Default for DecodeOptions {
    /// What the library, the commands and the samples of training use unless told otherwise. Guidance of 1.5
    /// gains a little PSNR (models/README.md); more of it loses some.
    fn default() -> Self {
        Self { steps: 25, sampler: None, guidance: Guidance::constant(1.5) }
    }
}

impl DecodeOptions {
    /// As the published evaluation: 250 ancestral steps, guidance 3.
    pub fn published() -> Self {
        Self { steps: 250, sampler: Some(Sampler::Ddpm), guidance: Guidance::constant(3.0) }
    }

    /// The plan of a process under these options.
    ///
    /// # Errors
    /// As [`SamplingPlan::new`], and if the guidance is impossible.
    pub fn plan(&self, process: &Process) -> Result<SamplingPlan> {
        self.guidance.validate()?;
        SamplingPlan::new(process, self.sampler_for(process), self.steps)
    }

    /// The sampler of a process under these options.
    pub fn sampler_for(&self, process: &Process) -> Sampler {
        self.sampler.unwrap_or_else(|| process.usual_sampler(self.steps, &self.guidance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_samplers_and_back() {
        let gaussian = ["ddpm", "ddim", "ddim:0.5", "ddim:1", "ddim-trailing", "dpm++"];
        for name in gaussian.into_iter().chain(["sde", "euler", "heun", "ab2", "fitted"]) {
            assert_eq!(name.parse::<Sampler>().unwrap().to_string(), name);
        }
        for name in ["", "DDPM", "ddim:", "ddim:2", "ddim:-0.1", "ddim:nan", "dpm", "rk4"] {
            let message = name.parse::<Sampler>().unwrap_err().to_string();
            assert!(message.contains("\"dpm++\"") && message.contains("\"ab2\""), "{name}: {message}");
        }
    }

    #[test]
    fn options_are_written_and_read() {
        let options =
            DecodeOptions { sampler: Some(Sampler::Ddim { eta: 0.5 }), ..DecodeOptions::published() };
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(text, r#"{"steps":250,"sampler":"ddim:0.5","guidance":{"scale":3.0}}"#);
        assert_eq!(serde_json::from_str::<DecodeOptions>(&text).unwrap(), options);
        assert_eq!(serde_json::from_str::<DecodeOptions>("{}").unwrap(), DecodeOptions::default());
    }
}
