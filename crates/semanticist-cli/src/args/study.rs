//! The arguments of `study`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use semanticist_study::OriginalShown;

use super::evaluate::named;
use super::{ModelChoice, Sampling, count, kept};
use crate::device::Machine;

/// What `study` does.
#[derive(Debug, Subcommand)]
pub enum StudyCommand {
    New(Box<StudyNew>),
    Results(StudyResults),
}

/// Make a perception test: photos, what a tokenizer makes of them, and distractors
///
/// People see two pictures of a photo for a fraction of a second and say which is more like it: the one from the first tokens, or a
/// distractor that shows the same thing. `serve --study DIR` lets them take part.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist study new --data tiny-imagenet-100 -o perception
  semanticist study new --data photos --distractors drawn-from-captions --tokens 2,8 --consent consent.txt -o perception
  semanticist serve --study perception --host 0.0.0.0 --token \"$(openssl rand -hex 16)\"
  semanticist study results perception --csv answers.csv --plot scores.svg")]
pub struct StudyNew {
    /// The folder for the study; created, and has to be empty
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Photos: the validation part of folders that name their parts, else all
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// How many of them, spread evenly
    #[arg(long, value_name = "N", default_value = "40", value_parser = count)]
    pub images: usize,
    /// From how many of the first tokens pictures are made, a series each
    #[arg(long, value_name = "K,…", value_delimiter = ',', default_value = "2", value_parser = kept)]
    pub tokens: Vec<usize>,
    /// Pictures of the same photos by another tokenizer, a series more: named as the photos are, or one for each in their order
    #[arg(long, value_name = "NAME=PATH", value_parser = named)]
    pub series: Vec<(String, PathBuf)>,
    /// What pictures are compared with, named or ordered likewise; in the paper they are drawn from captions of the photos
    /// [default: another photo of the same class]
    #[arg(long, value_name = "PATH")]
    pub distractors: Option<PathBuf>,
    /// How long the two pictures are shown, in milliseconds
    #[arg(long, value_name = "MS,…", value_delimiter = ',', default_value = "100,200,300")]
    pub reveal: Vec<u32>,
    /// Trials of a participant that count; nobody sees a photo twice [default: as many as there are photos, at most 36]
    #[arg(long, value_name = "N", value_parser = count)]
    pub trials: Option<usize>,
    /// Trials before them that do not count
    #[arg(long, value_name = "N", default_value = "3")]
    pub practice: usize,
    /// When the photo itself is shown: before the two pictures, or beside the question
    #[arg(long, value_enum, default_value_t = OriginalChoice::Before)]
    pub original: OriginalChoice,
    /// How long it is shown before them, in milliseconds
    #[arg(long, value_name = "MS", default_value = "1500")]
    pub original_ms: u32,
    /// What participants read at the top
    #[arg(long, default_value = "Which is more like the photo?")]
    pub title: String,
    /// A text file with what participants agree to [default: that answers are kept, without names]
    #[arg(long, value_name = "FILE")]
    pub consent: Option<PathBuf>,
    #[command(flatten)]
    pub sampling: Sampling,
    #[command(flatten)]
    pub model: ModelChoice,
    #[command(flatten)]
    pub machine: Machine,
}

/// When the photo is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OriginalChoice {
    Before,
    After,
}

impl From<OriginalChoice> for OriginalShown {
    fn from(choice: OriginalChoice) -> Self {
        match choice {
            OriginalChoice::Before => Self::Before,
            OriginalChoice::After => Self::After,
        }
    }
}

/// Say what came out of a perception test
///
/// The score is the mean of 1 for the generated picture, 0.5 for "about the same" and 0 for the distractor (paper, appendix D.1),
/// with 95 % bootstrap intervals over participants. It can be asked for while people take part.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist study results perception
  semanticist study results perception --on-time --csv answers.csv --plot scores.svg")]
pub struct StudyResults {
    /// The folder of the study
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Leave out answers to pictures that were not seen for the time that was asked for, within a frame of the screen
    #[arg(long)]
    pub on_time: bool,
    /// Write every answer as a line
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Draw the scores over the reveal times
    #[arg(long, value_name = "FILE.svg|.png")]
    pub plot: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}
