//! `semanticist models fit-sampler`: few steps that end where many would.

use std::fmt::Write;

use anyhow::{Result, bail};
use burn::tensor::Device;
use semanticist::diffusion::{DecodeOptions, FittedSampler, Guidance, Sampler};
use semanticist::image::{RgbImage, to_pixels};
use semanticist::model::Work;
use semanticist::{Noise, Pixels, Purpose, Seed, Tokenizer, Tokens};
use semanticist_data::Split;
use semanticist_eval::quality;
use semanticist_eval::reconstruction::validation_images;
use serde::Serialize;

use super::sources;
use crate::args::{ModelChoice, ModelsFitSampler, PublishedChoice};
use crate::progress::Progress;
use crate::{failure, output};

/// Steps of the pictures that others are compared with.
const MANY: usize = 50;

#[derive(Serialize)]
struct Report {
    guidance: f64,
    /// From how many tokens photos are decoded, in turn.
    tokens: Vec<usize>,
    /// How many photos it was fitted to, and checked on as many others.
    photos: usize,
    /// The sampler that was used so far.
    before: Sampler,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    steps: usize,
    /// When the decoder is asked, as it is told the time.
    times: Vec<f32>,
    /// Mean PSNR to the pictures of many steps.
    before_psnr: f64,
    fitted_psnr: f64,
}

pub fn run(request: &ModelsFitSampler) -> Result<()> {
    let ModelsFitSampler { steps, seed, images, .. } = request;
    if let Some(twice) = steps.iter().enumerate().find(|(i, count)| steps[..*i].contains(count)) {
        return Err(failure::usage(format!("--steps {0} is there twice; name it once", twice.1)));
    }
    output::check_file(&request.output)?;
    let choice = ModelChoice::of(Some(request.file.clone()), &PublishedChoice::default());
    let precision = request.machine.precision();
    let device = request.machine.start(precision)?;
    let work = Work { encode: *images, decode: 2 * images, precision };
    let mut tokenizer = choice.load_for(work, &device)?.tokenizer;
    let process = tokenizer.config.process()?;
    for &steps in steps {
        FittedSampler::check_steps(&process, steps).map_err(failure::usage)?;
    }
    let (before, exact) = (process.default_sampler(), process.exact_sampler());
    let scale = request.guidance.unwrap_or(tokenizer.config.decode_options().guidance.scale);

    let counts = super::choice::counts(&request.tokens, tokenizer.config.tokens)?;
    let source = sources::open(&request.data, Split::Train)?;
    let photos = validation_images(&source, 2 * images, tokenizer.config.image_size)?;
    if photos.len() < 2 {
        bail!("one photo alone could be read of the data; give two or more");
    }
    let every_other = |first| photos.iter().skip(first).step_by(2).cloned().collect::<Vec<_>>();
    let fitted_to = Part::new(&every_other(0), &counts, &tokenizer, &device)?;
    let others = Part::new(&every_other(1), &counts, &tokenizer, &device)?;

    let total = steps.iter().map(|&steps| FittedSampler::evaluations_to_fit(steps)).sum();
    let progress = Progress::new(total, "fitting");
    let mut samplers = Vec::new();
    for &steps in steps {
        let part = (&fitted_to.tokens, fitted_to.keep.as_slice());
        let mut noise = fitted_to.noise(*seed);
        samplers.push(tokenizer.fit_sampler(steps, scale, part, &mut noise, &mut progress.observer(1))?);
    }
    drop(progress);
    tokenizer.config.fitted_samplers = samplers.clone();

    let progress = Progress::of_steps(others.keep.len() * (MANY + 2 * steps.iter().sum::<usize>()));
    let decoded = |sampler, steps| {
        let options = DecodeOptions { steps, sampler: Some(sampler), guidance: Guidance::constant(scale) };
        others.decoded(&tokenizer, &options, *seed, &progress)
    };
    let end = decoded(exact, MANY)?;
    let psnr = |pictures: &Pixels| {
        let all = quality::compare(&end, pictures);
        all.iter().map(|quality| quality.psnr).sum::<f64>() / all.len() as f64
    };
    let mut rows = Vec::new();
    for sampler in &samplers {
        rows.push(Row {
            steps: sampler.steps(),
            times: sampler.times.clone(),
            before_psnr: psnr(&decoded(before, sampler.steps())?),
            fitted_psnr: psnr(&decoded(Sampler::Fitted, sampler.steps())?),
        });
    }
    drop(progress);
    choice.open()?.save_with_fitted_samplers(&request.output, samplers)?;
    // Fewer photos than counts leave the last ones out.
    let tokens = fitted_to.keep.iter().copied().take(counts.len()).collect();
    let report = Report { guidance: scale, tokens, photos: fitted_to.keep.len(), before, rows };
    if request.json {
        return output::print_json(&report);
    }
    output::print(&format!("{}\ndone: {}", text(&report)?, request.output.display()))
}

/// Photos as tokens, and from how many of these each is decoded.
struct Part {
    tokens: Tokens,
    keep: Vec<usize>,
}

impl Part {
    fn new(photos: &[RgbImage], counts: &[usize], tokenizer: &Tokenizer, device: &Device) -> Result<Self> {
        let tokens = tokenizer.encode(&to_pixels(photos, device), tokenizer.config.tokens)?;
        let keep = counts.iter().copied().cycle().take(photos.len()).collect();
        Ok(Self { tokens, keep })
    }

    fn decoded(
        &self,
        tokenizer: &Tokenizer,
        options: &DecodeOptions,
        seed: u64,
        progress: &Progress,
    ) -> Result<Pixels> {
        let mut observer = progress.observer(self.keep.len());
        Ok(tokenizer.decode_observed(
            &self.tokens,
            &self.keep,
            options,
            &mut self.noise(seed),
            &mut observer,
        )?)
    }

    /// Each photo's own.
    fn noise(&self, seed: u64) -> Noise {
        let seed = Seed::new(seed).of(Purpose::Latents);
        Noise::per_sample((0..self.keep.len() as u64).map(|photo| seed.at(photo)))
    }
}

fn text(report: &Report) -> Result<String> {
    let Report { guidance, tokens, photos, before, rows } = report;
    let tokens = tokens.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "fitted to {photos} photos with guidance {guidance}, of {tokens} tokens in turn; PSNR to the pictures of {MANY} steps, of as many others\n\n"
    );
    writeln!(text, "{:>5}  {:>9}  {:>9}", "steps", format!("{before} dB"), "fitted dB")?;
    for Row { steps, before_psnr, fitted_psnr, .. } in rows {
        writeln!(text, "{steps:>5}  {before_psnr:>9.2}  {fitted_psnr:>9.2}")?;
    }
    Ok(text)
}
