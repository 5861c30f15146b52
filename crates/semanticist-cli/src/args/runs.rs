//! The arguments of `runs`.

use std::path::PathBuf;

use clap::Args;

/// List training runs: how far they are, their losses and validations
///
/// Looks for folders with a journal.jsonl. A run is running (a process is at work in it), finished, or stopped and
/// can go on with --resume.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist runs runs/
  semanticist runs runs/1 runs/2 --plot losses.svg
  tensorboard --logdir runs/                       the same as TensorBoard shows it")]
pub struct Runs {
    /// Runs, or folders with runs at any depth
    #[arg(value_name = "DIR", required = true)]
    pub folders: Vec<PathBuf>,
    /// Draw the curves of the training losses
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}
