//! `semanticist verify`: this build and device against recorded tensors.

use anyhow::{Result, bail};
use semanticist::Error;
use semanticist_verify::verify::verify;

use crate::args::Verify;
use crate::{failure, output};

pub fn run(request: &Verify) -> Result<()> {
    let precision = request.machine.precision();
    let device = request.machine.start(precision)?;
    let cases = (!request.cases.is_empty()).then_some(request.cases.as_slice());
    let report = verify(&request.folder, cases, precision, &device).map_err(|error| match error {
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
