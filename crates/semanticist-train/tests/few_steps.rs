//! Objectives for few steps: average velocities, and distillation of a model's own sampler.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use semanticist::diffusion::{DecodeOptions, Guidance, Sampler};
use semanticist::image::{RgbImage, to_pixels};
use semanticist::weights::{self, Weights};
use semanticist::{Noise, Result, Tokenizer};
use semanticist_data::{Source, Split};
use semanticist_train::autoencoder;
use semanticist_train::changes::OnChange;
use semanticist_train::collective::Alone;
use semanticist_train::config;
use semanticist_train::objective::tokenizer::{TokenizerObjective, TokenizerRun, untrained};
use semanticist_train::trainer::{Ending, Event, RunContext, Trainer};

type RunConfig = config::RunConfig<TokenizerRun>;

const CONFIG: &str = r#"
steps = 6
batch = 6
ema = 0.9
[model]
image_size = 8
tokens = 4
token_dim = 4
encoder = { patch_size = 4, blocks = { width = 32, depth = 1, heads = 2 } }
decoder = { patch_size = 2, blocks = { width = 32, depth = 2, heads = 2 } }
autoencoder = { kind = "pixel" }
diffusion = { steps = 1000, schedule = "linear", prediction = "velocity" }
[learning_rate]
peak = 3e-3
warmup_steps = 2
decay = "cosine"
[data]
flip = 0.0
[objective.nested_guidance]
drop_all = 0.1
from_step = 100000
[log]
every = 1
checkpoint_every = 0
validate_every = 0
[validation]
images = 3
tokens = [1, 4]
samples = 1
"#;

const FLOW: &str = r#"model.diffusion={ kind = "flow" }"#;
const AVERAGE: &str = r#"model.diffusion={ kind = "flow", prediction = "average-velocity" }"#;
const MEAN_FLOW: [&str; 2] = [AVERAGE, "objective.mean_flow={}"];

/// Three smooth images.
fn picture(seed: u32) -> RgbImage {
    RgbImage::from_fn(8, 8, |x, y| {
        let wave = |k: u32| {
            let angle = (x * (seed + 1) + y * (3 - seed)) as f32 / 4.0 + (k + seed) as f32;
            (127.5 + 100.0 * angle.sin()) as u8
        };
        image::Rgb([wave(0), wave(1), (x * 30) as u8])
    })
}

