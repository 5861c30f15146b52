//! The arguments of `cache-tokens`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use semanticist_data::Views;

use super::models::Stored;
use super::{ModelChoice, SplitChoice, batch, count};
use crate::device::Machine;

/// Write the tokens of views of images, for a generator to learn from
///
/// Writes a folder of shards; labels come along, so the images must have classes to train on. Ctrl-C
/// stops; the same command goes on after the last whole shard.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist cache-tokens photos/ -o cache/
  semanticist cache-tokens imagenet/ -o cache/ --views ten-crop --tokens 32 --model tokenizer.safetensors
  semanticist train generator configs/generator-tiny.toml --tokens cache/ --out runs/generator")]
pub struct CacheTokens {
    /// Folders of class folders, Parquet files (columns `image` and `label`) or folders of them
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,
    /// The folder to write
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// How many of the first tokens to keep [default: all]
    #[arg(long, value_name = "K", value_parser = count)]
    pub tokens: Option<usize>,
    /// Which views of each image
    #[arg(long, value_enum, default_value_t = ViewsChoice::Flip)]
    pub views: ViewsChoice,
    /// How exactly numbers are stored
    #[arg(long, value_enum, default_value_t = Stored::F16)]
    pub store: Stored,
    /// Images per shard; what is lost at most when stopped
    #[arg(long, value_name = "N", default_value = "10000", value_parser = count)]
    pub shard: usize,
    /// Views that go through the network together
    #[arg(long, value_name = "N", default_value = "64", value_parser = batch)]
    pub batch: usize,
    /// Which part of folders that name their parts
    #[arg(long, value_enum, default_value_t = SplitChoice::Train)]
    pub split: SplitChoice,
    #[command(flatten)]
    pub model: ModelChoice,
    #[command(flatten)]
    pub machine: Machine,
}

/// [`Views`] as they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ViewsChoice {
    /// The evaluation crop
    Center,
    /// The evaluation crop and its mirror image
    Flip,
    /// Ten crops each at 1.05 and 1.10 of the size, as published
    TenCrop,
}

impl From<ViewsChoice> for Views {
    fn from(choice: ViewsChoice) -> Self {
        match choice {
            ViewsChoice::Center => Self::Center,
            ViewsChoice::Flip => Self::Flip,
            ViewsChoice::TenCrop => Self::TenCrop,
        }
    }
}
