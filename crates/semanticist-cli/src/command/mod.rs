//! One file per command.

pub mod bench;
pub mod cache_features;
pub mod cache_tokens;
pub mod classify;
pub mod decode;
mod devices;
pub mod encode;
pub mod evaluate;
mod fit_sampler;
pub mod generate;
pub mod list;
pub mod models;
pub mod pull;
pub mod reconstruct;
pub mod runs;
pub mod serve;
mod sources;
pub mod study;
pub mod train;
pub mod verify;

mod choice;
mod classifiers;
mod dry_run;
mod generators;
mod names;
mod preflight;
mod quantised;
mod shards;

use anyhow::Result;

use crate::args::{Command, ModelsCommand, TrainCommand};
use crate::device;
use crate::distributed::Ranks;

/// Does what was asked for.
pub fn run(command: Command, ranks: &Ranks) -> Result<()> {
    device::start_threads(command.machine(), ranks)?;
    match command {
        Command::Serve(request) => serve::run(&request),
        other => device::computing(|| compute(other, ranks)),
    }
}

/// What is done on a thread that computes.
fn compute(command: Command, ranks: &Ranks) -> Result<()> {
    match command {
        Command::Reconstruct(request) => reconstruct::run(&request),
        Command::Encode(request) => encode::run(&request),
        Command::Decode(request) => decode::run(&request),
        Command::Models { command: ModelsCommand::List(request) } => list::run(&request),
        Command::Models { command: ModelsCommand::Pull(request) } => pull::run(&request),
        Command::Models { command: ModelsCommand::Info(request) } => models::info(&request),
        Command::Models { command: ModelsCommand::Import(request) } => models::import(&request),
        Command::Models { command: ModelsCommand::Edit(request) } => models::edit(&request),
        Command::Models { command: ModelsCommand::FitSampler(request) } => fit_sampler::run(&request),
        Command::Models { command: ModelsCommand::Export(request) } => models::export(&request),
        Command::Train { command: TrainCommand::Tokenizer(request) } => train::tokenizer(&request, ranks),
        Command::Train { command: TrainCommand::Autoencoder(request) } => train::autoencoder(&request, ranks),
        Command::Train { command: TrainCommand::Generator(request) } => train::generator(&request, ranks),
        Command::Train { command: TrainCommand::Classifier(request) } => train::classifier(&request, ranks),
        Command::Runs(request) => runs::run(&request),
        Command::Generate(request) => generate::run(&request),
        Command::Classify(request) => classify::run(&request),
        Command::Serve(_) => unreachable!("a server waits for the threads that compute, beside them"),
        Command::Study { command } => study::run(&command),
        Command::CacheTokens(request) => cache_tokens::run(&request),
        Command::CacheFeatures(request) => cache_features::run(&request),
        Command::Devices(request) => devices::run(&request),
        Command::Evaluate { command } => evaluate::run(&command),
        Command::Verify(request) => verify::run(&request),
        Command::Bench(request) => bench::run(&request),
    }
}
