//! `semanticist evaluate guidance`: what guidance does to generated pictures.

use anyhow::Result;
use semanticist::generator::GenerateOptions;
use semanticist::model;
use semanticist_eval::findings::{Made, Model};
use semanticist_eval::measure;
use semanticist_eval::measure::frechet::{self, Decoder, GuidanceSweep};
use serde_json::json;

use super::super::generate::{check_tokens, generator_hash, load_generator};
use super::compared::{Asked, Compared};
use super::data::Data;
use super::keep::{self, Work};
use crate::args::{Comparing, Decoding, Images, ModelChoice, Sweeping};
use crate::failure;

pub fn run(
    on: &Images,
    comparing: &Comparing,
    sweeping: &Sweeping,
    decoding: &Decoding,
    model: &ModelChoice,
) -> Result<()> {
    let precision = on.machine.precision();
    let device = on.machine.start(precision)?;
    let chosen = sweeping.generator.as_deref();
    let mut generator = load_generator(chosen, sweeping.generator_preset.as_deref(), &device)?;
    generator.generator = generator.generator.with_precision(precision);
    let tokenizer = model.load_for(model::Work { precision, ..model::Work::default() }, &device)?;
    check_tokens(&generator, &tokenizer)?;
    let config = &generator.generator.config;
    let options = GenerateOptions {
        tokens: sweeping.tokens.unwrap_or(config.usual_tokens()),
        drawing: sweeping.drawing.over(config.draw_options()),
    };
    let mut scales = sweeping.scales.clone();
    scales.sort_by(f64::total_cmp);
    scales.dedup();
    for &scale in &scales {
        let mut asked = options.clone();
        asked.drawing.guidance.scale = scale;
        asked.validate(config).map_err(failure::usage)?;
    }
    let (sampling, _) = decoding.plan(config, &tokenizer)?;
    let compared = Compared::open(comparing, &device)?;
    let data = Data::validation(&on.data)?;
    let training = Data::training(&on.training, &on.data)?;
    let size = tokenizer.tokenizer.config.image_size;
    let hash = generator_hash(chosen)?;
    let made = Made {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        version: env!("CARGO_PKG_VERSION").into(),
        model: Some(Model {
            name: chosen.map_or("the built-in generator".into(), |path| path.display().to_string()),
            hash,
        }),
        data: data.fingerprint.clone(),
        training: training.fingerprint.clone(),
        images: on.images,
        image_size: size,
        crop: measure::CROP.into(),
        precision: precision.to_string(),
        options: json!({
            "tokenizer": tokenizer.hash()?,
            "scales": scales,
            "schedule": options.drawing.guidance.schedule,
            "tokens": options.tokens,
            "steps": options.drawing.steps,
            "sampler": options.drawing.sampler.map(|sampler| sampler.to_string()),
            "temperature": options.drawing.temperature,
            "decoding": {
                "steps": sampling.steps,
                "sampler": sampling.sampler.map(|sampler| sampler.to_string()),
                "guidance": format!("{:?}", sampling.guidance),
            },
            "features": compared.options(),
            "seed": sweeping.seed,
        }),
        seconds: 0.0,
    };
    let sweep = GuidanceSweep {
        generator: &generator,
        tokenizer: &tokenizer.tokenizer,
        scales,
        options,
        sampling,
        images: on.images,
        seed: sweeping.seed,
    };
    let asked = Asked { size, images: on.images, series: Vec::new(), seed: sweeping.seed };
    let pictures = compared.pictures(&data, &training, asked, &device);
    let decoder = Decoder::Drawn(&sweep);
    let work = Work {
        kind: "guidance",
        made,
        data: vec![&data, &training],
        pieces: pictures.pieces(decoder.passes(0)),
        takes_earlier: pictures.save.is_none(),
    };
    keep::show(on, |kept| {
        work.findings(kept, |finished, observe| frechet::measure(&pictures, Some(decoder), finished, observe))
    })
}
