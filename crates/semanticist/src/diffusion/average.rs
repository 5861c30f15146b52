//! The average velocity of a flow from here to a later share of the way: MeanFlow (Geng et al., 2025,
//! arXiv 2505.13447).
//!
//! With `v` the velocity at the share `t`, the average velocity up to the share `r` is
//! `u(x, t, r) = ∫ v ds / (r − t)` from `t` to `r` along the flow. The derivative of `(r − t) u` along the flow is
//! `−v`, so that (there eq. 6, where time runs the other way)
//!
//! ```text
//! u = v + (r − t) du/dt,   du/dt: x moves by v, t by 1, and r stays.
//! ```
//!
//! The right side, with `x − ε` for `v`, is what the network learns, without a gradient of its own.

use burn::tensor::Tensor;

use super::process::{Corrupted, Kind, per_sample};
use super::{FlowPrediction, Process};

impl Process {
    /// `(r − t) du/dt` at the samples of `example`, `spans[i]` from their times, which added to the velocity gives what
    /// the network should say.
    ///
    /// The derivative is a central difference through `ask`, the network on noisy data, times and spans: its truncation
    /// is of second order in `step`, a share of the way, and rounding costs what one evaluation is off, over `step`. The
    /// network's fastest sinusoid turns by `step · time_scale`.
    ///
    /// # Shapes
    /// `example` `[N, C, ..]`, N spans as the network is told them → `[N, C, ..]`
    ///
    /// # Panics
    /// If the process is not a flow of average velocities, or there are not N spans.
    pub fn average_correction<const D: usize>(
        &self,
        example: &Corrupted<D>,
        spans: &[f32],
        step: f64,
        ask: impl Fn(Tensor<D>, &[f32], &[f32]) -> Tensor<D>,
    ) -> Tensor<D> {
        let Kind::Flow(flow) = &self.kind else { panic!("Gaussian diffusion has no average velocity") };
        assert_eq!(flow.prediction(), FlowPrediction::AverageVelocity, "the network gives no averages");
        let Corrupted { noisy, times, .. } = example;
        assert_eq!(spans.len(), times.len(), "one span per sample");
        let velocity = self.target(example);
        let moved = |by: f64| {
            let ahead = flow.time(by);
            let times: Vec<f32> = times.iter().map(|time| time + ahead).collect();
            let spans: Vec<f32> = spans.iter().map(|span| span - ahead).collect();
            ask(noisy.clone() + velocity.clone() * by, &times, &spans)
        };
        let derivative = (moved(step) - moved(-step)) / (2.0 * step);
        derivative * per_sample(spans.iter().map(|&span| flow.share(span)), &noisy.device())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::Noise;
    use crate::diffusion::{DiffusionConfig, FlowConfig};

    const SHAPE: [usize; 2] = [4, 3];
    /// As shares of the way.
    const TIMES: [f32; 4] = [0.1, 0.25, 0.5, 0.02];
    const SPANS: [f32; 4] = [0.0, 0.3, 0.5, 0.9];

    fn process(time_scale: f64) -> Process {
        let prediction = FlowPrediction::AverageVelocity;
        let config = FlowConfig { prediction, time_scale, ..FlowConfig::default() };
        Process::new(&DiffusionConfig::Flow(config)).unwrap()
    }

    /// Shares as the network is told them.
    fn told(shares: [f32; 4], time_scale: f64) -> [f32; 4] {
        shares.map(|share| share * time_scale as f32)
    }

    fn example(time_scale: f64) -> Corrupted<2> {
        let mut noise = Noise::seeded(0);
        let [clean, drawn] = [0, 1].map(|_| noise.normal(SHAPE, &Device::flex()));
        process(time_scale).corrupt(clean, drawn, &told(TIMES, time_scale))
    }

    fn numbers(values: &[f32]) -> impl Iterator<Item = f64> {
        values.iter().map(|&value| value.into())
    }

    fn column(values: impl Iterator<Item = f64>) -> Tensor<2> {
        per_sample(values, &Device::flex())
    }

    fn distance(a: Tensor<2>, b: Tensor<2>) -> f32 {
        (a - b).abs().max().into_scalar()
    }

    /// Where the velocity is `x` itself, `x` grows as `exp(s)`: the average up to `r` is
    /// `x (exp(r − t) − 1) / (r − t)`, and along the flow `v + (r − t) du/dt` is again `u`.
    #[test]
    fn the_average_of_a_linear_velocity_is_its_own_target() {
        let spread = |span: f64| if span == 0.0 { 1.0 } else { span.exp_m1() / span };
        let average = |x: Tensor<2>, _: &[f32], spans: &[f32]| x * column(numbers(spans).map(spread));
        let Corrupted { noisy, .. } = example(1.0);
        // Data and noise whose velocity here is `noisy`: clean = noisy + (1 − t) v, noise = noisy − t v.
        let t = column(numbers(&TIMES));
        let clean = noisy.clone() * (-t.clone() + 2.0);
        let noise = noisy.clone() * (-t + 1.0);
        let example = Corrupted { clean, noise, noisy: noisy.clone(), times: TIMES.to_vec() };
        assert!(distance(process(1.0).target(&example), noisy.clone()) < 1e-6);
        let found = noisy.clone() + process(1.0).average_correction(&example, &SPANS, 1e-3, average);
        assert!(distance(found, average(noisy, &TIMES, &SPANS)) < 1e-3);
    }

    #[test]
    fn over_no_distance_nothing_is_added() {
        let found = process(1.0).average_correction(&example(1.0), &[0.0; 4], 1e-3, |x, _, _| x * 7.0);
        assert_eq!(found.abs().max().into_scalar::<f32>(), 0.0);
    }

    /// A small network in float64 with its exact derivative along a direction: sinusoids of time and span as the
    /// decoder has them, one hidden layer of hyperbolic tangents.
    struct Network {
        from_x: Vec<[f64; 3]>,
        from_time: Vec<f64>,
        from_span: Vec<f64>,
        out: Vec<[f64; 3]>,
    }

    impl Network {
        const HIDDEN: usize = 16;

        fn new() -> Self {
            let mut noise = Noise::seeded(7);
            let mut draw = |count: usize| -> Vec<f64> {
                let drawn = noise.normal([count], &Device::flex()).into_data();
                drawn.iter::<f64>().collect()
            };
            let rows = |values: Vec<f64>| values.as_chunks::<3>().0.to_vec();
            let hidden = Self::HIDDEN;
            Self {
                from_x: rows(draw(3 * hidden)),
                from_time: draw(2 * FREQUENCIES * hidden).iter().map(|w| w * 0.1).collect(),
                from_span: draw(2 * FREQUENCIES * hidden).iter().map(|w| w * 0.1).collect(),
                out: rows(draw(3 * hidden)),
            }
        }

        /// The output, and its derivative as `x` moves by `v`, the time by `scale` and the span by `−scale`.
        fn at(&self, x: [f64; 3], (time, span): (f32, f32), v: [f64; 3], scale: f64) -> ([f64; 3], [f64; 3]) {
            let (mut output, mut derivative) = ([0.0; 3], [0.0; 3]);
            for unit in 0..Self::HIDDEN {
                let dot = |a: [f64; 3]| (0..3).map(|i| self.from_x[unit][i] * a[i]).sum::<f64>();
                let (mut sum, mut change) = (dot(x), dot(v));
                for (weights, at, speed) in [(&self.from_time, time, scale), (&self.from_span, span, -scale)]
                {
                    for i in 0..FREQUENCIES {
                        let frequency = (-(10_000f64.ln()) * i as f64 / FREQUENCIES as f64).exp();
                        let [cos, sin] = [0, 1].map(|k| weights[(unit * FREQUENCIES + i) * 2 + k]);
                        let angle = f64::from(at) * frequency;
                        sum += cos * angle.cos() + sin * angle.sin();
                        change += speed * frequency * (sin * angle.cos() - cos * angle.sin());
                    }
                }
                let value = sum.tanh();
                for i in 0..3 {
                    output[i] += self.out[unit][i] * value;
                    derivative[i] += self.out[unit][i] * (1.0 - value * value) * change;
                }
            }
            (output, derivative)
        }
    }

    /// As `nn::TimestepEmbed`.
    const FREQUENCIES: usize = 128;

    fn rows(tensor: Tensor<2>) -> Vec<[f64; 3]> {
        let values: Vec<f64> = tensor.into_data().iter::<f64>().collect();
        values.as_chunks::<3>().0.to_vec()
    }

    fn tensor(rows: Vec<[f64; 3]>) -> Tensor<2> {
        let values: Vec<f32> = rows.into_iter().flatten().map(|value| value as f32).collect();
        Tensor::from_data(burn::tensor::TensorData::new(values, SHAPE), &Device::flex())
    }

    /// The error of the correction against the exact derivative, relative to its norm; what the network says is
    /// rounded to float32, as the decoder's answer is.
    fn error(time_scale: f64, step: f64) -> f64 {
        let (network, process, example) = (Network::new(), process(time_scale), example(time_scale));
        let spans = told(SPANS, time_scale);
        let found = process.average_correction(&example, &spans, step, |x, times, spans| {
            let places = times.iter().copied().zip(spans.iter().copied());
            let answers = rows(x).into_iter().zip(places);
            tensor(answers.map(|(x, at)| network.at(x, at, [0.0; 3], time_scale).0).collect())
        });
        let velocities = rows(process.target(&example));
        let places = told(TIMES, time_scale).into_iter().zip(spans);
        let exact = rows(example.noisy).into_iter().zip(velocities).zip(places).flat_map(|((x, v), at)| {
            let derivative = network.at(x, at, v, time_scale).1;
            derivative.map(|value| value * f64::from(at.1) / time_scale)
        });
        let (mut wrong, mut all) = (0.0, 0.0);
        for (found, exact) in rows(found).into_iter().flatten().zip(exact) {
            wrong += (found - exact) * (found - exact);
            all += exact * exact;
        }
        (wrong / all).sqrt()
    }

    #[test]
    fn the_difference_is_the_derivative_at_the_step_in_use_and_worse_at_others() {
        let errors = [1e-6, 1e-3, 0.2].map(|step| error(1.0, step));
        assert!(errors[1] < 1e-3 && errors[0] > 0.01 && errors[2] > 0.01, "{errors:?}");
        // Where the fastest sinusoid turns by a radian on the way, it is lost.
        let errors = [1e-4, 1e-3].map(|step| error(1000.0, step));
        assert!(errors[0] < 0.01 && errors[1] > 0.1, "{errors:?}");
    }
}
