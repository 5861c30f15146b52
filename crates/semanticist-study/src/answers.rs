//! What participants answered, in a SQLite file: every answer is on the disk before the page goes on.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use semanticist::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::plan::{Study, Trial};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS study (fingerprint TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS participants (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, joined INTEGER NOT NULL DEFAULT (unixepoch()));
    CREATE TABLE IF NOT EXISTS answers (
        participant INTEGER NOT NULL REFERENCES participants (number), trial INTEGER NOT NULL,
        item TEXT NOT NULL, series TEXT NOT NULL, reveal_ms INTEGER NOT NULL, generated_left INTEGER NOT NULL,
        choice TEXT NOT NULL, shown_ms REAL NOT NULL, frames INTEGER NOT NULL, late_frames INTEGER NOT NULL,
        frame_ms REAL NOT NULL, response_ms REAL NOT NULL, answered INTEGER NOT NULL DEFAULT (unixepoch()),
        PRIMARY KEY (participant, trial));
";

/// The most participants of a study: more are an attack.
const MOST: u64 = 100_000;

/// What a participant says of the two pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// The left one is more like the original.
    Left,
    /// The right one is.
    Right,
    /// Both are about the same.
    Same,
}

/// An answer as the page sends it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The number of the trial among those of the participant.
    pub trial: usize,
    /// What they chose.
    pub choice: Choice,
    /// How long the pictures were seen by the browser's clock, in milliseconds.
    pub shown_ms: f64,
    /// Frames of the screen in that time.
    pub frames: u32,
    /// Those of them that came later than one and a half frames after the one before.
    pub late_frames: u32,
    /// How long a frame takes on that screen, in milliseconds.
    pub frame_ms: f64,
    /// From the question to the answer, in milliseconds.
    pub response_ms: f64,
}

/// Someone who takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Participant {
    /// From 0, in the order in which they came; what they see depends on it.
    pub number: u64,
    /// What only their browser knows.
    pub id: String,
    /// The trials that they answered, ascending.
    pub answered: Vec<usize>,
}

/// An answer as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recorded {
    /// Who gave it.
    pub participant: u64,
    /// To which trial of theirs.
    pub trial: usize,
    /// Which image it was of.
    pub item: String,
    /// What was compared with the distractor.
    pub series: String,
    /// How long the two should have been shown, in milliseconds.
    pub reveal_ms: u32,
    /// What was chosen: `generated`, `distractor` or `same`.
    pub choice: String,
    /// 1 for the generated picture, 0.5 for both, 0 for the distractor, as in the paper.
    pub score: f64,
    /// How long they were shown, in milliseconds.
    pub shown_ms: f64,
    /// In frames.
    pub frames: u32,
    /// How many of them came late.
    pub late_frames: u32,
    /// How long a frame took, in milliseconds.
    pub frame_ms: f64,
    /// How long the answer took, in milliseconds.
    pub response_ms: f64,
    /// When it came, in seconds since 1970.
    pub answered: i64,
}

impl Recorded {
    /// Whether the pictures were seen for the time that was asked for, within a frame, and no frame came late.
    pub fn on_time(&self) -> bool {
        self.late_frames == 0 && (self.shown_ms - f64::from(self.reveal_ms)).abs() <= self.frame_ms
    }
}

/// The answers to a study.
#[derive(Debug)]
pub struct Answers {
    connection: Connection,
    path: PathBuf,
}

impl Answers {
    /// Opens the answers of a study; the file is created.
    ///
    /// # Errors
    /// If it cannot be, is no database, or belongs to another study.
    pub fn open(study: &Study) -> Result<Self> {
        let path = study.answers_path();
        let answers = Self { connection: Connection::open(&path).map_err(|it| failed(&path, &it))?, path };
        answers.run(|connection| connection.busy_timeout(std::time::Duration::from_secs(10)))?;
        // FULL: a power cut after a commit takes nothing back.
        answers.run(|connection| {
            connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        })?;
        answers.run(|connection| connection.execute_batch(SCHEMA))?;
        let of: Option<String> = answers.run(|connection| {
            connection.query_row("SELECT fingerprint FROM study", [], |row| row.get(0)).optional()
        })?;
        match of {
            Some(of) if of == study.fingerprint() => {}
            Some(_) => {
                return Err(Error::file(
                    &answers.path,
                    "holds the answers to another study: study.json was changed after people took part; move the answers away \
                     to begin anew",
                ));
            }
            None => {
                let insert = "INSERT INTO study VALUES (?1)";
                answers.run(|connection| connection.execute(insert, [study.fingerprint()]))?;
            }
        }
        Ok(answers)
    }

