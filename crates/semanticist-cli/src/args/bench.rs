//! The arguments of `bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use semanticist_verify::bench::{Job, Preset};

use super::{batch, count};
use crate::device::Machine;

/// Measure how fast this machine runs the models
///
/// Random weights of the preset's size; the median of the timed runs, beside what a large matrix
/// product reaches on this machine in the same minute. Without JOB, every job in turn.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist bench
  semanticist bench encode --preset b --batch 4 --tokens 32
  semanticist bench train --preset s --profile
  semanticist bench data imagenet/ --size 256 --threads 8 --eats 2000
  semanticist bench decode --preset l --threads 1 --json")]
pub struct Bench {
    /// What to time [default: all]
    #[arg(value_name = "JOB", value_enum)]
    pub job: Option<BenchJob>,
    /// For data: images as `train` takes them with --data [default: 64 photos of 500×375 pixels, made for it]
    #[arg(value_name = "DATA", requires = "job")]
    pub data: Vec<PathBuf>,
    /// For data: the side of the squares, in pixels [default: that of the preset's images]
    #[arg(long, value_name = "PIXELS", requires = "job", value_parser = count)]
    pub size: Option<usize>,
    /// For data: how many images per second a device takes, whose waiting is then measured; the journal of a run
    /// and `bench train` tell
    #[arg(long, value_name = "RATE", requires = "job")]
    pub eats: Option<f64>,
    /// The size of the networks [default: s to load and train, b to encode and for data, l to decode and
    /// for the head]
    #[arg(long, value_enum)]
    pub preset: Option<BenchPreset>,
    /// Images that are computed together [default: 4; 2 to decode, 64 for data, 1 to load
    /// and for the head]
    #[arg(long, value_name = "N", value_parser = batch)]
    pub batch: Option<usize>,
    /// Tokens that encode computes [default: all]
    #[arg(long, value_name = "K", value_parser = count)]
    pub tokens: Option<usize>,
    /// Timed runs; their median counts
    #[arg(long, value_name = "N", default_value = "5", value_parser = count)]
    pub repeats: usize,
    /// For load: the file to read, which is written if it is not there, and stays [default: a temporary
    /// one]
    #[arg(long, value_name = "FILE", requires = "job")]
    pub file: Option<PathBuf>,
    /// Print where the time goes, by operator
    #[arg(long, requires = "job")]
    pub profile: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// [`Job`] as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchJob {
    /// Images to tokens
    Encode,
    /// One denoising step, without guidance
    Decode,
    /// One optimiser step
    Train,
    /// Reading a model file in float32
    Load,
    /// Decoding and cropping images
    Data,
    /// One token of the generator's head in 250 steps
    Head,
}

impl From<BenchJob> for Job {
    fn from(job: BenchJob) -> Self {
        match job {
            BenchJob::Encode => Self::Encode,
            BenchJob::Decode => Self::Decode,
            BenchJob::Train => Self::Train,
            BenchJob::Load => Self::Load,
            BenchJob::Data => Self::Data,
            BenchJob::Head => Self::Head,
        }
    }
}

/// [`Preset`] as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchPreset {
    /// The built-in model
    Tiny,
    /// 12 blocks of width 384
    S,
    /// 12 blocks of width 768
    B,
    /// 24 blocks of width 1024
    L,
    /// 28 blocks of width 1152
    Xl,
}

impl From<BenchPreset> for Preset {
    fn from(preset: BenchPreset) -> Self {
        match preset {
            BenchPreset::Tiny => Self::Tiny,
            BenchPreset::S => Self::S,
            BenchPreset::B => Self::B,
            BenchPreset::L => Self::L,
            BenchPreset::Xl => Self::Xl,
        }
    }
}
