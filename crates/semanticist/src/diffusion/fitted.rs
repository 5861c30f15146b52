//! Samplers of few steps that are fitted to one network: non-stationary solvers (Shaul et al. 2024, arXiv 2403.01329).
//!
//! Every common sampler of one evaluation per step, Euler's or that of Adams and Bashforth, gives as its next place a
//! weighted sum of the noise at the start and of all velocities so far. Here the weights, and the shares of the way at which
//! the velocities are asked for, are those that end nearest to where the flow itself leads this network.

use burn::tensor::{Tensor, TensorData};
use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use super::flow::Flow;
use super::process::Kind;
use super::{Process, Sampler, SamplingPlan};
use crate::{Error, Noise, Result};

/// Steps of the way that the fitted one is to follow: 16 end at 53 dB from where 40 do (docs/recipes.md).
const REFERENCE_STEPS: usize = 40;
/// How far a share is moved towards its neighbours, as a part of the way there, in every round of the search. They begin evenly.
const MOVES: [f64; 5] = [0.3, 0.2, 0.12, 0.07, 0.04];
/// Added to the diagonal of the normal equations, relative to it: the last velocities of many steps are nearly alike.
const RIDGE: f64 = 1e-9;

/// A sampler of a few steps that was fitted to one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedSampler {
    /// The guidance scale of the velocities that it was fitted to.
    pub guidance: f64,
    /// At which shares of the way from noise to data the network is asked; the first is 0.
    pub shares: Vec<f64>,
    /// One row per share: what of the noise, and of each velocity so far, makes up the next place. The last row's is the data.
    pub weights: Vec<Vec<f64>>,
}

impl FittedSampler {
    /// How many steps it takes, each with one evaluation of the network.
    pub fn steps(&self) -> usize {
        self.shares.len()
    }

    /// # Errors
    /// Says which number does not fit.
    pub fn validate(&self) -> Result<()> {
        let Self { guidance, shares, weights } = self;
        super::guidance::validate_scale(*guidance)?;
        let problem = if shares.first() != Some(&0.0) {
            "the first share is 0".into()
        } else if !shares.iter().chain([&1.0]).is_sorted_by(|before, after| before < after) {
            "shares grow from 0 and stay below 1".into()
        } else if weights.len() != shares.len() {
            format!("{} rows of weights for {} shares; one row each", weights.len(), shares.len())
        } else if let Some(row) = (0..weights.len()).find(|&row| weights[row].len() != row + 2) {
            format!("row {row} of the weights has {} numbers; expected {}", weights[row].len(), row + 2)
        } else if !weights.iter().flatten().all(|weight| weight.is_finite()) {
            "every weight is a finite number".into()
        } else {
            return Ok(());
        };
        Err(Error::Config(format!("a fitted sampler: {problem}; fit it again")))
    }

    /// How many evaluations of the network [`FittedSampler::fit`] makes.
    pub fn evaluations_to_fit(steps: usize) -> usize {
        REFERENCE_STEPS + steps + MOVES.len() * steps * steps.saturating_sub(1)
    }

    /// Fits a sampler of `steps` steps to a network that answers `ask` with, at a time, what the process learns, guidance
    /// included.
    ///
    /// The way from each of the starts is followed in many small steps. For given shares every row of weights is the least
    /// squares solution for the place on that way at the next share, from the velocities that the rows before it lead to;
    /// the shares are searched one after the other.
    ///
    /// # Shapes
    /// `start`: `[N, C, ..]`, standard normal; 64 latents of 3,072 numbers are plenty for the few dozen weights
    ///
    /// # Errors
    /// If the process is not a flow, or there are no steps; the first of the network.
    pub fn fit<const D: usize>(
        process: &Process,
        steps: usize,
        guidance: f64,
        start: Tensor<D>,
        mut ask: impl FnMut(Tensor<D>, f32) -> Result<Tensor<D>>,
    ) -> Result<Self> {
        let Kind::Flow(flow) = &process.0 else {
            return Err(Error::Config(
                "samplers are fitted to flows, and this is Gaussian diffusion; it has \"ddim-trailing\" for few steps"
                    .into(),
            ));
        };
        if steps == 0 {
            return Err(Error::Config("a fitted sampler takes at least 1 step".into()));
        }
        let shape = start.dims();
        let device = start.device();
        let way = Way::followed(process, flow, start, &mut ask)?;
        let mut velocity = |place: &[f32], share: f64| {
            let x = Tensor::from_data(TensorData::new(place.to_vec(), shape), &device);
            let output = ask(x.clone(), flow.time(share))?;
            Ok::<_, Error>(values(flow.velocity(&x, output, share)))
        };
        let even = (0..steps).map(|i| i as f64 / steps as f64).collect::<Vec<_>>();
        let mut best = Attempt::new(&way, even, None, &mut velocity)?;
        for part in MOVES {
            for moved in 1..steps {
                let next = best.shares.get(moved + 1).copied().unwrap_or(1.0);
                for neighbour in [best.shares[moved - 1], next] {
                    let mut shares = best.shares.clone();
                    shares[moved] += part * (neighbour - shares[moved]);
                    let attempt = Attempt::new(&way, shares, Some((&best, moved)), &mut velocity)?;
                    if attempt.error < best.error {
                        best = attempt;
                    }
                }
            }
        }
        Ok(Self { guidance, shares: best.shares, weights: best.weights })
    }
}

