//! `semanticist evaluate`: how good a tokenizer is on images it was not trained on.

use anyhow::Result;
use semanticist::model::Work;
use semanticist_eval::reconstruction::{self, Achievement};
use serde::Serialize;

use super::choice::{counts, validation_source};
use crate::args::Evaluate;
use crate::output;
use crate::progress::Progress;

#[derive(Serialize)]
struct Report {
    images: usize,
    rows: Vec<Achievement>,
}

pub fn run(request: &Evaluate) -> Result<()> {
    let device = request.machine.start()?;
    let images = request.images.min(reconstruction::BATCH);
    let work = Work { encode: images, decode: request.sampling.together(images) };
    let tokenizer = request.model.load_for(work, &device)?;
    let (options, steps) = request.sampling.plan(&tokenizer)?;
    let tokenizer = tokenizer.tokenizer;
    let counts = counts(&request.tokens, tokenizer.config.tokens)?;
    let source = validation_source(&request.data)?;
    let images = reconstruction::images(&source, request.images, tokenizer.config.image_size)?;
    let progress = Progress::new(images.len() * counts.len() * steps, "painting");
    let sampling = (&options, request.sampling.seed);
    let advance = |pictures| progress.advance(pictures);
    let rows = reconstruction::achievements(&tokenizer, &images, &counts, sampling, &device, advance)?;
    drop(progress);
    if request.json {
        return output::print_json(&Report { images: images.len(), rows });
    }
    output::print(&table(images.len(), &rows))
}

fn table(images: usize, rows: &[Achievement]) -> String {
    let mut text = format!("{images} images\ntokens   PSNR dB    SSIM   diffusion loss");
    for Achievement { tokens, psnr, ssim, diffusion_loss } in rows {
        let ssim = ssim.map_or("-".into(), |ssim| format!("{ssim:.4}"));
        text += &format!("\n{tokens:>6}  {psnr:>8.2}  {ssim:>6}   {diffusion_loss:>14.4}");
    }
    text
}
