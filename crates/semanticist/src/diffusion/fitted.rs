//! Samplers of few steps that are fitted to one network: non-stationary solvers (Shaul et al. 2024, arXiv 2403.01329).
//!
//! Every common sampler of one evaluation per step, DDIM, Euler's or that of Adams and Bashforth, gives as its next place a
//! weighted sum of the noise at the start and of all predictions so far. Here the weights, and the times at which the network
//! is asked, are those that end nearest to where many steps lead with this network.

use burn::tensor::{Tensor, TensorData};
use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use super::{Process, SamplingPlan};
use crate::{Error, Noise, Result};

/// Steps of the way that the fitted one is to follow; it asks at some of their times.
const WAY_STEPS: usize = 64;
/// More steps than these need no fitting.
const MOST_STEPS: usize = 16;
/// How many steps of the way a time is moved, back and forth, in every round of the search. They begin evenly.
const MOVES: [isize; 5] = [6, 4, 2, 1, 1];
/// Added to the diagonal of the normal equations, relative to it: the last predictions of many steps are nearly alike.
const RIDGE: f64 = 1e-9;
/// Directions of the normal equations that are smaller than this part of all are rounding.
const NOTHING: f64 = 1e-12;

/// A sampler of a few steps that was fitted to one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedSampler {
    /// The guidance scale of the predictions that it was fitted to.
    pub guidance: f64,
    /// The times at which the network is asked, as it is told them, from pure noise on.
    pub times: Vec<f32>,
    /// One row per time: what of the noise, and of each prediction so far, makes up the next place. The last row's is the data.
    pub weights: Vec<Vec<f64>>,
}

impl FittedSampler {
    /// How many steps it takes, each with one evaluation of the network.
    pub fn steps(&self) -> usize {
        self.times.len()
    }

    /// # Errors
    /// Says which number does not fit the process.
    pub(super) fn validate(&self, process: &Process) -> Result<()> {
        let Self { guidance, times, weights } = self;
        super::guidance::validate_scale(*guidance)?;
        let [noise, beyond] = process.ends();
        let shares = times.iter().map(|&time| (f64::from(time) - noise) / (beyond - noise));
        let problem = if times.first().is_none_or(|&time| f64::from(time) != noise) {
            format!("the first time is that of pure noise, {noise}")
        } else if !shares.chain([1.0]).is_sorted_by(|before, after| before < after) {
            format!("the times lead from {noise} towards {beyond}, which is not reached")
        } else if weights.len() != times.len() {
            format!("{} rows of weights for {} times; one row each", weights.len(), times.len())
        } else if let Some(row) = (0..weights.len()).find(|&row| weights[row].len() != row + 2) {
            format!("row {row} of the weights has {} numbers; expected {}", weights[row].len(), row + 2)
        } else if !weights.iter().flatten().all(|weight| weight.is_finite()) {
            "every weight is a finite number".into()
        } else {
            return Ok(());
        };
        Err(Error::Config(format!("a fitted sampler: {problem}; fit it again")))
    }

    /// # Errors
    /// If no sampler of so many steps can be fitted to what learnt the process.
    pub fn check_steps(process: &Process, steps: usize) -> Result<()> {
        let most = MOST_STEPS.min(process.places() / 2);
        if (1..=most).contains(&steps) {
            return Ok(());
        }
        Err(Error::Config(format!("a fitted sampler of {steps} steps; use 1 to {most}")))
    }

    /// How often [`FittedSampler::fit`] asks the network at most.
    pub fn evaluations_to_fit(steps: usize) -> usize {
        WAY_STEPS + steps + MOVES.len() * steps * steps.saturating_sub(1)
    }

