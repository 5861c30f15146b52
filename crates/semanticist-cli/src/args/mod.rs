//! What can be asked for: the arguments of every command, and nothing else.

mod bench;
mod cache;
mod classifier;
mod devices;
mod evaluate;
mod generator;
mod models;
mod quantised;
mod runs;
mod serve;
mod study;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use semanticist::diffusion::{Guidance, Sampler};
use semanticist::image::Fit;
use semanticist_data::Split;

use crate::device::Machine;

pub use bench::Bench;
pub use cache::{CacheFeatures, CacheTokens};
pub use classifier::{Classify, TrainClassifier};
pub use devices::Devices;
pub use evaluate::{ClipChoice, Comparing, EvaluateCommand, Images, Measuring, PerceptualFiles, Sweeping};
pub use generator::{Decoding, Drawing, Generate, TokenDrawing, TrainGenerator};
pub use models::{
    ModelChoice, ModelsCommand, ModelsEdit, ModelsExport, ModelsFitSampler, ModelsImport, ModelsInfo,
    ModelsList, ModelsPull, PublishedChoice,
};
pub use quantised::{Decomposing, QuantisedChoice};
pub use runs::Runs;
pub use serve::Serve;
pub use study::{StudyCommand, StudyNew, StudyResults};

/// Images as short, ordered sequences of tokens, and back.
#[derive(Debug, Parser)]
#[command(name = "semanticist", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  semanticist reconstruct                      try the built-in model and image
  semanticist reconstruct photo.jpg            what 1, 2, 4 … tokens say of your photo
  semanticist encode photos -o tokens.parquet  images to tokens
  semanticist decode tokens.parquet -o out     tokens to images
  semanticist generate --class goldfish        new images of a class
  semanticist serve --open                     all of it in a browser

Exit codes: 0 done, 1 failed, 2 asked for what there is not, 130 interrupted (Ctrl-C, SIGTERM, SIGHUP) after saving
what can be saved.";

#[derive(Debug, Subcommand)]
pub enum Command {
    Reconstruct(Reconstruct),
    Encode(Encode),
    Decode(Decode),
    /// Look at models
    Models {
        #[command(subcommand)]
        command: ModelsCommand,
    },
    /// Train a tokenizer, the autoencoder below it, a generator on top of it, or a classifier
    Train {
        #[command(subcommand)]
        command: TrainCommand,
    },
    Runs(Runs),
    Devices(Devices),
    CacheTokens(CacheTokens),
    CacheFeatures(CacheFeatures),
    Generate(Generate),
    Classify(Classify),
    Serve(Serve),
    /// Measure a tokenizer: quality, variance explained, probes, spectra, or all of it as a page
    Evaluate {
        #[command(subcommand)]
        command: EvaluateCommand,
    },
    /// The perception test with people: make one, and see what came out
    Study {
        #[command(subcommand)]
        command: StudyCommand,
    },
    Verify(Verify),
    Bench(Bench),
}

impl Command {
    /// What is to compute, for commands that compute.
    pub fn machine(&self) -> Option<&Machine> {
        Some(match self {
            Self::Reconstruct(request) => &request.machine,
            Self::Encode(request) => &request.machine,
            Self::Decode(request) => &request.machine,
            Self::Models { command: ModelsCommand::FitSampler(request) } => &request.machine,
            Self::Models { .. } => return None,
            Self::Train { command: TrainCommand::Tokenizer(request) } => &request.machine,
            Self::Train { command: TrainCommand::Autoencoder(request) } => &request.machine,
            Self::Train { command: TrainCommand::Generator(request) } => &request.machine,
            Self::Train { command: TrainCommand::Classifier(request) } => &request.machine,
            Self::Runs(_) | Self::Devices(_) => return None,
            Self::CacheTokens(request) => &request.machine,
            Self::CacheFeatures(request) => &request.machine,
            Self::Generate(request) => &request.machine,
            Self::Classify(request) => &request.machine,
            Self::Serve(request) => &request.machine,
            Self::Evaluate { command } => &command.on().machine,
            Self::Study { command: StudyCommand::New(request) } => &request.machine,
            Self::Study { command: StudyCommand::Results(_) } => return None,
            Self::Verify(request) => &request.machine,
            Self::Bench(request) => &request.machine,
        })
    }
}

