//! Nested classifier-free guidance: how many tokens a sample keeps in training.

use semanticist::{Error, Noise, Result};
use serde::{Deserialize, Serialize};

/// How many tokens a sample keeps (paper 4.3 and C.1).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NestedGuidance {
    /// After this many steps, a sample keeps a random number of tokens, uniform in 1..=K; until then
    /// all, so that the encoder can settle. Steps are counted from 1, so step `from_step + 1` is the
    /// first of the kind, and with 0 every step is.
    pub from_step: u64,
    /// Probability that a sample loses all its tokens, which trains the unguided half of guidance.
    pub drop_all: f64,
    /// The same after `from_step` steps; the published trainer has 0 there.
    pub drop_all_nested: f64,
    /// Share of the samples of nested steps whose number is drawn log-uniform in 1..=K instead: `⌊(K + 1)^u⌋` of a uniform u,
    /// so that a few tokens, which uniform numbers seldom are, are learnt as well. Like the powers of two that FlexTok
    /// draws from (arXiv 2502.13967), without gaps.
    #[serde(skip_serializing_if = "is_zero")]
    pub log_uniform: f64,
}

fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

impl Default for NestedGuidance {
    fn default() -> Self {
        Self { from_step: 0, drop_all: 0.1, drop_all_nested: 0.1, log_uniform: 0.0 }
    }
}

impl NestedGuidance {
    /// # Errors
    /// If a probability is outside [0, 1].
    pub fn validate(&self) -> Result<()> {
        let shares = [
            ("drop_all", self.drop_all),
            ("drop_all_nested", self.drop_all_nested),
            ("log_uniform", self.log_uniform),
        ];
        for (name, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::Config(format!(
                    "objective.nested_guidance.{name} = {value} is not in [0, 1]"
                )));
            }
        }
        Ok(())
    }

    /// How many of `tokens` tokens each of `count` samples keeps at a step, counted from 1.
    pub fn draw(&self, count: usize, tokens: usize, step: u64, noise: &mut Noise) -> Vec<usize> {
        let nested = step > self.from_step;
        let mut kept: Vec<usize> =
            noise.below(count, tokens).into_iter().map(|k| if nested { k + 1 } else { tokens }).collect();
        if nested && self.log_uniform > 0.0 {
            let [chosen, powers] = [(); 2].map(|()| noise.uniform(count));
            for ((kept, chosen), power) in kept.iter_mut().zip(chosen).zip(powers) {
                if f64::from(chosen) < self.log_uniform {
                    *kept = ((tokens + 1) as f64).powf(power.into()).min(tokens as f64) as usize;
                }
            }
        }
        let drop_all = if nested { self.drop_all_nested } else { self.drop_all } as f32;
        let dropped = noise.uniform(count);
        kept.into_iter().zip(dropped).map(|(kept, u)| if u < drop_all { 0 } else { kept }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_tokens_are_uniform_from_one_to_all_and_sometimes_none() {
        let nested = NestedGuidance {
            from_step: 10,
            drop_all: 0.1,
            drop_all_nested: 0.0,
            ..NestedGuidance::default()
        };
        let before = nested.draw(10_000, 4, 10, &mut Noise::seeded(0));
        assert!(before.iter().all(|&k| k == 0 || k == 4));
        let none = before.iter().filter(|&&k| k == 0).count();
        assert!((900..1100).contains(&none), "{none}");
        let after = nested.draw(10_000, 4, 11, &mut Noise::seeded(0));
        for k in 1..=4 {
            let count = after.iter().filter(|&&kept| kept == k).count();
            assert!((2350..2650).contains(&count), "{k}: {count}");
        }
    }

    #[test]
    fn without_steps_before_it_the_first_step_is_nested() {
        let nested = NestedGuidance { drop_all: 0.0, drop_all_nested: 0.0, ..NestedGuidance::default() };
        let first = nested.draw(100, 4, 1, &mut Noise::seeded(0));
        assert!(first.iter().any(|&kept| kept < 4), "{first:?}");
    }
    #[test]
    fn log_uniform_numbers_are_as_often_few_as_many() {
        let nested = NestedGuidance { drop_all_nested: 0.0, log_uniform: 1.0, ..NestedGuidance::default() };
        let drawn = nested.draw(10_000, 63, 1, &mut Noise::seeded(0));
        assert!(drawn.iter().all(|kept| (1..=63).contains(kept)));
        // 1, 2 to 3, 4 to 7 .. 32 to 63: log 2 of log 64 each, a sixth.
        for low in [1, 2, 4, 8, 16, 32] {
            let count = drawn.iter().filter(|&&kept| (low..2 * low).contains(&kept)).count();
            assert!((1500..1830).contains(&count), "{low}: {count}");
        }
        // A half of them: half of that and half of the uniform share.
        let half = NestedGuidance { log_uniform: 0.5, ..nested };
        let ones =
            half.draw(10_000, 63, 1, &mut Noise::seeded(0)).into_iter().filter(|&kept| kept == 1).count();
        assert!((820..1010).contains(&ones), "{ones}");
        let none = NestedGuidance { from_step: 1, drop_all: 0.0, ..nested };
        assert!(
            none.draw(100, 63, 1, &mut Noise::seeded(0)).iter().all(|&kept| kept == 63),
            "not nested yet"
        );
    }
}
