//! What came out: the mean score of every series and reveal time, with intervals.

use std::path::Path;

use semanticist::files::write_atomically;
use semanticist::{Error, Result};
use semanticist_eval::plot::{Axis, Figure, Series};
use semanticist_eval::variance::{Estimate, bootstrap};
use serde::Serialize;

use crate::answers::Recorded;
use crate::plan::Study;

const RESAMPLES: usize = 2000;

/// Which answers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// Those whose pictures were seen for the time that was asked for ([`Recorded::on_time`]).
    OnTime,
}

/// The answers to one series at one reveal time, or at all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// What was compared with the distractor.
    pub series: String,
    /// How long, in milliseconds; none: at all times together.
    pub reveal_ms: Option<u32>,
    /// How many answers.
    pub answers: usize,
    /// Of how many participants.
    pub participants: usize,
    /// The mean of 1 for the generated picture, 0.5 for "about the same", 0 for the distractor (paper, appendix D.1), in
    /// `[0, 1]`; none without answers.
    pub score: Option<Estimate>,
    /// The share of "about the same", in `[0, 1]`.
    pub same: Option<f64>,
    /// The median of how long the pictures were seen, in milliseconds.
    pub shown_ms: Option<f64>,
    /// The share of answers whose pictures were seen for the time that was asked for, in `[0, 1]`.
    pub on_time: Option<f64>,
}

/// All that came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// How many have answered something.
    pub participants: usize,
    /// How many have answered everything.
    pub finished: usize,
    /// What intervals were drawn over: `participants`, or `answers` of a single one.
    pub resampled: &'static str,
    /// By series, each reveal time and all together.
    pub scores: Vec<Score>,
}

