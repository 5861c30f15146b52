//! MeanFlow: a decoder that says the average velocity over a distance, so that few steps lead to the data (Geng et al.,
//! 2025, arXiv 2505.13447). The formula is in the library's `diffusion`; here are its draws and its loss.

use burn::module::Module;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use semanticist::diffusion::{Corrupted, Losses, Process};
use semanticist::tokenizer::Networks;
use semanticist::{Error, Latents, Noise, Result, Tokens};
use serde::{Deserialize, Serialize};

use super::diffusion::Draws;

/// How average velocities are learned, by models with `diffusion.prediction = "average-velocity"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeanFlow {
    /// Probability that a sample learns the velocity itself, over no distance; its time is then one draw, as in plain
    /// flow matching. The other samples go from the earlier to the later of two draws.
    pub instant: f64,
    /// p: the squared error of a sample counts `1 / (error + offset)ᵖ`, without a gradient of its own (there eq. 22).
    /// 0 counts all alike.
    pub adaptive_power: f64,
    /// c: keeps small errors from counting without bound. The error is a mean over the numbers of the latents; the
    /// paper's is their sum, which is the same at p = 1 but for the offset.
    pub adaptive_offset: f64,
    /// How far each side of the central difference reaches along the flow, as a share of the way. Times
    /// `model.diffusion.time_scale` it is at most 0.5, the radians that the fastest sinusoid of a time then turns by; its
    /// derivative is off by 4 % there, and by a tenth of a percent at 0.1.
    pub derivative_step: f64,
}

/// The most of a derivative's step times the time scale.
const MOST_TURN: f64 = 0.5;

impl Default for MeanFlow {
    /// The paper's best, and the step that agrees with an exact derivative (`diffusion/average.rs`).
    fn default() -> Self {
        Self { instant: 0.75, adaptive_power: 1.0, adaptive_offset: 1e-3, derivative_step: 1e-3 }
    }
}

impl MeanFlow {
    /// # Errors
    /// Names the first number that does not fit a model whose times end at `time_scale`.
    pub fn validate(&self, time_scale: f64) -> Result<()> {
        let Self { instant, adaptive_power, adaptive_offset, derivative_step } = *self;
        let problem = if !(0.0..=1.0).contains(&instant) {
            format!("instant = {instant} is not in [0, 1]; 0.75 is usual")
        } else if !(0.0..=2.0).contains(&adaptive_power) {
            format!("adaptive_power = {adaptive_power} is not in [0, 2]; 1 is usual, 0 counts all alike")
        } else if !(adaptive_offset.is_finite() && adaptive_offset > 0.0) {
            format!("adaptive_offset = {adaptive_offset} is not a number above 0; 1e-3 is usual")
        } else if !(1e-6..=0.1).contains(&derivative_step) {
            format!("derivative_step = {derivative_step} is not in [1e-6, 0.1]; 1e-3 is usual")
        } else if derivative_step * time_scale > MOST_TURN {
            let most = MOST_TURN / time_scale;
            format!(
                "derivative_step = {derivative_step} is too long for model.diffusion.time_scale = {time_scale}: the \
                 network's fastest sinusoid turns by more than {MOST_TURN} radians; use a time_scale of 1, or a step \
                 of at most {most}"
            )
        } else {
            return Ok(());
        };
        Err(Error::Config(format!("objective.mean_flow.{problem}")))
    }

    /// The time of each sample, and how far its answer is to reach.
    pub fn draw(&self, process: &Process, count: usize, noise: &mut Noise) -> (Vec<f32>, Vec<f32>) {
        let [first, second] = [(); 2].map(|()| process.draw_times(count, noise));
        let instant = noise.uniform(count).into_iter().map(|u| f64::from(u) < self.instant);
        let stretch = |((first, second), instant): ((f32, f32), bool)| {
            if instant { (first, 0.0) } else { (first.min(second), (first - second).abs()) }
        };
        first.into_iter().zip(second).zip(instant).map(stretch).unzip()
    }