    /// Someone new.
    ///
    /// # Errors
    /// If the file cannot be written, or too many take part.
    pub fn join(&self) -> Result<Participant> {
        let insert = "INSERT INTO participants (number, id)
            SELECT coalesce(max(number) + 1, 0), lower(hex(randomblob(16))) FROM participants HAVING count(*) < ?1
            RETURNING number, id";
        let joined = self.run(|connection| {
            connection.query_row(insert, [MOST], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })?;
        let (number, id) =
            joined.ok_or_else(|| Error::Input(format!("{MOST} participants have come already")))?;
        Ok(Participant { number, id, answered: Vec::new() })
    }

    /// Someone who was here before.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn find(&self, id: &str) -> Result<Option<Participant>> {
        let select = "SELECT number FROM participants WHERE id = ?1";
        let number: Option<u64> =
            self.run(|connection| connection.query_row(select, [id], |row| row.get(0)).optional())?;
        let Some(number) = number else { return Ok(None) };
        let answered = self.run(|connection| {
            let select = "SELECT trial FROM answers WHERE participant = ?1 ORDER BY trial";
            connection.prepare(select)?.query_map([number], |row| row.get(0))?.collect()
        })?;
        Ok(Some(Participant { number, id: id.to_string(), answered }))
    }

    /// Keeps an answer. The same one once more changes nothing: a browser that heard no answer sends it again.
    ///
    /// # Errors
    /// If there is no such trial, it is practice, another answer was given before, a number makes no sense, or the file cannot be
    /// written.
    pub fn add(&self, study: &Study, participant: &Participant, answer: &Answer) -> Result<()> {
        let trials = study.trials(participant.number);
        let refuse = |problem: String| Err(Error::Input(format!("trial {}: {problem}", answer.trial)));
        let Some(trial) = trials.get(answer.trial) else {
            return refuse(format!("there are {}", trials.len()));
        };
        if trial.practice {
            return refuse("is practice, whose answers are not kept".into());
        }
        let times = [answer.shown_ms, answer.frame_ms, answer.response_ms];
        if times.iter().any(|time| !time.is_finite() || *time < 0.0) {
            return refuse(format!("has times of {times:?} ms; expected numbers from 0"));
        }
        let choice = match answer.choice {
            Choice::Same => "same",
            Choice::Left if trial.generated_left => "generated",
            Choice::Right if !trial.generated_left => "generated",
            _ => "distractor",
        };
        let Trial { item, series, reveal_ms, generated_left, .. } = trial;
        let insert = "INSERT INTO answers (participant, trial, item, series, reveal_ms, generated_left, choice, shown_ms, frames,
            late_frames, frame_ms, response_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
        let inserted = self.connection.execute(
            insert,
            params![
                participant.number,
                answer.trial,
                study.items()[*item],
                study.series()[*series],
                reveal_ms,
                generated_left,
                choice,
                answer.shown_ms,
                answer.frames,
                answer.late_frames,
                answer.frame_ms,
                answer.response_ms
            ],
        );
        match inserted {
            Ok(_) => Ok(()),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                let select = "SELECT choice FROM answers WHERE participant = ?1 AND trial = ?2";
                let before: String = self.run(|connection| {
                    connection.query_row(select, params![participant.number, answer.trial], |row| row.get(0))
                })?;
                if before == choice { Ok(()) } else { refuse("was answered otherwise before".into()) }
            }
            Err(error) => Err(failed(&self.path, &error)),
        }
    }

    /// All answers, by participant and trial.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn all(&self) -> Result<Vec<Recorded>> {
        let select = "SELECT participant, trial, item, series, reveal_ms, choice, shown_ms, frames, late_frames, frame_ms,
            response_ms, answered FROM answers ORDER BY participant, trial";
        self.run(|connection| {
            let mut statement = connection.prepare(select)?;
            let rows = statement.query_map([], |row| {
                let choice: String = row.get(5)?;
                let score = match choice.as_str() {
                    "generated" => 1.0,
                    "same" => 0.5,
                    _ => 0.0,
                };
                Ok(Recorded {
                    participant: row.get(0)?,
                    trial: row.get(1)?,
                    item: row.get(2)?,
                    series: row.get(3)?,
                    reveal_ms: row.get(4)?,
                    choice,
                    score,
                    shown_ms: row.get(6)?,
                    frames: row.get(7)?,
                    late_frames: row.get(8)?,
                    frame_ms: row.get(9)?,
                    response_ms: row.get(10)?,
                    answered: row.get(11)?,
                })
            })?;
            rows.collect()
        })
    }

    fn run<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        work(&self.connection).map_err(|error| failed(&self.path, &error))
    }
}

