//! `semanticist evaluate`: how good a tokenizer is on images that it was not trained on, and whether its tokens are what the
//! paper says.

mod compared;
mod data;
mod generation;
mod guidance;
mod keep;
mod perceptual;
mod quantised;
mod zero_shot;

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Device;
use semanticist::diffusion::{DecodeOptions, Sampler};
use semanticist::files::write_atomically;
use semanticist::image::save_png;
use semanticist::model::{self, TokenizerModel};
use semanticist_eval::findings::{Findings, Made, Model};
use semanticist_eval::generation::powers;
use semanticist_eval::measure::ablation::Decoding;
use semanticist_eval::measure::frechet::{Decoder, Pictures};
use semanticist_eval::measure::{self, Components, Subject};
use semanticist_eval::{plot, report};
use serde_json::{Value, json};

use self::compared::{Asked, Compared};
use self::data::{Data, NamedData};
use self::keep::Work;
use self::perceptual::Perceptual;
use self::quantised::Question;
use self::zero_shot::Clipped;
use super::choice::{AskedDecoding, BUILTIN};
use crate::args::{EvaluateCommand, Measuring, PerceptualFiles, Sampling};
use crate::failure;
use crate::output::{self, note};

/// One of the measurements.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reconstruction,
    Variance,
    Probe { training_images: usize },
    Spectrum,
    Frechet,
    ZeroShot,
    Ablation,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Reconstruction => "reconstruction",
            Self::Variance => "variance",
            Self::Probe { .. } => "probe",
            Self::Spectrum => "spectrum",
            Self::Frechet => "frechet",
            Self::ZeroShot => "zero-shot",
            Self::Ablation => "ablation",
        }
    }
}

/// Images on the sheet of a report.
const SAMPLES: usize = 8;

/// Everything that was asked for, opened.
struct Evaluation<'a> {
    measuring: &'a Measuring,
    model: TokenizerModel,
    device: Device,
    data: Data,
    training: Data,
    series: NamedData,
    sampling: DecodeOptions,
    steps: usize,
    seed: u64,
    /// Fitted when the first measurement needs them.
    components: Option<Components>,
    /// In whose features pictures are compared.
    compared: Option<Compared>,
    /// Measures of closeness that need weights.
    perceptual: Perceptual,
    /// Who is asked for classes.
    clipped: Option<Clipped>,
    /// Ways to decode, and how many evaluations of the network each takes.
    decodings: Vec<(Decoding, usize)>,
}