    /// The loss of a batch whose tokens are these; `spans` go with the times of `draws`.
    ///
    /// # Shapes
    /// As [`loss`](super::diffusion::loss).
    pub fn loss(
        &self,
        networks: &Networks,
        process: &Process,
        (tokens, latents): (&Tokens, &Latents),
        draws: &Draws,
        spans: &[f32],
    ) -> Losses {
        let Draws { keep, times, noise } = draws;
        let example = process.corrupt(latents.0.clone(), noise.clone(), times);
        let noisy = example.noisy.clone();
        let output = networks.decoder.forward_average(noisy, (times, spans), tokens, keep);
        let target = self.target(networks, process, &example, (tokens, keep), spans);
        let error = (output - Tensor::from_inner(target)).square().mean_dims(&[1, 2, 3]); // [B, 1, 1, 1]
        let mse = error.reshape([times.len()]);
        let weight = (mse.clone().detach() + self.adaptive_offset).powf_scalar(-self.adaptive_power);
        Losses { total: mse.clone() * weight, mse, vb: None }
    }

    /// What the decoder should say, without a gradient: the velocity, and what is added over a distance.
    fn target(
        &self,
        networks: &Networks,
        process: &Process,
        example: &Corrupted<4>,
        (tokens, keep): (&Tokens, &[usize]),
        spans: &[f32],
    ) -> Tensor<4> {
        let velocity = process.target(example).inner();
        let going: Vec<usize> = (0..spans.len()).filter(|&i| spans[i] > 0.0).collect();
        if going.is_empty() {
            return velocity;
        }
        let device = velocity.device();
        let numbers: Vec<i64> = going.iter().map(|&i| i as i64).collect();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(numbers, [going.len()]), &device);
        let of = |x: &Tensor<4>| x.clone().inner().select(0, rows.clone());
        let part = Corrupted {
            clean: of(&example.clean),
            noise: of(&example.noise),
            noisy: of(&example.noisy),
            times: going.iter().map(|&i| example.times[i]).collect(),
        };
        let keep: Vec<usize> = going.iter().map(|&i| keep[i]).collect();
        let spans: Vec<f32> = going.iter().map(|&i| spans[i]).collect();
        let tokens = Tokens(tokens.0.clone().inner().select(0, rows.clone()));
        let decoder = networks.decoder.valid();
        let added = process.average_correction(&part, &spans, self.derivative_step, |x, times, spans| {
            decoder.forward_average(x, (times, spans), &tokens, &keep)
        });
        velocity.select_assign(0, rows, added, IndexingUpdateOp::Add)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use semanticist::TokenizerConfig;
    use semanticist::weights::{self, HostTensor, Weights};

    use super::*;
    use crate::objective::diffusion::loss;

    const MODEL: &str = r#"
image_size = 8
tokens = 3
token_dim = 4
encoder = { patch_size = 4, blocks = { width = 16, depth = 1, heads = 2 } }
decoder = { patch_size = 2, blocks = { width = 16, depth = 2, heads = 2 } }
autoencoder = { kind = "pixel" }
diffusion = { kind = "flow", prediction = "average-velocity" }
"#;
    const SHAPE: [usize; 4] = [4, 3, 8, 8];

    /// Networks whose every weight is random, so that nothing is 0, on the device of training.
    fn networks() -> (Networks, Process) {
        let config: TokenizerConfig = toml::from_str(MODEL).unwrap();
        let blank = Networks::init(&config, &mut Noise::seeded(0), &Device::flex().autodiff()).unwrap();
        let (mut noise, mut shaken) = (Noise::seeded(1), Weights::new());
        for (name, shape) in weights::shapes(&blank, "") {
            let drawn = noise.normal([shape.iter().product()], &Device::flex()) * 0.2;
            let values = drawn.into_data().try_to_vec::<f32>().unwrap();
            shaken.insert(name, HostTensor::from_f32(&shape, &values));
        }
        let process = Process::new(&config.diffusion).unwrap();
        (weights::apply(blank, "", &mut shaken), process)
    }

