//! `semanticist decode`: a file of tokens to images.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, anyhow};
use burn::tensor::{Device, Tensor, TensorData};
use semanticist::diffusion::DecodeOptions;
use semanticist::image::{Fit, from_pixels, save_png};
use semanticist::model::{TokenizerModel, Work};
use semanticist::{Noise, Purpose, Seed, Tokens};
use semanticist_data::tokens::{TokenFileInfo, TokenReader, TokenRecord};
use serde::Serialize;

use super::choice::check_count;
use super::names::{CommonFolder, Names};
use crate::args::Decode;
use crate::output;
use crate::progress::Progress;

#[derive(Serialize)]
struct Report {
    folder: String,
    tokens: usize,
    images: Vec<Image>,
    seconds: f64,
    /// Sampling steps of single images, without loading.
    steps_per_second: f64,
}

#[derive(Serialize)]
struct Image {
    /// Where the image came from when it was encoded.
    path: String,
    file: String,
}

/// What every batch goes through.
struct TokenDecoder<'a> {
    request: &'a Decode,
    model: &'a TokenizerModel,
    device: &'a Device,
    info: &'a TokenFileInfo,
    count: usize,
    options: DecodeOptions,
    names: Names,
    progress: Progress,
}

pub fn run(request: &Decode) -> Result<()> {
    let begun = Instant::now();
    let reader = TokenReader::open(&request.input)?;
    let info = reader.info().clone();
    let count = request.tokens.unwrap_or(info.tokens);
    check_count(count, info.tokens, "the file")?;
    let precision = request.machine.precision();
    let device = request.machine.start(precision)?;
    let images = request.batch.min(reader.len());
    let work = Work { encode: 0, decode: request.sampling.together(images), precision };
    let model = request.model.load_for(work, &device)?;
    check_model(request, &info, &model)?;
    let (options, steps) = request.sampling.plan(&model)?;
    let names = names(&request.input)?;
    output::create_folder(&request.output)?;
    let progress = Progress::of_steps(reader.len() * steps);
    let mut decoder = TokenDecoder {
        request,
        model: &model,
        device: &device,
        info: &info,
        count,
        options,
        names,
        progress,
    };
    let decoding = Instant::now();
    let images = decoder.run(reader)?;
    let steps_per_second = (images.len() * steps) as f64 / decoding.elapsed().as_secs_f64();
    drop(decoder);
    let (folder, seconds) = (request.output.display().to_string(), begun.elapsed().as_secs_f64());
    if request.json {
        return output::print_json(&Report { folder, tokens: count, images, seconds, steps_per_second });
    }
    let noun = if images.len() == 1 { "image" } else { "images" };
    let of = if count == 1 { "1 token".to_string() } else { format!("{count} tokens") };
    output::print(&format!(
        "{folder}: {} {noun} of {of} each, in {seconds:.1} s ({steps_per_second:.1} steps/s)",
        images.len()
    ))
}

impl TokenDecoder<'_> {
    fn run(&mut self, mut reader: TokenReader) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        loop {
            let records =
                reader.by_ref().take(self.request.batch).collect::<semanticist::Result<Vec<_>>>()?;
            if records.is_empty() {
                return Ok(images);
            }
            images.extend(self.batch(&records)?);
        }
    }

    fn batch(&mut self, records: &[TokenRecord]) -> Result<Vec<Image>> {
        let files = self.files(records)?;
        let tokens = self.tokens(records)?;
        let b = records.len();
        // Every image starts from the same noise: it depends on its tokens and the seed alone.
        let seed = Seed::new(self.request.sampling.seed).of(Purpose::Latents);
        let mut noise = Noise::per_sample(vec![seed; b]);
        let mut observe = self.progress.observer(b);
        let keep = vec![self.count; b];
        let decoded =
            self.model.tokenizer.decode_observed(&tokens, &keep, &self.options, &mut noise, &mut observe)?;
        let mut images = Vec::with_capacity(b);
        for ((picture, record), file) in from_pixels(&decoded).iter().zip(records).zip(files) {
            match record.padded {
                // The padding is not part of the image.
                Some(photo) if photo.0 > 0 && photo.1 > 0 => {
                    save_png(&Fit::Pad.window(photo, picture.width() as usize).of(picture), &file)?
                }
                _ => save_png(picture, &file)?,
            }
            images.push(Image { path: record.path.clone(), file: file.display().to_string() });
        }
        Ok(images)
    }

    /// Where the images of a batch go, their folders made.
    fn files(&mut self, records: &[TokenRecord]) -> Result<Vec<PathBuf>> {
        let mut files = Vec::with_capacity(records.len());
        for record in records {
            let file = self.request.output.join(self.names.next(&record.path));
            if !self.request.overwrite && fs::symlink_metadata(&file).is_ok() {
                let advice = "give an empty folder, or --overwrite to replace it";
                return Err(anyhow!("{}: is already there; {advice}", file.display()));
            }
            if let Some(folder) = file.parent() {
                output::create_folder(folder)?;
            }
            files.push(file);
        }
        Ok(files)
    }

    fn tokens(&self, records: &[TokenRecord]) -> Result<Tokens> {
        if let Some(broken) = records.iter().find(|record| !record.tokens.iter().all(|v| v.is_finite())) {
            let (file, advice) = (self.request.input.display(), "encode the image again");
            return Err(anyhow!("{file}: the tokens of {} are not finite numbers; {advice}", broken.path));
        }
        let values: Vec<f32> = records.iter().flat_map(|record| &record.tokens).copied().collect();
        let shape = [records.len(), self.info.tokens, self.info.token_dim];
        let tokens = Tokens(Tensor::from_data(TensorData::new(values, shape), self.device));
        Ok(tokens.prefix(self.count))
    }
}

/// Fails if the model cannot decode the tokens, or did not make them and that is not wanted.
fn check_model(request: &Decode, info: &TokenFileInfo, model: &TokenizerModel) -> Result<()> {
    let file = request.input.display();
    let config = &model.tokenizer.config;
    if info.token_dim != config.token_dim || info.tokens > config.tokens {
        let found = format!("{} tokens of {} numbers", info.tokens, info.token_dim);
        let expected = format!("up to {} of {}", config.tokens, config.token_dim);
        let advice = "choose the model that made them with --model";
        return Err(anyhow!("{file}: holds {found}, the model takes {expected}; {advice}"));
    }
    if request.force || model.gives_tokens_of(&info.model_hash, info.tokens)? {
        return Ok(());
    }
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    let (found, expected) = (short(&info.model_hash), short(model.hash()?));
    Err(anyhow!(
        "{file}: the tokens were made by model {found}, this is {expected}; choose that model with --model, \
         or decode them all the same with --force"
    ))
}

/// Names below the folder that all paths share, for which the file is read once more.
fn names(path: &Path) -> Result<Names> {
    let mut common = CommonFolder::default();
    for record in TokenReader::open(path)? {
        common.add(&record?.path);
    }
    Ok(Names::below(&common))
}
