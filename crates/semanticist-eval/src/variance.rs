//! How much of the diffusion loss each token explains, and whether what the tokens add is orthogonal (paper, Fig. 4 and
//! appendix A).

use burn::tensor::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semanticist::diffusion::Process;
use semanticist::image::{RgbImage, to_pixels};
use semanticist::{Noise, Purpose, Result, Seed, Tokenizer};
use serde::{Deserialize, Serialize};

/// What is drawn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VarianceOptions {
    /// Numbers of kept tokens, ascending.
    pub counts: Vec<usize>,
    /// Timesteps and noise per image; the times of all draws together lie evenly over the process.
    pub draws: usize,
    /// Of the draws.
    pub seed: u64,
}

/// What some images gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// For each image, its mean loss at each count.
    pub losses: Vec<Vec<f64>>,
    /// The sum over draws of the cosine between what the step to the i-th count and that to the j-th add to the
    /// prediction: `[S, S]` row by row, of S = counts − 1 steps.
    pub cosines: Vec<f64>,
    /// The sum of their squares.
    pub squares: Vec<f64>,
    /// How many draws these sums are of.
    pub draws: usize,
}

impl Losses {
    /// Both together.
    pub fn and(mut self, other: Self) -> Self {
        let add = |mut sums: Vec<f64>, more: &[f64]| {
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            sums
        };
        self.losses.extend(other.losses);
        let (cosines, squares) = (add(self.cosines, &other.cosines), add(self.squares, &other.squares));
        Self { cosines, squares, losses: self.losses, draws: self.draws + other.draws }
    }
}

/// Measures images, the first of which is number `first` of all: the draws of an image depend on its number alone, and
/// every count sees the same.
///
/// # Errors
/// If the images do not fit the tokenizer, or its process cannot be built.
pub fn losses(
    tokenizer: &Tokenizer,
    images: &[RgbImage],
    first: usize,
    options: &VarianceOptions,
    device: &Device,
    mut after_pass: impl FnMut(usize),
) -> Result<Losses> {
    let process = Process::new(&tokenizer.config.diffusion)?;
    let pixels = to_pixels(images, device);
    let tokens = tokenizer.encode(&pixels, tokenizer.config.tokens)?;
    let latents = tokenizer.autoencoder.encode(&pixels).0;
    let (batch, channels) = (images.len(), latents.dims()[1]);
    let counts = options.counts.len();
    let steps = counts.saturating_sub(1);
    let mut sums = vec![vec![0.0; counts]; batch];
    let (mut cosines, mut squares) = (vec![0.0; steps * steps], vec![0.0; steps * steps]);
    for draw in 0..options.draws {
        let numbers = first..first + batch;
        let seed = Seed::new(options.seed).of(Purpose::Validation).at(draw as u64);
        let mut noise = Noise::per_sample(numbers.clone().map(|number| seed.at(number as u64)));
        // 619 has no divisor in common with 1000 places, so that they are visited evenly.
        let time =
            |number: usize| process.time_of_place((number * options.draws + draw) * 619 % process.places());
        let times: Vec<f32> = numbers.map(time).collect();
        let drawn = noise.normal(latents.dims(), device);
        let example = process.corrupt(latents.clone(), drawn, &times);
        let mut predictions: Vec<Tensor<2>> = Vec::with_capacity(counts);
        for (at, &count) in options.counts.iter().enumerate() {
            let keep = vec![count; batch];
            let output = tokenizer.networks.decoder.forward(example.noisy.clone(), &times, &tokens, &keep);
            predictions.push(process.prediction(output.clone(), channels).flatten(1, 3));
            let found = process.loss(output, &example).mse.into_data();
            sums.iter_mut().zip(found.iter::<f64>()).for_each(|(sums, loss)| sums[at] += loss);
            after_pass(batch);
        }
        for (sum, cosine) in similarities(predictions, batch).into_iter().enumerate() {
            for cosine in cosine {
                cosines[sum] += cosine;
                squares[sum] += cosine * cosine;
            }
        }
    }
    let draws = options.draws as f64;
    sums.iter_mut().flatten().for_each(|sum| *sum /= draws);
    Ok(Losses { losses: sums, cosines, squares, draws: batch * options.draws })
}

