//! The noise schedule as tables in `f64` on the host, whole or on a subset of its timesteps.

use std::f64::consts::FRAC_PI_2;

use super::{GaussianConfig, Schedule};
use crate::{Error, Result};

/// Which of the training timesteps a sampler visits.
///
/// Source: guided-diffusion `respace.py`, `space_timesteps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Respacing {
    /// This many, spread evenly from the first timestep to the last, rounded to the nearest.
    Even(usize),
    /// This many, an integer stride apart and starting at 0 (Song et al. 2021).
    Ddim(usize),
    /// This many, denser towards the first with the square of their number, and always including
    /// the first and the last (Song et al. 2021, appendix D.2; not in guided-diffusion).
    Quadratic(usize),
    /// This many, spread evenly and counted from the last, which is always one of them: a first step from
    /// pure noise finds the network where it learnt pure noise (Lin et al. 2024, section 3.3, "trailing").
    Trailing(usize),
}

impl Respacing {
    /// The visited timesteps of a process with `steps` of them, ascending.
    ///
    /// # Errors
    /// If there are not that many timesteps, or no integer stride gives that many.
    pub fn timesteps(self, steps: usize) -> Result<Vec<usize>> {
        match self {
            Self::Even(count) => even_timesteps(count, steps),
            Self::Ddim(count) => strided_timesteps(count, steps),
            Self::Quadratic(count) => quadratic_timesteps(count, steps),
            Self::Trailing(count) => trailing_timesteps(count, steps),
        }
    }
}

fn even_timesteps(count: usize, steps: usize) -> Result<Vec<usize>> {
    check_count(count, steps)?;
    let stride = if count == 1 { 1.0 } else { (steps - 1) as f64 / (count - 1) as f64 };
    // The position is summed up, and halves go to the even neighbour, as Python does it.
    let mut position: f64 = 0.0;
    Ok((0..count)
        .map(|_| {
            let timestep = position.round_ties_even() as usize;
            position += stride;
            timestep
        })
        .collect())
}

fn check_count(count: usize, steps: usize) -> Result<()> {
    if (1..=steps).contains(&count) {
        return Ok(());
    }
    Err(Error::Config(format!("{count} sampling steps asked of a process with {steps}; use 1 to {steps}")))
}

fn strided_timesteps(count: usize, steps: usize) -> Result<Vec<usize>> {
    let stride = (1..steps).find(|&stride| steps.div_ceil(stride) == count).ok_or_else(|| {
        Error::Config(format!(
            "no integer stride over {steps} timesteps gives exactly {count} DDIM steps; \
             use a divisor of {steps}, or even spacing"
        ))
    })?;
    Ok((0..steps).step_by(stride).collect())
}

fn quadratic_timesteps(count: usize, steps: usize) -> Result<Vec<usize>> {
    check_count(count, steps)?;
    let mut earliest = 0;
    Ok((0..count)
        .map(|i| {
            let share = i as f64 / count.saturating_sub(1).max(1) as f64;
            // Neighbours that would round to the same timestep are pushed up by one.
            let timestep = ((steps - 1) as f64 * share * share).round() as usize;
            let timestep = timestep.max(earliest);
            earliest = timestep + 1;
            timestep
        })
        .collect())
}

fn trailing_timesteps(count: usize, steps: usize) -> Result<Vec<usize>> {
    check_count(count, steps)?;
    let end = |i: usize| (steps as f64 * i as f64 / count as f64).round() as usize;
    Ok((1..=count).map(|i| end(i) - 1).collect())
}

/// The tables of Gaussian diffusion, by position: entry `i` belongs to the `i`-th visited timestep.
///
/// Source: guided-diffusion `gaussian_diffusion.py`, `GaussianDiffusion.__init__`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tables {
    /// The visited timesteps as the network was trained on them, ascending.
    pub timesteps: Vec<usize>,
    /// Variance of the noise added by each step, in `(0, 1)`.
    pub betas: Vec<f64>,
    /// Share of the signal's variance left after each step (ᾱ), in `(0, 1)`, falling.
    pub alphas_cumprod: Vec<f64>,
    /// The same before each step: starts with 1.
    pub alphas_cumprod_prev: Vec<f64>,
    /// Variance of `q(x_{t−1} | x_t, x₀)` (Ho et al. 2020, eq. 7): starts with 0.
    pub posterior_variance: Vec<f64>,
    /// Its logarithm, the first entry replaced by the second because it would be −∞.
    pub posterior_log_variance_clipped: Vec<f64>,
    /// Factor of `x₀` in the mean of `q(x_{t−1} | x_t, x₀)`.
    pub posterior_mean_clean: Vec<f64>,
    /// Factor of `x_t` in the mean of `q(x_{t−1} | x_t, x₀)`.
    pub posterior_mean_noisy: Vec<f64>,
}

