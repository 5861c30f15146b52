//! How a command fails: one message on stderr and an exit code.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use crate::output;

/// The request itself was wrong, not a file: exit code 2, as clap's own.
#[derive(Debug)]
pub struct Usage(String);

/// Whoever reads our output has enough of it (`| head`): no failure, but nothing more to do.
#[derive(Debug)]
pub struct OutputClosed;

/// Ctrl-C or a scheduler's signal, after what was begun has been put away: 128 + SIGINT, as a shell counts it.
#[derive(Debug)]
pub struct Interrupted;

/// An error about what was asked for.
pub fn usage(problem: impl fmt::Display) -> anyhow::Error {
    Usage(problem.to_string()).into()
}

/// Whether all processes of a run end so together, and none is left to wait for this one.
pub fn is_ending(error: &anyhow::Error) -> bool {
    error.is::<OutputClosed>() || error.is::<Interrupted>()
}

/// Says what went wrong.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<OutputClosed>() {
        return ExitCode::SUCCESS;
    }
    let text = format!("error: {}", message(error));
    // What all processes end with is told by one.
    if is_ending(error) {
        output::note(&text)
    } else {
        output::note_of_rank(&text)
    }
    if error.is::<Interrupted>() {
        ExitCode::from(130)
    } else if error.is::<Usage>() || error.downcast_ref().is_some_and(semanticist_hub::Error::is_usage) {
        let _ = writeln!(std::io::stderr(), "\nFor more information, try '--help'.");
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// Which option of the command line helps, where the library only says what was found.
fn advice(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    use semanticist::Error;
    Some(match error.downcast_ref::<Error>()? {
        Error::Undescribed { .. } => "say it with --config FILE.toml or --preset NAME",
        Error::Described { .. } => "leave --config, --preset and --autoencoder out",
        Error::RunExists { .. } => "go on with --resume, or give another --out",
        Error::RunInUse { .. } => "wait until it ends, stop it, or give another --out",
        Error::RunStopped { saved: Some(_), .. } => "when that is repaired, go on with --resume",
        Error::NoCheckpoint { .. } => "start without --resume",
        Error::RunChanged { .. } => "--force goes on all the same, another --out starts another run",
        Error::AutoencoderNeeded { .. } => "give it with --autoencoder FILE",
        _ => return None,
    })
}

/// The chain of causes, without those that the message before them has already quoted, and advice.
fn message(error: &anyhow::Error) -> String {
    let message = causes(error);
    match error.chain().find_map(advice) {
        Some(advice) if message.contains('\n') => format!("{message}\n{advice}"),
        Some(advice) => format!("{message}; {advice}"),
        None => message,
    }
}

fn causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |message, cause| {
        if message.is_empty() {
            cause
        } else if message.contains(&cause) {
            message
        } else {
            format!("{message}: {cause}")
        }
    })
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stdout was closed")
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Usage {}
impl std::error::Error for OutputClosed {}
impl std::error::Error for Interrupted {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_named_where_they_help() {
        let error = anyhow::Error::from(semanticist::Error::RunExists { path: "runs/1".into() });
        assert_eq!(
            message(&error),
            "runs/1: already holds a run; go on with --resume, or give another --out"
        );
    }

    #[test]
    fn a_cause_is_told_once() {
        let io = std::io::Error::other("disk on fire");
        let error = anyhow::Error::from(semanticist::Error::io("a.png", "write", io)).context("the sheet");
        assert_eq!(message(&error), "the sheet: a.png: cannot write: disk on fire");
    }
}
