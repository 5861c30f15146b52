//! `--device` and `--threads`: where, and with how much of it, the networks compute.

use anyhow::{Context, Result};
use burn::tensor::Device;
use clap::Args;

use crate::args;

/// Names that are understood, so that the answer to them can be helpful.
const GPUS: [&str; 6] = ["cuda", "rocm", "vulkan", "metal", "wgpu", "webgpu"];

/// The machine to compute on.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Machine")]
pub struct Machine {
    /// Where to compute; this build knows `cpu`
    #[arg(long, default_value = "cpu", value_parser = processor)]
    device: Processor,
    /// Threads to compute with [default: one per core]
    #[arg(long, value_name = "N", value_parser = args::threads)]
    threads: Option<usize>,
}

/// What can compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Processor {
    Cpu,
}

impl Machine {
    /// The device, with the threads set up. To be called once.
    pub fn start(&self) -> Result<Device> {
        if let Some(threads) = self.threads {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build_global().with_context(|| format!("cannot start {threads} threads; ask for fewer"))?;
        }
        Ok(match self.device {
            Processor::Cpu => Device::flex(),
        })
    }
}

fn processor(name: &str) -> Result<Processor, String> {
    let kind = name.split(':').next().unwrap_or_default();
    match name {
        "cpu" => Ok(Processor::Cpu),
        _ if GPUS.contains(&kind) => {
            Err(format!("this build has no GPU support, which \"{kind}\" needs; use \"cpu\""))
        }
        _ => Err(format!("unknown device; use \"cpu\" ({} need a build with GPU support)", GPUS.join(", "))),
    }
}
