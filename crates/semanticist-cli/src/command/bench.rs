//! `semanticist bench`: how fast this machine runs the models.

use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use semanticist::Precision;
use semanticist_data::Split;
use semanticist_verify::bench::{self, BenchOptions, BenchReport, ImageSpeed, Job, Share};
use serde::Serialize;

use super::sources;
use crate::allocator::{peak_memory, processor_time};
use crate::args::Bench;
use crate::{failure, output};

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    times: BenchReport,
    /// The most memory that the process has had.
    peak_memory_bytes: u64,
}

pub fn run(request: &Bench) -> Result<()> {
    let Some(job) = request.job else { return every_job(request) };
    let precision = request.machine.precision();
    let device = request.machine.start(precision)?;
    let images = match request.data.as_slice() {
        [] => None,
        data => Some(Arc::new(sources::open(data, Split::Train)?)),
    };
    let options = BenchOptions {
        job: job.into(),
        preset: request.preset.map(Into::into),
        batch: request.batch,
        tokens: request.tokens,
        precision,
        repeats: request.repeats,
        file: request.file.clone(),
        images,
        size: request.size,
        eats: request.eats,
        processor_time: Some(processor_time),
    };
    options.validate().map_err(failure::usage)?;
    let mut times = bench::run(&options, &device)?;
    if !request.profile {
        times.operators.clear();
    }
    let report = Report { times, peak_memory_bytes: peak_memory() };
    if request.json { output::print_json(&report) } else { output::print(&text(&report)) }
}

/// Each job that can be done in this precision in a process of its own, so that its peak of memory is its own.
fn every_job(request: &Bench) -> Result<()> {
    let this = std::env::current_exe().context("cannot find this program")?;
    // The arguments of this process name no job: what they say holds for each.
    let given: Vec<_> = std::env::args_os().skip(2).collect();
    let json = given.iter().any(|argument| argument == "--json");
    let mut reports = Vec::new();
    let in_float32 = request.machine.precision() == Precision::Float32;
    for job in Job::ALL.into_iter().filter(|job| in_float32 || job.multiplies()) {
        let mut child = Command::new(&this);
        child.arg("bench").arg(job.name()).args(&given);
        if !json {
            let status = child.status().context("cannot start this program again")?;
            if !status.success() {
                bail!("bench {} failed", job.name());
            }
            continue;
        }
        let done = child.stderr(Stdio::inherit()).output().context("cannot start this program again")?;
        if !done.status.success() {
            bail!("bench {} failed", job.name());
        }
        let report: serde_json::Value =
            serde_json::from_slice(&done.stdout).context("the answer of this program to itself")?;
        reports.push(report);
    }
    if json { output::print_json(&reports) } else { Ok(()) }
}

fn text(report: &Report) -> String {
    let BenchReport { job, preset, batch, threads, tokens, precision, seconds, .. } = report.times;
    let mut text = format!(
        "{:<6}  {:<4}  batch {batch:<3} threads {threads}  tokens {tokens:<3}  {precision}  {seconds:>8.4} s",
        job.name(),
        preset.name()
    );
    if let Some(seconds) = report.times.seconds_per_image {
        text += &format!("  {seconds:.4} s per image");
    }
    if let (Some(reached), Some(peak)) = (report.times.gflops, report.times.peak_gflops) {
        text += &format!("  {reached:.0} of {peak:.0} GFLOP/s ({:.0} %)", 100.0 * reached / peak);
    }
    if let Some(ImageSpeed { size, images_per_second, images_per_core_second, .. }) = report.times.images {
        text += &format!("  {size} px: {images_per_second:.0} images/s");
        if let Some(rate) = images_per_core_second {
            text += &format!(", {rate:.0} per core");
        }
    }
    if let Some((rate, wait)) = report.times.images.and_then(|it| it.eaten_per_second.zip(it.data_wait)) {
        text += &format!(", a device that takes {rate} waits {:.1} % of the time", 100.0 * wait);
    }
    text += &format!("  {:.0} MiB", report.peak_memory_bytes as f64 / f64::from(1 << 20));
    if let Some(model) = report.times.model_bytes {
        text += &format!(", {:.3} of the weights", report.peak_memory_bytes as f64 / model as f64);
    }
    let run: f64 = report.times.operators.iter().map(|share| share.seconds).sum();
    for Share { operator, calls, seconds } in &report.times.operators {
        let calls = if *calls > 0 { format!("{calls} ×") } else { String::new() };
        text += &format!("\n  {operator:<28} {calls:>6} {seconds:>8.4} s {:>5.1} %", 100.0 * seconds / run);
    }
    text
}
