//! The noise schedules, whole and on some of their timesteps, in float64.

use semanticist::Result;
use semanticist::diffusion::{DiffusionConfig, Process, Respacing, Schedule};

use super::comparison::{Comparison, Values};
use super::recording::Recording;
use super::{EXACT, TABLE};

pub(super) const FILE: &str = "diffusion_tables.safetensors";

pub(super) fn run(comparison: &mut Comparison) -> Result<()> {
    let mut recording = comparison.open(FILE)?;
    let recorded: Vec<String> = recording.names().map(str::to_string).collect();
    let steps = |schedule: &str| {
        // The whole table says of how many steps the respaced ones are taken.
        let whole = ["betas", "alphas_cumprod"].iter().find_map(|table| {
            let [steps] = recording.dims(&format!("{schedule}.{table}")).ok()?;
            Some(steps)
        });
        whole.unwrap_or(DiffusionConfig::default().steps)
    };
    let tables: Vec<(String, Option<Table>)> = recorded
        .into_iter()
        .map(|name| {
            let table = Table::parse(&name, steps);
            (name, table)
        })
        .collect();
    for (name, table) in tables {
        if let Some(table) = table {
            table.compare(comparison, &mut recording, &name);
        }
    }
    comparison.close(&recording);
    Ok(())
}

/// Which table a name stands for.
struct Table {
    config: DiffusionConfig,
    respacing: Option<Respacing>,
    column: Column,
}

#[derive(Clone, Copy)]
enum Column {
    Timesteps,
    Betas,
    AlphasCumprod,
}

impl Table {
    /// `SCHEDULE.COLUMN`, `SCHEDULE.N.COLUMN` or `SCHEDULE.ddimN.COLUMN`.
    fn parse(name: &str, steps: impl Fn(&str) -> usize) -> Option<Self> {
        let parts: Vec<&str> = name.split('.').collect();
        let (respacing, column) = match parts[1..] {
            [column] => (None, column),
            [respacing, column] => (Some(self::respacing(respacing)?), column),
            _ => return None,
        };
        let schedule = match parts[0] {
            "linear" => Schedule::Linear,
            "cosine" => Schedule::Cosine,
            _ => return None,
        };
        let column = match column {
            "timesteps" => Column::Timesteps,
            "betas" => Column::Betas,
            "alphas_cumprod" => Column::AlphasCumprod,
            _ => return None,
        };
        let config = DiffusionConfig { schedule, steps: steps(parts[0]), ..DiffusionConfig::default() };
        Some(Self { config, respacing, column })
    }

    fn compare(&self, comparison: &mut Comparison, recording: &mut Recording, name: &str) {
        let process = match self.respacing {
            Some(respacing) => Process::respaced(&self.config, respacing),
            None => Process::new(&self.config),
        };
        let process = match process {
            Ok(process) => process,
            Err(error) => return comparison.unreadable(name, error.to_string()),
        };
        match self.column {
            Column::Timesteps => match recording.integers(name, &[process.steps()], usize::MAX) {
                Ok(recorded) => {
                    let [recorded, found] = [recorded, process.timesteps]
                        .map(|steps| steps.into_iter().map(|step| step as f64).collect::<Vec<_>>());
                    comparison.record(name, &recorded, &found, EXACT);
                }
                Err(error) => comparison.unreadable(name, error.to_string()),
            },
            Column::Betas => comparison.compare(recording, name, Values::vector(process.betas), TABLE),
            Column::AlphasCumprod => {
                comparison.compare(recording, name, Values::vector(process.alphas_cumprod), TABLE);
            }
        }
    }
}

/// `25` or `ddim25`.
fn respacing(text: &str) -> Option<Respacing> {
    match text.strip_prefix("ddim") {
        Some(count) => count.parse().ok().map(Respacing::Ddim),
        None => text.parse().ok().map(Respacing::Even),
    }
}