pub fn run(command: &EvaluateCommand) -> Result<()> {
    let on = command.on();
    for path in on.json.iter().filter(|path| !keep::is_stdout(path)).chain(&on.plot) {
        output::check_file(path)?;
    }
    on.plot.as_deref().map_or(Ok(()), plot::check_name).map_err(failure::usage)?;
    let none: &[(String, PathBuf)] = &[];
    match command {
        EvaluateCommand::Reconstruction { decomposing, measuring, sampling, series, perceptual } => {
            if let Some(opened) = decomposing.choice.open(&measuring.model, Some(sampling), &on.machine)? {
                let question = Question::Reconstruction(perceptual);
                return quantised::run(question, opened, decomposing, measuring, &series.series);
            }
            let mut evaluation = Evaluation::open(measuring, Some(sampling), sampling.seed, &series.series)?;
            evaluation.add_perceptual(perceptual)?;
            evaluation.show(Kind::Reconstruction)
        }
        EvaluateCommand::Variance { measuring, seed } => {
            Evaluation::open(measuring, None, *seed, none)?.show(Kind::Variance)
        }
        EvaluateCommand::Probe { measuring, probing } => {
            let kind = Kind::Probe { training_images: probing.training_images };
            Evaluation::open(measuring, None, 0, none)?.show(kind)
        }
        EvaluateCommand::Spectrum { decomposing, measuring, sampling, series } => {
            if let Some(opened) = decomposing.choice.open(&measuring.model, Some(sampling), &on.machine)? {
                return quantised::run(Question::Spectrum, opened, decomposing, measuring, &series.series);
            }
            Evaluation::open(measuring, Some(sampling), sampling.seed, &series.series)?.show(Kind::Spectrum)
        }
        EvaluateCommand::Frechet { decomposing, measuring, comparing, sampling, series } => {
            Compared::check(comparing)?;
            if let Some(opened) = decomposing.choice.open(&measuring.model, Some(sampling), &on.machine)? {
                let question = Question::Frechet(comparing, sampling.seed);
                return quantised::run(question, opened, decomposing, measuring, &series.series);
            }
            let mut evaluation = Evaluation::open(measuring, Some(sampling), sampling.seed, &series.series)?;
            evaluation.compared = Some(Compared::open(comparing, &evaluation.device)?);
            evaluation.show(Kind::Frechet)
        }
        EvaluateCommand::ZeroShot { measuring, clip, sampling, series } => {
            Clipped::check(clip)?;
            let mut evaluation = Evaluation::open(measuring, Some(sampling), sampling.seed, &series.series)?;
            evaluation.clipped = Clipped::open(clip, &evaluation.data.source, &evaluation.device)?;
            evaluation.show(Kind::ZeroShot)
        }
        EvaluateCommand::Generation { on, comparing, series, size, seed } => {
            Compared::check(comparing)?;
            generation::run(on, comparing, (series, *size), *seed)
        }
        EvaluateCommand::Guidance { sweeping, comparing, decoding, on, model } => {
            Compared::check(comparing)?;
            guidance::run(on, comparing, sweeping, decoding, model)
        }
        EvaluateCommand::Ablation { measuring, steps, sampler, guidance, seed, perceptual } => {
            let mut evaluation = Evaluation::open(measuring, None, *seed, none)?;
            evaluation.add_perceptual(perceptual)?;
            let samplers =
                if sampler.is_empty() { vec![None] } else { sampler.iter().copied().map(Some).collect() };
            for &steps in steps {
                for &sampler in &samplers {
                    evaluation.add_decodings(steps, sampler, guidance)?;
                }
            }
            evaluation.show(Kind::Ablation)
        }
        EvaluateCommand::Report {
            output,
            measuring,
            sampling,
            probing,
            series,
            features,
            perceptual,
            clip,
        } => {
            if on.json.is_some() || on.plot.is_some() {
                return Err(failure::usage(
                    "--json and --plot: a report writes both into its folder, which -o names",
                ));
            }
            let mut evaluation = Evaluation::open(measuring, Some(sampling), sampling.seed, &series.series)?;
            evaluation.add_perceptual(perceptual)?;
            if let Some(chosen) = features.file() {
                let network = Compared::network(chosen, probing.training_images, &evaluation.device)?;
                evaluation.compared = Some(network);
            }
            evaluation.clipped = Clipped::open(clip, &evaluation.data.source, &evaluation.device)?;
            evaluation.report(output, Kind::Probe { training_images: probing.training_images })
        }
    }
}

/// No tokens, and powers of two up to all.
fn none_and_powers(all: usize) -> Vec<usize> {
    [0].into_iter().chain(powers(all)).collect()
}

/// The numbers of tokens that were asked for, each once.
fn ascending(asked: &[usize], all: usize) -> Result<Vec<usize>> {
    let mut counts = super::choice::counts(asked, all)?;
    counts.sort_unstable();
    counts.dedup();
    Ok(counts)
}

impl<'a> Evaluation<'a> {
    fn open(
        measuring: &'a Measuring,
        sampling: Option<&Sampling>,
        seed: u64,
        series: &[(String, PathBuf)],
    ) -> Result<Self> {
        let on = &measuring.on;
        let precision = on.machine.precision();
        let device = on.machine.start(precision)?;
        let images = on.images.min(measure::BATCH);
        let decode = sampling.map_or(images, |sampling| sampling.together(images));
        let model = measuring.model.load_for(model::Work { encode: images, decode, precision }, &device)?;
        let (sampling, steps) = match sampling {
            Some(sampling) => sampling.plan(&model)?,
            None => (model.tokenizer.config.decode_options(), 0),
        };
        // Asked before anything is read.
        super::choice::counts(&measuring.tokens, model.tokenizer.config.tokens)?;
        let data = Data::validation(&on.data)?;
        let training = Data::training(&on.training, &on.data)?;
        let series = NamedData::open(series)?;
        Ok(Self {
            measuring,
            model,
            device,
            data,
            training,
            series,
            sampling,
            steps,
            seed,
            components: None,
            compared: None,
            perceptual: Perceptual::default(),
            clipped: None,
            decodings: Vec::new(),
        })
    }

    fn add_perceptual(&mut self, files: &PerceptualFiles) -> Result<()> {
        self.perceptual = Perceptual::open(files, self.model.tokenizer.config.image_size, &self.device)?;
        Ok(())
    }

