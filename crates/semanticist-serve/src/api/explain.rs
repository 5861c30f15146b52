//! `POST /api/explain`: what each number of tokens says of an image, in numbers.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use semanticist::Error;
use semanticist::image::Fit;
use semanticist_eval::generation::powers;
use semanticist_eval::measure::variance::default_counts;
use semanticist_eval::spectrum::{distance, radial_power};
use semanticist_eval::sweep::{Subject, Sweep};
use semanticist_eval::variance::{VarianceOptions, explained, losses};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::body;
use crate::problem::Result;
use crate::routes::{self, Desk};
use crate::worker::{Models, Ticket};

/// Timesteps and noise, the same for every number of tokens; between two parts it is seen whether somebody still waits.
const DRAWS_AT_ONCE: usize = 4;
const PARTS: usize = 4;

/// The query.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ExplainSettings {
    fit: Fit,
    /// Which tokenizer; the main one if not given.
    model: Option<String>,
}

pub async fn explain(
    State(desk): State<Arc<Desk>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let settings: ExplainSettings = body::query(&uri)?;
    let number = desk.tokenizer(settings.model.as_deref())?;
    let subject = body::subject(&headers, body, settings.fit, number, &desk).await?;
    let work = desk.worker.ask("explain", move |models, ticket| {
        let variance = variance(&subject, number, models, ticket)?;
        Ok(json!({ "variance": variance, "spectrum": spectrum(&subject, number, models, ticket)? }))
    });
    Ok(routes::json(work.await?.to_string()))
}

/// How much of the diffusion loss the first tokens take away (paper, Fig. 4), of this image alone.
fn variance(subject: &Subject, number: usize, models: &Models, ticket: &Ticket) -> Result<Value> {
    let tokenizer = models.tokenizer(number);
    let counts = default_counts(tokenizer.config.tokens);
    let options = VarianceOptions { counts: counts.clone(), draws: 1, seed: 0 };
    let images = vec![subject.square.clone(); DRAWS_AT_ONCE];
    let mut sums = vec![0.0; counts.len()];
    for part in 0..PARTS {
        let found = losses(tokenizer, &images, part * DRAWS_AT_ONCE, &options, &models.device, |_| ())?;
        for losses in found.losses {
            sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += loss);
        }
        if ticket.go_on().is_break() {
            return Err(ticket.explain(&Error::Cancelled));
        }
    }
    let losses: Vec<f64> = sums.iter().map(|sum| sum / (PARTS * DRAWS_AT_ONCE) as f64).collect();
    Ok(json!({ "counts": counts, "losses": losses, "explained": explained(&losses) }))
}

/// How much power the image has at each frequency, and its reconstructions (paper, section 5.4), as the model decodes by default.
fn spectrum(subject: &Subject, number: usize, models: &Models, ticket: &Ticket) -> Result<Value> {
    let tokenizer = models.tokenizer(number);
    let counts = powers(tokenizer.config.tokens);
    let whole = Subject::of(&subject.square, tokenizer.config.image_size, Fit::Crop);
    let sweep = Sweep::new(tokenizer, &whole, tokenizer.config.tokens, &models.device)?;
    let original = radial_power(&subject.square);
    let options = tokenizer.config.decode_options();
    let decoded = sweep
        .decode(&counts, &options, 0, &mut |_, _| ticket.go_on())
        .map_err(|error| ticket.explain(&error))?;
    let series: Vec<Value> = decoded
        .iter()
        .map(|one| {
            let power = radial_power(&one.picture);
            let distance = distance(&power, &original);
            json!({ "tokens": one.tokens, "power": power, "distance": distance })
        })
        .collect();
    Ok(json!({ "original": original, "series": series }))
}
