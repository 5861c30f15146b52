//! Multinomial logistic regression: the linear probe of representations.
//!
//! Minimised by L-BFGS (Nocedal and Wright, 2006, algorithms 7.4 and 7.5) with a line search by halving; the loss is convex, so
//! that whoever minimises it finds the same weights. The products over all images are tensors.

use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};

/// Earlier steps that the curvature is estimated from.
const MEMORY: usize = 10;

/// Rows with a label each.
#[derive(Debug, Clone)]
pub struct Examples {
    /// `[N, F + 1]`: standardised features and a constant 1.
    rows: Tensor<2>,
    /// `[N, 1]`
    labels: Tensor<2, Int>,
    /// `[N, C]`, 1 at the label.
    targets: Tensor<2>,
}

impl Examples {
    /// # Shapes
    /// `features`: `[N, F]`, `labels`: N numbers below `classes`
    ///
    /// # Panics
    /// If there are not as many labels as rows.
    pub fn new(features: Tensor<2>, labels: &[usize], classes: usize) -> Self {
        let ([n, _], device) = (features.dims(), features.device());
        assert_eq!(labels.len(), n, "a label per row");
        let numbers: Vec<i64> = labels.iter().map(|&label| label as i64).collect();
        let labels = Tensor::<2, Int>::from_data(TensorData::new(numbers, [n, 1]), &device);
        let targets = Tensor::zeros([n, classes], &device).scatter(
            1,
            labels.clone(),
            Tensor::ones([n, 1], &device),
            burn::tensor::IndexingUpdateOp::Add,
        );
        let rows = Tensor::cat(vec![features, Tensor::ones([n, 1], &device)], 1);
        Self { rows, labels, targets }
    }

    fn count(&self) -> f64 {
        self.rows.dims()[0] as f64
    }
}

/// A linear map to the logits of classes, its last row the biases: `[F + 1, C]`.
#[derive(Debug, Clone)]
pub struct Logistic {
    weights: Tensor<2>,
}

impl Logistic {
    /// All classes equally probable.
    pub fn new(features: usize, classes: usize, device: &Device) -> Self {
        Self { weights: Tensor::zeros([features + 1, classes], device) }
    }

    /// Minimises the mean cross-entropy plus `decay` / 2 times the squared weights, biases excepted, from where it stands;
    /// it ends after `steps`, or when the gradient is small beside the loss.
    pub fn fit(self, examples: &Examples, decay: f64, steps: usize) -> Self {
        let mut weights = self.weights;
        let (mut loss, mut gradient) = objective(&weights, examples, decay);
        let mut memory: Vec<(Tensor<2>, Tensor<2>, f64)> = Vec::new();
        for _ in 0..steps {
            if dot(&gradient, &gradient).sqrt() < 1e-5 * loss.max(1e-3) {
                break;
            }
            let direction = newton(&gradient, &memory);
            let slope = dot(&gradient, &direction);
            let mut length =
                if memory.is_empty() { dot(&gradient, &gradient).sqrt().recip().min(1.0) } else { 1.0 };
            let mut moved = None;
            for _ in 0..20 {
                let there = weights.clone() + direction.clone() * length;
                let found = objective(&there, examples, decay);
                if found.0 <= loss + 1e-4 * length * slope {
                    moved = Some((there, found));
                    break;
                }
                length *= 0.5;
            }
            // Rounding leaves nothing to gain.
            let Some((there, (lower, next))) = moved else { break };
            let (step, change) = (there.clone() - weights, next.clone() - gradient);
            let curvature = dot(&step, &change);
            if curvature > 1e-12 {
                memory.push((step, change, curvature));
                if memory.len() > MEMORY {
                    memory.remove(0);
                }
            }
            (weights, loss, gradient) = (there, lower, next);
        }
        Self { weights }
    }

    /// The mean cross-entropy.
    pub fn loss(&self, examples: &Examples) -> f64 {
        objective(&self.weights, examples, 0.0).0
    }

    /// The share of rows whose label is the most probable class, and among the five most probable.
    pub fn accuracy(&self, examples: &Examples) -> [f64; 2] {
        let logits = examples.rows.clone().matmul(self.weights.clone());
        let of_label = logits.clone().gather(1, examples.labels.clone());
        // How many classes are more probable than the label.
        let above = logits.greater(of_label).int().sum_dim(1);
        let share = |places: i64| {
            let right: i64 = above.clone().lower_elem(places).int().sum().into_scalar();
            right as f64 / examples.count()
        };
        [share(1), share(5)]
    }
}

