//! `semanticist evaluate`: how good a tokenizer is on images that it was not trained on, and whether its tokens are what the
//! paper says.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use burn::tensor::Device;
use semanticist::ModelFile;
use semanticist::diffusion::DecodeOptions;
use semanticist::files::write_atomically;
use semanticist::image::save_png;
use semanticist::model::{ClassifierModel, TokenizerModel, Work};
use semanticist_data::{Source, Split};
use semanticist_eval::findings::{Findings, Made, Model};
use semanticist_eval::generation::powers;
use semanticist_eval::measure::{self, Components, Finished, Measured, Subject};
use semanticist_eval::{plot, report};
use serde_json::{Value, json};

use super::choice::{BUILTIN, validation_source};
use crate::args::{EvaluateCommand, Measuring, Sampling};
use crate::failure;
use crate::output::{self, note};
use crate::progress::Progress;

/// One of the measurements.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reconstruction,
    Variance,
    Probe { training_images: usize },
    Spectrum,
    Frechet,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Reconstruction => "reconstruction",
            Self::Variance => "variance",
            Self::Probe { .. } => "probe",
            Self::Spectrum => "spectrum",
            Self::Frechet => "frechet",
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
    source: Source,
    training: Source,
    series: Vec<(String, Source)>,
    sampling: DecodeOptions,
    steps: usize,
    seed: u64,
    /// Fitted when the first measurement needs them.
    components: Option<Components>,
    /// In whose features pictures are compared, and its hash.
    classifier: Option<(ClassifierModel, String)>,
}

