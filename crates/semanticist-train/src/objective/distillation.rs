//! Distillation of a tokenizer's own sampler: a student decoder that in few steps lands where the teacher lands in many,
//! from the same noise.
//!
//! As in SSDD (arXiv 2510.04961) the student is a copy of the teacher and learns to hit the end of the teacher's way, here
//! by squared error of the latents: teacher and noise leave one right answer, so that no second network has to judge it.
//! For several numbers of steps, the student itself makes the steps before the one that is drawn, without a gradient, and
//! learns from where these led: later steps repair what earlier ones missed. Of the teacher nothing but forward passes is
//! needed, whatever the process, and its guidance becomes part of the student, which is evaluated once per step. The
//! encoder does not learn, so tokens stay what they were; nor does a learned variance, so that of Gaussian diffusion only
//! the samplers without noise suit a student.

use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist::decoder::Decoder;
use semanticist::diffusion::{DecodeOptions, Guidance, Process, Sampler, SamplingPlan};
use semanticist::image::{RgbImage, to_pixels};
use semanticist::progress::unobserved;
use semanticist::{Error, Latents, Noise, Purpose, Result, Seed, Tokenizer, TokenizerConfig, Tokens};
use serde::{Deserialize, Serialize};

use super::tokenizer::LearningTokenizer;

/// Who is imitated, and in how many steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distillation {
    /// The trained tokenizer: a model file, or whatever else names a model. It is read when the run starts and kept in
    /// the run's folder.
    pub teacher: PathBuf,
    /// Steps of the teacher.
    #[serde(default = "default_teacher_steps")]
    pub teacher_steps: usize,
    /// In which way the teacher goes; if not given, in the student's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_sampler: Option<Sampler>,
    /// Guidance scale of the teacher, which becomes part of the student.
    #[serde(default = "default_guidance")]
    pub guidance: f64,
    /// In how many steps the student may be used; every batch has samples of all. By default it is used in the most.
    #[serde(default = "default_student_steps")]
    pub student_steps: Vec<usize>,
}

fn default_teacher_steps() -> usize {
    8
}

fn default_guidance() -> f64 {
    DecodeOptions::default().guidance.scale
}

fn default_student_steps() -> Vec<usize> {
    vec![1, 2, 4]
}

/// What the student's samples of a batch are to do.
struct Task {
    /// The times of each sample up to the one that it learns at, which is the last.
    times: Vec<Vec<f32>>,
}

impl Distillation {
    /// Checks the numbers for a model.
    ///
    /// # Errors
    /// Names the first that does not fit.
    pub fn validate(&self, model: &TokenizerConfig) -> Result<()> {
        let process = Process::new(&model.diffusion)?;
        let explain = |error: Error| Error::Config(format!("objective.distillation: {error}"));
        self.teacher_options(&process).plan(&process).map_err(explain)?;
        self.plans(&process).map_err(explain)?;
        match self.student_steps.iter().find(|&&steps| steps > self.teacher_steps) {
            _ if self.student_steps.is_empty() => Err(Error::Config(
                "objective.distillation.student_steps is empty; give the numbers of steps to learn, such as [1, 2, 4]"
                    .into(),
            )),
            Some(steps) => Err(Error::Config(format!(
                "objective.distillation.student_steps has {steps}, but the teacher makes {} steps; give fewer, or raise \
                 teacher_steps",
                self.teacher_steps
            ))),
            None => Ok(()),
        }
    }

    fn teacher_options(&self, process: &Process) -> DecodeOptions {
        DecodeOptions {
            steps: self.teacher_steps,
            sampler: Some(self.teacher_sampler.unwrap_or(process.few_step_sampler())),
            guidance: Guidance::constant(self.guidance),
        }
    }

    /// How the student is used in so many steps.
    fn student_options(process: &Process, steps: usize) -> DecodeOptions {
        DecodeOptions { steps, sampler: Some(process.few_step_sampler()), guidance: Guidance::NONE }
    }

    fn plans(&self, process: &Process) -> Result<Vec<SamplingPlan>> {
        let plan = |&steps: &usize| Self::student_options(process, steps).plan(process);
        self.student_steps.iter().map(plan).collect()
    }

    /// The student at the start, equal to the teacher but for how it is decoded, with networks on the device of training.
    ///
    /// # Errors
    /// If the teacher is not of the configuration `model`.
    pub fn student(
        &self,
        model: &TokenizerConfig,
        teacher: Tokenizer,
        device: &Device,
    ) -> Result<LearningTokenizer> {
        let untold =
            TokenizerConfig { decoding: None, fitted_samplers: Vec::new(), ..teacher.config.clone() };
        let differences = crate::changes::between(&untold, model);
        if !differences.is_empty() {
            let list: String = differences.iter().map(|change| format!("\n  model.{change}")).collect();
            return Err(Error::Config(format!(
                "objective.distillation: the configuration is not that of the teacher {}; give [model] as the teacher has \
                 it (was: the teacher, is: the configuration):{list}",
                self.teacher.display()
            )));
        }
        let process = Process::new(&model.diffusion)?;
        let steps = self.student_steps.iter().max().copied().unwrap_or(1);
        let config = TokenizerConfig { decoding: Some(Self::student_options(&process, steps)), ..untold };
        LearningTokenizer::from_teacher(config, teacher, &device.clone().autodiff())
    }

