//! `semanticist generate`: classes to tokens to images.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use semanticist::diffusion::DecodeOptions;
use semanticist::generator::GenerateOptions;
use semanticist::image::{Fit, RgbImage, save_png, to_pixels};
use semanticist::model::{GeneratorModel, TokenizerModel, Work};
use semanticist::{ModelFile, Noise, Purpose, Seed, Tokens, presets};
use semanticist_eval::features::{bytes_hash, file_hash};
use semanticist_eval::generation::{ImageDecoding, class_name, powers};
use semanticist_eval::sheet::{self, Cell};
use semanticist_eval::sweep::Subject;
use semanticist_hub::builtin::{self, Builtin};
use semanticist_hub::{Kind, Location};

use super::choice::check_count;
use crate::args::Generate;
use crate::output::{self, note};
use crate::progress::Progress;
use crate::{failure, fetch};

/// Images that are drawn together.
const TOGETHER: usize = 32;

/// Images in all, unless it is said how many of each class.
const IMAGES: usize = 16;

/// Tokens of a photo that are kept, unless it is said how many.
const KEPT: [usize; 3] = [1, 4, 16];

/// Variations of a photo for each number of kept tokens, unless it is said how many.
const VARIATIONS: usize = 4;

/// Classes shown if none is named.
const SHOWN: usize = 8;

pub fn run(request: &Generate) -> Result<()> {
    let precision = request.machine.precision();
    let device = request.machine.start(precision)?;
    let mut model =
        load_generator(request.generator.as_deref(), request.generator_preset.as_deref(), &device)?;
    model.generator = model.generator.with_precision(precision);
    let tokenizer = request.model.load_for(Work { precision, ..Work::default() }, &device)?;
    check_tokens(&model, &tokenizer)?;
    let options = options(request, &model)?;
    let (sampling, evaluations) = request.decoding.plan(&model.generator.config, &tokenizer)?;
    match &request.out_dir {
        Some(folder) => output::create_folder(folder)?,
        None => {
            output::check_png(&request.output, "a folder as --out-dir")?;
            output::check_file(&request.output)?;
        }
    }

    let make = Maker {
        request,
        model: &model,
        tokenizer: &tokenizer,
        device: &device,
        options,
        sampling,
        evaluations,
    };
    let rows = match &request.from {
        Some(photo) => make.variations(photo)?,
        None => make.images()?,
    };
    write(request, rows)
}

/// What images are made with.
struct Maker<'a> {
    request: &'a Generate,
    model: &'a GeneratorModel,
    tokenizer: &'a TokenizerModel,
    device: &'a Device,
    options: GenerateOptions,
    sampling: DecodeOptions,
    /// Of the decoder's network for an image.
    evaluations: usize,
}

