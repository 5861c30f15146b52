//! `semanticist reconstruct`: what the first 1, 2, 4 … tokens say of an image.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, anyhow};
use burn::tensor::{Device, Tensor};
use semanticist::Tokens;
use semanticist::diffusion::DecodeOptions;
use semanticist::image::{RgbImage, save_png, to_pixels};
use semanticist::model::{TokenizerModel, Work};
use semanticist_eval::QuantisedTokenizer;
use semanticist_eval::quality::Quality;
use semanticist_eval::quantised::{Decomposition, DecompositionKind};
use semanticist_eval::sweep::{self, Reconstruction, Subject, Sweep, TOGETHER, contact_sheet};
use semanticist_hub::builtin;
use serde::Serialize;

use super::choice::counts;
use crate::args;
use crate::progress::Progress;
use crate::{failure, output};

#[derive(Serialize)]
struct Report {
    images: Vec<ImageReport>,
}

#[derive(Serialize)]
struct ImageReport {
    path: String,
    sheet: String,
    /// To decode from all counts.
    seconds: f64,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    tokens: usize,
    #[serde(flatten)]
    quality: Quality,
}

/// An image to work on.
struct Job {
    path: String,
    subject: Subject,
    sheet: PathBuf,
}

/// What every image is reconstructed with.
struct Reconstruct<'a> {
    model: &'a TokenizerModel,
    device: &'a Device,
    counts: Vec<usize>,
    options: DecodeOptions,
    /// Of the latents that decoding starts from.
    seed: u64,
    progress: Progress,
}

pub fn run(request: &args::Reconstruct) -> Result<()> {
    check_distinct(&request.tokens)?;
    let sheets = sheets(request)?;
    if let Some((tokenizer, device)) =
        request.decomposing.choice.open(&request.model, Some(&request.sampling), &request.machine)?
    {
        return quantised(request, sheets, &tokenizer, &device);
    }
    let precision = request.machine.precision();
    let device = request.machine.start(precision)?;
    let together = if request.tokens.is_empty() { TOGETHER } else { request.tokens.len().min(TOGETHER) };
    let work = Work { encode: 1, decode: request.sampling.together(together), precision };
    let model = request.model.load_for(work, &device)?;
    let counts = counts(&request.tokens, model.tokenizer.config.tokens)?;
    let (options, steps) = request.sampling.plan(&model)?;
    let size = model.tokenizer.config.image_size;
    let jobs = jobs(&request.images, sheets, |image| Subject::of(image, size, request.fit.into()))?;
    let progress = Progress::of_steps(jobs.len() * counts.len() * steps);
    let seed = request.sampling.seed;
    let reconstruct = Reconstruct { model: &model, device: &device, counts, options, seed, progress };
    let images = jobs.into_iter().map(|job| reconstruct.of(job)).collect::<Result<Vec<_>>>()?;
    drop(reconstruct);
    show(request, images)
}

/// The same with a tokenizer with a codebook.
fn quantised(
    request: &args::Reconstruct,
    sheets: Vec<PathBuf>,
    tokenizer: &QuantisedTokenizer,
    device: &Device,
) -> Result<()> {
    let counts = counts(&request.tokens, tokenizer.tokens())?;
    let size = tokenizer.image_size();
    let jobs = jobs(&request.images, sheets, |image| Subject::of(image, size, request.fit.into()))?;
    let decomposition = match request.decomposing.decomposition[..] {
        [] | [DecompositionKind::FirstK] => Decomposition::FirstK,
        [DecompositionKind::Pca] if jobs.len() > 1 => {
            let vectors = jobs.iter().map(|job| {
                let square = to_pixels(std::slice::from_ref(&job.subject.square), device);
                tokenizer.encode(&square).vectors.0
            });
            Decomposition::pca(&Tokens(Tensor::cat(vectors.collect(), 0)))?
        }
        [DecompositionKind::Pca] => {
            return Err(failure::usage(
                "--decomposition pca: components are fitted to the given images; give several, or use `evaluate \
                 reconstruction`, which fits them to the images of --training",
            ));
        }
        _ => return Err(failure::usage("--decomposition: a sheet has one of first-k and pca")),
    };
    let progress = Progress::of_steps(jobs.len() * counts.len());
    let of = |job: Job| {
        let begun = Instant::now();
        let mut decoded = Vec::with_capacity(counts.len());
        for counts in counts.chunks(TOGETHER) {
            decoded.extend(sweep::of_codes(tokenizer, &decomposition, &job.subject, counts, device));
            progress.advance(counts.len());
        }
        ImageReport::of(job, decoded, begun)
    };
    let images = jobs.into_iter().map(of).collect::<Result<Vec<_>>>()?;
    drop(progress);
    show(request, images)
}

fn show(request: &args::Reconstruct, images: Vec<ImageReport>) -> Result<()> {
    if request.json {
        return output::print_json(&Report { images });
    }
    output::print(&images.iter().map(table).collect::<Vec<_>>().join("\n"))
}

