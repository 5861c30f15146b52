//! `semanticist study`: the perception test.

mod new;
mod paired;

use anyhow::Result;
use semanticist_eval::plot;
use semanticist_study::{Answers, Score, Scores, Study, Which, score, write_csv};

use crate::args::{StudyCommand, StudyResults};
use crate::output;

pub fn run(command: &StudyCommand) -> Result<()> {
    match command {
        StudyCommand::New(request) => new::run(request),
        StudyCommand::Results(request) => results(request),
    }
}

fn results(request: &StudyResults) -> Result<()> {
    let StudyResults { folder, on_time, csv, plot, json } = request;
    for path in [csv, plot].into_iter().flatten() {
        output::check_file(path)?;
    }
    let study = Study::open(folder)?;
    let answers = Answers::open(&study)?.all()?;
    let which = if *on_time { Which::OnTime } else { Which::All };
    let scores = score(&study, &answers, which);
    if let Some(path) = csv {
        write_csv(&answers, path)?;
    }
    if let Some(path) = plot {
        plot::save(&[scores.figure()], path)?;
    }
    if *json { output::print_json(&scores) } else { output::print(&table(&scores)) }
}

fn table(scores: &Scores) -> String {
    let Scores { participants, finished, resampled, scores } = scores;
    let people = if *participants == 1 { "participant" } else { "participants" };
    let mut text = format!("{participants} {people}, {finished} of them finished\n\n");
    let width = scores.iter().map(|it| it.series.chars().count()).max().unwrap_or(0).max("series".len());
    text += &format!(
        "{:<width$}  {:>9}  {:>7}  {:>6}  {:>5}  {:<14}  {:>6}  {:>9}  {:>9}\n",
        "series", "reveal", "answers", "people", "score", "95 % interval", "same", "seen for", "on time"
    );
    for it in scores {
        let Score { series, reveal_ms, answers, participants, score, same, shown_ms, on_time } = it;
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let percent = |share: &Option<f64>| or_dash(share.map(|it| format!("{:.0} %", 100.0 * it)));
        text += &format!(
            "{series:<width$}  {:>9}  {answers:>7}  {participants:>6}  {:>5}  {:<14}  {:>6}  {:>9}  {:>9}\n",
            reveal_ms.map_or_else(|| "all".into(), |time| format!("{time} ms")),
            or_dash(score.map(|it| format!("{:.3}", it.value))),
            or_dash(score.map(|it| format!("{:.3} to {:.3}", it.low, it.high))),
            percent(same),
            or_dash(shown_ms.map(|it| format!("{it:.0} ms"))),
            percent(on_time),
        );
    }
    text += "\nA score of 1 prefers the generated picture, 0 the distractor; 0.5 is neither.";
    if *resampled == "answers" && *participants == 1 {
        text += " Of a single participant the interval is over answers, and says nothing of other people.";
    }
    text
}