/// A folder with photos, and beside it the runs.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.path("photos")).unwrap();
        for seed in 0..3 {
            picture(seed).save(folder.path("photos").join(format!("{seed}.png"))).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn model(&self, run: &str) -> Tokenizer {
        Tokenizer::open(self.path(run).join("model.safetensors"), &Device::flex()).unwrap()
    }

    fn stored(&self, run: &str, file: &str) -> Weights {
        weights::load(&self.path(run).join("checkpoints").join(file)).unwrap().0
    }

    /// Goes on in `run` if there is a checkpoint; stops when the checkpoint of step `stop` is saved.
    fn train(&self, run: &str, settings: &[&str], stop: Option<&str>) -> Result<Ending> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let config = RunConfig::parse(CONFIG, &settings)?;
        let source = Arc::new(Source::open(&[self.path("photos")], Split::All)?);
        let (device, interrupted, out) = (Device::flex(), AtomicBool::new(false), self.path(run));
        let objective = TokenizerObjective::new(&config, source.clone(), &source, None, &device)?;
        let context = RunContext { out: &out, device: &device, interrupted: &interrupted, ranks: &Alone };
        let trainer = if out.join("checkpoints").is_dir() {
            Trainer::resume(config, objective, context, OnChange::Accept, &mut |_| ())?
        } else {
            let model = match &config.objective.distillation {
                Some(distillation) => {
                    let teacher = Tokenizer::open(self.path(path(&distillation.teacher)), &device)?;
                    distillation.student(&config.model, teacher, &device)?
                }
                None => {
                    let autoencoder = autoencoder::fit(&config, source, &device, &mut |_| ())?;
                    untrained(&config, autoencoder, &device)?
                }
            };
            Trainer::start(config, objective, model, context)?
        };
        trainer.run(&mut |event| {
            if let (Event::Saved(path), Some(stop)) = (event, stop) {
                interrupted.fetch_or(path.ends_with(stop), Ordering::Relaxed);
            }
        })
    }

    fn refused(&self, run: &str, settings: &[&str]) -> String {
        self.train(run, settings, None).unwrap_err().to_string()
    }

    /// Two runs of six steps, one of which is interrupted in the middle, end with the same bytes.
    fn resumes_exactly(&self, settings: &[&str]) {
        let often = [settings, &["log.checkpoint_every=3"]].concat();
        assert_eq!(self.train("parts", &often, Some("step-00000003")).unwrap(), Ending::Interrupted);
        assert_eq!(self.train("parts", &often, None).unwrap(), Ending::Complete);
        self.train("whole", settings, None).unwrap();
        for file in ["weights", "average", "optimizer"] {
            let bytes = |run: &str| {
                let file = format!("checkpoints/step-00000006/{file}.safetensors");
                std::fs::read(self.path(run).join(file)).unwrap()
            };
            assert!(bytes("parts") == bytes("whole"), "{file} differs");
        }
    }

    /// A batch in parts has the gradients of the whole one, which the first moments are a tenth of.
    fn is_the_same_in_parts(&self, settings: &[&str]) {
        let moments = |run: &str, parts: &str| {
            let once = ["steps=1", "learning_rate.warmup_steps=0", parts];
            self.train(run, &[settings, &once].concat(), None).unwrap();
            let moments = self.stored(run, "step-00000001/optimizer.safetensors");
            let first = moments.iter().filter(|(name, _)| name.starts_with("first."));
            first.flat_map(|(_, moment)| moment.to_f32().unwrap()).collect::<Vec<f32>>()
        };
        let (whole, parts) = (moments("in-1", "accumulate=1"), moments("in-6", "accumulate=6"));
        let largest = whole.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let apart = whole.iter().zip(&parts).fold(0.0f32, |apart, (a, b)| apart.max((a - b).abs()));
        assert!(largest > 0.0 && apart < 1e-3 * largest, "{apart} of {largest}");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// How close the photos come in so many steps, in dB.
fn quality(tokenizer: &Tokenizer, steps: usize) -> f64 {
    let options = DecodeOptions { steps, sampler: None, guidance: Guidance::NONE };
    let originals = to_pixels(&[0, 1, 2].map(picture), &Device::flex());
    let tokens = tokenizer.encode(&originals, 4).unwrap();
    let decoded = tokenizer.decode(&tokens, &options, 5).unwrap();
    let error: f32 = (decoded.0.clamp(0.0, 1.0) - originals.0).square().mean().into_scalar();
    -10.0 * f64::from(error).log10()
}

#[test]
fn average_velocities_lead_to_images_learnt_by_heart_in_one_step() {
    let folder = Folder::new();
    let long = ["steps=300", "batch=12", "ema=0.98", "objective.mean_flow.instant=0.5"];
    folder.train("mean", &[&MEAN_FLOW[..], &long].concat(), None).unwrap();
    let tokenizer = folder.model("mean");
    let found = [1, 2, 4].map(|steps| quality(&tokenizer, steps));
    assert!(found.iter().all(|&psnr| psnr > 20.0), "{found:?} dB");
}

#[test]
fn a_run_of_average_velocities_goes_on_exactly_and_may_be_in_parts() {
    let folder = Folder::new();
    folder.resumes_exactly(&MEAN_FLOW);
    folder.is_the_same_in_parts(&MEAN_FLOW);
    let model = folder.model("whole");
    let error = model.export_published(&folder.path("p"), weights::Precision::F32).unwrap_err().to_string();
    assert!(error.contains("average velocities") && !folder.path("p").exists(), "{error}");
}

const FITTED: &str = "model.fitted_samplers=[{ guidance = 1.0, times = [0.0], weights = [[1.0, 1.0]] }]";
const TEACHER: &str = "objective.distillation.teacher=teacher/model.safetensors";

#[test]
fn a_student_lands_in_few_steps_where_its_teacher_does_in_many() {
    for process in ["seed=0", FLOW] {
        let folder = Folder::new();
        folder.train("teacher", &[process, "steps=150", "batch=12", "ema=0.98"], None).unwrap();
        let long = [process, TEACHER, "objective.distillation.guidance=2.0", "steps=150", "ema=0.98"];
        folder.train("student", &long, None).unwrap();
        let (teacher, student) = (folder.model("teacher"), folder.model("student"));
        let device = Device::flex();
        let pixels = to_pixels(&[0, 1, 2].map(picture), &device);
        let tokens = teacher.encode(&pixels, 4).unwrap();
        assert_eq!(student.encode(&pixels, 4).unwrap().0.into_data(), tokens.0.clone().into_data());

        let sampler = Some(if process == FLOW { Sampler::Euler } else { Sampler::DdimTrailing });
        assert_eq!(
            student.config.decode_options(),
            DecodeOptions { steps: 4, sampler, guidance: Guidance::NONE }
        );
        let start = Noise::seeded(9).normal([3, 3, 8, 8], &device);
        let end = |tokenizer: &Tokenizer, steps: usize, scale: f64| {
            let options = DecodeOptions { steps, sampler, guidance: Guidance::constant(scale) };
            let (start, mut noise) = (start.clone(), Noise::recorded([]));
            let progress = &mut semanticist::progress::unobserved;
            tokenizer.decode_latents(&tokens, &[4; 3], &options, start, &mut noise, progress).unwrap().0
        };
        let goal = end(&teacher, 8, 2.0);
        let apart = |tokenizer: &Tokenizer, steps: usize, scale: f64| {
            (end(tokenizer, steps, scale) - goal.clone()).square().mean().into_scalar::<f32>()
        };
        let found = [1, 2, 4].map(|steps| (apart(&student, steps, 1.0), apart(&teacher, steps, 2.0)));
        assert!(found[0].0 < 0.3 * found[0].1 && found.iter().all(|found| found.0 < 0.02), "{found:?}");
    }
}

#[test]
fn a_distillation_goes_on_exactly_without_its_teacher_s_file_and_may_be_in_parts() {
    let folder = Folder::new();
    folder.train("teacher", &["steps=3"], None).unwrap();
    folder.is_the_same_in_parts(&[TEACHER]);
    let measured = [TEACHER, "log.validate_every=3"];
    folder.resumes_exactly(&measured);
    let journal = std::fs::read_to_string(folder.path("whole/journal.jsonl")).unwrap();
    assert!(journal.contains("\"distance\":[") && journal.contains("\"steps\":[1,2,4]"), "{journal}");
    let frozen = folder.stored("whole", "frozen.safetensors");
    assert!(frozen.names().any(|name| name == "teacher.patches.weight"));

    std::fs::remove_dir_all(folder.path("teacher")).unwrap();
    folder.train("whole", &[TEACHER, "steps=7"], None).unwrap();
    let other = folder.refused("whole", &["objective.distillation.teacher=other", "steps=8"]);
    assert!(
        other.contains("objective.distillation.teacher: was") && other.contains("of another model"),
        "{other}"
    );
    assert!(folder.refused("whole", &["steps=8"]).contains("objective.distillation: was"));
}

#[test]
fn what_does_not_fit_is_said() {
    let folder = Folder::new();
    folder.train("teacher", &["steps=1"], None).unwrap();
    for (settings, part) in [
        (&[AVERAGE][..], "learned by [objective.mean_flow], which is not given"),
        (&["objective.mean_flow={}"], "needs a model that gives average velocities"),
        (&[AVERAGE, "objective.mean_flow.instant=1.5"], "instant = 1.5 is not in [0, 1]"),
        (&[AVERAGE, "objective.mean_flow.derivative_step=0"], "derivative_step = 0 is not in"),
        (
            &[AVERAGE, "model.diffusion.time_scale=1000", "objective.mean_flow={}"],
            "use a time_scale of 1, or",
        ),
        (&[AVERAGE, "objective.mean_flow={}", TEACHER], "needs few steps as it is"),
        (&[TEACHER, "objective.linear_readout.weight=1"], "the encoder, which does not learn"),
        (&[TEACHER, "model.decoding.steps=2"], "student_steps says it"),
        (&[TEACHER, "objective.distillation.student_steps=[]"], "is empty"),
        (&[TEACHER, "objective.distillation.student_steps=[16]"], "the teacher makes 8 steps"),
        (&[TEACHER, "objective.distillation.student_steps=[0]"], "use 1 to 1000"),
        (&[TEACHER, "objective.distillation.teacher_sampler=euler"], "is one of flows"),
        (&[TEACHER, "objective.distillation.guidance=-1"], "not a number of at least 0"),
        (&[TEACHER, "objective.distillation.teachr=a"], "unknown field"),
        (&[TEACHER, "model.decoder.blocks.depth=1"], "model.decoder.blocks.depth: was 2, is 1"),
        (&["model.decoding={ steps = 1 }"], "ddim-trailing"),
        (&["model.diffusion={ kind = \"flow\" }", FITTED], "were fitted to a decoder that had learnt"),
    ] {
        let error = folder.refused("run", settings);
        assert!(error.contains(part), "{settings:?}: {error}");
        assert!(!folder.path("run").exists());
    }
}
