//! The only source of random numbers: a tree of seeds, or draws recorded for parity with another
//! implementation.
//!
//! A [`Seed`] is a place in the tree. Its branches are taken by [`Purpose`] and by index, and its own draws by
//! [`Seed::noise`]; no two places share a number. So there is no generator state to save, and what is drawn for
//! one purpose or sample does not depend on what else is drawn.

use std::collections::VecDeque;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// A place in the tree of seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed([u8; 32]);

/// What random numbers are for: the branches of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The initial weights of a model.
    Weights,
    /// The order of the examples; by epoch.
    Order,
    /// Crops, flips and the choice of a view; by epoch and place in it.
    Augmentation,
    /// The draws of a training step: timesteps, noise, kept tokens, dropout; by step and example.
    Training,
    /// The draws of a validation loss; by example.
    Validation,
    /// Samples of latents whose statistics a KL autoencoder's scale is taken from; by batch.
    LatentScale,
    /// The tokens that a generator draws.
    Tokens,
    /// The latents that decoding starts from, and what its sampler adds on the way.
    Latents,
}

/// Streams of a place's generator: its own draws, and the keys of its two kinds of branches.
const DRAWS: u64 = 0;
const PURPOSES: u64 = 1;
const INDICES: u64 = 2;

impl Seed {
    /// The root of the tree that a user's number names.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed).get_seed())
    }

    /// The branch for a purpose.
    pub fn of(self, purpose: Purpose) -> Self {
        self.branch(PURPOSES, purpose as u64)
    }

    /// The branch of that number, such as a step, an epoch or a sample.
    pub fn at(self, index: u64) -> Self {
        self.branch(INDICES, index)
    }

    /// The draws at this place.
    pub fn noise(self) -> Noise {
        Noise { source: Source::Shared(Box::new(self.generator(DRAWS))) }
    }

    /// The key of a branch is the part of a stream that belongs to its number alone.
    fn branch(self, stream: u64, number: u64) -> Self {
        let mut rng = self.generator(stream);
        let mut key = [0; 32];
        rng.set_word_pos(u128::from(number) * (key.len() / size_of::<u32>()) as u128);
        rng.fill_bytes(&mut key);
        Self(key)
    }

    fn generator(self, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::from_seed(self.0);
        rng.set_stream(stream);
        rng
    }
}

/// Every random draw of a run, in the order in which it is asked for.
///
/// Draws are made on the host, so that a seed gives the same numbers on every device.
#[derive(Debug)]
pub struct Noise {
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Shared(Box<ChaCha8Rng>),
    PerSample(Vec<ChaCha8Rng>),
    Recorded(VecDeque<Vec<f32>>),
}

impl Noise {
    /// The draws of a root: [`Seed::new`], [`Seed::noise`].
    pub fn seeded(seed: u64) -> Self {
        Seed::new(seed).noise()
    }

    /// A place in the tree per sample: what is drawn for a sample does not depend on its neighbours in the
    /// batch. The length of the first axis of every draw must then be a multiple of the number of samples, and
    /// what belongs to one sample lies together.
    pub fn per_sample(seeds: impl IntoIterator<Item = Seed>) -> Self {
        Self { source: Source::PerSample(seeds.into_iter().map(|seed| seed.generator(DRAWS)).collect()) }
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
        let fork = |rng: &mut ChaCha8Rng| Seed::new(rng.next_u64()).generator(DRAWS);
        let source = match &mut self.source {
            Source::Shared(rng) => Source::Shared(Box::new(fork(rng))),
            Source::PerSample(rngs) => Source::PerSample(rngs.iter_mut().map(fork).collect()),
            Source::Recorded(_) => panic!("recorded draws have one order and cannot be forked"),
        };
        Self { source }
    }

    /// The same draws as this source will give, for what is computed twice.
    pub(crate) fn again(&self) -> Self {
        Self { source: self.source.clone() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_draws_the_same_alone_and_in_a_batch() {
        let device = Device::flex();
        let both = Noise::per_sample([3, 4].map(Seed::new)).normal([2, 5], &device).into_data();
        let second = Noise::per_sample([Seed::new(4)]).normal([1, 5], &device).into_data();
        assert_eq!(both.try_to_vec::<f32>().unwrap()[5..], second.try_to_vec::<f32>().unwrap());
    }

    #[test]
    fn no_two_places_of_the_tree_share_their_draws() {
        use Purpose::*;
        let purposes = [Weights, Order, Augmentation, Training, Validation, LatentScale, Tokens, Latents];
        let root = Seed::new(7);
        let mut places = vec![root, Seed::new(8), root.at(0).at(1), root.at(1).at(0), root.at(u64::MAX)];
        places.extend((0..40).map(|index| root.at(index)));
        for purpose in purposes {
            let branch = root.of(purpose);
            places.extend([branch, branch.of(purpose), root.at(purpose as u64).of(purpose)]);
            places.extend((0..40).map(|index| branch.at(index)));
        }
        let mut draws: Vec<Vec<u32>> = places
            .iter()
            .map(|place| place.noise().uniform(4).into_iter().map(f32::to_bits).collect())
            .collect();
        let count = draws.len();
        draws.sort();
        draws.dedup();
        assert_eq!(draws.len(), count);
        // The tokens of an image are not the noise that its decoding starts from.
        assert_ne!(root.of(Tokens).noise().uniform(4), root.of(Latents).noise().uniform(4));
        assert_eq!(root.at(7).noise().uniform(4), Seed::new(7).at(7).noise().uniform(4));
    }

    #[test]
    fn what_is_drawn_again_is_the_same() {
        let mut noise = Noise::per_sample([3, 4].map(Seed::new));
        noise.uniform(2);
        let mut again = noise.again();
        assert_eq!(noise.uniform(6), again.uniform(6));
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
