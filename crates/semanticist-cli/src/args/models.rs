//! The arguments that choose models, and those of `models`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use semanticist::weights::Precision;

use super::generator::{Decoding, Drawing};
use crate::device::Machine;

/// Which model.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelChoice {
    /// A model file, a checkpoint as published, a name of `models list` or hf:OWNER/REPOSITORY/FILE
    /// [default: the built-in model]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Side of the square images, in pixels, if other than the model was trained for
    #[arg(long, value_name = "PIXELS", value_parser = super::count)]
    pub size: Option<usize>,
    /// Start even if the memory of this machine seems too small
    #[arg(long)]
    pub no_memory_check: bool,
    #[command(flatten)]
    pub published: PublishedChoice,
}

/// What a published checkpoint does not say of itself.
#[derive(Debug, Clone, Default, Args)]
pub struct PublishedChoice {
    /// For a checkpoint as published: what it holds (TOML)
    #[arg(long, value_name = "TOML", conflicts_with = "preset")]
    pub config: Option<PathBuf>,
    /// For a checkpoint as published: what it holds, by name, such as l-256x16
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// For a checkpoint as published: its autoencoder, a file, a name of `models list` or
    /// hf:OWNER/REPOSITORY/FILE
    #[arg(long, value_name = "FILE")]
    pub autoencoder: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    List(ModelsList),
    Pull(ModelsPull),
    Info(ModelsInfo),
    Import(ModelsImport),
    Edit(ModelsEdit),
    FitSampler(ModelsFitSampler),
    Export(ModelsExport),
}

/// List the models that can be used by name: built in, in the cache, published
///
/// The cache is that of Hugging Face's libraries: HF_HUB_CACHE, or hub/ in HF_HOME, or
/// ~/.cache/huggingface.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist models list
  semanticist models list --json")]
pub struct ModelsList {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Fetch a published model from the Hugging Face hub, or its newest version
///
/// Goes on where an interrupted transfer ended and checks the hash. HF_TOKEN is the token for what is
/// private or gated, HF_ENDPOINT another hub, HF_HUB_OFFLINE=1 forbids to fetch.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist models pull semanticist-l
  semanticist models pull hf:stabilityai/sd-vae-ft-mse/diffusion_pytorch_model.safetensors")]
pub struct ModelsPull {
    /// A name of `models list`, or hf:OWNER/REPOSITORY/FILE
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// Show what a model file holds: configuration, parameters, training, memory
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist models info
  semanticist models info tokenizer.safetensors --json
  semanticist models info tokenizer.pkl --preset l-256x16 --autoencoder kl16.ckpt")]
pub struct ModelsInfo {
    /// A model file, or what else --model takes elsewhere [default: the built-in model]
    #[arg(value_name = "MODEL")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub published: PublishedChoice,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Make one model file of a checkpoint as published
///
/// FILE is an EMA pickle, .pt, .pth, .bin or .safetensors, the index of shards, or a folder that
/// accelerate or a hub library wrote. Pickles are read as data, never run.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist models import ema.pkl --preset l-256x16 --autoencoder kl16.ckpt -o tokenizer.safetensors
  semanticist models import checkpoint/ --config sizes.toml -o tokenizer.safetensors --store f16")]
pub struct ModelsImport {
    /// The checkpoint, or what else --model takes elsewhere
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The model file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    #[command(flatten)]
    pub published: PublishedChoice,
    /// How exactly numbers are stored
    #[arg(long, alias = "precision", value_enum, default_value_t = Stored::F32)]
    pub store: Stored,
}

/// Change what a model file says of how it is used, not its weights
///
/// What is not given stays as the file has it. A tokenizer's hash changes with its file; tokens made with the one decode with
/// the other all the same.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist models edit tokenizer.safetensors --decode-steps 4 --decode-guidance 1 -o sampled.safetensors
  semanticist models edit generator.safetensors --drawn-tokens 8 --guidance 3 --steps 25 -o generator.safetensors")]
pub struct ModelsEdit {
    /// A file of a tokenizer or a generator, or what else --model takes elsewhere
    #[arg(value_name = "MODEL")]
    pub file: PathBuf,
    /// The model file to write; MODEL itself is replaced when it is complete
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Of a generator: how many tokens it draws unless another number is asked for
    #[arg(long, value_name = "K", value_parser = super::count)]
    pub drawn_tokens: Option<usize>,
    #[command(flatten)]
    pub drawing: Drawing,
    #[command(flatten)]
    pub decoding: Decoding,
}

/// Fit samplers of few steps to a tokenizer's decoder, which then decodes as well in fewer steps
///
/// Which parts of the noise and of the decoder's answers so far make up the next step, and when the decoder is asked, is chosen
/// for this decoder, so that it ends where many steps would: minutes instead of a training, and no weight changes. The
/// file decodes so in as many steps and with the guidance that were fitted, unless it names a sampler itself (model.decoding)
/// or another --sampler is asked for.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist models fit-sampler tokenizer.safetensors --data photos/ --steps 2,4,8 --guidance 1 -o fitted.safetensors
  semanticist decode tokens.safetensors --model fitted.safetensors --steps 4 --guidance 1 -o pictures")]
pub struct ModelsFitSampler {
    /// A tokenizer's file, or what else --model takes elsewhere
    #[arg(value_name = "MODEL")]
    pub file: PathBuf,
    /// Photos to decode, as `train` takes them; half of those that are read are for a check on others
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// How many steps, a sampler for each; those of as many steps that the file has are replaced
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "4", value_parser = super::steps)]
    pub steps: Vec<usize>,
    /// The guidance scale that they are for [default: what the model was made for, usually 1.5]
    #[arg(long, value_name = "SCALE", value_parser = super::guidance, allow_negative_numbers = true)]
    pub guidance: Option<f64>,
    /// From how many of the first tokens photos are decoded for it, in turn [default: 1, 2, 4 … all]
    #[arg(long, value_name = "K,…", value_delimiter = ',', value_parser = super::kept)]
    pub tokens: Vec<usize>,
    /// How many photos to fit to
    #[arg(long, value_name = "N", default_value = "64", value_parser = super::count)]
    pub images: usize,
    /// The noise that they are decoded from
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,
    /// The model file to write; MODEL itself is replaced when it is complete
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// Write a model's networks under their published names, for PyTorch
///
/// The file is a safetensors file; the autoencoder is not part of it, as it is not of published
/// checkpoints.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist models export --published -o for-pytorch.safetensors
  semanticist models export tokenizer.safetensors --published -o for-pytorch.safetensors")]
pub struct ModelsExport {
    /// A model file [default: the built-in model]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Under the names of the published checkpoints
    #[arg(long, required = true)]
    pub published: bool,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// How exactly numbers are stored
    #[arg(long, alias = "precision", value_enum, default_value_t = Stored::F32)]
    pub store: Stored,
}

/// [`Precision`] as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stored {
    /// All of their 32 bits
    F32,
    /// 16 bits, half the space
    F16,
}

impl From<Stored> for Precision {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::F32 => Self::F32,
            Stored::F16 => Self::F16,
        }
    }
}