pub fn run(command: &EvaluateCommand) -> Result<()> {
    let measuring = command.measuring();
    for path in measuring.json.iter().filter(|path| !is_stdout(path)).chain(&measuring.plot) {
        output::check_file(path)?;
    }
    measuring.plot.as_deref().map_or(Ok(()), plot::check_name).map_err(failure::usage)?;
    let none: &[(String, PathBuf)] = &[];
    match command {
        EvaluateCommand::Reconstruction { sampling, series, .. } => {
            Evaluation::open(measuring, Some(sampling), sampling.seed, &series.series)?
                .show(Kind::Reconstruction)
        }
        EvaluateCommand::Variance { seed, .. } => {
            Evaluation::open(measuring, None, *seed, none)?.show(Kind::Variance)
        }
        EvaluateCommand::Probe { probing, .. } => {
            let kind = Kind::Probe { training_images: probing.training_images };
            Evaluation::open(measuring, None, 0, none)?.show(kind)
        }
        EvaluateCommand::Spectrum { sampling, series, .. } => {
            Evaluation::open(measuring, Some(sampling), sampling.seed, &series.series)?.show(Kind::Spectrum)
        }
        EvaluateCommand::Frechet { classifier, sampling, series, .. } => {
            let mut evaluation = Evaluation::open(measuring, Some(sampling), sampling.seed, &series.series)?;
            let file = ModelFile::open(classifier)?.into_classifier()?;
            let hash = file.hash()?;
            evaluation.classifier = Some((file.load(&evaluation.device)?, hash));
            evaluation.show(Kind::Frechet)
        }
        EvaluateCommand::Report { output, sampling, probing, series, .. } => {
            if measuring.json.is_some() || measuring.plot.is_some() {
                return Err(failure::usage(
                    "--json and --plot: a report writes both into its folder, which -o names",
                ));
            }
            let evaluation = Evaluation::open(measuring, Some(sampling), sampling.seed, &series.series)?;
            evaluation.report(output, Kind::Probe { training_images: probing.training_images })
        }
    }
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

impl<'a> Evaluation<'a> {
    fn open(
        measuring: &'a Measuring,
        sampling: Option<&Sampling>,
        seed: u64,
        series: &[(String, PathBuf)],
    ) -> Result<Self> {
        let precision = measuring.machine.precision();
        let device = measuring.machine.start(precision)?;
        let images = measuring.images.min(measure::BATCH);
        let decode = sampling.map_or(images, |sampling| sampling.together(images));
        let model = measuring.model.load_for(Work { encode: images, decode, precision }, &device)?;
        let (sampling, steps) = match sampling {
            Some(sampling) => sampling.plan(&model)?,
            None => (model.tokenizer.config.decode_options(), 0),
        };
        // Asked before anything is read.
        super::choice::counts(&measuring.tokens, model.tokenizer.config.tokens)?;
        let source = validation_source(&measuring.data)?;
        let training = match (measuring.training.as_slice(), Source::open(&measuring.data, Split::Train)) {
            ([], Ok(training)) => training,
            ([], Err(_)) => {
                note(
                    "the data has no training part: principal components and probes are fitted to what is measured",
                );
                Source::open(&measuring.data, Split::All)?
            }
            (paths, _) => Source::open(paths, Split::All)?,
        };
        let open = |(name, path): &(String, PathBuf)| {
            Ok((name.clone(), Source::open(std::slice::from_ref(path), Split::All)?))
        };
        let series = series.iter().map(open).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            measuring,
            model,
            device,
            source,
            training,
            series,
            sampling,
            steps,
            seed,
            components: None,
            classifier: None,
        })
    }

    /// The numbers of tokens of a kind.
    fn counts(&self, kind: Kind) -> Result<Vec<usize>> {
        let (asked, all) = (&self.measuring.tokens, self.model.tokenizer.config.tokens);
        if asked.is_empty() {
            return Ok(match kind {
                Kind::Variance => measure::variance::default_counts(all),
                Kind::Probe { .. } => powers(all),
                Kind::Reconstruction | Kind::Spectrum | Kind::Frechet => {
                    [0].into_iter().chain(powers(all)).collect()
                }
            });
        }
        let mut counts = super::choice::counts(asked, all)?;
        counts.sort_unstable();
        counts.dedup();
        Ok(counts)
    }

    /// What decides what is found, beside the model and the data.
    fn options(&self, kind: Kind) -> Result<Value> {
        let series: Vec<&String> = self.series.iter().map(|(name, _)| name).collect();
        let mut options = json!({ "tokens": self.counts(kind)?, "seed": self.seed });
        let more = match kind {
            Kind::Reconstruction | Kind::Spectrum => json!({ "sampling": self.sampling, "series": series }),
            Kind::Probe { training_images } => json!({ "training_images": training_images }),
            Kind::Frechet => {
                let hash = self.classifier.as_ref().map(|(_, hash)| hash);
                json!({ "sampling": self.sampling, "series": series, "classifier": hash })
            }
            Kind::Variance => json!({}),
        };
        options.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
        Ok(options)
    }

    /// Measures; what is finished on the way is kept beside `kept`.
    fn measure(&mut self, kind: Kind, kept: Option<&Path>) -> Result<Findings> {
        let begun = Instant::now();
        let made = self.made(kind)?;
        if let Some(found) = kept.and_then(|path| finished_before(path, kind, &made)) {
            return Ok(found);
        }
        let mut finished = match kept {
            Some(path) => Finished::open(&part_file(path), &json!([kind.name(), made.identity()]))?,
            None => Finished::nowhere(),
        };
        if finished.found() > 0 {
            note(&format!("{}: going on behind {} finished parts", kind.name(), finished.found()));
        }
        let components = self.components.take();
        let subject = self.subject(self.counts(kind)?);
        let components = match components {
            found @ Some(_) => found,
            None if kind == Kind::Frechet => None,
            None => Some(Components::fit(&subject)?),
        };
        let fitted = || components.as_ref().expect("they were fitted for all kinds but one");
        let passes = match kind {
            Kind::Reconstruction => measure::reconstruction::passes(&subject, self.steps),
            Kind::Variance => measure::variance::passes(&subject),
            Kind::Spectrum => measure::spectrum::passes(&subject, self.steps),
            Kind::Frechet => measure::frechet::passes(&subject, self.steps),
            Kind::Probe { .. } => 1,
        };
        let pieces = match kind {
            Kind::Probe { training_images } => measure::probe::passes(&subject, training_images),
            _ => passes * subject.expected(),
        };
        let progress = Progress::new(pieces, "measuring");
        let observe = &mut |images| progress.advance(images);
        let measured = match kind {
            Kind::Reconstruction => {
                measure::reconstruction::measure(&subject, fitted(), &mut finished, observe)
            }
            Kind::Variance => measure::variance::measure(&subject, fitted(), &mut finished, observe),
            Kind::Spectrum => measure::spectrum::measure(&subject, fitted(), &mut finished, observe),
            Kind::Frechet => {
                let (classifier, _) = self.classifier.as_ref().expect("it was opened for this kind");
                measure::frechet::measure(&subject, classifier, &mut finished, observe)
            }
            Kind::Probe { training_images } => {
                measure::probe::measure(&subject, fitted(), training_images, &mut finished, observe)
            }
        }?;
        drop(progress);
        self.components = components;
        let Measured { images, protocol, sentences, tables, figures } = measured;
        let made = Made { images, seconds: begun.elapsed().as_secs_f64(), ..made };
        let findings = Findings { kind: kind.name().into(), made, protocol, sentences, tables, figures };
        if let Some(path) = kept {
            let text = serde_json::to_string_pretty(&findings)?;
            write_atomically(path, |file| std::io::Write::write_all(file, text.as_bytes()))?;
        }
        finished.done();
        Ok(findings)
    }

    fn subject(&self, counts: Vec<usize>) -> Subject<'_> {
        Subject {
            tokenizer: &self.model.tokenizer,
            source: &self.source,
            images: self.measuring.images,
            training: &self.training,
            counts,
            sampling: self.sampling.clone(),
            seed: self.seed,
            series: self.series.iter().map(|(name, source)| (name.clone(), source)).collect(),
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
            data: self.source.fingerprint()?,
            training: self.training.fingerprint()?,
            images: self.measuring.images,
            image_size: self.model.tokenizer.config.image_size,
            crop: "the square in the middle, reduced as Pillow does (BOX, then BICUBIC)".into(),
            precision: self.measuring.machine.precision().to_string(),
            options: self.options(kind)?,
            seconds: 0.0,
        })
    }

    fn show(mut self, kind: Kind) -> Result<()> {
        let json = self.measuring.json.as_deref();
        let findings = self.measure(kind, json.filter(|path| !is_stdout(path)))?;
        if let Some(path) = &self.measuring.plot {
            plot::save(&findings.figures, path)?;
        }
        if json.is_some_and(is_stdout) {
            output::print_json(&findings)
        } else {
            output::print(&findings.text())
        }
    }

    fn report(mut self, folder: &Path, probe: Kind) -> Result<()> {
        output::create_folder(folder)?;
        let mut kinds = vec![Kind::Reconstruction, Kind::Variance, Kind::Spectrum];
        let labelled = self.training.classes().is_some()
            || self
                .training
                .records()
                .next()
                .is_some_and(|record| record.is_ok_and(|record| record.label.is_some()));
        if labelled {
            kinds.push(probe);
        } else {
            note("the data has no classes: there is no probe in the report");
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
        let page = folder.join("README.md");
        let text = report::page(&all);
        write_atomically(&page, |file| std::io::Write::write_all(file, text.as_bytes()))?;
        let sentences = all.iter().flat_map(|findings| &findings.sentences).cloned().collect::<Vec<_>>();
        output::print(&format!("{}\n{}", sentences.join("\n"), page.display()))
    }
}

/// Where the parts of unfinished work are.
fn part_file(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    path.with_file_name(name)
}

/// What an earlier call wrote, if it was asked for the same.
fn finished_before(path: &Path, kind: Kind, made: &Made) -> Option<Findings> {
    let found: Findings = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
    // Broken images are not counted in what was measured.
    let asked = Made { images: found.made.images, ..made.clone() };
    let same = found.kind == kind.name()
        && found.made.identity() == asked.identity()
        && found.made.images <= made.images;
    if same {
        note(&format!("{}: {} has it already", kind.name(), path.display()));
    }
    same.then_some(found)
}