    /// Fits a sampler of `steps` steps, 1 to 16, to a network that answers `ask` with, at a time, what it learnt of the process,
    /// guidance included.
    ///
    /// The way from each of the starts is followed in many steps of [`Process::exact_sampler`]. For given times every row of
    /// weights is the least squares solution for the place on that way at the next time, from the predictions that the rows
    /// before it lead to; the times are searched one after the other.
    ///
    /// # Shapes
    /// `start`: `[N, C, ..]`, standard normal; 64 latents of 3,072 numbers are plenty for the few dozen weights.
    /// `ask`: `[N, C, ..]` and a time → `[N, outputs C, ..]`
    ///
    /// # Errors
    /// As [`FittedSampler::check_steps`]; if the network gives what is no number; its first.
    pub fn fit<const D: usize>(
        process: &Process,
        steps: usize,
        guidance: f64,
        start: Tensor<D>,
        mut ask: impl FnMut(Tensor<D>, f32) -> Result<Tensor<D>>,
    ) -> Result<Self> {
        Self::check_steps(process, steps)?;
        let (shape, device) = (start.dims(), start.device());
        let way = Way::followed(process, WAY_STEPS.min(process.places()), start, &mut ask)?;
        let mut predict = |place: &[f32], time: f32| {
            let x = Tensor::from_data(TensorData::new(place.to_vec(), shape), &device);
            ask(x, time).map(|output| values(process.prediction(output, shape[1])))
        };
        let mut best = Attempt::new(&way, way.evenly(steps, process.ends()), None, &mut predict)?;
        for distance in MOVES {
            for moved in 1..steps {
                for by in [-distance, distance] {
                    let Some(visited) = best.with_moved(moved, by, &way) else { continue };
                    let attempt = Attempt::new(&way, visited, Some((&best, moved)), &mut predict)?;
                    if attempt.error < best.error {
                        best = attempt;
                    }
                }
            }
        }
        let times = best.visited.iter().map(|&index| way.times[index]).collect();
        Ok(Self { guidance, times, weights: best.weights })
    }

    /// Leads `start` to data; `ask` is the network at one of the times, given by its index.
    pub(super) fn run<const D: usize, E>(
        &self,
        start: Tensor<D>,
        mut ask: impl FnMut(Tensor<D>, usize) -> Result<Tensor<D>, E>,
    ) -> Result<Tensor<D>, E> {
        let channels = start.dims()[1];
        let mut x = start.clone();
        // The noise, then every prediction so far.
        let mut known = vec![start];
        for (index, row) in self.weights.iter().enumerate() {
            known.push(ask(x, index)?.narrow(1, 0, channels));
            let parts = known.iter().zip(row).map(|(part, &weight)| part.clone() * weight);
            x = parts.reduce(|sum, part| sum + part).expect("the noise is there");
        }
        Ok(x)
    }
}

/// Where many steps lead from some starts: a place at every time, and the end.
struct Way {
    times: Vec<f32>,
    places: Vec<Vec<f32>>,
}

impl Way {
    fn followed<const D: usize>(
        process: &Process,
        steps: usize,
        start: Tensor<D>,
        ask: &mut impl FnMut(Tensor<D>, f32) -> Result<Tensor<D>>,
    ) -> Result<Self> {
        let plan = SamplingPlan::new(process, process.exact_sampler(), steps)?;
        let mut places = Vec::with_capacity(steps + 1);
        let end = plan.try_run(start, &mut Noise::recorded([]), |x, index| {
            places.push(values(x.clone()));
            ask(x, plan.times()[index])
        })?;
        places.push(values(end));
        Ok(Self { times: plan.times().to_vec(), places })
    }

    fn start(&self) -> &[f32] {
        &self.places[0]
    }

    /// The places whose times are nearest to so many that are evenly spread.
    fn evenly(&self, steps: usize, [noise, beyond]: [f64; 2]) -> Vec<usize> {
        let mut visited: Vec<usize> = Vec::with_capacity(steps);
        for step in 0..steps {
            let wanted = noise + (beyond - noise) * step as f64 / steps as f64;
            let distance = |&index: &usize| (f64::from(self.times[index]) - wanted).abs();
            let after = visited.last().map_or(0, |last| last + 1);
            // Room for those that follow.
            let before = self.times.len() - (steps - step) + 1;
            let nearest = (after..before).min_by(|a, b| distance(a).total_cmp(&distance(b)));
            visited.push(nearest.expect("there are more places than steps"));
        }
        visited
    }
}