impl Maker<'_> {
    /// New images, or strips of them: a row each.
    fn images(&self) -> Result<Vec<Vec<Cell>>> {
        let Self { request, model, tokenizer, .. } = self;
        let labels = labels(request, model)?;
        let seeds = self.seeds(labels.len());
        let tokens = draw(model, &labels, &seeds, None, &self.options)?;
        let decoding = ImageDecoding { options: self.sampling.clone(), seeds };
        let names: Vec<String> = labels.iter().map(|&label| class_name(model, label)).collect();
        let images = if request.progressive { powers(self.options.tokens).len() } else { 1 };
        let progress = Progress::new(labels.len() * images * self.evaluations, "decoding");
        let step = |images| progress.advance(images);
        if request.progressive {
            return Ok(decoding.progressive(&tokenizer.tokenizer, &tokens, &names, step)?);
        }
        let images = decoding.decode(&tokenizer.tokenizer, &tokens, self.options.tokens, step)?;
        Ok(images
            .into_iter()
            .zip(&names)
            .map(|(picture, name)| vec![Cell::captioned(picture, name)])
            .collect())
    }

    /// For each number of kept tokens and each class a row: the photo, and images that begin with these tokens of it.
    fn variations(&self, photo: &Path) -> Result<Vec<Vec<Cell>>> {
        let Self { request, model, tokenizer, device, options, .. } = self;
        let kept: Vec<usize> = match request.keep.as_slice() {
            [] => KEPT.into_iter().filter(|keep| *keep < options.tokens).collect(),
            asked => asked.to_vec(),
        };
        if let Some(keep) = kept.iter().find(|keep| **keep >= options.tokens) {
            let tokens = options.tokens;
            return Err(failure::usage(format!(
                "--keep {keep}: of {tokens} tokens none would be left to draw; keep fewer than {tokens}"
            )));
        }
        let labels = match request.class.as_slice() {
            [] => vec![model.generator.config.no_class()],
            names => classes(names, model)?,
        };
        let size = tokenizer.tokenizer.config.image_size;
        let square = Subject::of(&semanticist::image::open(photo)?, size, Fit::Crop).square;
        let tokens =
            tokenizer.tokenizer.encode(&to_pixels(std::slice::from_ref(&square), device), options.tokens)?;
        let each = request.number.unwrap_or(VARIATIONS);
        let seeds = self.seeds(each);
        let decoding = ImageDecoding { options: self.sampling.clone(), seeds: seeds.clone() };
        let mut rows = Vec::new();
        for &keep in &kept {
            for &label in &labels {
                let given = (keep > 0).then(|| Tokens(tokens.0.clone().narrow(1, 0, keep)));
                let drawn = draw(model, &vec![label; each], &seeds, given.as_ref(), options)?;
                let pictures = decoding.decode(&tokenizer.tokenizer, &drawn, options.tokens, |_| ())?;
                let caption = format!("{keep} kept");
                let of_class = label != model.generator.config.no_class();
                let detail = if of_class { class_name(model, label) } else { String::new() };
                let varied = pictures
                    .into_iter()
                    .map(|picture| Cell::captioned(picture, &caption).with_detail(detail.clone()));
                rows.push(std::iter::once(Cell::original(square.clone())).chain(varied).collect());
            }
        }
        Ok(rows)
    }

    fn seeds(&self, count: usize) -> Vec<u64> {
        (0..count as u64).map(|i| self.request.seed.wrapping_add(i)).collect()
    }
}