    /// Adds a way to decode for every scale of guidance: those that are asked for, or none and the model's own.
    fn add_decodings(&mut self, steps: usize, sampler: Option<Sampler>, guidance: &[f64]) -> Result<()> {
        let mut scales = guidance.to_vec();
        if scales.is_empty() {
            scales = vec![1.0, self.model.tokenizer.config.decode_options().guidance.scale];
            scales.dedup();
        }
        let process = self.model.tokenizer.config.process()?;
        for scale in scales {
            let asked = AskedDecoding { steps: Some(steps), sampler, guidance: Some(scale) };
            let (options, evaluations) = asked.plan(&self.model)?;
            let sampler = options.sampler_for(&process);
            let name = format!("{sampler} × {steps}, guidance {scale}");
            self.decodings.push((Decoding { name, options }, evaluations));
        }
        Ok(())
    }

    /// The numbers of tokens of a kind.
    fn counts(&self, kind: Kind) -> Result<Vec<usize>> {
        let (asked, all) = (&self.measuring.tokens, self.model.tokenizer.config.tokens);
        if asked.is_empty() {
            return Ok(match kind {
                Kind::Variance => measure::variance::default_counts(all),
                Kind::Probe { .. } => powers(all),
                Kind::Reconstruction | Kind::Spectrum | Kind::Frechet | Kind::ZeroShot | Kind::Ablation => {
                    none_and_powers(all)
                }
            });
        }
        ascending(asked, all)
    }

    /// What decides what is found, beside the model and the data.
    fn options(&self, kind: Kind) -> Result<Value> {
        let series = self.series.options();
        let mut options = json!({ "tokens": self.counts(kind)?, "seed": self.seed });
        let more = match kind {
            Kind::Reconstruction => {
                let perceptual = &self.perceptual.hashes;
                json!({ "sampling": self.sampling, "series": series, "perceptual": perceptual })
            }
            Kind::Spectrum => json!({ "sampling": self.sampling, "series": series }),
            Kind::Probe { training_images } => json!({ "training_images": training_images }),
            Kind::Frechet => {
                let compared = self.compared.as_ref().map(Compared::options);
                json!({ "sampling": self.sampling, "series": series, "features": compared })
            }
            Kind::ZeroShot => {
                let clip = self.clipped.as_ref().map(Clipped::options);
                json!({ "sampling": self.sampling, "series": series, "clip": clip })
            }
            Kind::Ablation => {
                let decodings: Vec<_> =
                    self.decodings.iter().map(|(decoding, _)| &decoding.options).collect();
                json!({ "decodings": decodings, "perceptual": self.perceptual.hashes })
            }
            Kind::Variance => json!({}),
        };
        options.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
        Ok(options)
    }

    fn measure(&mut self, kind: Kind, kept: Option<&Path>) -> Result<Findings> {
        let mut components = self.components.take();
        let counts = self.counts(kind)?;
        let subject = self.subject(counts);
        let fits = !matches!(kind, Kind::Frechet | Kind::ZeroShot | Kind::Ablation);
        let pictures = self.pictures();
        let pieces = match kind {
            Kind::Probe { training_images } => measure::probe::passes(&subject, training_images),
            Kind::Frechet => {
                pictures.as_ref().map_or(0, |it| it.pieces(Decoder::Diffusion(&subject).passes(self.steps)))
            }
            Kind::Reconstruction | Kind::Spectrum => {
                measure::reconstruction::passes(&subject, self.steps) * subject.expected()
            }
            Kind::Variance => measure::variance::passes(&subject) * subject.expected(),
            Kind::ZeroShot => self.clipped.as_ref().map_or(0, |clipped| clipped.pieces(&subject, self.steps)),
            Kind::Ablation => {
                let steps: usize = self.decodings.iter().map(|(_, evaluations)| evaluations).sum();
                steps * subject.counts.len() * subject.expected()
            }
        };
        let work = Work {
            kind: kind.name(),
            made: self.made(kind)?,
            data: [&self.data, &self.training]
                .into_iter()
                .chain(self.series.0.iter().map(|it| &it.1))
                .collect(),
            pieces,
            takes_earlier: pictures.as_ref().is_none_or(|pictures| pictures.save.is_none()),
        };
        let findings = work.findings(kept, |finished, observe| {
            if fits && components.is_none() {
                components = Some(Components::fit(&subject)?);
            }
            let fitted = || components.as_ref().expect("they were fitted for kinds that need them");
            match kind {
                Kind::Reconstruction => {
                    measure::reconstruction::measure(&subject, fitted(), finished, observe)
                }
                Kind::Variance => measure::variance::measure(&subject, fitted(), finished, observe),
                Kind::Spectrum => measure::spectrum::measure(&subject, fitted(), finished, observe),
                Kind::Probe { training_images } => {
                    measure::probe::measure(&subject, fitted(), training_images, finished, observe)
                }
                Kind::Frechet => {
                    let pictures = pictures.as_ref().expect("a classifier was opened for this kind");
                    measure::frechet::measure(pictures, Some(Decoder::Diffusion(&subject)), finished, observe)
                }
                Kind::ZeroShot => {
                    let clipped = self.clipped.as_ref().expect("CLIP was opened for this kind");
                    measure::zero_shot::measure(&subject, clipped.zero_shot(), finished, observe)
                }
                Kind::Ablation => {
                    let decodings: Vec<_> = self.decodings.iter().map(|(it, _)| it.clone()).collect();
                    measure::ablation::measure(&subject, &decodings, finished, observe)
                }
            }
        })?;
        self.components = components;
        Ok(findings)
    }

