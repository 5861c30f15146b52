//! `semanticist encode`: images to a file of tokens, in memory that does not grow with their number.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;
use burn::tensor::Device;
use rayon::prelude::*;
use semanticist::image::{Fit, RgbImage, decode, fit, to_pixels};
use semanticist::model::{TokenizerModel, Work};
use semanticist::{Error, Pixels, Tokens};
use semanticist_data::tokens::{TokenFileInfo, TokenRecord, TokenWriter};
use semanticist_data::{Broken, Record, Source};
use semanticist_eval::QuantisedTokenizer;
use serde::Serialize;

use super::choice::{check_count, listen};
use super::sources;
use crate::args::Encode;
use crate::failure::{self, Interrupted};
use crate::output;
use crate::progress::Progress;

/// What was done.
#[derive(Serialize)]
struct Report {
    output: String,
    images: usize,
    tokens: usize,
    token_dim: usize,
    model: String,
    skipped: Vec<Skipped>,
    seconds: f64,
}

/// A broken image.
#[derive(Serialize)]
struct Skipped {
    path: String,
    problem: String,
}

/// What makes tokens.
enum Model {
    Ours(Box<TokenizerModel>),
    /// Tokens are entries of its codebook.
    Vectors(Box<QuantisedTokenizer>),
    /// Tokens are the numbers of these entries: whole ones, which float32 holds exactly.
    Codes(Box<QuantisedTokenizer>),
}

impl Model {
    fn open(request: &Encode, images: usize) -> Result<(Self, Device)> {
        if let Some((tokenizer, device)) = request.quantised.open(&request.model, None, &request.machine)? {
            let model = if request.codes { Self::Codes } else { Self::Vectors };
            return Ok((model(Box::new(tokenizer)), device));
        }
        let precision = request.machine.precision();
        let device = request.machine.start(precision)?;
        let work = Work { encode: images, decode: 0, precision };
        Ok((Self::Ours(Box::new(request.model.load_for(work, &device)?)), device))
    }

    fn image_size(&self) -> usize {
        match self {
            Self::Ours(model) => model.tokenizer.config.image_size,
            Self::Vectors(tokenizer) | Self::Codes(tokenizer) => tokenizer.image_size(),
        }
    }

    /// How many an image has, and how many numbers each.
    fn tokens(&self) -> (usize, usize) {
        match self {
            Self::Ours(model) => (model.tokenizer.config.tokens, model.tokenizer.config.token_dim),
            Self::Vectors(tokenizer) => (tokenizer.tokens(), tokenizer.token_dim()),
            Self::Codes(tokenizer) => (tokenizer.tokens(), 1),
        }
    }

    fn hash(&self) -> Result<String> {
        Ok(match self {
            Self::Ours(model) => model.hash()?.to_string(),
            Self::Vectors(tokenizer) | Self::Codes(tokenizer) => tokenizer.hash().to_string(),
        })
    }

    /// The first `count` tokens of each image.
    fn encode(&self, images: &Pixels, count: usize) -> Result<Tokens> {
        Ok(match self {
            Self::Ours(model) => model.tokenizer.encode(images, count)?,
            Self::Vectors(tokenizer) => tokenizer.encode(images).vectors.prefix(count),
            Self::Codes(tokenizer) => {
                let codes = tokenizer.encode(images).codes.float(); // [B, K]
                Tokens(codes.unsqueeze_dim(2)).prefix(count)
            }
        })
    }
}

/// What every batch goes through.
struct Encoder<'a> {
    model: &'a Model,
    device: &'a Device,
    count: usize,
    fit: Fit,
    writer: TokenWriter,
    broken: Broken,
    written: usize,
}

