//! The noise schedules, whole and on some of their timesteps, in float64.

use semanticist::Result;
use semanticist::diffusion::{GaussianConfig, Respacing, Schedule, Tables};

use super::comparison::{Comparison, Values};
use super::recording::Recording;
use super::tolerance::Kind;

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
        whole.unwrap_or(GaussianConfig::default().steps)
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
    config: GaussianConfig,
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
        let config = GaussianConfig { schedule, steps: steps(parts[0]), ..GaussianConfig::default() };
        Some(Self { config, respacing, column })
    }

    fn compare(&self, comparison: &mut Comparison, recording: &mut Recording, name: &str) {
        let whole = Tables::new(&self.config);
        let tables = match self.respacing {
            Some(respacing) => whole.and_then(|whole| whole.respaced(respacing)),
            None => whole,
        };
        let tables = match tables {
            Ok(tables) => tables,
            Err(error) => return comparison.unreadable(name, error.to_string()),
        };
        match self.column {
            Column::Timesteps => match recording.integers(name, &[tables.steps()], usize::MAX) {
                Ok(recorded) => {
                    let [recorded, found] = [recorded, tables.timesteps]
                        .map(|steps| steps.into_iter().map(|step| step as f64).collect::<Vec<_>>());
                    comparison.record(name, &recorded, &found, Kind::Exact);
                }
                Err(error) => comparison.unreadable(name, error.to_string()),
            },
            Column::Betas => comparison.compare(recording, name, Values::vector(tables.betas), Kind::Table),
            Column::AlphasCumprod => {
                comparison.compare(recording, name, Values::vector(tables.alphas_cumprod), Kind::Table);
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
