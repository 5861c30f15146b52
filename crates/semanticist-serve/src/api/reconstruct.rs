//! `POST /api/reconstruct`: an image from several numbers of its tokens, as events while they are denoised.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use semanticist::Progress;
use semanticist::diffusion::{DecodeOptions, Sampler};
use semanticist::image::{Fit, RgbImage};
use semanticist_eval::generation::powers;
use semanticist_eval::sweep::{Reconstruction, Subject, Sweep, TOGETHER, contact_sheet};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{decode_options, nested, picture};
use crate::body;
use crate::events::Events;
use crate::problem::{Problem, Result};
use crate::routes::Desk;
use crate::worker::{Models, Ticket};

/// The query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReconstructSettings {
    /// Numbers of tokens with commas between them, 0 for none; 1, 2, 4 … all if not given.
    tokens: Option<String>,
    seed: u64,
    /// As the model is made for if not given; likewise the sampler and the guidance.
    steps: Option<usize>,
    sampler: Option<Sampler>,
    guidance: Option<f64>,
    fit: Fit,
    /// Which tokenizer; the main one if not given.
    model: Option<String>,
    /// How often unfinished pictures are sent.
    previews: usize,
}

impl ReconstructSettings {
    /// What is used for a model that is usually decoded so.
    pub fn usual(decoding: &DecodeOptions) -> Self {
        let DecodeOptions { steps, sampler, guidance } = decoding;
        Self { steps: Some(*steps), sampler: *sampler, guidance: Some(guidance.scale), ..Self::default() }
    }
}

impl Default for ReconstructSettings {
    fn default() -> Self {
        Self {
            tokens: None,
            seed: 0,
            steps: None,
            sampler: None,
            guidance: None,
            fit: Fit::Crop,
            model: None,
            previews: 0,
        }
    }
}

pub async fn reconstruct(
    State(desk): State<Arc<Desk>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let settings: ReconstructSettings = body::query(&uri)?;
    let number = desk.tokenizer(settings.model.as_deref())?;
    let ReconstructSettings { steps, sampler, guidance, .. } = settings;
    let usual = &desk.tokenizers[number].usual;
    let options = decode_options(steps, sampler, guidance, usual, number, &desk)?;
    let counts = settings.tokens.as_deref().map(|text| counts(text, desk.limits.pictures)).transpose()?;
    let subject = body::subject(&headers, body, settings.fit, number, &desk).await?;
    desk.worker.stream("reconstruct", move |models, ticket, events| {
        let counts = counts.unwrap_or_else(|| powers(models.tokenizer(number).config.tokens));
        Job { settings, number, options, counts, subject }.run(models, ticket, events)
    })
}

struct Job {
    settings: ReconstructSettings,
    /// Of the tokenizer.
    number: usize,
    options: DecodeOptions,
    counts: Vec<usize>,
    subject: Subject,
}

impl Job {
    fn run(&self, models: &Models, ticket: &Ticket, events: &Events) -> Result<()> {
        let begun = Instant::now();
        let tokenizer = models.tokenizer(self.number);
        let evaluations = tokenizer.evaluations(&self.options)?;
        let most = self.counts.iter().copied().max().unwrap_or(1);
        let sweep = Sweep::new(tokenizer, &self.subject, most, &models.device)?;
        let tokens = nested(sweep.tokens());
        let original = picture(&self.subject.visible());
        events.send("begun", &json!({ "counts": self.counts, "png": original, "tokens": tokens[0] }));
        let mut done = Vec::with_capacity(self.counts.len());
        for counts in self.counts.chunks(TOGETHER) {
            let mut watch = |progress: Progress, so_far: &dyn Fn() -> Vec<RgbImage>| {
                if self.is_shown(progress, evaluations) && events.keeps_up() {
                    events.send("preview", &preview(counts, progress, so_far()));
                }
                ticket.go_on()
            };
            let decoded = sweep
                .decode(counts, &self.options, self.settings.seed, &mut watch)
                .map_err(|error| ticket.explain(&error))?;
            let pictures: Vec<Value> =
                decoded.iter().map(|one| finished(one, tokenizer.config.token_dim)).collect();
            if !events.send("pictures", &json!({ "pictures": pictures })) {
                return Err(Problem::lost());
            }
            done.extend(decoded);
            if let ControlFlow::Break(()) = ticket.go_on() {
                return Err(ticket.explain(&semanticist::Error::Cancelled));
            }
        }
        let sheet = picture(&contact_sheet(self.subject.visible(), &done));
        events.send("done", &json!({ "seconds": begun.elapsed().as_secs_f64(), "sheet": sheet }));
        Ok(())
    }

    /// Whether a preview belongs here: as many as asked for, evenly spread, none at the end.
    fn is_shown(&self, progress: Progress, evaluations: usize) -> bool {
        let part = |done: usize| done * (self.settings.previews + 1) / evaluations;
        progress.done < evaluations && part(progress.done) > part(progress.done - 1)
    }
}

fn preview(counts: &[usize], progress: Progress, pictures: Vec<RgbImage>) -> Value {
    let pictures = counts.iter().zip(&pictures);
    let pictures: Vec<Value> =
        pictures.map(|(tokens, image)| json!({ "tokens": tokens, "png": picture(image) })).collect();
    json!({ "done": progress.done, "total": progress.total, "pictures": pictures })
}

/// A picture with how close it is, and what its tokens take as `encode` writes them, in float32.
fn finished(one: &Reconstruction, dim: usize) -> Value {
    json!({
        "tokens": one.tokens,
        "png": picture(&one.picture),
        "psnr": one.quality.psnr,
        "ssim": one.quality.ssim,
        "bytes": one.tokens * dim * size_of::<f32>(),
    })
}

/// The numbers of a list such as `1,2,4`.
fn counts(text: &str, most: usize) -> Result<Vec<usize>> {
    let numbers = text.split(',').map(|part| part.trim().parse::<usize>().map_err(|_| part));
    let counts = numbers.collect::<Result<Vec<_>, _>>().map_err(|part| {
        Problem::bad(format!(
            "tokens={text}: \"{part}\" is no number of tokens; expected a list such as 1,2,4"
        ))
    })?;
    let mut seen = HashSet::new();
    if let Some(twice) = counts.iter().find(|&&count| !seen.insert(count)) {
        return Err(Problem::bad(format!("tokens={text}: {twice} is given twice; give each number once")));
    }
    if counts.len() > most {
        let asked = counts.len();
        return Err(Problem::bad(format!("{asked} numbers of tokens are asked for; at most {most} at once")));
    }
    Ok(counts)
}