    /// The mean over the samples of the squared distance between the clean latents that the student sees at the step drawn
    /// and those where the teacher ended.
    ///
    /// # Shapes
    /// `tokens`: `[B, K, D]`, `keep`: B numbers → `[1]`
    ///
    /// # Panics
    /// If the model has no teacher.
    pub(super) fn loss(
        &self,
        model: &LearningTokenizer,
        process: &Process,
        (tokens, keep): (&Tokens, &[usize]),
        noise: &mut Noise,
    ) -> Tensor<1> {
        let shape = model.config.latent_shape().expect("the configuration was checked when the run was made");
        let start = noise.normal([keep.len(), shape.channels, shape.side, shape.side], &tokens.0.device());
        let task = self.draw(process, keep.len(), noise);
        let end = self.teacher_end(model, process, (tokens, keep), start.clone(), noise);
        let decoder = &model.networks.tokenizer.decoder;
        let reached = task.walk(&decoder.valid(), process, (tokens, keep), start);
        let times = task.last_times();
        let (reached, tokens) = (Tensor::from_inner(reached), Tokens(Tensor::from_inner(tokens.0.clone())));
        let output = decoder.forward(reached.clone(), &times, &tokens, keep);
        let seen = process.denoised(reached, output.narrow(1, 0, shape.channels), &times).clean;
        (seen - Tensor::from_inner(end.0)).square().mean()
    }

    fn draw(&self, process: &Process, count: usize, noise: &mut Noise) -> Task {
        let plans = self.plans(process).expect("the steps were checked when the run was made");
        let chosen = noise.below(count, plans.len());
        let places = noise.uniform(count);
        let times = chosen.into_iter().zip(places).map(|(plan, place)| {
            let times = plans[plan].times();
            // A uniform number is below 1, though rounding may reach it.
            let last = ((place * times.len() as f32) as usize).min(times.len() - 1);
            times[..=last].to_vec()
        });
        Task { times: times.collect() }
    }

    fn teacher_end(
        &self,
        model: &LearningTokenizer,
        process: &Process,
        (tokens, keep): (&Tokens, &[usize]),
        start: Tensor<4>,
        noise: &mut Noise,
    ) -> Latents {
        let options = self.teacher_options(process);
        let teacher = model.teacher();
        let end = teacher.decode_latents(tokens, keep, &options, start, noise, &mut unobserved);
        end.expect("tokens and options were checked when the run was made")
    }

    /// How far the student's latents end from the teacher's, for each of `student_steps`: the mean squared difference over
    /// images of all their tokens.
    ///
    /// # Errors
    /// If the images cannot be encoded or decoded.
    pub(super) fn distances(
        &self,
        model: &LearningTokenizer,
        images: &[RgbImage],
        device: &Device,
    ) -> Result<Vec<f64>> {
        const TOGETHER: usize = 64;
        let process = Process::new(&model.config.diffusion)?;
        let student = model.tokenizer();
        let shape = student.config.latent_shape()?;
        let mut sums = vec![0.0; self.student_steps.len()];
        for (number, batch) in images.chunks(TOGETHER).enumerate() {
            let tokens = student.encode(&to_pixels(batch, device), student.config.tokens)?;
            let keep = vec![student.config.tokens; batch.len()];
            let seed = Seed::new(0).of(Purpose::Validation);
            let places = (0..batch.len()).map(|i| seed.at((number * TOGETHER + i) as u64));
            let mut noise = Noise::per_sample(places);
            let start = noise.normal([batch.len(), shape.channels, shape.side, shape.side], device);
            let end = self.teacher_end(model, &process, (&tokens, &keep), start.clone(), &mut noise);
            for (sum, &steps) in sums.iter_mut().zip(&self.student_steps) {
                let options = Self::student_options(&process, steps);
                let found = student.decode_latents(
                    &tokens,
                    &keep,
                    &options,
                    start.clone(),
                    &mut noise,
                    &mut unobserved,
                )?;
                let apart = (found.0 - end.0.clone()).square().mean().into_scalar::<f32>();
                *sum += f64::from(apart) * batch.len() as f64;
            }
        }
        Ok(sums.into_iter().map(|sum| sum / images.len() as f64).collect())
    }
}

impl Task {
    /// Where each sample learns.
    fn last_times(&self) -> Vec<f32> {
        self.times.iter().map(|times| *times.last().expect("every plan has a time")).collect()
    }

    /// The student's own steps up to the one that each sample learns at: `[B, C, h, w]` → the same.
    fn walk(
        &self,
        decoder: &Decoder,
        process: &Process,
        (tokens, keep): (&Tokens, &[usize]),
        start: Tensor<4>,
    ) -> Tensor<4> {
        let channels = start.dims()[1];
        let mut reached: Vec<Tensor<4>> = start.split(1, 0); // B times [1, C, h, w]
        for step in 1.. {
            let going: Vec<usize> = (0..reached.len()).filter(|&i| self.times[i].len() > step).collect();
            if going.is_empty() {
                break;
            }
            let x = Tensor::cat(going.iter().map(|&i| reached[i].clone()).collect(), 0);
            let given = going.iter().map(|&i| tokens.0.clone().narrow(0, i, 1)).collect();
            let given = Tokens(Tensor::cat(given, 0));
            let keep: Vec<usize> = going.iter().map(|&i| keep[i]).collect();
            let at = |step: usize| going.iter().map(|&i| self.times[i][step]).collect::<Vec<f32>>();
            let (here, next) = (at(step - 1), at(step));
            let output = decoder.forward(x.clone(), &here, &given, &keep).narrow(1, 0, channels);
            // A straight step: the data and the noise that the student sees, at the next time.
            let seen = process.denoised(x, output, &here);
            let x = process.corrupt(seen.clean, seen.noise, &next).noisy;
            for (&i, row) in going.iter().zip(x.split(1, 0)) {
                reached[i] = row;
            }
        }
        Tensor::cat(reached, 0)
    }
}
