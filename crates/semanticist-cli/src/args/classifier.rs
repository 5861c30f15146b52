//! The arguments of `classify` and `train classifier`.

use std::path::PathBuf;

use clap::Args;

use super::{Place, TrainingData, count};
use crate::device::Machine;

/// Tell what images show, or how often a classifier is right about labelled ones
///
/// Images are reduced to the size of the classifier and cropped in the middle. Of labelled data the validation part is
/// used if it has one; its classes are found by name, or by number where there are no names.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist classify photo.jpg --model classifier.safetensors
  semanticist classify photos/ --model classifier.safetensors --top 1 --json
  semanticist classify --data tiny-imagenet-100 --model classifier.safetensors")]
pub struct Classify {
    /// Image files, folders of images, Parquet files (column `image`) or folders of them
    #[arg(value_name = "IMAGE", required_unless_present = "data")]
    pub images: Vec<PathBuf>,
    /// The classifier: a file of `train classifier`, or hf:OWNER/REPOSITORY/FILE
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// How many of the most probable classes to tell of each image
    #[arg(long, value_name = "N", default_value = "5", value_parser = count)]
    pub top: usize,
    /// Measure accuracy on these: folders of class folders, Parquet files (columns `image` and `label`) or
    /// folders of them
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// On how many of them, spread evenly [default: all]
    #[arg(long = "images", value_name = "N", requires = "data", value_parser = count)]
    pub count: Option<usize>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// Train a classifier on labelled images
///
/// Writes below DIR what `train tokenizer` writes, but no samples; model.safetensors knows the names of its classes.
/// Images outside of class folders are refused, as are Parquet files without the column `label`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist train classifier configs/classifier-tiny.toml --data photos --out runs/c \\
      --set model.classes=10
  semanticist train classifier configs/classifier-tiny.toml --data photos --out runs/c --resume")]
pub struct TrainClassifier {
    #[command(flatten)]
    pub run: TrainingData,
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub machine: Machine,
}