    fn pictures(&self) -> Option<Pictures<'_>> {
        let asked = Asked {
            size: self.model.tokenizer.config.image_size,
            images: self.measuring.on.images,
            series: self.series.sources(),
            seed: self.seed,
        };
        Some(self.compared.as_ref()?.pictures(&self.data, &self.training, asked, &self.device))
    }

    fn subject(&self, counts: Vec<usize>) -> Subject<'_> {
        Subject {
            tokenizer: &self.model.tokenizer,
            source: &self.data.source,
            images: self.measuring.on.images,
            training: &self.training.source,
            counts,
            sampling: self.sampling.clone(),
            seed: self.seed,
            series: self.series.sources(),
            perceptual: self.perceptual.measures.clone(),
            device: &self.device,
        }
    }

    fn made(&self, kind: Kind) -> Result<Made> {
        let name = match &self.measuring.model.model {
            Some(model) => model.display().to_string(),
            None => BUILTIN.into(),
        };
        Ok(Made {
            command: std::env::args().collect::<Vec<_>>().join(" "),
            version: env!("CARGO_PKG_VERSION").into(),
            model: Some(Model { name, hash: self.model.hash()?.into() }),
            data: self.data.fingerprint.clone(),
            training: self.training.fingerprint.clone(),
            images: self.measuring.on.images,
            image_size: self.model.tokenizer.config.image_size,
            crop: measure::CROP.into(),
            precision: self.measuring.on.machine.precision().to_string(),
            options: self.options(kind)?,
            seconds: 0.0,
        })
    }

    fn show(mut self, kind: Kind) -> Result<()> {
        let on = &self.measuring.on;
        keep::show(on, |kept| self.measure(kind, kept))
    }

    fn report(mut self, folder: &Path, probe: Kind) -> Result<()> {
        output::create_folder(folder)?;
        let mut kinds = vec![Kind::Reconstruction, Kind::Variance, Kind::Spectrum];
        let labelled = self.training.source.classes().is_some()
            || self
                .training
                .source
                .records()
                .next()
                .is_some_and(|record| record.is_ok_and(|record| record.label.is_some()));
        if labelled {
            kinds.push(probe);
        } else {
            note("the data has no classes: there is no probe in the report");
        }
        if self.compared.is_some() {
            kinds.push(Kind::Frechet);
        }
        if self.clipped.is_some() {
            kinds.push(Kind::ZeroShot);
        }
        let mut all = Vec::new();
        for kind in kinds {
            note(&format!("measuring {}", kind.name()));
            let findings = self.measure(kind, Some(&folder.join(format!("{}.json", kind.name()))))?;
            plot::save(&findings.figures, &folder.join(format!("{}.svg", kind.name())))?;
            all.push(findings);
        }
        let sheet = self.subject(self.counts(Kind::Reconstruction)?).sheet(SAMPLES)?;
        save_png(&sheet, &folder.join(report::SAMPLES))?;
        let page = folder.join(report::PAGE);
        for (path, text) in
            [(&page, report::html(&all, &sheet)?), (&folder.join("README.md"), report::page(&all))]
        {
            write_atomically(path, |file| std::io::Write::write_all(file, text.as_bytes()))?;
        }
        let sentences = all.iter().flat_map(|findings| &findings.sentences).cloned().collect::<Vec<_>>();
        output::print(&format!("{}\n{}", sentences.join("\n"), page.display()))
    }
}