pub fn run(request: &Encode) -> Result<()> {
    let begun = Instant::now();
    check_name(&request.output)?;
    let source = sources::open(&request.inputs, request.split.into())?;
    let (model, device) = Model::open(request, request.batch.min(source.len()))?;
    let (all, token_dim) = model.tokens();
    let count = request.tokens.unwrap_or(all);
    check_count(count, all, "the model")?;
    let hash = model.hash()?;
    let info = TokenFileInfo { model_hash: hash.clone(), tokens: count, token_dim };
    let writer = TokenWriter::create(&request.output, info)?;
    let broken = Broken::new(source.len());
    let mut encoder = Encoder {
        model: &model,
        device: &device,
        count,
        fit: request.fit.into(),
        writer,
        broken,
        written: 0,
    };
    encoder.run(&source, request.batch)?;
    let Encoder { writer, broken, written: images, .. } = encoder;
    writer.finish()?;
    let skipped = broken.items().iter().cloned().map(|(path, problem)| Skipped { path, problem }).collect();
    let (output, seconds) = (request.output.display().to_string(), begun.elapsed().as_secs_f64());
    let report = Report { output, images, tokens: count, token_dim, model: hash, skipped, seconds };
    if request.json { output::print_json(&report) } else { output::print(&sentence(&report)) }
}

impl Encoder<'_> {
    fn run(&mut self, source: &Source, batch: usize) -> Result<()> {
        let interrupted = listen()?;
        let progress = Progress::new(source.len(), "encoding");
        let mut records = source.records();
        loop {
            let records: Vec<_> = records.by_ref().take(batch).collect();
            if records.is_empty() {
                return Ok(());
            }
            if interrupted.load(Ordering::Relaxed) {
                output::note("nothing was written");
                return Err(Interrupted.into());
            }
            let pieces = records.len();
            self.batch(records)?;
            progress.advance(pieces);
        }
    }

    fn batch(&mut self, records: Vec<semanticist::Result<Record>>) -> Result<()> {
        let (size, fit) = (self.model.image_size(), self.fit);
        // Only as many images as there are threads are held at their full size.
        let squares: Vec<_> = records.into_par_iter().map(|record| square(record?, size, fit)).collect();
        let (mut images, mut rows) = (Vec::new(), Vec::new());
        for result in squares {
            match result {
                Ok((image, row)) => {
                    images.push(image);
                    rows.push(row);
                }
                Err(Error::Image { name, problem }) => {
                    output::note(&format!("skipped {name}: {problem}"));
                    self.broken.add(name, problem)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if images.is_empty() {
            return Ok(());
        }
        let tokens = self.model.encode(&to_pixels(&images, self.device), self.count)?;
        let values = tokens.0.into_data().convert::<f32>();
        let values = values.as_slice::<f32>().expect("the data was just converted to f32");
        let each = values.len() / rows.len();
        for (row, tokens) in rows.into_iter().zip(values.chunks(each)) {
            self.writer.push(&TokenRecord { tokens: tokens.to_vec(), ..row })?;
            self.written += 1;
        }
        Ok(())
    }
}

/// The square of an image, and its row in the token file but for the tokens.
fn square(record: Record, size: usize, how: Fit) -> semanticist::Result<(RgbImage, TokenRecord)> {
    let image = decode(&record.name, &record.bytes)?;
    let padded = (how == Fit::Pad && image.width() != image.height()).then(|| image.dimensions());
    let row = TokenRecord { path: record.name, label: record.label, tokens: Vec::new(), padded };
    Ok((fit(&image, size, how), row))
}

fn check_name(path: &Path) -> Result<()> {
    if !path.extension().is_some_and(|extension| extension == "parquet" || extension == "safetensors") {
        let path = path.display();
        let problem = "is not a name for a token file; expected .parquet or .safetensors at its end";
        return Err(failure::usage(format!("-o {path}: {problem}")));
    }
    output::check_file(path)
}

fn sentence(report: &Report) -> String {
    let Report { output, images, tokens, token_dim, skipped, seconds, .. } = report;
    let skipped = match skipped.len() {
        0 => String::new(),
        count => format!(", {count} broken skipped"),
    };
    let noun = if *images == 1 { "image" } else { "images" };
    format!("{output}: {images} {noun}, {tokens} × {token_dim} numbers each{skipped}, in {seconds:.1} s")
}
