//! The arguments of `cache-tokens`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use semanticist_data::Views;

use super::models::Stored;
use super::{ModelChoice, SplitChoice, batch, count};
use crate::device::Machine;
use crate::failure;

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
    /// How many random or zoomed crops of each image [default: 20]
    #[arg(long, value_name = "N", value_parser = count)]
    pub crops: Option<usize>,
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
    /// As many as --crops says at 1 to 1.2 of the size, at random places, half of them mirrored
    RandomCrops,
    /// The same at 1 to 1.8 of the size, of which a generator learns more (docs/recipes.md)
    ZoomedCrops,
}

/// How many crops are drawn unless a number is asked for: as many as [`Views::TenCrop`] has.
const CROPS: usize = 20;

impl CacheTokens {
    /// # Errors
    /// If a number of crops is given with other views.
    pub fn views(&self) -> Result<Views> {
        let views = match self.views {
            ViewsChoice::Center => Views::Center,
            ViewsChoice::Flip => Views::Flip,
            ViewsChoice::TenCrop => Views::TenCrop,
            ViewsChoice::RandomCrops => return Ok(Views::RandomCrops(self.crops.unwrap_or(CROPS))),
            ViewsChoice::ZoomedCrops => return Ok(Views::ZoomedCrops(self.crops.unwrap_or(CROPS))),
        };
        match self.crops {
            None => Ok(views),
            Some(_) => Err(failure::usage(
                "--crops is of crops that are drawn; ask for --views random-crops or zoomed-crops, or leave it out",
            )),
        }
    }
}

/// Write what a teacher sees in images, for a tokenizer to be aligned with
///
/// Writes a folder of shards with the features of every patch. Training then takes them from there, and neither needs
/// the teacher nor its time (REPA). Ctrl-C stops; the same command goes on after the last whole shard.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist cache-features photos/ --teacher classifier.safetensors --size 64 -o features/
  semanticist train tokenizer run.toml --data photos/ --out runs/1 --set data.crop=center --set objective.repa.cache=features/")]
pub struct CacheFeatures {
    /// What the run is trained on: its --data, in the same order
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,
    /// A classifier or tokenizer trained here, or a DINOv2
    #[arg(long, value_name = "FILE")]
    pub teacher: PathBuf,
    /// Side of the images that the run is trained on, in pixels (its model.image_size)
    #[arg(long, value_name = "PIXELS", value_parser = count)]
    pub size: usize,
    /// The folder to write
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Which views of each image; a run that never mirrors (data.flip = 0) needs the first only
    #[arg(long, value_enum, default_value_t = FeatureViews::Flip)]
    pub views: FeatureViews,
    /// How exactly numbers are stored
    #[arg(long, value_enum, default_value_t = Stored::F16)]
    pub store: Stored,
    /// Images per shard; what is lost at most when stopped [default: as many as take 256 MiB]
    #[arg(long, value_name = "N", value_parser = count)]
    pub shard: Option<usize>,
    /// Views that the teacher sees together
    #[arg(long, value_name = "N", default_value = "64", value_parser = batch)]
    pub batch: usize,
    /// Which part of folders that name their parts
    #[arg(long, value_enum, default_value_t = SplitChoice::Train)]
    pub split: SplitChoice,
    #[command(flatten)]
    pub machine: Machine,
}

/// The [`Views`] that training can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FeatureViews {
    /// The evaluation crop
    Center,
    /// The evaluation crop and its mirror image
    Flip,
}

impl From<FeatureViews> for Views {
    fn from(choice: FeatureViews) -> Self {
        match choice {
            FeatureViews::Center => Self::Center,
            FeatureViews::Flip => Self::Flip,
        }
    }
}