/// Reconstruct images from their first tokens, next to the original
///
/// Writes one labelled contact sheet per image and prints how close each image comes to the
/// original. Images are reduced to the size of the model first, cropped in the middle or, with --fit
/// pad, padded to a square.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist reconstruct
  semanticist reconstruct photo.jpg -o sheet.png
  semanticist reconstruct *.jpg -o sheets/ --tokens 1,8,32 --json
  semanticist reconstruct photo.jpg --model tokenizer.safetensors --steps 50 --guidance 3
  semanticist reconstruct photo.jpg --tokenizer titok=tokenizer_titok_l32.safetensors --tokens 8,16,32")]
pub struct Reconstruct {
    /// Image files (PNG, JPEG, WebP, BMP, GIF, TIFF) [default: a built-in image]
    #[arg(value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// From how many of the first tokens to reconstruct, one image each, 0 for none [default: 1, 2, 4 … all]
    #[arg(long, value_name = "K,…", value_delimiter = ',', value_parser = kept)]
    pub tokens: Vec<usize>,
    /// The sheet; with several images a folder, which is created [default: NAME.tokens.png in the
    /// current folder]
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// What to do with images that are not square
    #[arg(long, value_enum, default_value_t = FitChoice::Crop)]
    pub fit: FitChoice,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub sampling: Sampling,
    #[command(flatten)]
    pub model: ModelChoice,
    #[command(flatten)]
    pub decomposing: Decomposing,
    #[command(flatten)]
    pub machine: Machine,
}

/// Turn images into a file of tokens
///
/// Images are read as they are needed, so there may be any number of them. Broken ones are skipped
/// and named; if they are more than 1 %, nothing is written.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist encode photo.jpg -o photo.safetensors --fit pad
  semanticist encode photos more-photos -o tokens.parquet --tokens 16
  semanticist encode imagenet/ -o validation.parquet --split validation --batch 64
  semanticist encode photos -o vectors.parquet --tokenizer vq=vq_ds16_c2i.pt")]
