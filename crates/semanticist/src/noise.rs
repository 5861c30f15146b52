//! The only source of random numbers: seeded, or recorded for parity with another implementation.

use std::collections::VecDeque;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Every random draw of a run, in the order in which it is asked for.
///
/// Draws are made on the host, so that a seed gives the same numbers on every device.
#[derive(Debug)]
pub struct Noise {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Shared(Box<ChaCha8Rng>),
    PerSample(Vec<ChaCha8Rng>),
    Recorded(VecDeque<Vec<f32>>),
}

impl Noise {
    /// One stream for everything that is drawn.
    pub fn seeded(seed: u64) -> Self {
        Self::stream(seed, 0)
    }

    /// Stream number `stream` of a seed. Streams of one seed are independent of each other, so a
    /// trainer takes stream `step` and has no generator state to save.
    pub fn stream(seed: u64, stream: u64) -> Self {
        Self { source: Source::Shared(Box::new(generator(seed, stream))) }
    }

    /// One seed per sample: what is drawn for a sample does not depend on its neighbours in the
    /// batch. The first axis of every draw must then be `seeds.len()`.
    pub fn per_sample(seeds: &[u64]) -> Self {
        Self { source: Source::PerSample(seeds.iter().map(|&seed| generator(seed, 0)).collect()) }
    }

    /// Recorded draws, handed out one per call in order.
    pub fn recorded(draws: impl IntoIterator<Item = Vec<f32>>) -> Self {
        Self { source: Source::Recorded(draws.into_iter().collect()) }
    }

    /// A source for later use, independent of this one from here on and settled by its state now.
    ///
    /// # Panics
    /// If the draws are recorded.
    pub fn fork(&mut self) -> Self {
        let fork = |rng: &mut ChaCha8Rng| generator(rng.next_u64(), 0);
        let source = match &mut self.source {
            Source::Shared(rng) => Source::Shared(Box::new(fork(rng))),
            Source::PerSample(rngs) => Source::PerSample(rngs.iter_mut().map(fork).collect()),
            Source::Recorded(_) => panic!("recorded draws have one order and cannot be forked"),
        };
        Self { source }
    }

    /// Standard normal numbers.
    ///
    /// # Panics
    /// If recorded draws have run out or have another size, or the first axis is not the number of
    /// per-sample streams.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let values = self.draw(shape.iter().product(), |rng| StandardNormal.sample(rng));
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// `count` numbers, uniform in `[0, 1)`.
    ///
    /// # Panics
    /// As [`Noise::normal`].
    pub fn uniform(&mut self, count: usize) -> Vec<f32> {
        self.draw(count, |rng| rng.random())
    }

    /// `count` integers, uniform in `0..bound`.
    ///
    /// # Panics
    /// As [`Noise::normal`], and if `bound` is 0.
    pub fn below(&mut self, count: usize, bound: usize) -> Vec<usize> {
        // f32 holds every integer up to 2^24 exactly, far above any bound in use here.
        assert!(bound > 0 && bound < 1 << 24, "bound {bound} is outside 1..2^24");
        let draws = self.draw(count, |rng| rng.random_range(0..bound as u32) as f32);
        draws.into_iter().map(|v| v as usize).collect()
    }

    fn draw(&mut self, count: usize, mut sample: impl FnMut(&mut ChaCha8Rng) -> f32) -> Vec<f32> {
        match &mut self.source {
            Source::Shared(rng) => (0..count).map(|_| sample(rng)).collect(),
            Source::PerSample(rngs) => {
                assert!(count.is_multiple_of(rngs.len()), "{count} draws for {} samples", rngs.len());
                let each = count / rngs.len();
                rngs.iter_mut().flat_map(|rng| (0..each).map(|_| sample(rng)).collect::<Vec<_>>()).collect()
            }
            Source::Recorded(draws) => {
                let values = draws.pop_front().expect("recorded draws have run out");
                assert_eq!(values.len(), count, "the recorded draw has another size");
                values
            }
        }
    }
}

fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// A seed for one item of a run, from the run's seed and the item's coordinates (epoch, index …).
pub fn derive_seed(seed: u64, coordinates: &[u64]) -> u64 {
    let mut state = seed;
    for &coordinate in coordinates {
        let mut rng = generator(state, 1);
        state = rng.next_u64() ^ coordinate.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    generator(state, 2).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_draws_the_same_alone_and_in_a_batch() {
        let device = Device::flex();
        let both = Noise::per_sample(&[3, 4]).normal([2, 5], &device).into_data();
        let second = Noise::per_sample(&[4]).normal([1, 5], &device).into_data();
        assert_eq!(both.try_to_vec::<f32>().unwrap()[5..], second.try_to_vec::<f32>().unwrap());
    }

    #[test]
    fn streams_and_coordinates_differ() {
        assert_ne!(Noise::stream(1, 0).uniform(4), Noise::stream(1, 1).uniform(4));
        assert_eq!(Noise::stream(1, 7).uniform(4), Noise::stream(1, 7).uniform(4));
        assert_ne!(derive_seed(1, &[0, 1]), derive_seed(1, &[1, 0]));
    }

    #[test]
    fn recorded_draws_come_back_in_order() {
        let mut noise = Noise::recorded([vec![1.0, 2.0], vec![3.0]]);
        assert_eq!(noise.uniform(2), [1.0, 2.0]);
        assert_eq!(noise.below(1, 10), [3]);
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let values =
            Noise::seeded(0).normal([100_000], &Device::flex()).into_data().try_to_vec::<f32>().unwrap();
        let mean = values.iter().sum::<f32>() / 1e5;
        let variance = values.iter().map(|v| v * v).sum::<f32>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
