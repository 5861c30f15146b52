//! The perception test: what it is, who takes part, what they see, what they answer.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use semanticist_study::{Answer, Answers, OriginalShown, Participant, Picture, Plan, Study, Trial};
use serde_json::{Value, json};

use crate::body;
use crate::problem::{Problem, Result};
use crate::routes::{self, Desk};

/// A study that people can take part in.
#[derive(Debug)]
pub struct OpenStudy {
    study: Study,
    answers: Mutex<Answers>,
}

impl OpenStudy {
    /// Opens its answers, too.
    ///
    /// # Errors
    /// If they cannot be kept, or are of another study.
    pub fn new(study: Study) -> semanticist::Result<Self> {
        let answers = Mutex::new(Answers::open(&study)?);
        Ok(Self { study, answers })
    }

    fn participant(&self, answers: &Answers, id: &str) -> Result<(Participant, Vec<Trial>)> {
        let found = answers.find(id)?;
        let missing = || Problem::new(StatusCode::NOT_FOUND, "there is no such participant in this study");
        let found = found.ok_or_else(missing)?;
        let trials = self.study.trials(found.number);
        Ok((found, trials))
    }
}

/// Does what waits for the disk beside the answers to other requests.
async fn with<T: Send + 'static>(
    desk: &Desk,
    work: impl FnOnce(&OpenStudy, &Answers) -> Result<T> + Send + 'static,
) -> Result<T> {
    let Some(open) = desk.study.clone() else {
        let message = "no perception test is open here; start the server with --study DIR";
        return Err(Problem::new(StatusCode::NOT_FOUND, message));
    };
    let work = move || {
        // Whoever panicked did so between two statements: the file is whole.
        let answers = open.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        work(&open, &answers)
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(Problem::lost()))
}

/// What participants read before they begin, and how they are shown pictures.
pub async fn describe(State(desk): State<Arc<Desk>>) -> Result<Response> {
    let found = with(&desk, |open, _| {
        let Plan { title, consent, trials, practice, original, original_ms, .. } = open.study.plan();
        Ok(json!({
            "study": open.study.fingerprint(), "title": title, "consent": consent, "trials": trials, "practice": practice,
            "original": original, "original_ms": (*original == OriginalShown::Before).then_some(original_ms),
        }))
    });
    Ok(routes::json(found.await?.to_string()))
}

/// Someone new.
pub async fn join(State(desk): State<Arc<Desk>>) -> Result<Response> {
    let found = with(&desk, |open, answers| {
        let participant = answers.join()?;
        let trials = open.study.trials(participant.number);
        Ok(of_participant(&participant, &trials))
    });
    Ok(routes::json(found.await?.to_string()))
}

/// Someone who comes back.
pub async fn participant(State(desk): State<Arc<Desk>>, Path(id): Path<String>) -> Result<Response> {
    let found = with(&desk, move |open, answers| {
        let (participant, trials) = open.participant(answers, &id)?;
        Ok(of_participant(&participant, &trials))
    });
    Ok(routes::json(found.await?.to_string()))
}

/// Nothing of which side is which.
fn of_participant(participant: &Participant, trials: &[Trial]) -> Value {
    let trials: Vec<Value> =
        trials.iter().map(|it| json!({ "practice": it.practice, "reveal_ms": it.reveal_ms })).collect();
    json!({ "participant": participant.id, "trials": trials, "answered": participant.answered })
}

/// A picture of a trial: `original`, `left` or `right`.
pub async fn picture(
    State(desk): State<Arc<Desk>>,
    Path((id, trial, which)): Path<(String, String, String)>,
) -> Result<Response> {
    let found = with(&desk, move |open, answers| {
        let (_, trials) = open.participant(answers, &id)?;
        let shown = trial.parse().ok().and_then(|at: usize| trials.get(at)).ok_or_else(|| {
            let message = format!("there is no trial {trial}; there are {}", trials.len());
            Problem::new(StatusCode::NOT_FOUND, message)
        })?;
        let picture = match (which.as_str(), shown.generated_left) {
            ("original", _) => Picture::Original,
            ("left", true) | ("right", false) => Picture::Generated(shown.series),
            ("left", false) | ("right", true) => Picture::Distractor,
            _ => {
                let message = format!("there is no picture {which}; expected original, left or right");
                return Err(Problem::new(StatusCode::NOT_FOUND, message));
            }
        };
        let path = open.study.picture_path(shown.item, picture);
        std::fs::read(&path).map_err(|error| {
            tracing::error!(%error, path = %path.display(), "cannot read a picture of the study");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a picture of the study cannot be read")
        })
    });
    let headers = [(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers.map(|(name, value)| (name, HeaderValue::from_static(value))), found.await?).into_response())
}

/// An answer, which is on the disk before this one.
pub async fn answer(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let answer: Answer = body::json(&body::read(&headers, body, &desk.limits).await?)?;
    let found = with(&desk, move |open, answers| {
        let (participant, trials) = open.participant(answers, &id)?;
        answers.add(&open.study, &participant, &answer)?;
        let again = participant.answered.contains(&answer.trial);
        let done = participant.answered.len() + usize::from(!again);
        let all = trials.iter().filter(|trial| !trial.practice).count();
        Ok(json!({ "answered": done, "of": all }))
    });
    Ok(routes::json(found.await?.to_string()))
}
