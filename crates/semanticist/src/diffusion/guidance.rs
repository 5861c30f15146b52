//! Classifier-free guidance: away from what a network would say without its condition, the decoder's tokens
//! or the generator's class.
//!
//! Where both are asked in one batch, the half without comes first.

use std::cmp::Ordering;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How strongly, and where, the condition is over-weighted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guidance {
    /// 1: none. The paper evaluates at 3.
    pub scale: f64,
    /// First and last time, inclusive and as the network is told them, at which guidance acts; everywhere if
    /// not given (Kynkäänniemi et al. 2024).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f32, f32)>,
}

impl Guidance {
    /// The network as it is.
    pub const NONE: Self = Self::constant(1.0);

    /// The same scale at every time.
    pub const fn constant(scale: f64) -> Self {
        Self { scale, interval: None }
    }

    /// # Errors
    /// If the scale is not a number of at least 0, or the interval ends before it begins.
    pub fn validate(&self) -> Result<()> {
        validate_scale(self.scale)?;
        let Some((first, last)) = self.interval else { return Ok(()) };
        if matches!(first.partial_cmp(&last), Some(Ordering::Less | Ordering::Equal)) {
            return Ok(());
        }
        Err(Error::Config(format!(
            "guidance interval {first}..{last} ends before it begins; give the lower time first"
        )))
    }

    /// Whether the output without the condition is needed at this time. Where it is not, the output with it
    /// is used as it is.
    pub fn is_active(&self, time: f32) -> bool {
        let inside = self.interval.is_none_or(|(first, last)| (first..=last).contains(&time));
        self.scale != 1.0 && inside
    }
}

/// # Errors
/// If it is not a number of at least 0.
pub fn validate_scale(scale: f64) -> Result<()> {
    if scale.is_finite() && scale >= 0.0 {
        return Ok(());
    }
    Err(Error::Config(format!(
        "guidance scale {scale} is not a number of at least 0; 1 means none, 3 is usual"
    )))
}

/// Combines the network's outputs without and with the condition. Only the prediction is guided, the first
/// `channels`; the variance logits behind it are those with the condition, as in DiT `forward_with_cfg` and
/// the published code.
///
/// Source: Ho & Salimans 2022, eq. 6, with `scale = 1 + w`.
///
/// # Shapes
/// `without`, `with`: `[N, outputs C, ..]` → the same
pub fn guide<const D: usize>(without: Tensor<D>, with: Tensor<D>, scale: f64, channels: usize) -> Tensor<D> {
    if scale == 1.0 {
        return with;
    }
    let prediction = |output: &Tensor<D>| output.clone().narrow(1, 0, channels);
    let without = prediction(&without);
    let guided = without.clone() + (prediction(&with) - without) * scale;
    match with.dims()[1] - channels {
        0 => guided,
        others => Tensor::cat(vec![guided, with.narrow(1, channels, others)], 1),
    }
}

/// [`guide`] on one batch, the half without the condition first.
///
/// # Shapes
/// `both`: `[2 N, outputs C, ..]` → `[N, outputs C, ..]`
pub fn guide_halves<const D: usize>(both: Tensor<D>, scale: f64, channels: usize) -> Tensor<D> {
    let n = both.dims()[0] / 2;
    guide(both.clone().narrow(0, 0, n), both.narrow(0, n, n), scale, channels)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn only_the_prediction_is_guided() {
        let device = Device::flex();
        let both = Tensor::<4>::from_floats([[[[1.0]], [[5.0]]], [[[2.0]], [[7.0]]]], &device);
        let guided = guide_halves(both, 3.0, 1);
        assert_eq!(guided.into_data().try_to_vec::<f32>().unwrap(), [4.0, 7.0]);
        let both = Tensor::<2>::from_floats([[1.0, 5.0], [2.0, 7.0]], &device);
        let guided = guide_halves(both, 3.0, 2);
        assert_eq!(guided.into_data().try_to_vec::<f32>().unwrap(), [4.0, 11.0]);
    }

    #[test]
    fn scale_one_changes_no_bit() {
        let output = |value: f32| Tensor::<2>::full([1, 2], value, &Device::flex());
        let guided = guide(output(1e8), output(0.1), 1.0, 1);
        assert_eq!(guided.into_data().try_to_vec::<f32>().unwrap(), [0.1, 0.1]);
    }

    #[test]
    fn guidance_acts_inside_its_interval_and_never_at_scale_one() {
        let guidance: Guidance = serde_json::from_str(r#"{"scale": 3, "interval": [200, 700]}"#).unwrap();
        let times = [199.0, 200.0, 700.0, 701.0];
        assert_eq!(times.map(|t| guidance.is_active(t)), [false, true, true, false]);
        assert!(Guidance::constant(3.0).is_active(999.0) && !Guidance::NONE.is_active(500.0));
    }

    #[test]
    fn impossible_guidance_is_refused() {
        assert!(Guidance::constant(f64::NAN).validate().is_err());
        assert!(Guidance { scale: 2.0, interval: Some((5.0, 4.0)) }.validate().is_err());
        assert!(Guidance { scale: 2.0, interval: Some((4.0, 4.0)) }.validate().is_ok());
    }
}
