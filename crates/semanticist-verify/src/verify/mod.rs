//! Checks this build and device against reference tensors recorded from the published PyTorch
//! implementation.
//!
//! A folder holds one file per case. Each case runs the networks or formulas on the recorded inputs
//! and compares every recorded result. Sizes come from the files' metadata, never from here.

mod report;

mod comparison;
mod recording;
mod sizes;
mod tolerance;

mod autoencoder;
mod checkpoints;
mod clip;
mod decoder;
mod diffusion_tables;
mod dinov2;
mod encoder;
mod generator;
mod inception;
mod perceptual;
mod preprocess;
mod quantised;
mod sampling;
mod training_run;
mod training_step;

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use semanticist::{Error, Precision, Result};

use comparison::Comparison;
pub use report::{Check, Report, Verdict};

/// One kind of recording.
struct Case {
    name: &'static str,
    /// Its file, relative to the folder.
    file: &'static str,
    run: fn(&mut Comparison) -> Result<()>,
}

const CASES: [Case; 21] = [
    Case { name: "encoder", file: encoder::FILE, run: encoder::run },
    Case { name: "decoder", file: decoder::FILE, run: decoder::run },
    Case { name: "training_step", file: training_step::FILE, run: training_step::run },
    Case { name: "training_run", file: training_run::FILE, run: training_run::run },
    Case { name: "diffusion_tables", file: diffusion_tables::FILE, run: diffusion_tables::run },
    Case { name: "sampling", file: sampling::FILE, run: sampling::run },
    Case { name: "preprocess", file: preprocess::FILE, run: preprocess::run },
    Case { name: "checkpoints", file: checkpoints::FILE, run: checkpoints::run },
    Case { name: "autoencoder_ldm", file: autoencoder::LDM_FILE, run: autoencoder::run_ldm },
    Case {
        name: "autoencoder_diffusers",
        file: autoencoder::DIFFUSERS_FILE,
        run: autoencoder::run_diffusers,
    },
    Case { name: "generator_si_concat", file: generator::SI_CONCAT, run: generator::run_si_concat },
    Case { name: "generator_si_adaln", file: generator::SI_ADALN, run: generator::run_si_adaln },
    Case { name: "generator_ddpm_adaln", file: generator::DDPM_ADALN, run: generator::run_ddpm_adaln },
    Case { name: "generator_checkpoint", file: generator::CHECKPOINT, run: generator::run_checkpoint },
    Case { name: "inception", file: inception::FILE, run: inception::run },
    Case { name: "dinov2", file: dinov2::FILE, run: dinov2::run },
    Case { name: "lpips", file: perceptual::LPIPS_FILE, run: perceptual::run_lpips },
    Case { name: "dists", file: perceptual::DISTS_FILE, run: perceptual::run_dists },
    Case { name: "clip", file: clip::FILE, run: clip::run },
    Case { name: "titok", file: quantised::TITOK, run: quantised::run_titok },
    Case { name: "vq", file: quantised::VQ, run: quantised::run_vq },
];

/// A case that has been compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaseDone {
    /// As in [`case_names`].
    pub name: &'static str,
    /// Quantities that were compared, or could not be.
    pub checks: usize,
    /// Those that agree.
    pub agreeing: usize,
    /// How long it took.
    pub time: Duration,
}

/// The names of all cases, in the order in which they run.
pub fn case_names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.name)
}

