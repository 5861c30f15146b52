//! How fast this machine runs the models: random weights of any preset's size, median times, and
//! what part of the machine's own matrix-product speed that is.

mod data;
mod jobs;
mod load;
mod peak;
mod preset;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::Device;
use semanticist::{Error, Precision, Result, TokenizerConfig};
use semanticist_data::Source;
use serde::Serialize;

pub use data::ImageSpeed;
pub use preset::Preset;

/// What can be timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Job {
    /// Images to tokens.
    Encode,
    /// One denoising step, without guidance.
    Decode,
    /// One optimiser step: both networks forward and backward, clipping, AdamW.
    Train,
    /// Reading a model file of this size.
    Load,
    /// Decoding and cropping images for training.
    Data,
    /// One token of the generator's head, with guidance, in 250 steps.
    Head,
}

impl Job {
    /// All of them, the light ones first.
    pub const ALL: [Self; 6] = [Self::Load, Self::Data, Self::Encode, Self::Decode, Self::Train, Self::Head];

    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Decode => "decode",
            Self::Train => "train",
            Self::Load => "load",
            Self::Data => "data",
            Self::Head => "head",
        }
    }

    /// Whether it multiplies matrices, which can be done in more than one precision.
    pub fn multiplies(self) -> bool {
        !matches!(self, Self::Load | Self::Data)
    }

    /// The size that a published comparison uses.
    fn preset(self) -> Preset {
        match self {
            Self::Encode | Self::Data => Preset::B,
            Self::Decode | Self::Head => Preset::L,
            Self::Train | Self::Load => Preset::S,
        }
    }

    fn batch(self) -> usize {
        match self {
            Self::Decode => 2,
            Self::Encode | Self::Train => 4,
            Self::Load | Self::Head => 1,
            Self::Data => 64,
        }
    }
}

/// What is asked for; `None` is the usual number of the job.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// What is timed.
    pub job: Job,
    /// The size of the networks.
    pub preset: Option<Preset>,
    /// Images that are computed together.
    pub batch: Option<usize>,
    /// Concept tokens that `encode` computes; the other jobs use all.
    pub tokens: Option<usize>,
    /// What matrix products are computed in.
    pub precision: Precision,
    /// Timed runs, after one that is not; of `load` every run is timed.
    pub repeats: usize,
    /// The file that `load` reads, which is written if it is not there and stays; without it, one that is
    /// gone afterwards.
    pub file: Option<PathBuf>,
    /// The images that `data` decodes; without them, photos of 500×375 pixels that are gone afterwards.
    pub images: Option<Arc<Source>>,
    /// The side of the squares that `data` makes, in pixels; else that of the preset.
    pub size: Option<usize>,
    /// Images per second that a device takes, whose waiting `data` measures.
    pub eats: Option<f64>,
    /// Tells how much processor time this process has had so far.
    pub processor_time: Option<fn() -> Duration>,
}

impl BenchOptions {
    /// # Errors
    /// If the preset has fewer tokens than are asked for, or the job cannot compute fewer than all, or
    /// has no use for a file or a precision.
    pub fn validate(&self) -> Result<()> {
        if self.file.is_some() && self.job != Job::Load {
            return Err(Error::Config(format!(
                "only the job load reads a model file, not {}",
                self.job.name()
            )));
        }
        if self.job != Job::Data && (self.images.is_some() || self.size.is_some() || self.eats.is_some()) {
            return Err(Error::Config(format!("only the job data reads images, not {}", self.job.name())));
        }
        if self.eats.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) || self.size == Some(0) {
            return Err(Error::Config("a size or a number of images per second is not above 0".into()));
        }
        if self.precision != Precision::Float32 && !self.job.multiplies() {
            let (job, precision) = (self.job.name(), self.precision);
            return Err(Error::Config(format!(
                "the job {job} multiplies no matrices, so there is nothing to do in {precision}; expected float32"
            )));
        }
        let Some(tokens) = self.tokens else { return Ok(()) };
        let all = self.all_tokens();
        let problem = match self.job {
            _ if tokens == all => return Ok(()),
            Job::Encode if tokens < all => return Ok(()),
            Job::Encode => format!("the preset has {all}"),
            _ => format!("this job computes all {all}"),
        };
        Err(Error::Config(format!("{tokens} tokens: {problem}")))
    }

    /// Tokens that the job computes if it is not said.
    fn all_tokens(&self) -> usize {
        if self.job == Job::Head { 1 } else { self.config().tokens }
    }

    fn preset(&self) -> Preset {
        self.preset.unwrap_or(self.job.preset())
    }

    fn config(&self) -> TokenizerConfig {
        self.preset().tokenizer()
    }
}