/// Means with 95 % percentile bootstrap intervals. Participants are drawn with replacement, since answers of the same one belong
/// together; with a single participant the answers are, which says nothing of other people. The answers come one participant
/// after another, as [`Answers::all`](crate::Answers::all) gives them.
pub fn score(study: &Study, answers: &[Recorded], which: Which) -> Scores {
    let mut people: Vec<u64> = answers.iter().map(|answer| answer.participant).collect();
    people.dedup();
    let finished = people
        .iter()
        .filter(|person| {
            answers.iter().filter(|it| it.participant == **person).count() == study.plan().trials
        })
        .count();
    let times = study.plan().reveal_ms.iter().map(|&time| Some(time)).chain([None]);
    let conditions = study.series().iter().flat_map(|series| times.clone().map(move |time| (series, time)));
    let alone = people.len() < 2;
    let scores = conditions
        .map(|(series, reveal_ms)| {
            let all: Vec<&Recorded> = answers
                .iter()
                .filter(|it| it.series == *series && reveal_ms.is_none_or(|time| time == it.reveal_ms))
                .collect();
            let on_time = mean(all.iter().map(|it| f64::from(u8::from(it.on_time()))));
            let counted: Vec<&Recorded> =
                all.into_iter().filter(|it| which == Which::All || it.on_time()).collect();
            let mut those: Vec<u64> = counted.iter().map(|it| it.participant).collect();
            those.dedup();
            let mut shown: Vec<f64> = counted.iter().map(|it| it.shown_ms).collect();
            shown.sort_by(f64::total_cmp);
            Score {
                series: series.clone(),
                reveal_ms,
                answers: counted.len(),
                participants: those.len(),
                score: estimate(&counted, &those, alone, study.plan().seed),
                same: mean(counted.iter().map(|it| f64::from(u8::from(it.choice == "same")))),
                shown_ms: shown.get(shown.len() / 2).copied(),
                on_time,
            }
        })
        .collect();
    Scores {
        participants: people.len(),
        finished,
        resampled: if alone { "answers" } else { "participants" },
        scores,
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let count = values.len();
    (count > 0).then(|| values.sum::<f64>() / count as f64)
}

fn estimate(answers: &[&Recorded], people: &[u64], alone: bool, seed: u64) -> Option<Estimate> {
    // The sum of scores and the number of answers of each, whose ratio is the mean however many somebody gave.
    let drawn: Vec<Vec<f64>> = match alone {
        true => answers.iter().map(|it| vec![it.score, 1.0]).collect(),
        false => people
            .iter()
            .map(|person| {
                let of = answers.iter().filter(|it| it.participant == *person);
                vec![of.clone().map(|it| it.score).sum(), of.count() as f64]
            })
            .collect(),
    };
    (!drawn.is_empty()).then(|| bootstrap(&drawn, RESAMPLES, seed, |means| vec![means[0] / means[1]])[0])
}

impl Scores {
    /// The scores over the reveal times, a line for each series.
    pub fn figure(&self) -> Figure {
        let mut series: Vec<Series> = Vec::new();
        let mut names: Vec<&str> = self.scores.iter().map(|it| it.series.as_str()).collect();
        names.dedup();
        for name in names {
            let of = self.scores.iter().filter(|it| it.series == name);
            let (points, ends): (Vec<_>, Vec<_>) = of
                .filter_map(|it| {
                    let (time, found) = (f64::from(it.reveal_ms?), it.score?);
                    Some(((time, found.value), (found.low, found.high)))
                })
                .unzip();
            series.push(Series::line(name, points).within(ends));
        }
        Figure {
            title: "Preference over the distractor (0.5: no preference)".into(),
            x: Axis::linear("reveal time, ms"),
            y: Axis::linear("score"),
            series,
        }
    }
}

/// Writes every answer as a line.
///
/// # Errors
/// If the file cannot be written.
pub fn write_csv(answers: &[Recorded], path: &Path) -> Result<()> {
    let mut table = csv::Writer::from_writer(Vec::new());
    for answer in answers {
        table.serialize(answer).map_err(|error| Error::file(path, error.to_string()))?;
    }
    let bytes = table.into_inner().map_err(|error| Error::file(path, error.to_string()))?;
    write_atomically(path, |file| std::io::Write::write_all(file, &bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{plan, study};

    fn recorded(participant: u64, trial: usize, score: f64) -> Recorded {
        Recorded {
            participant,
            trial,
            item: "a, b".into(),
            series: "1 token".into(),
            reveal_ms: 100,
            choice: if score == 0.5 { "same" } else { "other" }.into(),
            score,
            shown_ms: 100.0 + trial as f64,
            frames: 6,
            late_frames: u32::from(trial == 9),
            frame_ms: 16.7,
            response_ms: 500.0,
            answered: 0,
        }
    }

    #[test]
    fn scores_are_means_and_intervals_are_over_participants() {
        let folder = tempfile::tempdir().unwrap();
        let study = study(&folder.path().join("study"), plan()).unwrap();
        // Three people who always say the same thing: their answers are three, not twelve.
        let answers: Vec<Recorded> = [1.0, 0.5, 0.0]
            .iter()
            .enumerate()
            .flat_map(|(person, &score)| (2..6).map(move |trial| recorded(person as u64, trial, score)))
            .collect();
        let found = score(&study, &answers, Which::All);
        assert_eq!((found.participants, found.finished, found.resampled), (3, 0, "participants"));
        let first = &found.scores[0];
        assert_eq!((first.answers, first.participants, first.reveal_ms), (12, 3, Some(100)));
        let Estimate { value, low, high } = first.score.unwrap();
        assert!((value - 0.5).abs() < 1e-12 && low < 0.1 && high > 0.9, "{low} {high}");
        assert!((first.same.unwrap() - 1.0 / 3.0).abs() < 1e-12 && first.on_time == Some(1.0));
        assert_eq!((found.scores[1].answers, found.scores[1].score), (0, None));
        assert_eq!(found.scores.len(), 2 * 4);
        // All times together, behind them.
        assert_eq!((found.scores[3].reveal_ms, found.scores[3].answers), (None, 12));
        assert_eq!(found.figure().series[0].points, [(100.0, value)]);
        // One person: the answers are drawn.
        let alone = score(&study, &answers[..4], Which::All);
        assert_eq!((alone.resampled, alone.scores[0].score.unwrap().low), ("answers", 1.0));
    }

    #[test]
    fn answers_to_what_was_seen_too_long_can_be_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let study = study(&folder.path().join("study"), plan()).unwrap();
        let mut answers = vec![recorded(0, 2, 1.0), recorded(0, 9, 0.0)];
        answers.push(Recorded { shown_ms: 117.0, ..recorded(0, 3, 0.0) });
        let found = score(&study, &answers, Which::OnTime);
        assert_eq!((found.scores[0].answers, found.scores[0].score.unwrap().value), (1, 1.0));
        assert!((found.scores[0].on_time.unwrap() - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_table_of_answers_has_a_line_for_each() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.csv");
        write_csv(&[recorded(0, 2, 1.0), recorded(1, 3, 0.5)], &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("participant,trial,item,series,reveal_ms,choice,score"));
        assert_eq!((lines.len(), lines[2].contains("\"a, b\",1 token,100,same,0.5")), (3, true));
    }
}