/// Where the flow leads from some starts: places and velocities along the way, and the end.
struct Way {
    shares: Vec<f64>,
    places: Vec<Vec<f32>>,
    velocities: Vec<Vec<f32>>,
}

impl Way {
    fn followed<const D: usize>(
        process: &Process,
        flow: &Flow,
        start: Tensor<D>,
        ask: &mut impl FnMut(Tensor<D>, f32) -> Result<Tensor<D>>,
    ) -> Result<Self> {
        let plan = SamplingPlan::new(process, Sampler::AdamsBashforth, REFERENCE_STEPS)?;
        let mut way = Self { shares: Vec::new(), places: Vec::new(), velocities: Vec::new() };
        let end = plan.try_run(start, &mut Noise::recorded([]), |x, index| {
            let time = plan.times()[index];
            let share = flow.share(time);
            let output = ask(x.clone(), time)?;
            way.shares.push(share);
            way.places.push(values(x.clone()));
            way.velocities.push(values(flow.velocity(&x, output.clone(), share)));
            Ok::<_, Error>(output)
        })?;
        way.shares.push(1.0);
        way.places.push(values(end));
        // At the end itself nothing is asked.
        way.velocities.extend(way.velocities.last().cloned());
        Ok(way)
    }

    fn start(&self) -> &[f32] {
        &self.places[0]
    }

    /// Between the places that were visited by the cubic polynomial with their velocities.
    fn place(&self, share: f64) -> Vec<f32> {
        let after = self.shares.partition_point(|&visited| visited <= share).min(self.shares.len() - 1);
        let before = after - 1;
        let length = self.shares[after] - self.shares[before];
        let u = (share - self.shares[before]) / length;
        let ends = [(1.0 + 2.0 * u) * (1.0 - u) * (1.0 - u), u * u * (3.0 - 2.0 * u)];
        let slopes = [length * u * (1.0 - u) * (1.0 - u), length * u * u * (u - 1.0)];
        let [from, to] = [before, after].map(|i| (&self.places[i], &self.velocities[i]));
        weighted(&[from.0, to.0, from.1, to.1], &[ends[0], ends[1], slopes[0], slopes[1]])
    }
}

/// Weights fitted to some shares.
struct Attempt {
    shares: Vec<f64>,
    weights: Vec<Vec<f64>>,
    velocities: Vec<Vec<f32>>,
    /// Mean squared distance from the end of the way.
    error: f64,
}

impl Attempt {
    /// What comes before the share that `moved` says is as in another attempt, but for the row that leads to it.
    fn new(
        way: &Way,
        shares: Vec<f64>,
        moved: Option<(&Self, usize)>,
        velocity: &mut impl FnMut(&[f32], f64) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let (mut weights, mut velocities) = match moved {
            Some((other, at)) => (other.weights[..at - 1].to_vec(), other.velocities[..at].to_vec()),
            None => (Vec::new(), vec![velocity(way.start(), 0.0)?]),
        };
        loop {
            let next = velocities.len();
            let target = way.place(shares.get(next).copied().unwrap_or(1.0));
            let known = [way.start()].into_iter().chain(velocities.iter().map(Vec::as_slice));
            let known = known.collect::<Vec<_>>();
            let row = least_squares(&known, &target);
            let place = weighted(&known, &row);
            weights.push(row);
            if next == shares.len() {
                let error = squared_distance(&place, &target) / place.len() as f64;
                return Ok(Self { shares, weights, velocities, error });
            }
            velocities.push(velocity(&place, shares[next])?);
        }
    }
}