impl Tables {
    /// The whole process, as training sees it: positions are timesteps.
    ///
    /// # Errors
    /// If the schedule does not exist for that many steps.
    pub fn new(config: &GaussianConfig) -> Result<Self> {
        Ok(Self::from_betas((0..config.steps).collect(), betas(config)?))
    }

    /// The same on some of the timesteps of a whole process, as a sampler sees it.
    ///
    /// Source: guided-diffusion `respace.py`, `SpacedDiffusion.__init__`.
    ///
    /// # Errors
    /// As [`Respacing::timesteps`].
    pub fn respaced(&self, respacing: Respacing) -> Result<Self> {
        let timesteps = respacing.timesteps(self.steps())?;
        let mut previous = 1.0;
        let betas = timesteps
            .iter()
            .map(|&timestep| {
                let current = self.alphas_cumprod[timestep];
                1.0 - current / std::mem::replace(&mut previous, current)
            })
            .collect();
        Ok(Self::from_betas(timesteps, betas))
    }

    fn from_betas(timesteps: Vec<usize>, betas: Vec<f64>) -> Self {
        let alphas_cumprod: Vec<f64> = betas
            .iter()
            .scan(1.0, |product, beta| {
                *product *= 1.0 - beta;
                Some(*product)
            })
            .collect();
        let alphas_cumprod_prev: Vec<f64> =
            std::iter::once(1.0).chain(alphas_cumprod.iter().copied()).take(betas.len()).collect();
        let table = |formula: fn(f64, f64, f64) -> f64| -> Vec<f64> {
            let alphas = alphas_cumprod.iter().zip(&alphas_cumprod_prev);
            betas.iter().zip(alphas).map(|(&beta, (&now, &prev))| formula(beta, now, prev)).collect()
        };
        let posterior_variance = table(|beta, now, prev| beta * (1.0 - prev) / (1.0 - now));
        // A process of one step has no second entry; its beta is as good, since the last step is noiseless.
        let first = posterior_variance.get(1).or(betas.first()).copied();
        let posterior_log_variance_clipped =
            first.into_iter().chain(posterior_variance.iter().skip(1).copied()).map(f64::ln).collect();
        Self {
            posterior_log_variance_clipped,
            posterior_mean_clean: table(|beta, now, prev| beta * prev.sqrt() / (1.0 - now)),
            posterior_mean_noisy: table(|beta, now, prev| (1.0 - prev) * (1.0 - beta).sqrt() / (1.0 - now)),
            timesteps,
            posterior_variance,
            alphas_cumprod,
            alphas_cumprod_prev,
            betas,
        }
    }

    /// How many steps there are.
    pub fn steps(&self) -> usize {
        self.betas.len()
    }
}