/// What was measured. Numbers that a job does not have are `None`.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// What is timed.
    pub job: Job,
    /// The size of the networks.
    pub preset: Preset,
    /// Images that are computed together.
    pub batch: usize,
    /// Threads that compute.
    pub threads: usize,
    /// Tokens per image.
    pub tokens: usize,
    /// What matrix products are computed in.
    pub precision: Precision,
    /// Median of the timed runs.
    pub seconds: f64,
    /// The same per image.
    pub seconds_per_image: Option<f64>,
    /// 10⁹ counted operations (a multiplication or an addition each) per second.
    pub gflops: Option<f64>,
    /// The same of a large square matrix product, in the same minute.
    pub peak_gflops: Option<f64>,
    /// What the weights take in memory, if the job is to load them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_bytes: Option<u64>,
    /// How fast images come, if the job is to read them.
    #[serde(flatten)]
    pub images: Option<ImageSpeed>,
    /// Where the time of one run goes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<Share>,
}

/// What one operator takes of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Share {
    /// Its name in `semanticist_ops::profile`, or `all else`.
    pub operator: &'static str,
    /// How often it is called in one run.
    pub calls: u64,
    /// Wall time of all calls together.
    pub seconds: f64,
}

/// Runs one job.
///
/// # Errors
/// If the preset is smaller than what is asked of it, or temporary files cannot be written.
pub fn run(options: &BenchOptions, device: &Device) -> Result<BenchReport> {
    options.validate()?;
    let (job, preset, config) = (options.job, options.preset(), options.config());
    let batch = options.batch.unwrap_or(job.batch());
    let tokens = options.tokens.unwrap_or(options.all_tokens());
    let machine = Machine { device, precision: options.precision };
    let Measured { seconds, peak_gflops, operators, model_bytes, images } = match job {
        Job::Load => load::load(&config, options.file.as_deref(), options.repeats, device)?,
        Job::Data => data::data(options, batch)?,
        Job::Encode => jobs::encode(&config, batch, tokens, options.repeats, machine)?,
        Job::Decode => jobs::decode(&config, batch, options.repeats, machine)?,
        Job::Train => jobs::train(&config, batch, options.repeats, machine)?,
        Job::Head => jobs::head(&preset.generator(), batch, options.repeats, machine)?,
    };
    let counted = match job {
        Job::Encode => Some(work::encoder(&config, tokens)),
        Job::Decode => Some(work::decoder(&config)?),
        Job::Train => Some(work::training(&config)?),
        Job::Head => Some(work::head(&preset.generator(), jobs::HEAD_STEPS)),
        Job::Load | Job::Data => None,
    };
    Ok(BenchReport {
        job,
        preset,
        batch,
        threads: rayon::current_num_threads(),
        tokens,
        precision: options.precision,
        seconds,
        seconds_per_image: (job != Job::Load).then(|| seconds / batch as f64),
        gflops: counted.map(|operations| operations * batch as f64 / seconds / 1e9),
        peak_gflops,
        model_bytes,
        images,
        operators,
    })
}

/// What computes, and how.
#[derive(Clone, Copy)]
struct Machine<'a> {
    device: &'a Device,
    precision: Precision,
}

/// The median time of a job, and the machine's peak beside it.
#[derive(Default)]
struct Measured {
    seconds: f64,
    peak_gflops: Option<f64>,
    operators: Vec<Share>,
    model_bytes: Option<u64>,
    images: Option<ImageSpeed>,
}