/// Where a generator is.
enum Place {
    Builtin(&'static Builtin),
    /// And what a published checkpoint holds, where its name says it.
    File(PathBuf, Option<&'static str>),
}

fn place(chosen: Option<&Path>) -> Result<Place> {
    Ok(match chosen.map(Location::of).transpose()? {
        None => Place::Builtin(&builtin::GENERATOR),
        Some(Location::Builtin(builtin)) => Place::Builtin(builtin),
        Some(Location::File(path)) => Place::File(path, None),
        Some(Location::Remote(remote)) => Place::File(fetch::find(&remote)?, None),
        Some(Location::Known(known)) => match known.kind {
            Kind::Generator { preset } => Place::File(fetch::find(&known.remote())?, Some(preset)),
            _ => return Err(failure::usage(format!("--generator {}: is not a generator", known.name))),
        },
    })
}

/// The chosen generator, or the built-in one; `preset` says what a published checkpoint holds.
pub fn load_generator(
    chosen: Option<&Path>,
    preset: Option<&str>,
    device: &Device,
) -> Result<GeneratorModel> {
    let (path, own) = match place(chosen)? {
        Place::Builtin(builtin) => {
            let file = ModelFile::from_bytes("the built-in generator", builtin.bytes)?;
            return Ok(file.into_generator()?.load(device)?);
        }
        Place::File(path, own) => (path, own),
    };
    let config = preset.or(own).map(presets::generator).transpose().map_err(failure::usage)?;
    Ok(match config {
        Some(config) => GeneratorModel::published(&path, &config, device)?,
        None => ModelFile::open(&path)?.into_generator()?.load(device)?,
    })
}

/// SHA-256 of the file of the chosen generator, or of the built-in one, in hexadecimal.
pub fn generator_hash(chosen: Option<&Path>) -> Result<String> {
    Ok(match place(chosen)? {
        Place::Builtin(builtin) => bytes_hash(builtin.bytes),
        Place::File(path, _) => file_hash(&path)?,
    })
}

/// The tokenizer must understand what the generator says.
pub fn check_tokens(model: &GeneratorModel, tokenizer: &TokenizerModel) -> Result<()> {
    let (drawn, config) = (&model.generator.config, &tokenizer.tokenizer.config);
    if drawn.token_dim != config.token_dim || drawn.tokens > config.tokens {
        return Err(failure::usage(format!(
            "the generator draws {} tokens of {} numbers, the tokenizer decodes {} of {}; give the tokenizer \
             that it was trained on with --model",
            drawn.tokens, drawn.token_dim, config.tokens, config.token_dim
        )));
    }
    if let Some(expected) = &model.tokenizer
        && !tokenizer.gives_tokens_of(expected, drawn.tokens)?
    {
        note(
            "the generator was trained on the tokens of another tokenizer of this shape; images will make \
             little sense (--model chooses the tokenizer)",
        );
    }
    Ok(())
}

/// The class of every image.
fn labels(request: &Generate, model: &GeneratorModel) -> Result<Vec<usize>> {
    let count = model.generator.config.classes;
    let classes: Vec<usize> = match request.class.as_slice() {
        [] => {
            let shown = SHOWN.min(count);
            (0..shown).map(|i| i * count / shown).collect()
        }
        names => classes(names, model)?,
    };
    let each = request.number.unwrap_or((IMAGES / classes.len()).max(1));
    Ok(classes.into_iter().flat_map(|class| std::iter::repeat_n(class, each)).collect())
}

fn classes(names: &[String], model: &GeneratorModel) -> Result<Vec<usize>> {
    names.iter().map(|name| model.class(name).map_err(failure::usage)).collect()
}

fn options(request: &Generate, model: &GeneratorModel) -> Result<GenerateOptions> {
    let config = &model.generator.config;
    // Behind those of a photo, all of which may be kept, all others.
    let usual = if request.from.is_some() { config.tokens } else { config.usual_tokens() };
    let tokens = request.tokens.unwrap_or(usual);
    check_count(tokens, config.tokens, "the generator")?;
    let options = GenerateOptions { tokens, drawing: request.drawing.over(config.draw_options()) };
    options.validate(config).map_err(failure::usage)?;
    Ok(options)
}

/// The tokens of every image, each drawn from its own seed behind those that are given, `[1, k, D]`.
fn draw(
    model: &GeneratorModel,
    labels: &[usize],
    seeds: &[u64],
    given: Option<&Tokens>,
    options: &GenerateOptions,
) -> Result<Tokens> {
    let progress = Progress::new(labels.len() * options.tokens, "drawing");
    let mut parts: Vec<Tensor<3>> = Vec::new();
    for (labels, seeds) in labels.chunks(TOGETHER).zip(seeds.chunks(TOGETHER)) {
        let seeds = seeds.iter().map(|&seed| Seed::new(seed).of(Purpose::Tokens));
        let mut noise = Noise::per_sample(seeds);
        let mut observe = progress.observer(labels.len());
        let mut watch = |progress, _: &dyn Fn() -> Tokens| observe(progress);
        let given = given.map(|given| Tokens(given.0.clone().repeat_dim(0, labels.len())));
        let drawn =
            model.generator.continue_watched(labels, given.as_ref(), options, &mut noise, &mut watch)?;
        parts.push(drawn.0);
    }
    Ok(Tokens(Tensor::cat(parts, 0)))
}

/// One sheet, or a file per image or strip.
fn write(request: &Generate, rows: Vec<Vec<Cell>>) -> Result<()> {
    let Some(folder) = &request.out_dir else {
        let in_rows = request.progressive || request.from.is_some();
        let rows = if in_rows { rows } else { vec![rows.concat()] };
        save_png(&sheet::draw(&rows), &request.output)?;
        return output::print(&format!("done: {}", request.output.display()));
    };
    // Of variations every image is a file, without the photo.
    let rows: Vec<Vec<Cell>> = match request.from {
        Some(_) => rows.into_iter().flat_map(|row| row.into_iter().skip(1).map(|cell| vec![cell])).collect(),
        None => rows,
    };
    let count = rows.len();
    let mut taken: Vec<PathBuf> = Vec::new();
    for row in rows {
        let (name, picture) = file(row, request.progressive);
        let path = output::unique(folder.join(name), |path| taken.iter().any(|other| other == path));
        save_png(&picture, &path)?;
        taken.push(path);
    }
    output::print(&format!("done: {count} images in {}", folder.display()))
}

/// A file name after the class, and what belongs into the file.
fn file(mut row: Vec<Cell>, progressive: bool) -> (String, RgbImage) {
    let class = if progressive { &row[0].detail } else { &row[0].caption };
    let name = class.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect::<String>() + ".png";
    let picture = if progressive { sheet::draw(&[row]) } else { row.remove(0).picture };
    (name, picture)
}