/// Weights fitted to some times.
struct Attempt {
    /// The places of the way at whose times the network is asked.
    visited: Vec<usize>,
    weights: Vec<Vec<f64>>,
    predictions: Vec<Vec<f32>>,
    /// Mean squared distance from the end of the way.
    error: f64,
}

impl Attempt {
    /// What comes before the place that `moved` says is as in another attempt, but for the row that leads to it.
    fn new(
        way: &Way,
        visited: Vec<usize>,
        moved: Option<(&Self, usize)>,
        predict: &mut impl FnMut(&[f32], f32) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let (mut weights, mut predictions) = match moved {
            Some((other, at)) => (other.weights[..at - 1].to_vec(), other.predictions[..at].to_vec()),
            None => (Vec::new(), vec![predict(way.start(), way.times[0])?]),
        };
        loop {
            let next = visited.get(predictions.len()).copied();
            let target = &way.places[next.unwrap_or(way.times.len())];
            let known = [way.start()].into_iter().chain(predictions.iter().map(Vec::as_slice));
            let known = known.collect::<Vec<_>>();
            let row = least_squares(&known, target)?;
            let place = weighted(&known, &row);
            weights.push(row);
            let Some(next) = next else {
                let error = squared_distance(&place, target) / place.len() as f64;
                return Ok(Self { visited, weights, predictions, error });
            };
            predictions.push(predict(&place, way.times[next])?);
        }
    }

    /// The places with one moved, if it stays between its neighbours.
    fn with_moved(&self, moved: usize, by: isize, way: &Way) -> Option<Vec<usize>> {
        let index = self.visited[moved].checked_add_signed(by)?;
        let next = self.visited.get(moved + 1).copied().unwrap_or(way.times.len());
        let mut visited = self.visited.clone();
        visited[moved] = index;
        (self.visited[moved - 1] < index && index < next).then_some(visited)
    }
}

/// The weights with which `known` come nearest to `target`.
///
/// # Errors
/// If there is a number that is not finite, of which no factor could be found.
fn least_squares(known: &[&[f32]], target: &[f32]) -> Result<Vec<f64>> {
    let product =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let mut normal = DMatrix::from_fn(known.len(), known.len(), |i, j| product(known[i], known[j]));
    let right = DVector::from_fn(known.len(), |i, _| product(known[i], target));
    if !normal.iter().chain(right.iter()).all(|product| product.is_finite()) {
        return Err(Error::Data(
            "the network gave what are not finite numbers; its weights are damaged, or guidance is too strong".into(),
        ));
    }
    for i in 0..known.len() {
        normal[(i, i)] *= 1.0 + RIDGE;
    }
    // A part that is nothing but rounding has no weight.
    let nothing = NOTHING * normal.trace();
    let solved = normal.svd(true, true).solve(&right, nothing).expect("both factors are computed");
    Ok(solved.iter().copied().collect())
}

