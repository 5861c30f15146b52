//! `--device` and `--threads`: where, and with how much of it, the networks compute.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use semanticist::{Device, DeviceSpec, Precision};

use crate::distributed::Ranks;
use crate::{args, output};

/// The machine to compute on.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Machine")]
pub struct Machine {
    /// Where to compute: `cpu`, or what the build was made for of `cuda`, `vulkan`, `webgpu` and
    /// `metal`, the second card as `cuda:1`
    #[arg(long, default_value = "cpu", value_parser = device)]
    device: DeviceSpec,
    /// Threads to compute with [default: one per core; of several processes on the same cores, as many as its share]
    #[arg(long, value_name = "N", value_parser = args::threads)]
    threads: Option<usize>,
    /// What matrix products are computed in [default: float32; to train, what the configuration says]
    #[arg(long, value_enum)]
    precision: Option<PrecisionChoice>,
}

/// [`Precision`] as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PrecisionChoice {
    /// The published numbers to rounding
    Float32,
    /// Within about 1 % of them, twice as fast where the processor has AVX512-BF16, half the memory for
    /// weights
    Bfloat16,
}

impl Machine {
    /// The device, to compute in `precision`.
    pub fn start(&self, precision: Precision) -> Result<Device> {
        self.start_with(None, precision)
    }

    /// The same of one of several processes, which has the graphics card `card` unless another is asked for.
    pub fn start_with(&self, card: Option<usize>, precision: Precision) -> Result<Device> {
        if self.device == DeviceSpec::Cpu && !precision.is_native() {
            output::note(&format!(
                "this processor has no instructions for products in {precision} (AVX512-BF16): they are emulated, \
                 with the same answers, but slower than --precision float32"
            ));
        }
        let device = match self.device {
            DeviceSpec::Gpu { interface, number: None } => DeviceSpec::Gpu { interface, number: card },
            given => given,
        };
        Ok(device.open()?)
    }

    /// What was asked for, if it was.
    pub fn asked_precision(&self) -> Option<Precision> {
        self.precision.map(|choice| match choice {
            PrecisionChoice::Float32 => Precision::Float32,
            PrecisionChoice::Bfloat16 => Precision::Bfloat16,
        })
    }

    /// What a model is used in.
    pub fn precision(&self) -> Precision {
        self.asked_precision().unwrap_or_default()
    }
}

/// Takes as many threads to compute with as the machine was asked for, or its share of the cores.
pub fn start_threads(machine: Option<&Machine>, ranks: &Ranks) -> Result<()> {
    let asked = machine.and_then(|machine| machine.threads);
    let share = || {
        let cores = std::thread::available_parallelism().ok()?.get();
        (ranks.on_cores > 1).then_some((cores / ranks.on_cores).max(1))
    };
    if let Some(threads) = asked.or_else(share) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build_global().with_context(|| format!("cannot start {threads} threads; ask for fewer"))?;
    }
    Ok(())
}

/// Runs `job` on one of the threads that compute: from outside, each operator of a small model would wait longer
/// for a thread to take it than it runs.
///
/// Whatever `job` waits for must therefore not need these threads itself.
pub fn computing<R: Send>(job: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| job())
}

/// A device that this build can use; whether the machine has it shows when it is opened.
fn device(name: &str) -> semanticist::Result<DeviceSpec> {
    let device: DeviceSpec = name.parse()?;
    device.check()?;
    Ok(device)
}