/// For each pair of steps, of each image the cosine between what they add.
fn similarities(predictions: Vec<Tensor<2>>, batch: usize) -> Vec<Vec<f64>> {
    let steps = predictions.len().saturating_sub(1);
    if steps == 0 {
        return Vec::new();
    }
    let increment = |pair: &[Tensor<2>]| {
        let added = pair[1].clone() - pair[0].clone(); // [B, M]
        let length = added.clone().square().sum_dim(1).sqrt().clamp_min(1e-20);
        (added / length).unsqueeze_dim::<3>(1)
    };
    let units = Tensor::cat(predictions.windows(2).map(increment).collect(), 1); // [B, S, M]
    let products = units.clone().matmul(units.transpose()); // [B, S, S]
    let values: Vec<f64> = products.into_data().iter().collect();
    let pairs = steps * steps;
    (0..pairs).map(|pair| (0..batch).map(|image| values[image * pairs + pair]).collect()).collect()
}

/// A number and the ends of its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Of all images.
    pub value: f64,
    /// 2.5 % of the resampled values are below.
    pub low: f64,
    /// 2.5 % are above.
    pub high: f64,
}

/// What is computed from means over images, with its 95 % bootstrap interval: images are drawn with replacement, and
/// the ends are percentiles of `resamples` values (Efron and Tibshirani, 1993, section 13.3).
///
/// # Panics
/// If there is no image, or no resample.
pub fn bootstrap(
    images: &[Vec<f64>],
    resamples: usize,
    seed: u64,
    statistic: impl Fn(&[f64]) -> Vec<f64>,
) -> Vec<Estimate> {
    let numbers = images[0].len();
    let mean = |chosen: &mut dyn Iterator<Item = usize>| {
        let mut sums = vec![0.0; numbers];
        for image in chosen {
            sums.iter_mut().zip(&images[image]).for_each(|(sum, value)| *sum += value);
        }
        sums.iter_mut().for_each(|sum| *sum /= images.len() as f64);
        sums
    };
    let values = statistic(&mean(&mut (0..images.len())));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let drawn: Vec<Vec<f64>> = (0..resamples)
        .map(|_| {
            let mut chosen = (0..images.len()).map(|_| rng.random_range(0..images.len()));
            statistic(&mean(&mut chosen))
        })
        .collect();
    let estimate = |(at, &value): (usize, &f64)| {
        let mut sorted: Vec<f64> = drawn.iter().map(|values| values[at]).collect();
        sorted.sort_by(f64::total_cmp);
        Estimate { value, low: percentile(&sorted, 0.025), high: percentile(&sorted, 0.975) }
    };
    values.iter().enumerate().map(estimate).collect()
}

/// Between the two nearest of sorted numbers, as numpy's default.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// The share of the way from the first loss to the last: 0 at the first, 1 at the last.
pub fn explained(losses: &[f64]) -> Vec<f64> {
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    losses.iter().map(|loss| (first - loss) / (first - last)).collect()
}

/// What each step takes off the loss: one number fewer than losses.
pub fn gains(losses: &[f64]) -> Vec<f64> {
    losses.windows(2).map(|pair| pair[0] - pair[1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_gains_are_of_the_way_from_first_to_last() {
        let losses = [1.0, 0.6, 0.5];
        assert_eq!(
            explained(&losses).iter().map(|x| (x * 10.0).round()).collect::<Vec<_>>(),
            [0.0, 8.0, 10.0]
        );
        assert_eq!(gains(&losses).iter().map(|x| (x * 10.0).round()).collect::<Vec<_>>(), [4.0, 1.0]);
    }

    #[test]
    fn the_interval_of_a_mean_is_that_of_the_normal_distribution() {
        let images: Vec<Vec<f64>> = (0..400).map(|i| vec![f64::from(i % 20)]).collect();
        let [found] = bootstrap(&images, 2000, 1, |means| means.to_vec())[..] else { panic!("one number") };
        // The deviation of 0 to 19 is √(399 / 12), of their mean a twentieth of that.
        let half = 1.96 * (399.0f64 / 12.0).sqrt() / 20.0;
        assert_eq!(found.value, 9.5);
        assert!(
            (found.low - (9.5 - half)).abs() < 0.06 && (found.high - (9.5 + half)).abs() < 0.06,
            "{found:?}"
        );
        assert_eq!(percentile(&[0.0, 1.0, 2.0], 0.25), 0.5);
    }

    #[test]
    fn orthogonal_steps_have_no_cosine_and_equal_ones_have_one() {
        let at = |values: [f32; 3]| Tensor::<2>::from_data([values], &Device::flex());
        let way = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 2.0, 0.0], [4.0, 2.0, 0.0]].map(at);
        let found = similarities(way.to_vec(), 1);
        let expected = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0];
        assert_eq!(found.concat(), expected);
    }
}