fn weighted(parts: &[&[f32]], weights: &[f64]) -> Vec<f32> {
    let at = |i: usize| -> f64 {
        parts.iter().zip(weights).map(|(part, weight)| f64::from(part[i]) * weight).sum()
    };
    (0..parts[0].len()).map(|i| at(i) as f32).collect()
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::diffusion::{
        DecodeOptions, DiffusionConfig, FlowConfig, FlowPrediction, GaussianConfig, Guidance, Prediction,
        Sampler, Tables,
    };

    fn flow(prediction: FlowPrediction) -> Process {
        let config = FlowConfig { prediction, time_scale: 1.0, ..FlowConfig::default() };
        Process::new(&DiffusionConfig::Flow(config)).unwrap()
    }

    fn gaussian(prediction: Prediction) -> Process {
        let config = GaussianConfig { prediction, ..GaussianConfig::default() };
        Process::new(&DiffusionConfig::Gaussian(config)).unwrap()
    }

    /// The mean of data that are near −1 or 1, with a deviation of 0.3, given them times `signal` with noise of `level`.
    fn two_peaks(x: &Tensor<2>, signal: f64, level: f64) -> Tensor<2> {
        const VARIANCE: f64 = 0.09;
        let total = signal * signal * VARIANCE + level * level;
        // Of the peaks by their chances, and of the data around each.
        let peak = (x.clone() * (signal / total)).tanh();
        x.clone() * (signal * VARIANCE / total) + peak * (level * level / total)
    }

    /// What a perfect network says of them.
    fn perfect(process: &Process) -> impl Fn(Tensor<2>, f32) -> Tensor<2> {
        let tables = Tables::new(&GaussianConfig::default()).unwrap();
        let predicts_noise = process.kind == gaussian(Prediction::Noise).kind;
        let predicts_clean = process.kind == flow(FlowPrediction::Clean).kind;
        let in_flow = process.outputs_per_channel() == 1;
        move |x, time| {
            if in_flow {
                let rest = 1.0 - f64::from(time);
                let clean = two_peaks(&x, time.into(), rest);
                return if predicts_clean { clean } else { (clean - x) / rest };
            }
            let signal = tables.alphas_cumprod[time as usize].sqrt();
            let level = (1.0 - signal * signal).sqrt();
            let clean = two_peaks(&x, signal, level);
            let noise = (x - clean.clone() * signal) / level;
            let prediction = if predicts_noise { noise } else { noise * signal - clean * level };
            let logits = prediction.zeros_like();
            Tensor::cat(vec![prediction, logits], 1)
        }
    }

    fn starts(seed: u64) -> Tensor<2> {
        Noise::seeded(seed).normal([1000, 2], &Device::flex())
    }

    fn fit(process: &Process, steps: usize) -> FittedSampler {
        let (network, mut asked) = (perfect(process), 0);
        let sampler = FittedSampler::fit(process, steps, 1.0, starts(1), |x, time| {
            asked += 1;
            Ok(network(x, time))
        });
        assert!((WAY_STEPS + steps..=FittedSampler::evaluations_to_fit(steps)).contains(&asked), "{asked}");
        sampler.unwrap()
    }

    /// Where starts lead that nothing was fitted to.
    fn end(process: &Process, sampler: Sampler, steps: usize) -> Tensor<2> {
        let plan = SamplingPlan::new(process, sampler, steps).unwrap();
        let network = perfect(process);
        plan.run(starts(2), &mut Noise::recorded([]), |x, index| network(x, plan.times()[index]))
    }

    #[test]
    fn four_fitted_steps_end_nearer_than_eight_of_others() {
        for process in [
            flow(FlowPrediction::Velocity),
            flow(FlowPrediction::Clean),
            gaussian(Prediction::Noise),
            gaussian(Prediction::Velocity),
        ] {
            let process = process.clone().with_fitted(&[fit(&process, 4)]).unwrap();
            let limit = end(&process, process.exact_sampler(), 400);
            let error = |sampler, steps| -> f32 {
                (end(&process, sampler, steps) - limit.clone()).square().mean().into_scalar()
            };
            let fitted = error(Sampler::Fitted, 4);
            for other in [process.default_sampler(), process.exact_sampler(), process.few_step_sampler()] {
                let eight = error(other, 8);
                assert!(fitted < eight, "{process:?} {other}: {fitted} {eight}");
            }
        }
    }

    #[test]
    fn what_is_predicted_makes_no_difference() {
        let ends = [FlowPrediction::Velocity, FlowPrediction::Clean].map(|prediction| {
            let process = flow(prediction);
            end(&process.clone().with_fitted(&[fit(&process, 3)]).unwrap(), Sampler::Fitted, 3)
        });
        let [velocity, clean] = ends;
        let distance: f32 = (velocity - clean).abs().max().into_scalar();
        assert!(distance < 1e-3, "{distance}");
    }

    #[test]
    fn a_velocity_of_nothing_leads_nowhere() {
        let process = flow(FlowPrediction::Velocity);
        let sampler =
            FittedSampler::fit(&process, 2, 1.0, starts(1), |x, _| Ok(Tensor::zeros_like(&x))).unwrap();
        for row in sampler.weights {
            assert!((row[0] - 1.0).abs() < 1e-6 && row[1..].iter().all(|&weight| weight == 0.0), "{row:?}");
        }
    }

    /// Euler's method in its weights.
    fn euler() -> FittedSampler {
        let weights = vec![vec![1.0, 0.5], vec![1.0, 0.5, 0.5]];
        FittedSampler { guidance: 1.0, times: vec![0.0, 0.5], weights }
    }

    #[test]
    fn weights_of_eulers_method_are_eulers_method() {
        let process = flow(FlowPrediction::Velocity).with_fitted(&[euler()]).unwrap();
        let [a, b] = [Sampler::Fitted, Sampler::Euler].map(|sampler| end(&process, sampler, 2));
        let distance: f32 = (a - b).abs().max().into_scalar();
        assert!(distance < 1e-5, "{distance}");
    }

    #[test]
    fn it_is_the_usual_one_of_its_steps_and_guidance() {
        let process = flow(FlowPrediction::Velocity).with_fitted(&[euler()]).unwrap();
        let chosen = |steps, guidance| {
            let guidance = Guidance::constant(guidance);
            DecodeOptions { steps, guidance, sampler: None }.sampler_for(&process)
        };
        assert_eq!(chosen(2, 1.0), Sampler::Fitted);
        assert_eq!(chosen(2, 1.5), Sampler::AdamsBashforth);
        assert_eq!(chosen(4, 1.0), Sampler::AdamsBashforth);
        let message = SamplingPlan::new(&process, Sampler::Fitted, 4).unwrap_err().to_string();
        assert!(message.contains("of 4 steps: those that were fitted to it take 2"), "{message}");
    }

    #[test]
    fn impossible_ones_are_refused() {
        let message = |change: fn(&mut FittedSampler)| {
            let mut sampler = euler();
            change(&mut sampler);
            flow(FlowPrediction::Velocity).with_fitted(&[sampler]).unwrap_err().to_string()
        };
        assert!(message(|sampler| sampler.times[0] = 0.1).contains("that of pure noise, 0"));
        assert!(message(|sampler| sampler.times[1] = 1.0).contains("towards 1, which is not reached"));
        assert!(message(|sampler| sampler.times[1] = f32::NAN).contains("the times lead from 0"));
        assert!(message(|sampler| sampler.weights.truncate(1)).contains("1 rows of weights for 2 times"));
        assert!(message(|sampler| sampler.weights[1].truncate(2)).contains("row 1 of the weights has 2"));
        assert!(message(|sampler| sampler.weights[0][0] = f64::INFINITY).contains("finite"));
        assert!(message(|sampler| sampler.guidance = -1.0).contains("guidance"));
        let twice = flow(FlowPrediction::Velocity).with_fitted(&[euler(), euler()]);
        assert!(twice.unwrap_err().to_string().contains("two fitted samplers take 2 steps"));
        let other = gaussian(Prediction::Noise).with_fitted(&[euler()]);
        assert!(other.unwrap_err().to_string().contains("that of pure noise, 999"));
        let nan = |x: Tensor<2>, _| Ok(x * f32::NAN);
        let fitted = FittedSampler::fit(&flow(FlowPrediction::Velocity), 2, 1.0, starts(1), nan);
        assert!(fitted.unwrap_err().to_string().contains("not finite numbers"));
        for steps in [0, 17] {
            let process = flow(FlowPrediction::Velocity);
            let fitted = FittedSampler::fit(&process, steps, 1.0, starts(1), |x, _| Ok(x));
            assert!(fitted.unwrap_err().to_string().contains("use 1 to 16"));
        }
    }
}