pub struct Encode {
    /// Image files, folders of images, Parquet files (column `image`) or folders of them
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,
    /// The token file to write: .parquet or .safetensors
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// How many of the first tokens to keep per image [default: all]
    #[arg(long, value_name = "K", value_parser = count)]
    pub tokens: Option<usize>,
    /// Images that go through the network together
    #[arg(long, value_name = "N", default_value = "32", value_parser = batch)]
    pub batch: usize,
    /// Which part of folders that name their parts
    #[arg(long, value_enum, default_value_t = SplitChoice::All)]
    pub split: SplitChoice,
    /// What to do with images that are not square
    #[arg(long, value_enum, default_value_t = FitChoice::Crop)]
    pub fit: FitChoice,
    /// Print JSON instead of a sentence
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelChoice,
    #[command(flatten)]
    pub quantised: QuantisedChoice,
    /// Of another tokenizer, write the numbers of its codes, one per token, instead of the entries of its codebook
    #[arg(long, requires = "tokenizer", help_heading = "Other tokenizers")]
    pub codes: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// Decode the images that a file of tokens describes
///
/// PNG files are named as the images were, relative to the folder that all of them came from; rows
/// of a Parquet file by their number. Names that would be equal get a number. Every image starts
/// from the same noise, so it does not depend on the others.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist decode tokens.parquet -o out
  semanticist decode tokens.parquet -o out-4 --tokens 4 --seed 7")]
pub struct Decode {
    /// A token file, as `encode` writes it
    #[arg(value_name = "TOKENS")]
    pub input: PathBuf,
    /// The folder for the images; created if it is not there
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// How many of the first tokens to decode from [default: all in the file]
    #[arg(long, value_name = "K", value_parser = count)]
    pub tokens: Option<usize>,
    /// Images that are decoded together
    #[arg(long, value_name = "N", default_value = "16", value_parser = batch)]
    pub batch: usize,
    /// Decode tokens of another model, too
    #[arg(long)]
    pub force: bool,
    /// Replace images that are already there
    #[arg(long)]
    pub overwrite: bool,
    /// Print JSON instead of a sentence
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub sampling: Sampling,
    #[command(flatten)]
    pub model: ModelChoice,
    #[command(flatten)]
    pub machine: Machine,
}

#[derive(Debug, Subcommand)]
pub enum TrainCommand {
    Tokenizer(TrainTokenizer),
    Autoencoder(TrainAutoencoder),
    Generator(TrainGenerator),
    Classifier(TrainClassifier),
}

/// Train a tokenizer
///
/// Writes below DIR: config.toml, journal.jsonl (one JSON line per logged step), the same as event
/// files for TensorBoard, checkpoints/, samples/ and model.safetensors, the averaged weights. Ctrl-C,
/// or the SIGTERM of a scheduler, ends the step (or validation) at hand, saves and stops with exit code
/// 130; --resume goes on exactly there, from the last checkpoint that is whole. A batch whose loss is
/// not finite is left out. All of this: docs/training.md.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist train tokenizer configs/tokenizer-tiny.toml --data photos --out runs/1
  semanticist train tokenizer configs/tokenizer-tiny.toml --data photos --out runs/1 --resume
  semanticist train tokenizer configs/tokenizer-l.toml --data imagenet --out runs/l --dry-run
  semanticist train tokenizer configs/tokenizer-l.toml --data s3://bucket/imagenet --out runs/l
  semanticist train tokenizer configs/tokenizer-tiny-refined.toml --data photos --out runs/finer --from tiny
  semanticist train tokenizer configs/tokenizer-tiny.toml --data a b --out runs/2 \\
      --set learning_rate.peak=1e-3 --set steps=5000")]
pub struct TrainTokenizer {
    #[command(flatten)]
    pub run: TrainingData,
    #[command(flatten)]
    pub place: Place,
    /// Use this autoencoder instead of fitting one: a file of `train autoencoder`, or a published KL
    /// autoencoder (.safetensors, .ckpt, .pt, .bin) that the configuration describes
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub autoencoder: Option<PathBuf>,
    /// Begin with the weights of this tokenizer, autoencoder included, instead of random ones: a file, or a name of `models list`.
    /// What it lacks of the configuration's networks begins at random (decoder.overlap at 0), tokens behind its own with the principal
    /// components of what those leave out
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["resume", "autoencoder"])]
    pub from: Option<PathBuf>,
    #[command(flatten)]
    pub machine: Machine,
}

/// Train a KL autoencoder, or fit the linear one that a tokenizer's configuration asks for
///
/// A configuration of an autoencoder makes a run as `train tokenizer` does, below DIR; the scale of its
/// latents is estimated whenever model.safetensors is written. A tokenizer's configuration makes one
/// file. `train tokenizer --autoencoder` takes either.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist train autoencoder configs/autoencoder-tiny.toml --data photos --out runs/kl
  semanticist train autoencoder configs/tokenizer-tiny.toml --data photos --out linear.safetensors")]
pub struct TrainAutoencoder {
    #[command(flatten)]
    pub run: TrainingData,
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub machine: Machine,
}

/// Where a run is kept.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// The folder of the run, created if it is not there; of a linear autoencoder, the file
    #[arg(short, long, value_name = "PATH")]
    pub out: PathBuf,
    /// Go on from the last checkpoint of the run
    #[arg(long)]
    pub resume: bool,
    /// Go on although the configuration or the data changed in what the result depends on
    #[arg(long, requires = "resume")]
    pub force: bool,
    /// Say what the run would take of memory, disk and time, which a few steps are made for, and leave nothing
    /// behind; exit code 1 if it does not fit
    #[arg(long, conflicts_with = "resume")]
    pub dry_run: bool,
    /// Print that as JSON
    #[arg(long, requires = "dry_run")]
    pub json: bool,
}