    fn lifted<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_inner(Noise::seeded(seed).normal(shape, &Device::flex()))
    }

    fn draws(times: [f32; 4]) -> Draws {
        Draws { keep: vec![3, 1, 0, 2], times: times.to_vec(), noise: lifted(4, SHAPE) }
    }

    fn values(tensor: Tensor<1>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn over_no_distance_it_is_plain_flow_matching() {
        let (networks, process) = networks();
        let (tokens, latents) = (Tokens(lifted(2, [4, 3, 4])), Latents(lifted(3, SHAPE)));
        let draws = draws([0.0, 0.2, 0.7, 0.99]);
        let plain = values(loss(&networks, &process, &tokens, &latents, &draws).total);
        let mean_flow = MeanFlow { adaptive_power: 0.0, ..MeanFlow::default() };
        let found = mean_flow.loss(&networks, &process, (&tokens, &latents), &draws, &[0.0; 4]);
        for (found, plain) in values(found.total).iter().zip(&plain) {
            assert!((found / plain - 1.0).abs() < 1e-6, "{found} is not {plain}");
        }
        let weighted = MeanFlow { adaptive_offset: 0.5, ..MeanFlow::default() };
        let found = weighted.loss(&networks, &process, (&tokens, &latents), &draws, &[0.0; 4]);
        for (found, plain) in values(found.total).iter().zip(&plain) {
            assert!((found / (plain / (plain + 0.5)) - 1.0).abs() < 1e-5, "{found} of {plain}");
        }
    }

    #[test]
    fn samples_over_a_distance_do_not_change_the_others() {
        let (networks, process) = networks();
        let (tokens, latents) = (Tokens(lifted(2, [4, 3, 4])), Latents(lifted(3, SHAPE)));
        let draws = draws([0.0, 0.2, 0.7, 0.3]);
        let of = |spans: [f32; 4]| {
            let losses = MeanFlow::default().loss(&networks, &process, (&tokens, &latents), &draws, &spans);
            values(losses.mse)
        };
        let (none, some) = (of([0.0; 4]), of([0.0, 0.5, 0.0, 0.1]));
        for i in [0, 2] {
            assert!((some[i] / none[i] - 1.0).abs() < 1e-5, "{i}: {some:?} {none:?}");
        }
        assert!([1, 3].iter().all(|&i| (some[i] / none[i] - 1.0).abs() > 1e-3), "{some:?} {none:?}");
    }

    /// The part of the derivative that comes from the noisy data, against reverse mode: for any `w`, that of `⟨w, u⟩`
    /// along `v` is `⟨∇ₓ⟨w, u⟩, v⟩`.
    #[test]
    fn the_difference_through_the_decoder_is_what_reverse_mode_gives() {
        let (networks, process) = networks();
        let (times, spans) = ([0.0, 0.2, 0.7, 0.3], [1.0, 0.5, 0.1, 0.05]);
        let (tokens, keep) = (Tokens(lifted(2, [4, 3, 4])), [3, 1, 0, 2]);
        let example = process.corrupt(lifted(3, SHAPE), lifted(4, SHAPE), &times);
        let w: Tensor<4> = lifted(5, SHAPE);
        let x = example.noisy.clone().require_grad();
        let output = networks.decoder.forward_average(x.clone(), (&times, &spans), &tokens, &keep);
        let gradient = x.grad(&(output * w.clone()).sum().backward()).unwrap();
        let velocity = process.target(&example).inner();
        let exact = (gradient.inner() * velocity).sum_dim(3).sum_dim(2).sum_dim(1).reshape([4]);

        let inner = |x: &Tensor<4>| x.clone().inner();
        let part = Corrupted {
            clean: inner(&example.clean),
            noise: inner(&example.noise),
            noisy: inner(&example.noisy),
            times: times.to_vec(),
        };
        let (decoder, tokens) = (networks.decoder.valid(), Tokens(tokens.0.inner()));
        let lengths = Tensor::<1>::from_floats(spans, &Device::flex());
        let exact = exact * lengths;
        let error = |step: f64| {
            let found = process.average_correction(&part, &spans, step, |x, _, _| {
                decoder.forward_average(x, (&times, &spans), &tokens, &keep)
            });
            let found = (found * w.clone().inner()).sum_dim(3).sum_dim(2).sum_dim(1).reshape([4]);
            let ratio = (found - exact.clone()).square().sum() / exact.clone().square().sum();
            ratio.sqrt().into_scalar::<f32>()
        };
        let errors = [1e-6, MeanFlow::default().derivative_step].map(error);
        assert!(errors[0] > 0.1 && errors[1] < 0.01, "{errors:?}");
    }

    #[test]
    fn stretches_are_drawn_as_the_configuration_says() {
        let process = networks().1;
        let (times, spans) = MeanFlow::default().draw(&process, 10_000, &mut Noise::seeded(2));
        let instant = spans.iter().filter(|&&span| span == 0.0).count();
        assert!((7350..7650).contains(&instant), "{instant}");
        assert!(times.iter().zip(&spans).all(|(time, span)| *time >= 0.0 && time + span < 1.0001));
        let always = MeanFlow { instant: 1.0, ..MeanFlow::default() };
        assert!(always.draw(&process, 100, &mut Noise::seeded(2)).1.iter().all(|&span| span == 0.0));
    }
}
