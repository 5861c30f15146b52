//! Images mixed in pairs, as their classes are (Zhang et al., 2018).

use burn::tensor::{Tensor, TensorData};
use semanticist::Noise;

/// Draws of which the first that is accepted is taken; of 10,000 images one or two have none.
const ATTEMPTS: usize = 13;

/// With which other of a batch the `i`-th is mixed: they come in pairs, so that a batch in parts of even size has the
/// same pairs as the whole.
pub fn neighbour(i: usize) -> usize {
    i ^ 1
}

/// How much each of `count` images keeps of itself, in `[0, 1]`: of the beta distribution whose two parameters are
/// `strength`, from 0.01 to 1 (Jöhnk, 1964).
pub fn shares(count: usize, strength: f64, noise: &mut Noise) -> Vec<f32> {
    let draws = noise.uniform(count * 2 * ATTEMPTS);
    let power = |draw: f32| f64::from(draw).powf(1.0 / strength);
    let share = |draws: &[f32]| {
        let pairs = draws.chunks_exact(2).map(|pair| (power(pair[0]), power(pair[1])));
        let (x, y) =
            pairs.clone().find(|(x, y)| (f64::MIN_POSITIVE..=1.0).contains(&(x + y))).unwrap_or((1.0, 1.0));
        (x / (x + y)) as f32
    };
    draws.chunks(2 * ATTEMPTS).map(share).collect()
}

/// Every image with its neighbour in these shares.
///
/// # Shapes
/// `[B, C, H, W]` with an even B -> the same
pub fn mixed(images: Tensor<4>, kept: &[f32]) -> Tensor<4> {
    let [b, c, h, w] = images.dims();
    let neighbours = images.clone().reshape([b / 2, 2, c * h * w]).flip([1]).reshape([b, c, h, w]);
    let kept = Tensor::<4>::from_data(TensorData::new(kept.to_vec(), [b, 1, 1, 1]), &images.device());
    neighbours.clone() + (images - neighbours) * kept
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn shares_are_of_a_beta_distribution() {
        for strength in [0.01, 0.2, 0.5, 1.0] {
            let shares = shares(20_000, strength, &mut Noise::seeded(1));
            let mean = shares.iter().map(|&s| f64::from(s)).sum::<f64>() / 20_000.0;
            let variance = shares.iter().map(|&s| (f64::from(s) - 0.5).powi(2)).sum::<f64>() / 20_000.0;
            // 1/2, and 1 / (4 (2 a + 1)).
            let expected = 0.25 / (2.0 * strength + 1.0);
            assert!((mean - 0.5).abs() < 0.01, "{strength}: {mean}");
            assert!((variance - expected).abs() < 0.03 * expected, "{strength}: {variance} {expected}");
        }
    }

    #[test]
    fn neighbours_are_mixed_in_their_shares() {
        let values = TensorData::new(vec![1.0f32, 10.0, 3.0, 7.0], [4, 1, 1, 1]);
        let images = Tensor::from_data(values, &Device::flex());
        let mixed = mixed(images, &[1.0, 0.5, 0.25, 0.0]).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(mixed, [1.0, 5.5, 6.0, 3.0]);
        assert_eq!([0, 1, 2, 3].map(neighbour), [1, 0, 3, 2]);
    }
}
