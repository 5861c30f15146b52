//! `semanticist verify`: this build and device against recorded tensors.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use semanticist::Error;
use semanticist_verify::verify::{CaseDone, verify};

use crate::args::Verify;
use crate::{failure, output};

/// When the table has been waited for as long, as on a slow device, every further case is told of on stderr as well.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn run(request: &Verify) -> Result<()> {
    let precision = request.machine.precision();
    let device = request.machine.start(precision)?;
    let cases = (!request.cases.is_empty()).then_some(request.cases.as_slice());
    let begun = Instant::now();
    let mut observe = |case: CaseDone| {
        if begun.elapsed() > PATIENCE {
            let CaseDone { name, checks, agreeing, time } = case;
            output::note(&format!("{name}: {agreeing} of {checks} agree, {:.1} s", time.as_secs_f64()));
        }
    };
    let report =
        verify(&request.folder, cases, precision, &device, &mut observe).map_err(|error| match error {
            // An unknown case.
            Error::Config(problem) => failure::usage(problem),
            other => other.into(),
        })?;
    if request.json {
        output::print_json(&report)?;
    } else {
        output::print(&report.table())?;
    }
    if !report.passed() {
        bail!("{}: this build does not agree with the recordings; see above", request.folder.display());
    }
    Ok(())
}