fn failed(path: &Path, error: &rusqlite::Error) -> Error {
    Error::file(path, format!("answers cannot be kept or read: {error}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::plan::tests::{plan, study};

    pub(crate) fn answer(trial: usize, choice: Choice) -> Answer {
        Answer {
            trial,
            choice,
            shown_ms: 101.0,
            frames: 6,
            late_frames: 0,
            frame_ms: 16.7,
            response_ms: 800.0,
        }
    }

    #[test]
    fn answers_are_kept_once_and_scored_as_in_the_paper() {
        let folder = tempfile::tempdir().unwrap();
        let study = study(&folder.path().join("study"), plan()).unwrap();
        let answers = Answers::open(&study).unwrap();
        let [first, second] = [answers.join().unwrap(), answers.join().unwrap()];
        assert_eq!([first.number, second.number], [0, 1]);
        assert!(first.id.len() == 32 && first.id != second.id);
        let trials = study.trials(1);
        for (trial, shown) in trials.iter().enumerate().skip(2) {
            let choice = match trial % 3 {
                0 => Choice::Same,
                1 if shown.generated_left => Choice::Left,
                1 => Choice::Right,
                _ if shown.generated_left => Choice::Right,
                _ => Choice::Left,
            };
            answers.add(&study, &second, &answer(trial, choice)).unwrap();
            answers.add(&study, &second, &answer(trial, choice)).unwrap();
        }
        drop(answers);
        let answers = Answers::open(&study).unwrap();
        let all = answers.all().unwrap();
        assert_eq!(all.len(), 12);
        for it in &all {
            let expected = [("same", 0.5), ("generated", 1.0), ("distractor", 0.0)][it.trial % 3];
            assert_eq!((it.choice.as_str(), it.score, it.participant), (expected.0, expected.1, 1));
            assert_eq!(it.item, study.items()[trials[it.trial].item]);
        }
        let found = answers.find(&second.id).unwrap().unwrap();
        assert_eq!((found.number, found.answered), (1, (2..14).collect()));
        assert_eq!(answers.find(&first.id).unwrap().unwrap().answered, Vec::<usize>::new());
        assert!(answers.find("somebody").unwrap().is_none());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("study");
        let made = study(&place, plan()).unwrap();
        let answers = Answers::open(&made).unwrap();
        let one = answers.join().unwrap();
        let refused = |answer: Answer, expected: &str| {
            let message = answers.add(&made, &one, &answer).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        refused(answer(0, Choice::Same), "is practice");
        refused(answer(14, Choice::Same), "there are 14");
        refused(Answer { shown_ms: f64::NAN, ..answer(5, Choice::Same) }, "times of");
        refused(Answer { response_ms: -1.0, ..answer(5, Choice::Same) }, "times of");
        answers.add(&made, &one, &answer(5, Choice::Same)).unwrap();
        refused(answer(5, Choice::Left), "answered otherwise");
        // Another study in the same folder, and a file that is none.
        std::fs::remove_file(place.join("study.json")).unwrap();
        let kept = std::fs::read(made.answers_path()).unwrap();
        std::fs::remove_dir_all(&place).unwrap();
        let other = study(&place, Plan { seed: 9, ..plan() }).unwrap();
        std::fs::write(other.answers_path(), &kept).unwrap();
        assert!(Answers::open(&other).unwrap_err().to_string().contains("another study"));
        std::fs::write(other.answers_path(), "hello, I am no database at all, but a text").unwrap();
        assert!(Answers::open(&other).unwrap_err().to_string().contains("cannot be kept or read"));
    }
}