/// Source: guided-diffusion `gaussian_diffusion.py`, `get_named_beta_schedule`.
pub(super) fn betas(config: &GaussianConfig) -> Result<Vec<f64>> {
    let steps = config.steps;
    match config.schedule {
        // Below 21 steps the last beta, 0.02 · 1000 / steps, would reach 1.
        Schedule::Linear if steps < 21 => Err(Error::Config(format!(
            "the linear schedule needs at least 21 diffusion steps, not {steps}; the usual number is 1000"
        ))),
        Schedule::Cosine if steps < 2 => Err(Error::Config(format!(
            "the cosine schedule needs at least 2 diffusion steps, not {steps}; the usual number is 1000"
        ))),
        Schedule::Linear => {
            let scale = 1000.0 / steps as f64;
            let (first, last) = (1e-4 * scale, 2e-2 * scale);
            let stride = (last - first) / (steps - 1) as f64;
            Ok((0..steps).map(|i| first + stride * i as f64).collect())
        }
        Schedule::Cosine => {
            // Nichol & Dhariwal 2021, eq. 17; clipped at 0.999 as in their section 3.2.
            let signal = |time: f64| ((time + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
            let at = |i: usize| signal(i as f64 / steps as f64);
            Ok((0..steps).map(|i| (1.0 - at(i + 1) / at(i)).min(0.999)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 37th whole beta, some respaced ones and every 25th ᾱ of guided-diffusion, in `f64`.
    const TABLES: &[u8] = include_bytes!("../../tests/data/diffusion_tables.safetensors");

    fn golden(name: &str) -> Vec<f64> {
        let tables = safetensors::SafeTensors::deserialize(TABLES).unwrap();
        let bytes = tables.tensor(name).unwrap().data().to_vec();
        bytes.as_chunks::<8>().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect()
    }

    #[track_caller]
    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found / expected - 1.0).abs() < 1e-12, "entry {i}: {found} is not {expected}");
        }
    }

    fn config(schedule: Schedule) -> GaussianConfig {
        GaussianConfig { schedule, ..GaussianConfig::default() }
    }

    fn every(stride: usize, values: Vec<f64>) -> Vec<f64> {
        values.into_iter().step_by(stride).collect()
    }

    #[test]
    fn whole_tables_equal_guided_diffusion() {
        for (name, schedule) in [("linear.betas", Schedule::Linear), ("cosine.betas", Schedule::Cosine)] {
            assert_close(&every(37, Tables::new(&config(schedule)).unwrap().betas), &golden(name));
        }
        let linear = Tables::new(&config(Schedule::Linear)).unwrap();
        assert_close(&every(25, linear.alphas_cumprod), &golden("linear.alphas_cumprod"));
    }

    #[test]
    fn respaced_tables_equal_guided_diffusion() {
        let betas =
            |schedule, respacing| Tables::new(&config(schedule)).unwrap().respaced(respacing).unwrap().betas;
        assert_close(&betas(Schedule::Linear, Respacing::Even(25)), &golden("linear.25.betas"));
        assert_close(&betas(Schedule::Linear, Respacing::Ddim(25)), &golden("linear.ddim25.betas"));
        assert_close(&betas(Schedule::Cosine, Respacing::Even(25)), &golden("cosine.25.betas"));
        assert_close(&every(25, betas(Schedule::Cosine, Respacing::Even(250))), &golden("cosine.250.betas"));
    }

    #[test]
    fn timesteps_are_those_of_guided_diffusion() {
        let even = Respacing::Even(25).timesteps(1000).unwrap();
        assert_eq!(even[..6], [0, 42, 83, 125, 166, 208]);
        assert_eq!(even[22..], [916, 957, 999]);
        assert_eq!(Respacing::Even(100).timesteps(1000).unwrap()[97..], [979, 989, 999]);
        let strided = Respacing::Ddim(25).timesteps(1000).unwrap();
        assert_eq!((strided.len(), strided[1], strided[24]), (25, 40, 960));
        // Python rounds 0.5 to 0, 1.5 to 2, 2.5 to 2.
        assert_eq!(Respacing::Even(3).timesteps(6).unwrap(), [0, 2, 5]);
        assert_eq!(Respacing::Even(1000).timesteps(1000).unwrap(), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn quadratic_timesteps_rise_from_first_to_last() {
        assert_eq!(Respacing::Quadratic(5).timesteps(1000).unwrap(), [0, 62, 250, 562, 999]);
        for count in [2, 50, 300, 999, 1000] {
            let timesteps = Respacing::Quadratic(count).timesteps(1000).unwrap();
            assert!(timesteps.is_sorted_by(|a, b| a < b));
            assert_eq!((timesteps.len(), timesteps[0], timesteps[count - 1]), (count, 0, 999));
        }
        assert_eq!(Respacing::Quadratic(1).timesteps(1000).unwrap(), [0]);
        assert!(Respacing::Quadratic(1001).timesteps(1000).is_err());
    }

    #[test]
    fn trailing_timesteps_end_with_the_last() {
        let timesteps = |count| Respacing::Trailing(count).timesteps(1000).unwrap();
        assert_eq!([timesteps(1), timesteps(2)], [vec![999], vec![499, 999]]);
        assert_eq!([timesteps(3), timesteps(4)], [vec![332, 666, 999], vec![249, 499, 749, 999]]);
        assert_eq!(timesteps(1000), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn signal_falls_from_one_to_nothing() {
        for schedule in [Schedule::Linear, Schedule::Cosine] {
            let process = Tables::new(&config(schedule)).unwrap();
            assert!(process.alphas_cumprod.is_sorted_by(|a, b| a > b));
            assert!(process.alphas_cumprod[0] > 0.999 && process.alphas_cumprod[999] < 1e-4);
            assert_eq!((process.alphas_cumprod_prev[0], process.posterior_variance[0]), (1.0, 0.0));
            assert!(process.posterior_log_variance_clipped.iter().all(|v| v.is_finite()));
        }
    }

    #[test]
    fn respacing_keeps_the_signal_left_at_the_visited_timesteps() {
        let whole = Tables::new(&config(Schedule::Cosine)).unwrap();
        let process = whole.respaced(Respacing::Even(10)).unwrap();
        let expected: Vec<_> = process.timesteps.iter().map(|&t| whole.alphas_cumprod[t]).collect();
        for (found, expected) in process.alphas_cumprod.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 1e-6, "{found} is not {expected}");
        }
    }

    #[test]
    fn impossible_schedules_are_refused_with_the_way_out() {
        let message = |respacing: Respacing| respacing.timesteps(1000).unwrap_err().to_string();
        assert!(message(Respacing::Even(1001)).contains("use 1 to 1000"));
        assert!(message(Respacing::Even(0)).contains("use 1 to 1000"));
        assert!(message(Respacing::Ddim(300)).contains("no integer stride"));
        assert!(Tables::new(&GaussianConfig { steps: 20, ..GaussianConfig::default() }).is_err());
    }
}
