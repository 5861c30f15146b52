//! The arguments of `generate` and `train generator`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use semanticist::diffusion::Sampler;
use semanticist::generator::GuidanceSchedule;

use super::{ModelChoice, Place, count, guidance, kept, steps};
use crate::device::Machine;

/// Draw new images of a class, token by token
///
/// The generator draws the first tokens, the tokenizer decodes them; tokens that are not drawn are its null
/// tokens. Equal seeds give equal images, alone or with others. With --from the first tokens are those of a photo, and only the
/// rest is drawn: the fewer are kept, the freer the variations.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist generate --class goldfish
  semanticist generate --class 3 --class \"German shepherd\" -n 8 -o dogs.png
  semanticist generate --class goldfish -n 4 --progressive
  semanticist generate --from photo.jpg --keep 1,2,4
  semanticist generate --class 0 -n 100 --out-dir goldfish/ --steps 250 --guidance 6 \\
      --schedule linear")]
pub struct Generate {
    /// Names or numbers of classes [default: eight of them; with --from any]
    #[arg(long, value_name = "NAME|INDEX", num_args = 1..)]
    pub class: Vec<String>,
    /// Images of each class [default: as many as make sixteen in all, at least one; with --from four for each number of tokens]
    #[arg(short = 'n', long, value_name = "N", value_parser = count)]
    pub number: Option<usize>,
    /// How many tokens are drawn [default: what the generator's file says, else all; with --from all]
    #[arg(long, value_name = "K", value_parser = count)]
    pub tokens: Option<usize>,
    /// A strip per image instead of one image: decoded after token 1, 2, 4 … of the same draw
    #[arg(long)]
    pub progressive: bool,
    /// Begin with the first tokens of this photo, and draw the rest
    #[arg(long, value_name = "IMAGE", conflicts_with = "progressive")]
    pub from: Option<PathBuf>,
    /// How many of its tokens are kept, a row each, 0 for none [default: 1, 4, 16, as far as there are more]
    #[arg(long, value_name = "K,…", value_delimiter = ',', value_parser = kept, requires = "from")]
    pub keep: Vec<usize>,
    /// The sheet of images
    #[arg(short, long, value_name = "FILE", default_value = "generated.png")]
    pub output: PathBuf,
    /// Write every image into this folder, and no sheet
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    pub out_dir: Option<PathBuf>,
    /// The generator: a file of `train generator`, a name of `models list`, hf:OWNER/REPO/FILE [default:
    /// the built-in one]
    #[arg(long, value_name = "NAME|FILE")]
    pub generator: Option<PathBuf>,
    /// What a published generator's checkpoint holds, by name, such as gpt-l
    #[arg(long, value_name = "NAME", requires = "generator")]
    pub generator_preset: Option<String>,
    #[command(flatten)]
    pub drawing: Drawing,
    /// What the first image is drawn from; the next ones follow
    #[arg(long, value_name = "N", default_value = "0", help_heading = "Drawing")]
    pub seed: u64,
    #[command(flatten)]
    pub decoding: Decoding,
    #[command(flatten)]
    pub model: ModelChoice,
    #[command(flatten)]
    pub machine: Machine,
}

/// How tokens are drawn.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Drawing")]
pub struct Drawing {
    /// How strongly the class is over-weighted; 1 is not at all [default: what the generator's file says, usually 4]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    pub guidance: Option<f64>,
    #[command(flatten)]
    pub tokens: TokenDrawing,
}

/// How tokens are drawn at any scale of guidance.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Drawing")]
pub struct TokenDrawing {
    /// Whether guidance is the same for all tokens, or grows up to the last, as published (with 6) [default: what the generator's
    /// file says, usually constant]
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleChoice>,
    /// How often the head looks at a token [default: likewise, usually 100]
    #[arg(long, value_name = "N", value_parser = steps)]
    pub steps: Option<usize>,
    /// sde (as published), ab2, euler or heun; of a head that learnt Gaussian diffusion those of --decode-sampler
    /// [default: likewise, usually sde, ddpm]
    #[arg(long, value_name = "NAME")]
    pub sampler: Option<Sampler>,
    /// Multiplies the noise that is added on the way [default: likewise, usually 1]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f64>,
}

/// How drawn tokens are decoded.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Decoding")]
pub struct Decoding {
    /// Sampling steps per image; 1 with ddim-trailing, ab2, euler or heun [default: what the generator's file says, else
    /// what the tokenizer was made for, usually 25]
    #[arg(long, alias = "paint-steps", value_name = "N", value_parser = steps)]
    pub decode_steps: Option<usize>,
    /// ddim, ddim:ETA (ETA from 0 to 1), ddim-trailing (for few steps), ddpm or dpm++; of a tokenizer that learnt a flow
    /// ab2 (second order), euler, heun or sde; of either fitted [default: likewise, usually fitted where it fits, else ddim, ab2]
    #[arg(long, alias = "paint-sampler", value_name = "NAME")]
    pub decode_sampler: Option<Sampler>,
    /// How strongly the tokens are over-weighted; 1 is not at all [default: likewise, usually 1.5]
    #[arg(long, alias = "paint-guidance", value_name = "SCALE", value_parser = guidance, allow_negative_numbers = true)]
    pub decode_guidance: Option<f64>,
}

/// [`GuidanceSchedule`] as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleChoice {
    Linear,
    Constant,
}

impl From<ScheduleChoice> for GuidanceSchedule {
    fn from(choice: ScheduleChoice) -> Self {
        match choice {
            ScheduleChoice::Linear => Self::Linear,
            ScheduleChoice::Constant => Self::Constant,
        }
    }
}

/// Train a generator on the tokens of `cache-tokens`
///
/// Writes below DIR what `train tokenizer` writes. Samples are decoded if the tokenizer that made the
/// tokens is the built-in one, or given.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  semanticist cache-tokens photos/ -o cache/
  semanticist train generator configs/generator-tiny.toml --tokens cache/ --out runs/generator
  semanticist train generator configs/generator-tiny.toml --tokens cache/ --out runs/generator --resume
  semanticist train generator configs/generator-tiny.toml --tokens cache/ --out runs/longer --from tiny-generator")]
pub struct TrainGenerator {
    /// The configuration of the run (TOML)
    pub config: PathBuf,
    /// Caches, shards of them, or files of `encode`
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub tokens: Vec<PathBuf>,
    /// The same of images to validate on [default: those to train on]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub validation: Vec<PathBuf>,
    /// Change an entry of the configuration, such as learning_rate.peak=1e-3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    #[command(flatten)]
    pub place: Place,
    /// Begin with the weights of this generator instead of random ones: a file, or a name of `models list`. Its classes must be those
    /// of the tokens
    #[arg(long, value_name = "MODEL", conflicts_with = "resume")]
    pub from: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelChoice,
    #[command(flatten)]
    pub machine: Machine,
}
