//! `semanticist runs`: training runs side by side.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use plotters::prelude::*;
use semanticist::files::write_atomically;
use semanticist_train::history::{self, Run, RunState};
use serde_json::Value;

use crate::args::Runs;
use crate::output;

pub fn run(request: &Runs) -> Result<()> {
    if let Some(path) = &request.plot {
        output::check_file(path)?;
    }
    let runs = history::find(&request.folders)?;
    if runs.is_empty() {
        let folders: Vec<String> = request.folders.iter().map(|path| path.display().to_string()).collect();
        bail!(
            "no runs in {}; a run is a folder with a journal.jsonl, as `train` writes it",
            folders.join(", ")
        );
    }
    if let Some(path) = &request.plot {
        let picture = plot(&runs)?;
        write_atomically(path, |file| std::io::Write::write_all(file, picture.as_bytes()))?;
        output::note(&format!("plotted {}", path.display()));
    }
    if request.json { output::print_json(&runs) } else { output::print(&table(&runs)) }
}

fn table(runs: &[Run]) -> String {
    let width =
        runs.iter().map(|run| run.path.display().to_string().chars().count()).max().unwrap_or(0).max(3);
    let mut text = format!(
        "{:<width$}  {:<8} {:>17} {:>12} {:>9} {:>9} {:>7}  validation\n",
        "run", "state", "step", "images", "loss", "images/s", "skipped"
    );
    for run in runs {
        let state = match run.state {
            RunState::Running => "running",
            RunState::Finished => "finished",
            RunState::Stopped => "stopped",
        };
        let number = |name: &str, digits: usize| match run.last.get(name).and_then(Value::as_f64) {
            Some(value) => format!("{value:.digits$}"),
            None => "-".into(),
        };
        text += &format!(
            "{:<width$}  {state:<8} {:>17} {:>12} {:>9} {:>9} {:>7}  {}\n",
            run.path.display().to_string(),
            format!("{}/{}", run.step, run.steps),
            run.images,
            number("loss", 4),
            number("images_per_second", 1),
            run.skipped,
            validation(run)
        );
    }
    text
}

/// `step 500: validation_mse 0.3100`: the last value where there are several, which is that of all tokens.
fn validation(run: &Run) -> String {
    let Some(step) = run.validation.get("step") else { return "-".into() };
    let measures =
        run.validation.iter().filter(|(name, _)| !["step", "tokens", "images"].contains(&name.as_str()));
    let measures = measures.filter_map(|(name, value)| {
        let last = value.as_array().and_then(|values| values.last()).unwrap_or(value);
        Some(format!("{name} {:.4}", last.as_f64()?))
    });
    format!("step {step}: {}", measures.collect::<Vec<_>>().join(", "))
}

/// The losses over the steps, a curve per run.
fn plot(runs: &[Run]) -> Result<String> {
    let drawn: Vec<&Run> = runs.iter().filter(|run| run.losses.len() > 1).collect();
    let points = drawn.iter().flat_map(|run| run.losses.iter());
    let finite = points.filter(|(_, loss)| loss.is_finite());
    let (mut last, mut low, mut high) = (1, f64::INFINITY, f64::NEG_INFINITY);
    for (step, loss) in finite {
        (last, low, high) = (last.max(*step), low.min(*loss), high.max(*loss));
    }
    if low > high {
        bail!("no run has two logged steps yet, so there is no curve to plot; leave --plot out");
    }
    let room = (high - low).max(1e-6) * 0.05;
    let mut picture = String::new();
    draw(&drawn, last, low - room..high + room, &mut picture)
        .map_err(|error| anyhow!("cannot plot: {error}"))?;
    Ok(picture)
}

fn draw(runs: &[&Run], last: u64, losses: std::ops::Range<f64>, picture: &mut String) -> Result<(), String> {
    let failed = |error: DrawingAreaErrorKind<std::io::Error>| error.to_string();
    let area = SVGBackend::with_string(picture, (960, 600)).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0..last, losses)
        .map_err(failed)?;
    chart.configure_mesh().x_desc("step").y_desc("training loss").draw().map_err(failed)?;
    for (index, run) in runs.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let points = run.losses.iter().copied().filter(|(_, loss)| loss.is_finite());
        let line = LineSeries::new(points, color.stroke_width(2));
        chart
            .draw_series(line)
            .map_err(failed)?
            .label(name(&run.path))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()
        .map_err(failed)?;
    area.present().map_err(failed)
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample(losses: Vec<(u64, f64)>) -> Run {
        let object = |value: Value| value.as_object().unwrap().clone();
        Run {
            path: "runs/1".into(),
            state: RunState::Stopped,
            step: 20,
            steps: 100,
            images: 640,
            skipped: 1,
            last: object(json!({ "step": 20, "loss": 0.25, "images_per_second": 93.4 })),
            validation: object(
                json!({ "step": 10, "validation_mse": [0.5, 0.3], "tokens": [1, 32], "images": 4 }),
            ),
            losses,
        }
    }

    #[test]
    fn a_run_is_a_line() {
        let text = table(&[sample(vec![])]);
        for part in
            ["runs/1  stopped", " 20/100 ", " 640 ", " 0.2500 ", " 93.4 ", "step 10: validation_mse 0.3000"]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn curves_are_drawn_if_there_are_any() {
        let picture = plot(&[sample(vec![(10, 0.5), (20, 0.25)])]).unwrap();
        assert!(
            picture.starts_with("<svg") && picture.contains("training loss") && picture.contains("runs/1")
        );
        assert!(plot(&[sample(vec![(10, 0.5)])]).unwrap_err().to_string().contains("leave --plot out"));
    }
}
