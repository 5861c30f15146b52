//! Training in several processes: who of them this is, and what of its machine is this one's.

use std::env;
use std::fs;

use anyhow::{Result, bail};
use semanticist_train::collective::{Alone, Collective, check_same};

use crate::args::Command;
use crate::output;

/// The processes that train together, seen from one of them.
pub struct Ranks {
    ways: Ways,
    /// Processes on this machine.
    pub on_machine: usize,
    /// Which of those this one is, from 0.
    pub place: usize,
    /// Processes that have the same cores as this one.
    pub on_cores: usize,
}

/// How they speak to each other.
enum Ways {
    Alone(Alone),
    #[cfg(feature = "mpi")]
    Mpi(semanticist_train::collective::Mpi),
}

/// Where launchers say how many processes they have started: Open MPI, MPICH and its relatives, Slurm's srun.
const LAUNCHERS: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

impl Ranks {
    /// Of a command: all processes of the launcher if it trains, only this one otherwise.
    pub fn start(command: &Command) -> Result<Self> {
        let number = |name| env::var(name).ok()?.parse::<usize>().ok();
        let launched = LAUNCHERS.into_iter().filter_map(number).max();
        let ways = match (command, launched) {
            (Command::Train { .. }, Some(processes)) => start(processes)?,
            _ => Ways::Alone(Alone),
        };
        let mut ranks = Self { ways, on_machine: 1, place: 0, on_cores: 1 };
        let together = ranks.together();
        if together.ranks() > 1 {
            output::speak_as(together.rank());
            check_same(together, "a version", env!("CARGO_PKG_VERSION").as_bytes())?;
            let own = machine().map(|text| f64::from(hash(&text)));
            let all = together.gather(&own)?;
            let same = |entries: usize| all.iter().filter(|other| other[..entries] == own[..entries]).count();
            let before = all[..together.rank()].iter().filter(|other| other[0] == own[0]).count();
            (ranks.on_machine, ranks.place, ranks.on_cores) = (same(1), before, same(2));
        }
        Ok(ranks)
    }

    /// All of them.
    pub fn together(&self) -> &dyn Collective {
        match &self.ways {
            Ways::Alone(alone) => alone,
            #[cfg(feature = "mpi")]
            Ways::Mpi(mpi) => mpi,
        }
    }

    /// The graphics card of this process if others of the machine want one, too.
    pub fn card(&self) -> Option<usize> {
        (self.on_machine > 1).then_some(self.place)
    }

    /// Ends the other processes as well, as they would wait for this one, which has failed.
    pub fn fail(&self) {
        #[cfg(feature = "mpi")]
        if let Ways::Mpi(mpi) = &self.ways {
            mpi.abort(1);
        }
    }
}

#[cfg(feature = "mpi")]
fn start(processes: usize) -> Result<Ways> {
    let mpi = semanticist_train::collective::Mpi::start(|problem| {
        output::note_of_rank(&format!("error: {problem}"))
    })?;
    if mpi.ranks() != processes {
        bail!(
            "the launcher has started {processes} processes, but MPI knows of {}: each would train by itself; start them \
             with the mpirun of the MPI that this build was made for, or with `srun --mpi=pmix`",
            mpi.ranks()
        );
    }
    Ok(Ways::Mpi(mpi))
}

#[cfg(not(feature = "mpi"))]
fn start(processes: usize) -> Result<Ways> {
    if processes > 1 {
        bail!(
            "{processes} processes were started together, but this build can only train in one: build it with \
             `cargo build --release --features semanticist-cli/mpi`, or start it without mpirun or srun"
        );
    }
    Ok(Ways::Alone(Alone))
}

/// The name of this machine, and the cores that this process may use; empty where that is not told.
fn machine() -> [String; 2] {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let cores = cores.map(str::trim).unwrap_or_default().to_string();
    [host, cores]
}

/// FNV-1a.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