/// What a run is made of.
#[derive(Debug, Clone, Args)]
pub struct TrainingData {
    /// The configuration of the run (TOML)
    pub config: PathBuf,
    /// Images: folders of class folders, folders of images, Parquet and WebDataset (tar) files or folders of them, lists
    /// (.jsonl), shards at s3://, gs://, az://, http(s)://, and hf://datasets/OWNER/NAME; docs/training.md
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Change an entry of the configuration, such as learning_rate.peak=1e-3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// Start even if the memory of this machine seems too small
    #[arg(long)]
    pub no_memory_check: bool,
}

/// Check this build and device against recorded reference tensors
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist verify recordings
  semanticist verify recordings --cases encoder,decoder --json

Exit code 1 if any quantity is over its tolerance, unreadable or absent.")]
pub struct Verify {
    /// The folder with the recordings
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Only these cases [default: all that this build knows]
    #[arg(long, value_name = "CASE,…", value_delimiter = ',')]
    pub cases: Vec<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// How images are decoded.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Decoding")]
pub struct Sampling {
    /// Sampling steps per image; 1 with ddim-trailing, ab2, euler or heun [default: what the model was made for, usually 25]
    #[arg(long, value_name = "N", value_parser = steps)]
    pub steps: Option<usize>,
    /// ddim, ddim:ETA (ETA from 0 to 1), ddim-trailing (for few steps), ddpm or dpm++; of a model that learnt a flow
    /// ab2 (second order), euler, heun or sde; of either fitted (by `models fit-sampler`, in the steps that were fitted)
    /// [default: what the model was made for, usually fitted where it fits, else ddim, ab2]
    #[arg(long, value_name = "NAME")]
    pub sampler: Option<Sampler>,
    /// How strongly the tokens are over-weighted; 1 is not at all [default: what the model was made for, usually 1.5]
    #[arg(long, value_name = "SCALE", value_parser = guidance, allow_negative_numbers = true)]
    pub guidance: Option<f64>,
    /// The noise that images start from
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,
}

/// [`Split`] as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SplitChoice {
    Train,
    Validation,
    All,
}

impl From<SplitChoice> for Split {
    fn from(choice: SplitChoice) -> Self {
        match choice {
            SplitChoice::Train => Self::Train,
            SplitChoice::Validation => Self::Validation,
            SplitChoice::All => Self::All,
        }
    }
}

/// [`Fit`] as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FitChoice {
    /// The square in the middle
    Crop,
    /// All of the image, with grey beside it
    Pad,
}

impl From<FitChoice> for Fit {
    fn from(choice: FitChoice) -> Self {
        match choice {
            FitChoice::Crop => Self::Crop,
            FitChoice::Pad => Self::Pad,
        }
    }
}

/// A whole number from `least` to `most`.
fn whole(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("expected a whole number from {least} to {most}"))
}

fn count(text: &str) -> Result<usize, String> {
    whole(text, 1, 1 << 20)
}

fn kept(text: &str) -> Result<usize, String> {
    whole(text, 0, 1 << 20)
}

fn batch(text: &str) -> Result<usize, String> {
    whole(text, 1, 1 << 16)
}

fn steps(text: &str) -> Result<usize, String> {
    whole(text, 1, 1 << 20)
}

pub fn threads(text: &str) -> Result<usize, String> {
    whole(text, 1, 1024)
}

fn guidance(text: &str) -> Result<f64, String> {
    let scale = text.trim().parse().map_err(|_| "expected a number, such as 1.5".to_string())?;
    Guidance::constant(scale).validate().map_err(|error| error.to_string())?;
    Ok(scale)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }
}
