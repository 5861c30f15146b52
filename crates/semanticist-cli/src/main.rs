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
    let command = args::Arguments::parse().command;
    let machine = command.machine().cloned();
    match device::computing(machine.as_ref(), || command::run(command)).flatten() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
