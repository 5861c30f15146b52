//! One file per command.

pub mod decode;
pub mod encode;
pub mod models;
pub mod reconstruct;
pub mod train;

mod choice;
mod names;

use anyhow::Result;

use crate::args::{self, Command, ModelsCommand};

/// Does what was asked for.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Reconstruct(request) => reconstruct::run(&request),
        Command::Encode(request) => encode::run(&request),
        Command::Decode(request) => decode::run(&request),
        Command::Models { command: ModelsCommand::Info(request) } => models::info(&request),
        Command::Train(request) => train(request),
    }
}

fn train(request: args::Train) -> Result<()> {
    let device = request.machine.start()?;
    let args::Train { config, data, output: out, settings, resume, .. } = request;
    train::train_tokenizer(&train::TrainTokenizer { config, data, out, settings, resume }, &device)
}