impl Reconstruct<'_> {
    fn of(&self, job: Job) -> Result<ImageReport> {
        let most = self.counts.iter().copied().max().unwrap_or(1);
        let sweep = Sweep::new(&self.model.tokenizer, &job.subject, most, self.device)?;
        let begun = Instant::now();
        let decoded = decode_all(&sweep, &self.counts, &self.options, self.seed, &self.progress)?;
        ImageReport::of(job, decoded, begun)
    }
}

impl ImageReport {
    /// Writes the sheet.
    fn of(job: Job, decoded: Vec<Reconstruction>, begun: Instant) -> Result<Self> {
        let seconds = begun.elapsed().as_secs_f64();
        save_png(&contact_sheet(job.subject.visible(), &decoded), &job.sheet)?;
        let rows = decoded.into_iter().map(|Reconstruction { tokens, quality, .. }| Row { tokens, quality });
        let sheet = job.sheet.display().to_string();
        Ok(Self { path: job.path, sheet, seconds, rows: rows.collect() })
    }
}

/// The image from each number of tokens, as many at once as go together.
pub fn decode_all(
    sweep: &Sweep,
    counts: &[usize],
    options: &DecodeOptions,
    seed: u64,
    progress: &Progress,
) -> semanticist::Result<Vec<Reconstruction>> {
    let mut decoded = Vec::with_capacity(counts.len());
    for counts in counts.chunks(TOGETHER) {
        let mut observe = progress.observer(counts.len());
        let mut watch = |progress, _: &dyn Fn() -> Vec<RgbImage>| observe(progress);
        decoded.extend(sweep.decode(counts, options, seed, &mut watch)?);
    }
    Ok(decoded)
}

fn check_distinct(counts: &[usize]) -> Result<()> {
    let mut seen = HashSet::new();
    match counts.iter().find(|&&count| !seen.insert(count)) {
        Some(count) => {
            Err(failure::usage(format!("--tokens: {count} is given twice; give each number once")))
        }
        None => Ok(()),
    }
}

/// Where the sheet of each image goes; checked before anything is computed.
fn sheets(request: &args::Reconstruct) -> Result<Vec<PathBuf>> {
    let images = request.images.len().max(1);
    let folder = match request.output.as_deref() {
        None => Path::new(""),
        Some(path) if output::names_folder(path) || images > 1 => {
            if images > 1 && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
                let path = path.display();
                let advice = "give the name of a folder";
                return Err(failure::usage(format!("-o {path}: there is one sheet per image; {advice}")));
            }
            output::create_folder(path)?;
            path
        }
        Some(path) => {
            output::check_png(path, "a folder with / at its end")?;
            output::check_file(path)?;
            return Ok(vec![path.to_path_buf()]);
        }
    };
    let mut taken = HashSet::new();
    let paths = request.images.iter().map(PathBuf::as_path);
    let built_in = request.images.is_empty().then_some(Path::new("chelsea.png"));
    let sheet = |path: &Path| {
        let stem = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
        let sheet = folder.join(format!("{stem}.tokens.png"));
        let sheet = output::unique(sheet, |other| taken.contains(other));
        taken.insert(sheet.clone());
        output::check_file(&sheet).map(|()| sheet)
    };
    paths.chain(built_in).map(sheet).collect()
}

/// Opens every image before the first is decoded, and names all that cannot be opened.
fn jobs(paths: &[PathBuf], sheets: Vec<PathBuf>, subject: impl Fn(&RgbImage) -> Subject) -> Result<Vec<Job>> {
    let open = |path: &PathBuf| (path.display().to_string(), semanticist::image::open(path));
    let mut images: Vec<_> = paths.iter().map(open).collect();
    if images.is_empty() {
        let name = builtin::IMAGE_NAME;
        images.push((name.to_string(), semanticist::image::decode(name, builtin::IMAGE)));
    }
    let (mut jobs, mut problems) = (Vec::new(), Vec::new());
    for ((path, image), sheet) in images.into_iter().zip(sheets) {
        match image {
            Ok(image) => {
                let subject = subject(&image);
                jobs.push(Job { path, subject, sheet });
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    match problems.len() {
        0 => Ok(jobs),
        1 => Err(anyhow!(problems.remove(0))),
        count => Err(anyhow!("{count} images cannot be used:\n  {}", problems.join("\n  "))),
    }
}

fn table(image: &ImageReport) -> String {
    let mut text = format!("{} -> {}, decoded in {:.2} s\n", image.path, image.sheet, image.seconds);
    text.push_str("tokens   PSNR dB    SSIM\n");
    for Row { tokens, quality } in &image.rows {
        let ssim = quality.ssim.map_or("-".into(), |ssim| format!("{ssim:.4}"));
        text.push_str(&format!("{tokens:>6} {:>9.2} {ssim:>7}\n", quality.psnr));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_tokens_double_up_to_all() {
        assert_eq!(counts(&[], 32).unwrap(), [1, 2, 4, 8, 16, 32]);
        assert_eq!(counts(&[], 6).unwrap(), [1, 2, 4, 6]);
        assert_eq!(counts(&[], 1).unwrap(), [1]);
        assert_eq!(counts(&[3, 1], 3).unwrap(), [3, 1]);
    }
}