/// Compares this build on `device` with the recordings in `folder`, its products computed in `precision`.
/// The recordings are of float32; how far each kind of quantity may be from them in bfloat16, and why, is in
/// `verify/tolerance.rs`. Weights, formulas and autoencoders are held to the same numbers in either.
///
/// All cases are demanded, or only those in `cases`: one whose file is not there is a failed check.
/// So is a file that cannot be used, with the reason. `observe` is told of every case when it is done.
///
/// # Errors
/// If `folder` is not a folder, or `cases` has a name that is no case.
pub fn verify(
    folder: &Path,
    cases: Option<&[String]>,
    precision: Precision,
    device: &Device,
    observe: &mut dyn FnMut(CaseDone),
) -> Result<Report> {
    let chosen = choose(cases)?;
    let device = &device.clone().without_autodiff();
    let present = files_in(folder)?;
    let mut report = Report { checks: Vec::new(), unknown: Vec::new() };
    let mut known: BTreeSet<String> = CASES.iter().map(|case| case.file.to_string()).collect();
    known.extend(preprocess::images(folder));
    for case in chosen {
        let mut comparison = Comparison::new(case.name, folder, precision, device);
        let begun = Instant::now();
        run(case, &mut comparison);
        let agreeing = comparison.checks.iter().filter(|check| check.verdict == Verdict::Pass).count();
        let time = begun.elapsed();
        observe(CaseDone { name: case.name, checks: comparison.checks.len(), agreeing, time });
        report.checks.append(&mut comparison.checks);
        report.unknown.append(&mut comparison.unknown);
    }
    report.unknown.extend(present.into_iter().filter(|file| !known.contains(file)));
    report.unknown.sort();
    Ok(report)
}

fn choose(names: Option<&[String]>) -> Result<Vec<&'static Case>> {
    let Some(names) = names else {
        return Ok(CASES.iter().collect());
    };
    if let Some(name) = names.iter().find(|name| !case_names().any(|case| case == name.as_str())) {
        let all = case_names().collect::<Vec<_>>().join(", ");
        return Err(Error::Config(format!("there is no case \"{name}\"; the cases are {all}")));
    }
    Ok(CASES.iter().filter(|case| names.iter().any(|name| name == case.name)).collect())
}

/// Runs a case so that whatever happens ends up as checks.
fn run(case: &Case, comparison: &mut Comparison) {
    if !comparison.folder.join(case.file).exists() {
        return comparison.absent(case.file);
    }
    // Sizes are checked before a network runs. A panic means that a check is wanting; that must not
    // take the other cases down.
    let outcome = catch_unwind(AssertUnwindSafe(|| (case.run)(comparison)));
    match outcome {
        Ok(Ok(())) if comparison.checks.is_empty() => {
            comparison.unreadable(case.file, "holds nothing to compare with".into());
        }
        Ok(Ok(())) => {}
        Ok(Err(error)) => comparison.unreadable(case.file, error.to_string()),
        Err(panic) => {
            comparison.unreadable(case.file, format!("the computation failed: {}", message(&*panic)))
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given")
}

/// The files of a folder, and inside those of its folders that belong to cases; other folders as
/// one `NAME/`.
fn files_in(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for name in names_in(folder)? {
        let inner = folder.join(&name);
        let of_a_case = CASES.iter().any(|case| case.file.starts_with(&format!("{name}/")));
        match (inner.is_dir(), of_a_case) {
            (true, true) => files.extend(names_in(&inner)?.into_iter().map(|file| format!("{name}/{file}"))),
            (true, false) => files.push(format!("{name}/")),
            (false, _) => files.push(name),
        }
    }
    Ok(files)
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    if folder.exists() && !folder.is_dir() {
        return Err(Error::file(folder, "is not a folder; give the folder that holds the recordings"));
    }
    let failed = |error| Error::io(folder, "read the folder", error);
    std::fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_reported_as_the_file_of_its_case() {
        let (folder, device) = (tempfile::tempdir().unwrap(), Device::flex());
        std::fs::write(folder.path().join("x"), "").unwrap();
        let case = |run| Case { name: "case", file: "x", run };
        let cases = [
            (case(|_| panic!("shapes {:?}", [1, 2])), "failed: shapes [1, 2]"),
            (case(|_| Ok(())), "holds nothing"),
        ];
        for (case, expected) in cases {
            let mut comparison = Comparison::new("case", folder.path(), Precision::Float32, &device);
            run(&case, &mut comparison);
            assert_eq!((comparison.checks.len(), comparison.checks[0].quantity.as_str()), (1, "x"));
            let Verdict::Unreadable(reason) = &comparison.checks[0].verdict else {
                panic!("{:?}", comparison.checks)
            };
            assert!(reason.contains(expected), "{reason}");
        }
    }
}