/// The weights with which `known` come nearest to `target`.
fn least_squares(known: &[&[f32]], target: &[f32]) -> Vec<f64> {
    let product =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let mut normal = DMatrix::from_fn(known.len(), known.len(), |i, j| product(known[i], known[j]));
    let right = DVector::from_fn(known.len(), |i, _| product(known[i], target));
    for i in 0..known.len() {
        normal[(i, i)] *= 1.0 + RIDGE;
    }
    // A part that is 0 everywhere has no weight.
    let solved = normal.svd(true, true).solve(&right, f64::MIN_POSITIVE).expect("both factors are computed");
    solved.iter().copied().collect()
}

fn weighted<T: AsRef<[f32]>>(parts: &[T], weights: &[f64]) -> Vec<f32> {
    let at = |i: usize| -> f64 {
        parts.iter().zip(weights).map(|(part, weight)| f64::from(part.as_ref()[i]) * weight).sum()
    };
    (0..parts[0].as_ref().len()).map(|i| at(i) as f32).collect()
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
    use crate::diffusion::{DecodeOptions, DiffusionConfig, FlowConfig, FlowPrediction, Guidance};

    fn process(prediction: FlowPrediction) -> Process {
        let config = FlowConfig { prediction, time_scale: 1.0, ..FlowConfig::default() };
        Process::new(&DiffusionConfig::Flow(config)).unwrap()
    }

    /// What a perfect network says of data that are near −1 or 1, with a deviation of 0.3.
    fn two_peaks(x: Tensor<2>, time: f32, prediction: FlowPrediction) -> Tensor<2> {
        const VARIANCE: f64 = 0.09;
        let t = f64::from(time);
        let total = t * t * VARIANCE + (1.0 - t) * (1.0 - t);
        // Each peak's mean of the data given x, and with tanh the difference of their chances.
        let peak = (x.clone() * (t / total)).tanh();
        let clean = x.clone() * (t * VARIANCE / total) + peak * (1.0 - t * t * VARIANCE / total);
        match prediction {
            FlowPrediction::Clean => clean,
            _ => (clean - x) / (1.0 - t),
        }
    }

    fn starts(seed: u64) -> Tensor<2> {
        Noise::seeded(seed).normal([1000, 2], &Device::flex())
    }

    fn fit(steps: usize, prediction: FlowPrediction) -> (FittedSampler, usize) {
        let mut asked = 0;
        let sampler = FittedSampler::fit(&process(prediction), steps, 1.0, starts(1), |x, time| {
            asked += 1;
            Ok(two_peaks(x, time, prediction))
        });
        (sampler.unwrap(), asked)
    }

    /// Mean squared distance of the ends from those of many steps, on starts that nothing was fitted to.
    fn error(process: &Process, sampler: Sampler, steps: usize) -> f32 {
        let end = |sampler, steps| {
            let plan = SamplingPlan::new(process, sampler, steps).unwrap();
            plan.run(starts(2), &mut Noise::recorded([]), |x, index| {
                two_peaks(x, plan.times()[index], FlowPrediction::Velocity)
            })
        };
        (end(sampler, steps) - end(Sampler::AdamsBashforth, 400)).square().mean().into_scalar()
    }

    #[test]
    fn four_fitted_steps_end_nearer_than_eight_of_adams_and_bashforth() {
        let (sampler, asked) = fit(4, FlowPrediction::Velocity);
        assert_eq!(asked, FittedSampler::evaluations_to_fit(4));
        let process = process(FlowPrediction::Velocity).with_fitted(&[sampler]).unwrap();
        let [four, eight] = [4, 8].map(|steps| error(&process, Sampler::AdamsBashforth, steps));
        let fitted = error(&process, Sampler::Fitted, 4);
        assert!(fitted < eight && eight < four, "{fitted}, {eight}, {four}");
    }

    #[test]
    fn what_is_predicted_makes_no_difference() {
        let [velocity, clean] =
            [FlowPrediction::Velocity, FlowPrediction::Clean].map(|prediction| fit(3, prediction).0);
        for (a, b) in velocity.shares.iter().zip(&clean.shares) {
            assert!((a - b).abs() < 1e-6, "{velocity:?} {clean:?}");
        }
        for (a, b) in velocity.weights.iter().flatten().zip(clean.weights.iter().flatten()) {
            assert!((a - b).abs() < 1e-2, "{velocity:?} {clean:?}");
        }
    }

    #[test]
    fn a_velocity_of_nothing_leads_nowhere() {
        let process = process(FlowPrediction::Velocity);
        let sampler =
            FittedSampler::fit(&process, 2, 1.0, starts(1), |x, _| Ok(Tensor::zeros_like(&x))).unwrap();
        for row in sampler.weights {
            assert!((row[0] - 1.0).abs() < 1e-6 && row[1..].iter().all(|&weight| weight == 0.0), "{row:?}");
        }
    }

    /// Euler's method in its weights.
    fn euler() -> FittedSampler {
        let weights = vec![vec![1.0, 0.5], vec![1.0, 0.5, 0.5]];
        FittedSampler { guidance: 1.0, shares: vec![0.0, 0.5], weights }
    }

    #[test]
    fn weights_of_eulers_method_are_eulers_method() {
        let process = process(FlowPrediction::Velocity).with_fitted(&[euler()]).unwrap();
        let [a, b] = [Sampler::Fitted, Sampler::Euler].map(|sampler| error(&process, sampler, 2));
        assert!((a / b - 1.0).abs() < 1e-4, "{a} {b}");
    }

    #[test]
    fn it_is_the_usual_one_of_its_steps_and_guidance() {
        let process = process(FlowPrediction::Velocity).with_fitted(&[euler()]).unwrap();
        let chosen = |steps, guidance| {
            let guidance = Guidance::constant(guidance);
            DecodeOptions { steps, guidance, sampler: None }.sampler_for(&process)
        };
        assert_eq!(chosen(2, 1.0), Sampler::Fitted);
        assert_eq!(chosen(2, 1.5), Sampler::AdamsBashforth);
        assert_eq!(chosen(4, 1.0), Sampler::AdamsBashforth);
        let message = SamplingPlan::new(&process, Sampler::Fitted, 4).unwrap_err().to_string();
        assert!(
            message.contains("no fitted sampler of 4 steps: those that were fitted to it take 2"),
            "{message}"
        );
    }

    #[test]
    fn impossible_ones_are_refused() {
        let message = |change: fn(&mut FittedSampler)| {
            let mut sampler = euler();
            change(&mut sampler);
            process(FlowPrediction::Velocity).with_fitted(&[sampler]).unwrap_err().to_string()
        };
        assert!(message(|sampler| sampler.shares[0] = 0.1).contains("the first share is 0"));
        assert!(message(|sampler| sampler.shares[1] = 1.0).contains("stay below 1"));
        assert!(message(|sampler| sampler.shares[1] = f64::NAN).contains("shares grow"));
        assert!(message(|sampler| sampler.weights.truncate(1)).contains("1 rows of weights for 2 shares"));
        assert!(
            message(|sampler| sampler.weights[1].truncate(2)).contains("row 1 of the weights has 2 numbers")
        );
        assert!(message(|sampler| sampler.weights[0][0] = f64::INFINITY).contains("finite"));
        assert!(message(|sampler| sampler.guidance = -1.0).contains("guidance"));
        let twice = process(FlowPrediction::Velocity).with_fitted(&[euler(), euler()]);
        assert!(twice.unwrap_err().to_string().contains("two fitted samplers take 2 steps"));
        let gaussian = Process::new(&DiffusionConfig::default()).unwrap();
        assert!(gaussian.clone().with_fitted(&[euler()]).unwrap_err().to_string().contains("are of flows"));
        let fit =
            |process, steps| FittedSampler::fit(process, steps, 1.0, starts(1), |x, _| Ok(x)).unwrap_err();
        assert!(fit(&gaussian, 2).to_string().contains("fitted to flows"));
        assert!(fit(&process(FlowPrediction::Velocity), 0).to_string().contains("at least 1 step"));
    }
}
