//! The command line of Semanticist: parse, dispatch, and say once what went wrong.

#[expect(unsafe_code, reason = "the allocator's settings are C functions")]
mod allocator;
mod args;
mod device;
mod distributed;
mod failure;
mod fetch;
mod memory;
mod output;
mod progress;

mod command;

use std::process::ExitCode;

use clap::Parser;
use distributed::Ranks;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let command = args::Arguments::parse().command;
    let ranks = match Ranks::start(&command) {
        Ok(ranks) => ranks,
        Err(error) => return failure::report(&error),
    };
    let Err(error) = command::run(command, &ranks) else { return ExitCode::SUCCESS };
    let code = failure::report(&error);
    if !failure::is_ending(&error) {
        ranks.fail();
    }
    code
}
