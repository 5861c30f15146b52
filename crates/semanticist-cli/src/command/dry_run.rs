//! `train … --dry-run`: what a run would take, and whether this machine has it; nothing is written.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use burn::tensor::Device;
use semanticist_train::config::RunConfig;
use semanticist_train::objective::Objective;
use semanticist_train::plan::{self, Plan, Speed};
use serde::Serialize;

use super::preflight::{self, gibibytes};
use crate::allocator::peak_memory;
use crate::args::Place;
use crate::memory::available;
use crate::output;

/// All that is found out.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    plan: Plan,
    /// Bytes that are counted in all.
    memory_needed: u64,
    /// Bytes that can be taken, if that is known.
    memory_free: Option<u64>,
    /// The most that this process had in the steps that were made, in bytes.
    memory_measured: Option<u64>,
    /// Bytes free where the run would be written.
    disk_free: u64,
    /// None if memory or disk are too small, so that no step was made.
    speed: Option<Speed>,
}

/// Prints the report; fails after it if the run does not fit.
pub fn run<O: Objective>(
    place: &Place,
    config: &RunConfig<O::Kind>,
    objective: O,
    model: O::Model,
    device: &Device,
) -> Result<()> {
    let plan = Plan::of(config, &objective, &model);
    let disk_free = disk_free(&place.out)?;
    let memory_free = available();
    let mut problems: Vec<String> =
        preflight::training_refusal(&plan.memory, config.batch, memory_free).into_iter().collect();
    if plan.disk.needed > disk_free {
        problems.push(format!(
            "the checkpoints need {}, and {} are free; free some, give another --out, or keep fewer with \
             --set log.keep_checkpoints=2",
            gibibytes(plan.disk.needed),
            gibibytes(disk_free)
        ));
    }
    let speed = match problems.as_slice() {
        [] => Some(plan::measure(config, objective, model, device)?),
        _ => None,
    };
    let memory_measured = speed.map(|_| peak_memory());
    let memory_needed = plan.memory.needed();
    let report = Report { plan, memory_needed, memory_free, memory_measured, disk_free, speed };
    if place.json {
        output::print_json(&report)?
    } else {
        output::print(&text(&report))?
    }
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

/// Bytes free on the disk of a folder that need not be there yet.
fn disk_free(out: &Path) -> Result<u64> {
    let absolute = std::path::absolute(out)?;
    let present = absolute.ancestors().find(|folder| folder.exists());
    let folder = present.ok_or_else(|| anyhow!("{}: no folder above it exists", out.display()))?;
    fs4::available_space(folder)
        .map_err(|error| anyhow!("{}: cannot ask for free space: {error}", folder.display()))
}

fn text(report: &Report) -> String {
    let Plan { parameters, memory, examples, batch, steps, epochs, disk } = &report.plan;
    let million = |count: u64| format!("{:.2} M", count as f64 / 1e6);
    let mut text = format!("parameters          {}\n", million(parameters.values().sum()));
    for (part, count) in parameters {
        text += &format!("  {part:<30} {:>10}\n", million(*count));
    }
    text += &format!("memory              {} counted", gibibytes(report.memory_needed));
    text += &report.memory_measured.map_or(String::new(), |bytes| format!(", {} measured", gibibytes(bytes)));
    text += &report.memory_free.map_or("\n".into(), |bytes| format!(", {} free\n", gibibytes(bytes)));
    let activations = memory.activations_per_image.map(|bytes| bytes * memory.images);
    for (part, bytes) in [
        ("weights", Some(memory.weights)),
        ("average", Some(memory.average)),
        ("optimizer", Some(memory.optimizer)),
        ("gradients", Some(memory.gradients)),
        ("rounded weights", Some(memory.rounded)),
        ("frozen", Some(memory.frozen)),
        ("activations", activations),
        ("program", Some(memory.program)),
    ] {
        let bytes = bytes.map_or("not counted for this kind of run".into(), gibibytes);
        text += &format!("  {part:<30} {bytes:>10}\n");
    }
    text += &match memory.activations_per_image {
        Some(bytes) => {
            format!(
                "  activations are counted from the sizes, {} for an image, {} at once\n",
                gibibytes(bytes),
                memory.images
            )
        }
        None => String::new(),
    };
    text += &format!(
        "data                {examples} examples an epoch, {:.1} steps of {batch}\n\
         run                 {steps} steps, {epochs:.1} epochs\n",
        *examples as f64 / *batch as f64
    );
    text += &match report.speed {
        Some(speed) => format!(
            "time                {:.1} hours: {:.3} s a step in {} real steps, {:.3} s to prepare its data; {:.1} images/s\n",
            speed.hours, speed.seconds_per_step, speed.steps, speed.seconds_of_data, speed.images_per_second
        ),
        None => "time                not measured: no step was made\n".into(),
    };
    text += &format!(
        "disk                {} at most, {} kept and one being written of {} each; {} free",
        gibibytes(disk.needed),
        disk.kept,
        gibibytes(disk.checkpoint),
        gibibytes(report.disk_free)
    );
    text
}
