//! The Inception score (Salimans et al., 2016): how sure the network is of every picture's class, and how many classes there
//! are among them.

use burn::tensor::Tensor;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Parts that a set is cut into (openai/improved-gan, `inception_score/model.py`).
const PARTS: usize = 10;

/// The score of a set of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct InceptionScore {
    /// The mean over ten parts of the set, from 1 to the number of classes.
    pub mean: f64,
    /// The standard deviation over the parts.
    pub deviation: f64,
}

/// `exp` of the mean divergence of each picture's classes from those of all, over ten parts of the set in a random order, as
/// torch-fidelity has it: pictures often come sorted by class. None for fewer pictures than parts.
///
/// # Shapes
/// `[N, C]`, the logits without the bias of the last layer
pub fn inception_score(logits: &Tensor<2>, seed: u64) -> Option<InceptionScore> {
    let [count, classes] = logits.dims();
    if count < PARTS {
        return None;
    }
    let values: Vec<f32> = logits.to_data().iter().collect();
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let scores: Vec<f64> = (0..PARTS)
        .map(|part| {
            let chosen = &order[part * count / PARTS..(part + 1) * count / PARTS];
            let rows = chosen.iter().map(|row| &values[row * classes..(row + 1) * classes]);
            score(rows, classes)
        })
        .collect();
    let mean = scores.iter().sum::<f64>() / PARTS as f64;
    let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / PARTS as f64;
    Some(InceptionScore { mean, deviation: variance.sqrt() })
}

/// Of the logits of one part.
fn score<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, classes: usize) -> f64 {
    let count = rows.len() as f64;
    let (mut all, mut entropy) = (vec![0.0; classes], 0.0);
    for row in rows {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let logits = || row.iter().map(|value| f64::from(*value) - f64::from(most));
        let sum: f64 = logits().map(f64::exp).sum();
        for (all, logit) in all.iter_mut().zip(logits()) {
            let probability = logit.exp() / sum;
            *all += probability / count;
            entropy -= probability * (logit - sum.ln()) / count;
        }
    }
    let of_all: f64 = all.iter().filter(|share| **share > 0.0).map(|share| -share * share.ln()).sum();
    (of_all - entropy).exp()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn of(rows: &[[f32; 4]]) -> Option<InceptionScore> {
        let values: Vec<f32> = rows.iter().flatten().copied().collect();
        inception_score(&Tensor::from_data(TensorData::new(values, [rows.len(), 4]), &Device::flex()), 1)
    }

    #[test]
    fn it_is_the_number_of_classes_that_pictures_surely_have() {
        let close = |found: Option<InceptionScore>, mean: f64| {
            let found = found.unwrap();
            assert!((found.mean - mean).abs() < 1e-9 && found.deviation < 1e-9, "{found:?}");
        };
        // Nothing is known of any picture, or all are of one class.
        close(of(&[[3.0; 4]; 40]), 1.0);
        close(of(&[[0.0, 200.0, 0.0, 0.0]; 40]), 1.0);
        // Half of the mass of each picture on either of two classes, in closed form: exp(ln 4 - ln 2) if they took turns, but
        // within every part they are the same.
        close(of(&[[0.0, 0.0, -200.0, -200.0]; 40]), 1.0);
        assert_eq!(of(&[[0.0; 4]; 9]), None);
        // Two sure classes, many of each: every part has about as many of either.
        let sorted: Vec<[f32; 4]> = (0..2000)
            .map(|at| if at < 1000 { [200.0, 0.0, 0.0, 0.0] } else { [0.0, 200.0, 0.0, 0.0] })
            .collect();
        let found = of(&sorted).unwrap();
        assert!((found.mean - 2.0).abs() < 0.02 && found.deviation < 0.02, "{found:?}");
    }

    #[test]
    fn a_part_is_its_formula() {
        let rows = [[0.0f32, 1.0, 2.0], [1.0, 0.5, -1.0]];
        let softmax = |row: &[f32; 3]| {
            let exponents = row.map(|value| f64::from(value).exp());
            let sum: f64 = exponents.iter().sum();
            exponents.map(|value| value / sum)
        };
        let [a, b] = [softmax(&rows[0]), softmax(&rows[1])];
        let divergence = |of: &[f64; 3]| -> f64 {
            (0..3).map(|at| of[at] * (of[at].ln() - (0.5 * (a[at] + b[at])).ln())).sum()
        };
        let expected = (0.5 * (divergence(&a) + divergence(&b))).exp();
        let found = score(rows.iter().map(|row| &row[..]), 3);
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }
}
