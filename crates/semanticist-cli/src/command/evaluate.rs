//! `semanticist evaluate`: how good a tokenizer is on images it was not trained on.

use anyhow::Result;
use semanticist::model::Work;
use semanticist_eval::reconstruction::{self, Evaluation, EvaluationOptions, ReconstructionMetrics};
use serde::Serialize;

use super::choice::{counts, validation_source};
use crate::args::Evaluate;
use crate::output;
use crate::progress::Progress;

#[derive(Serialize)]
struct Report {
    images: usize,
    rows: Vec<ReconstructionMetrics>,
}

pub fn run(request: &Evaluate) -> Result<()> {
    let precision = request.machine.precision();
    let device = request.machine.start(precision)?;
    let images = request.images.min(reconstruction::BATCH);
    let work = Work { encode: images, decode: request.sampling.together(images), precision };
    let tokenizer = request.model.load_for(work, &device)?;
    let (options, steps) = request.sampling.plan(&tokenizer)?;
    let tokenizer = tokenizer.tokenizer;
    let counts = counts(&request.tokens, tokenizer.config.tokens)?;
    let source = validation_source(&request.data)?;
    let expected = request.images.min(source.len());
    let progress = Progress::new(expected * counts.len() * steps, "decoding");
    let options = EvaluationOptions { counts, sampling: options, seed: request.sampling.seed };
    let mut evaluation = Evaluation::new(&tokenizer, &options)?;
    let images = reconstruction::images(&source, request.images, tokenizer.config.image_size);
    evaluation.add(images, &device, |images| progress.advance(images))?;
    drop(progress);
    let images = evaluation.images();
    let rows = evaluation.finish()?;
    if request.json {
        return output::print_json(&Report { images, rows });
    }
    output::print(&table(images, &rows))
}

fn table(images: usize, rows: &[ReconstructionMetrics]) -> String {
    let mut text = format!("{images} images\ntokens   PSNR dB    SSIM   diffusion loss");
    for ReconstructionMetrics { tokens, psnr, ssim, diffusion_loss } in rows {
        let ssim = ssim.map_or("-".into(), |ssim| format!("{ssim:.4}"));
        text += &format!("\n{tokens:>6}  {psnr:>8.2}  {ssim:>6}   {diffusion_loss:>14.4}");
    }
    text
}
