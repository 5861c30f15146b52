//! One training step of the decoder: every term of the loss, gradients and their norm.

use burn::tensor::{Device, Tensor};
use semanticist::Result;
use semanticist::decoder::Decoder;
use semanticist::diffusion::{DiffusionConfig, Losses, Process};
use semanticist::weights::{self, HostTensor, names};
use semanticist_train::alignment::{alignment_loss, side};
use semanticist_train::gradients::Gradients;

use super::comparison::{Comparison, Values};
use super::decoder::Question;
use super::recording::Recording;
use super::sizes::DecoderSizes;
use super::tolerance::Kind;

pub(super) const FILE: &str = "training_step.safetensors";

/// What begins the names of recorded gradients.
const GRADIENTS: &str = "grads.";

pub(super) fn run(comparison: &mut Comparison) -> Result<()> {
    let mut recording = comparison.open(FILE)?;
    let (sizes, mut parameters) = DecoderSizes::read_for(comparison.folder, &recording)?;
    let device = comparison.device.clone().autodiff();
    let step = Step::read(&sizes, &mut recording, &device)?;
    let decoder = sizes.build(&mut parameters, recording.path(), &device)?;
    parameters.finish(recording.path())?;
    let decoder = comparison.precision.train(decoder);

    let total = step.compare_losses(comparison, &mut recording, &decoder)?;
    let gradients = Gradients::collect(&decoder, &total.backward());
    compare_gradients(comparison, &mut recording, &decoder, &gradients);
    comparison.close(&recording);
    Ok(())
}

/// The inputs of the step.
struct Step {
    /// Its latents are still without noise.
    question: Question,
    noise: Tensor<4>,
    /// `[B, M, T]`, if the decoder is aligned with one; its grid may be another than that of the patches.
    teacher: Option<Tensor<3>>,
}

impl Step {
    fn read(sizes: &DecoderSizes, recording: &mut Recording, device: &Device) -> Result<Self> {
        let question = Question::read(sizes, recording, device)?;
        let noise = recording.tensor("noise", question.latents.dims(), device)?;
        // Training can leave the projector unused.
        let recorded = recording.has("teacher") || recording.has("loss_repa");
        let teacher = sizes.repa().filter(|_| recorded).map(|repa| {
            let positions = teacher_positions(sizes, recording)?;
            let shape = [question.keep.len(), positions, repa.teacher_width];
            recording.tensor("teacher", shape, device)
        });
        Ok(Self { question, noise, teacher: teacher.transpose()? })
    }

    /// Compares every term of the loss; the total is returned for its gradients.
    fn compare_losses(
        self,
        comparison: &mut Comparison,
        recording: &mut Recording,
        decoder: &Decoder,
    ) -> Result<Tensor<1>> {
        let Question { latents, tokens, times, keep } = self.question;
        let process = Process::new(&DiffusionConfig::default())?;
        let example = process.corrupt(latents, self.noise, &times);
        let noisy = example.noisy.clone();
        let (output, alignment) = match self.teacher {
            Some(teacher) => {
                let (output, projection) = decoder.forward_projected(noisy, &times, &tokens, &keep);
                (output, Some(alignment_loss(projection, teacher)))
            }
            None => (decoder.forward(noisy, &times, &tokens, &keep), None),
        };
        let Losses { mse, vb, total } = process.loss(output, &example);
        let (vb, diffusion) = (vb.expect("the published process learns a variance"), total.mean());
        comparison.compare(recording, "loss_mse", mse.into(), Kind::Loss);
        comparison.compare(recording, "loss_vb", vb.into(), Kind::Loss);
        comparison.compare(recording, "loss_diffusion", diffusion.clone().into(), Kind::Loss);
        let total = match alignment {
            Some(alignment) => {
                comparison.compare(recording, "loss_repa", alignment.clone().into(), Kind::Loss);
                diffusion + alignment
            }
            None => diffusion,
        };
        comparison.compare(recording, "loss_total", total.clone().into(), Kind::Loss);
        Ok(total)
    }
}

/// How many positions the recorded teacher has: as many as the decoder has patches, or another square
/// grid. No config says so.
fn teacher_positions(sizes: &DecoderSizes, recording: &Recording) -> Result<usize> {
    let ([_, positions, _], patches) = (recording.dims::<3>("teacher")?, sizes.patches());
    if positions == patches || side(positions).is_some() {
        return Ok(positions);
    }
    Err(recording.error(format!(
        "teacher has {positions} positions, which make no square grid; expected {patches}, as many as the \
         decoder has patches, or a square number"
    )))
}

fn compare_gradients(
    comparison: &mut Comparison,
    recording: &mut Recording,
    decoder: &Decoder,
    found: &Gradients,
) {
    let parameters = weights::collect(decoder, "decoder");
    let recorded: Vec<String> =
        recording.names().filter(|name| name.starts_with(GRADIENTS)).map(str::to_string).collect();
    for name in recorded {
        let ours = names::from_published(&name[GRADIENTS.len()..]);
        let shape = ours.as_deref().and_then(|name| parameters.get(name)).map(HostTensor::shape);
        let gradient = ours.as_deref().and_then(|name| found.get(name.strip_prefix("decoder.")?));
        match (shape, gradient) {
            (Some(shape), Some(gradient)) => {
                let found = Values { shape: shape.to_vec(), ..gradient.clone().into() };
                comparison.compare(recording, &name, found, Kind::Gradient);
            }
            (Some(_), None) => {
                comparison.unreadable(&name, "the loss does not depend on this parameter".into())
            }
            (None, _) => comparison.unreadable(&name, "the decoder has no such parameter".into()),
        }
    }
    comparison.compare(recording, "grad_norm", Values::vector(vec![found.norm()]), Kind::Gradient);
}
