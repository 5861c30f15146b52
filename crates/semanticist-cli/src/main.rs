//! The command line of Semanticist: parse, dispatch, and say once what went wrong.

#[expect(unsafe_code, reason = "the allocator's settings are C functions")]
mod allocator;
mod args;
mod device;
mod failure;
mod fetch;
mod memory;
mod output;
mod progress;

mod command;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    match command::run(args::Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