/// Loss and gradient.
fn objective(weights: &Tensor<2>, examples: &Examples, decay: f64) -> (f64, Tensor<2>) {
    let [rows, classes] = weights.dims();
    let penalised = Tensor::cat(
        vec![weights.clone().narrow(0, 0, rows - 1), Tensor::zeros([1, classes], &weights.device())],
        0,
    );
    let log_probabilities = log_softmax(examples.rows.clone().matmul(weights.clone()), 1);
    let fit = -f64::from((log_probabilities.clone() * examples.targets.clone()).sum().into_scalar::<f32>());
    let errors = log_probabilities.exp() - examples.targets.clone();
    let gradient = examples.rows.clone().transpose().matmul(errors) / examples.count();
    let loss = fit / examples.count() + 0.5 * decay * dot(&penalised, &penalised);
    (loss, gradient + penalised * decay)
}

/// The direction to the minimum that the last steps suggest.
fn newton(gradient: &Tensor<2>, memory: &[(Tensor<2>, Tensor<2>, f64)]) -> Tensor<2> {
    let mut direction = gradient.clone();
    let mut shares = Vec::new();
    for (step, change, curvature) in memory.iter().rev() {
        let share = dot(step, &direction) / curvature;
        direction = direction - change.clone() * share;
        shares.push(share);
    }
    if let Some((_, change, curvature)) = memory.last() {
        direction = direction * (curvature / dot(change, change));
    }
    for ((step, change, curvature), share) in memory.iter().zip(shares.into_iter().rev()) {
        let back = dot(change, &direction) / curvature;
        direction = direction + step.clone() * (share - back);
    }
    -direction
}

fn dot(a: &Tensor<2>, b: &Tensor<2>) -> f64 {
    f64::from((a.clone() * b.clone()).sum().into_scalar::<f32>())
}

/// What makes features of mean 0 and variance 1; those that never change become 0.
#[derive(Debug, Clone)]
pub struct Standard {
    mean: Tensor<2>,
    deviation: Tensor<2>,
}

impl Standard {
    /// Of rows: `[N, F]`.
    pub fn of(rows: &Tensor<2>) -> Self {
        let mean = rows.clone().mean_dim(0);
        let deviation = (rows.clone() - mean.clone()).square().mean_dim(0).sqrt();
        Self { mean, deviation: deviation.clamp_min(1e-6) }
    }

    /// `[N, F]` → the same
    pub fn apply(&self, rows: Tensor<2>) -> Tensor<2> {
        (rows - self.mean.clone()) / self.deviation.clone()
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Recorded {
        features: usize,
        classes: usize,
        rows: Vec<f32>,
        labels: Vec<usize>,
        decay: f64,
        /// `[F + 1, C]`
        weights: Vec<f32>,
        loss: f64,
        accuracy: f64,
    }

    /// Recorded by `scripts/record_evaluation.py` from scikit-learn.
    #[test]
    fn weights_are_those_of_scikit_learn() {
        let recorded: Recorded = serde_json::from_str(include_str!("../tests/data/logistic.json")).unwrap();
        let Recorded { features, classes, rows, labels, decay, weights, loss, accuracy } = recorded;
        let device = Device::flex();
        let rows = Tensor::from_data(TensorData::new(rows, [labels.len(), features]), &device);
        let examples = Examples::new(rows, &labels, classes);
        let fitted = Logistic::new(features, classes, &device).fit(&examples, decay, 500);
        let found: Vec<f32> = fitted.weights.to_data().try_to_vec().unwrap();
        // Biases may all be moved by one number.
        let shift: f32 = (0..classes)
            .map(|c| found[features * classes + c] - weights[features * classes + c])
            .sum::<f32>()
            / classes as f32;
        for (at, (found, expected)) in found.iter().zip(&weights).enumerate() {
            let found = if at >= features * classes { found - shift } else { *found };
            assert!((found - expected).abs() < 2e-3, "{at}: {found} {expected}");
        }
        assert!((fitted.loss(&examples) - loss).abs() < 1e-4, "{} {loss}", fitted.loss(&examples));
        assert!((fitted.accuracy(&examples)[0] - accuracy).abs() < 1e-6);
    }

    #[test]
    fn separable_classes_are_separated_and_standard_features_have_variance_one() {
        let device = Device::flex();
        let rows = Tensor::<2>::from_data([[1.0f32, 7.0], [2.0, 7.0], [9.0, 7.0], [8.0, 7.0]], &device);
        let standard = Standard::of(&rows);
        let rows = standard.apply(rows);
        let squares: Vec<f32> = rows.clone().square().mean_dim(0).into_data().try_to_vec().unwrap();
        assert!((squares[0] - 1.0).abs() < 1e-5 && squares[1] == 0.0, "{squares:?}");
        let examples = Examples::new(rows, &[0, 0, 1, 1], 2);
        let fitted = Logistic::new(2, 2, &device).fit(&examples, 1e-3, 100);
        assert_eq!(fitted.accuracy(&examples), [1.0, 1.0]);
    }
}
