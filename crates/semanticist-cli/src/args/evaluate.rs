//! Arguments of `evaluate`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ModelChoice, Sampling, count, kept};
use crate::device::Machine;

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum EvaluateCommand {
    /// How close images come back from 0, 1, 2, 4 … tokens
    ///
    /// PSNR and SSIM of samples and of the one-step mean, and the diffusion loss; beside them the autoencoder alone, PCA of
    /// whole images with as many numbers, JPEG and WebP with as many bytes, and pictures by other tokenizers.
    #[command(after_help = "\
Examples:
  semanticist evaluate reconstruction --data photos
  semanticist evaluate reconstruction --data tiny-imagenet-100 --images 500 --json found.json --plot found.svg
  semanticist evaluate reconstruction --data photos --series TiTok=titok-pictures --tokens 8,32")]
    Reconstruction {
        #[command(flatten)]
        measuring: Measuring,
        #[command(flatten)]
        sampling: Sampling,
        #[command(flatten)]
        series: OtherTokenizers,
    },
    /// How much of the diffusion loss each token explains, and whether tokens are orthogonal
    #[command(after_help = "\
Examples:
  semanticist evaluate variance --data tiny-imagenet-100 --plot variance.svg")]
    Variance {
        #[command(flatten)]
        measuring: Measuring,
        /// Of timesteps, noise and resamples
        #[arg(long, value_name = "N", default_value = "0")]
        seed: u64,
    },
    /// How well a linear map tells classes from the first tokens
    #[command(after_help = "\
Examples:
  semanticist evaluate probe --data tiny-imagenet-100 --images 5000 --plot probe.svg")]
    Probe {
        #[command(flatten)]
        measuring: Measuring,
        #[command(flatten)]
        probing: Probing,
    },
    /// Whether fewer tokens mean other frequencies: mean power spectra
    #[command(after_help = "\
Examples:
  semanticist evaluate spectrum --data tiny-imagenet-100 --images 500 --tokens 1,8,32 --plot spectrum.svg")]
    Spectrum {
        #[command(flatten)]
        measuring: Measuring,
        #[command(flatten)]
        sampling: Sampling,
        #[command(flatten)]
        series: OtherTokenizers,
    },
    /// Whether pictures look alike to a classifier: Fréchet distances, and how often it knows their class
    ///
    /// Of samples and one-step means from every number of tokens, the autoencoder alone, training images, and any other
    /// pictures, such as generated ones: those of --series may be of other images here, in folders of class folders.
    #[command(after_help = "\
Examples:
  semanticist evaluate frechet --data tiny-imagenet-100 --images 2000 --classifier classifier.safetensors
  semanticist evaluate frechet --data tiny-imagenet-100 --classifier classifier.safetensors --series drawn=generated")]
    Frechet {
        #[command(flatten)]
        measuring: Measuring,
        /// The classifier in whose features pictures are compared: a file of `train classifier`
        #[arg(long, value_name = "FILE")]
        classifier: PathBuf,
        #[command(flatten)]
        sampling: Sampling,
        #[command(flatten)]
        series: OtherTokenizers,
    },
    /// Quality, variance, spectra and probes in a folder: JSON and plots of each, and a page
    ///
    /// What an earlier, interrupted call finished is not measured again.
    #[command(after_help = "\
Examples:
  semanticist evaluate report --data tiny-imagenet-100 -o report")]
    Report {
        /// The folder; it is created
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        measuring: Measuring,
        #[command(flatten)]
        sampling: Sampling,
        #[command(flatten)]
        probing: Probing,
        #[command(flatten)]
        series: OtherTokenizers,
    },
}

impl EvaluateCommand {
    /// What all kinds are asked.
    pub fn measuring(&self) -> &Measuring {
        match self {
            Self::Reconstruction { measuring, .. }
            | Self::Variance { measuring, .. }
            | Self::Probe { measuring, .. }
            | Self::Spectrum { measuring, .. }
            | Self::Frechet { measuring, .. }
            | Self::Report { measuring, .. } => measuring,
        }
    }
}

/// On what, and where the findings go.
#[derive(Debug, Args)]
pub struct Measuring {
    /// Images: folders of class folders, folders of images, Parquet files or folders of them; the validation part is
    /// measured if there is one
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Images to fit principal components to and to train probes on [default: the training part of the data]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub training: Vec<PathBuf>,
    /// How many images, spread evenly over the data
    #[arg(long, value_name = "N", default_value = "500", value_parser = count)]
    pub images: usize,
    /// Numbers of tokens, 0 included [default: 0, 1, 2, 4 … all; of variance all of them up to 64]
    #[arg(long, value_name = "K,…", value_delimiter = ',', value_parser = kept)]
    pub tokens: Vec<usize>,
    /// Write all numbers to a file, or without a name print them instead of tables; interrupted work goes on where the same
    /// file is asked for
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
    /// Write plots: a name that ends in .svg or .png
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelChoice,
    #[command(flatten)]
    pub machine: Machine,
}

/// How probes are trained.
#[derive(Debug, Args)]
pub struct Probing {
    /// Labelled images to train probes on, spread evenly over the training part
    #[arg(long, value_name = "N", default_value = "10000", value_parser = count)]
    pub training_images: usize,
}

/// Pictures of the same images.
#[derive(Debug, Args)]
pub struct OtherTokenizers {
    /// Pictures of the same images by another tokenizer, in the order of the data, such as TiTok=titok-pictures
    #[arg(long, value_name = "NAME=PATH", value_parser = named)]
    pub series: Vec<(String, PathBuf)>,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.into(), path.into())),
        _ => Err("expected NAME=PATH, such as TiTok=titok-pictures".into()),
    }
}
