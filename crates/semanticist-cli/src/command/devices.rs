//! `semanticist devices`: what `--device` can be here.

use anyhow::Result;
use semanticist::Precision;
use semanticist::device::{DeviceSpec, GpuInterface};
use serde::Serialize;

use crate::args::Devices;
use crate::memory::available;
use crate::output;

/// Said where no instructions multiply in bfloat16.
const EMULATED: &str = "emulated";

#[derive(Serialize)]
struct Report {
    devices: Vec<Found>,
    /// What of the interfaces to graphics cards this build was made for.
    built_for: Vec<&'static str>,
}

#[derive(Serialize)]
struct Found {
    /// As `--device` takes it.
    device: String,
    /// Of the processor, how many compute.
    threads: Option<usize>,
    /// Bytes that can still be taken; graphics cards do not say.
    memory_free: Option<u64>,
    /// What multiplies in bfloat16; graphics cards do not say.
    bfloat16: Option<&'static str>,
}

pub fn run(request: &Devices) -> Result<()> {
    let devices = DeviceSpec::found().into_iter().map(|device| {
        let cpu = device == DeviceSpec::Cpu;
        Found {
            device: device.to_string(),
            threads: cpu.then(rayon::current_num_threads),
            memory_free: available().filter(|_| cpu),
            bfloat16: cpu.then(|| Precision::bfloat16_instructions().unwrap_or(EMULATED)),
        }
    });
    let built_for = GpuInterface::ALL.into_iter().filter(|it| it.built()).map(GpuInterface::name).collect();
    let report = Report { devices: devices.collect(), built_for };
    if request.json { output::print_json(&report) } else { output::print(&text(&report)) }
}

fn text(report: &Report) -> String {
    let mut lines: Vec<String> = report.devices.iter().map(line).collect();
    if report.built_for.is_empty() {
        let features = GpuInterface::ALL.map(GpuInterface::name).join(", ");
        lines.push(format!("This build has no GPU support; it is a Cargo feature of the build: {features}."));
    } else if report.devices.len() == 1 {
        lines
            .push(format!("This build is made for {}, but finds no card here.", report.built_for.join(", ")));
    }
    lines.join("\n")
}

fn line(Found { device, threads, memory_free, bfloat16 }: &Found) -> String {
    let threads = threads.map(|threads| format!("{threads} threads"));
    let memory = memory_free.map(|bytes| format!("{:.1} GB free", bytes as f64 / 1e9));
    let bfloat16 = bfloat16.map(|by| match by {
        EMULATED => "bfloat16 emulated, slower than float32".to_string(),
        instructions => format!("bfloat16 by {instructions}"),
    });
    let known: Vec<String> = [threads, memory, bfloat16].into_iter().flatten().collect();
    format!("{device:<10} {}", known.join(", ")).trim_end().to_string()
}
