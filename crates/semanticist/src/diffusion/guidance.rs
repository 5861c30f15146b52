//! Classifier-free guidance of the decoder: away from what it would draw without tokens.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::split;
use crate::{Error, Result};

/// How strongly, and where, the tokens are over-weighted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guidance {
    /// 1: none. The paper evaluates at 3.
    pub scale: f64,
    /// First and last training timestep, inclusive, at which guidance acts; everywhere if not
    /// given (Kynkäänniemi et al. 2024).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<(usize, usize)>,
}

impl Guidance {
    /// The network as it is.
    pub const NONE: Self = Self::constant(1.0);

    /// The same scale at every timestep.
    pub const fn constant(scale: f64) -> Self {
        Self { scale, interval: None }
    }

    /// # Errors
    /// If the scale is not a number of at least 0, or the interval ends before it begins.
    pub fn validate(&self) -> Result<()> {
        if !(self.scale.is_finite() && self.scale >= 0.0) {
            return Err(Error::Config(format!(
                "guidance scale {} is not a number of at least 0; 1 means none, 3 is usual",
                self.scale
            )));
        }
        match self.interval {
            Some((first, last)) if first > last => Err(Error::Config(format!(
                "guidance interval {first}..{last} ends before it begins; give the lower timestep first"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether the output without tokens is needed at this training timestep. Where it is not, the
    /// output with tokens is used as it is.
    pub fn is_active(&self, timestep: usize) -> bool {
        let inside = self.interval.is_none_or(|(first, last)| (first..=last).contains(&timestep));
        self.scale != 1.0 && inside
    }

    /// Combines the network's outputs without and with tokens. Only the prediction is guided; the
    /// variance logits are those with tokens, as in DiT `forward_with_cfg` and the published code.
    ///
    /// Source: Ho & Salimans 2022, eq. 6, with `scale = 1 + w`.
    ///
    /// # Shapes
    /// `without_tokens`, `with_tokens`: `[B, 2C, H, W]` → `[B, 2C, H, W]`.
    pub fn apply(&self, without_tokens: Tensor<4>, with_tokens: Tensor<4>) -> Tensor<4> {
        if self.scale == 1.0 {
            return with_tokens;
        }
        let (without_tokens, _) = split(without_tokens);
        let (with_tokens, logits) = split(with_tokens);
        let prediction = without_tokens.clone() + (with_tokens - without_tokens) * self.scale;
        Tensor::cat(vec![prediction, logits], 1)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn only_the_prediction_is_guided() {
        let device = Device::flex();
        let output = |values: [f32; 2]| Tensor::<1>::from_floats(values, &device).reshape([1, 2, 1, 1]);
        let guided = Guidance::constant(3.0).apply(output([1.0, 5.0]), output([2.0, 7.0]));
        assert_eq!(guided.into_data().try_to_vec::<f32>().unwrap(), [4.0, 7.0]);
    }

    #[test]
    fn scale_one_changes_no_bit() {
        let output = |value: f32| Tensor::full([1, 2, 1, 1], value, &Device::flex());
        let guided = Guidance::NONE.apply(output(1e8), output(0.1));
        assert_eq!(guided.into_data().try_to_vec::<f32>().unwrap(), [0.1, 0.1]);
    }

    #[test]
    fn guidance_acts_inside_its_interval_and_never_at_scale_one() {
        let guidance = Guidance { scale: 3.0, interval: Some((200, 700)) };
        assert_eq!([199, 200, 700, 701].map(|t| guidance.is_active(t)), [false, true, true, false]);
        assert!(Guidance::constant(3.0).is_active(999) && !Guidance::NONE.is_active(500));
    }

    #[test]
    fn impossible_guidance_is_refused() {
        assert!(Guidance::constant(f64::NAN).validate().is_err());
        assert!(Guidance { scale: 2.0, interval: Some((5, 4)) }.validate().is_err());
        assert!(Guidance { scale: 2.0, interval: Some((4, 4)) }.validate().is_ok());
    }
}
