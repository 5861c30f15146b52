//! Which of several parts of the data each image comes from, in proportion to their weights.

use std::iter;
use std::ops::Range;

use semanticist::{Error, Purpose, Result, Seed};

use crate::Position;

/// The parts of a whole that end where `ends` says, one behind the other.
pub(crate) fn parts(ends: &[usize]) -> Vec<Range<usize>> {
    iter::once(&0).chain(ends).zip(ends).map(|(&begin, &end)| begin..end).collect()
}

/// The seed of the order of part `number` of `count`; all of the data together keeps its own.
pub(crate) fn part_seed(seed: Seed, number: usize, count: usize) -> Seed {
    if count == 1 { seed } else { seed.of(Purpose::Order).at(number as u64) }
}

/// Fails unless there is a weight above 0 for each of several parts, which have so many images.
pub(crate) fn check_weights(weights: &[f64], images: &[usize]) -> Result<()> {
    let problem = if weights.len() != images.len() {
        format!("{} weights for {} sources; give one for each", weights.len(), images.len())
    } else if let Some(weight) = weights.iter().find(|weight| !(**weight > 0.0 && weight.is_finite())) {
        format!("the weight {weight} of a source is not above 0; leave out what is not to be seen")
    } else if let Some(empty) = images.iter().position(|&images| images == 0) {
        format!("source {} of {} has no images, and so can have no weight", empty + 1, images.len())
    } else {
        return Ok(());
    };
    Err(Error::Data(problem))
}

/// The turns of an epoch. Each goes to the part that is furthest behind its share, the first of those if several are, so
/// that any stretch of an epoch holds the parts in proportion, to one image.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    /// Of all images, those that each part should give; in sum 1.
    shares: Vec<f64>,
    /// Turns that each part had.
    taken: Vec<u64>,
    /// Turns in all.
    turns: u64,
}

impl Turns {
    /// From the beginning of an epoch, for these positive weights; without any there is one part.
    pub fn new(weights: &[f64]) -> Self {
        let weights = if weights.is_empty() { &[1.0] } else { weights };
        let sum: f64 = weights.iter().sum();
        let shares: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
        Self { taken: vec![0; shares.len()], shares, turns: 0 }
    }

    /// From `start` on, where an epoch has so many turns; and how many each part had before, in all epochs.
    pub fn from(weights: &[f64], epoch_turns: usize, start: Position) -> (Self, Vec<u64>) {
        let mut turns = Self::new(weights);
        let (of_epoch, of_this) = (turns.counts(epoch_turns), turns.counts(start.index));
        let before = of_epoch.iter().zip(&of_this).map(|(each, this)| start.epoch * each + this);
        turns.taken = of_this.clone();
        turns.turns = start.index as u64;
        (turns, before.collect())
    }

    /// How many of the first `turns` turns of an epoch each part has.
    fn counts(&self, turns: usize) -> Vec<u64> {
        if self.shares.len() == 1 {
            return vec![turns as u64];
        }
        let mut walk = Self { taken: vec![0; self.shares.len()], turns: 0, ..self.clone() };
        for _ in 0..turns {
            walk.next();
        }
        walk.taken
    }

    /// The part whose turn it is.
    pub fn next(&mut self) -> usize {
        self.turns += 1;
        let behind = |part: usize| self.shares[part] * self.turns as f64 - self.taken[part] as f64;
        let later = |first: usize, part: usize| if behind(part) > behind(first) { part } else { first };
        let part = (0..self.shares.len()).reduce(later).expect("there is a part");
        self.taken[part] += 1;
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stretch_is_in_proportion_and_any_place_leads_to_the_same_rest() {
        let weights = [3.0, 1.0, 0.5];
        let mut turns = Turns::new(&weights);
        let whole: Vec<usize> = (0..900).map(|_| turns.next()).collect();
        for (part, weight) in weights.iter().enumerate() {
            for length in 1..=whole.len() {
                let found = whole[..length].iter().filter(|&&turn| turn == part).count() as f64;
                assert!((found - length as f64 * weight / 4.5).abs() <= 1.0, "{part} {length}");
            }
        }
        for start in [0, 1, 7, 450, 899] {
            let (mut turns, before) = Turns::from(&weights, 900, Position { epoch: 2, index: start });
            let had = |part: usize, turns: usize| whole[..turns].iter().filter(|&&turn| turn == part).count();
            assert!(
                (0..3).all(|part| before[part] as usize == 2 * had(part, 900) + had(part, start)),
                "{start}"
            );
            assert!((start..900).map(|_| turns.next()).eq(whole[start..].iter().copied()), "{start}");
        }
        assert_eq!(Turns::new(&[]).counts(5), [5]);
    }
}
