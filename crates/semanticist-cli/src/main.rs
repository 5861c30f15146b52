//! The command line of Semanticist: parse, dispatch, and say once what went wrong.

mod args;
mod boxed;
mod device;
mod failure;
mod output;
mod progress;

mod command;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    match command::run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
