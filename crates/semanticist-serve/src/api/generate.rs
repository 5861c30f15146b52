//! `POST /api/generate`: pictures of a class, as events while their tokens are drawn.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use semanticist::diffusion::{DecodeOptions, Sampler};
use semanticist::generator::{
    DrawOptions, GenerateOptions, GeneratorConfig, GuidanceSchedule, TokenGuidance,
};
use semanticist::image::from_pixels;
use semanticist::model::GeneratorModel;
use semanticist::{Noise, Progress, Purpose, Seed, Tokens};
use semanticist_eval::generation::{class_name, powers};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{check_steps, decode_options, from_nested, nested, picture};
use crate::body;
use crate::events::Events;
use crate::problem::{Problem, Result};
use crate::routes::Desk;
use crate::worker::{Models, Ticket};

/// Steps of pictures that are only shown while others are drawn.
const PREVIEW_STEPS: usize = 8;

/// The body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateRequest {
    /// Name or number.
    class: String,
    /// How many pictures.
    count: usize,
    /// How many tokens are drawn, those given included; if not given as the generator's file says, or all.
    tokens: Option<usize>,
    /// As the generator's file says if not given, and so are the four that follow.
    guidance: Option<f64>,
    schedule: Option<GuidanceSchedule>,
    temperature: Option<f64>,
    steps: Option<usize>,
    sampler: Option<Sampler>,
    /// What the first picture is drawn from; the next ones follow.
    seed: u64,
    /// As the generator's file says if not given, else as the tokenizer is made for, and so are the two that follow.
    decode_steps: Option<usize>,
    decode_sampler: Option<Sampler>,
    decode_guidance: Option<f64>,
    /// The first tokens of all pictures, which are kept.
    given: Vec<Vec<f32>>,
    /// Whether pictures of the first 1, 2, 4 … tokens are sent.
    previews: bool,
}

impl GenerateRequest {
    /// What is used where tokens are usually drawn and decoded so.
    pub fn usual(drawing: DrawOptions, decoding: &DecodeOptions) -> Self {
        let DecodeOptions { steps, sampler, guidance } = decoding;
        Self {
            guidance: Some(drawing.guidance.scale),
            schedule: Some(drawing.guidance.schedule),
            temperature: Some(drawing.temperature),
            steps: Some(drawing.steps),
            sampler: drawing.sampler,
            decode_steps: Some(*steps),
            decode_sampler: *sampler,
            decode_guidance: Some(guidance.scale),
            ..Self::default()
        }
    }

    /// How tokens are drawn.
    fn options(&self, config: &GeneratorConfig) -> GenerateOptions {
        let usual = config.usual_tokens();
        let usual = if self.given.len() < usual { usual } else { config.tokens };
        let DrawOptions { guidance, steps, sampler, temperature } = config.draw_options();
        let guidance = TokenGuidance {
            scale: self.guidance.unwrap_or(guidance.scale),
            schedule: self.schedule.unwrap_or(guidance.schedule),
        };
        let drawing = DrawOptions {
            guidance,
            steps: self.steps.unwrap_or(steps),
            sampler: self.sampler.or(sampler),
            temperature: self.temperature.unwrap_or(temperature),
        };
        GenerateOptions { tokens: self.tokens.unwrap_or(usual), drawing }
    }
}

impl Default for GenerateRequest {
    fn default() -> Self {
        Self {
            class: "0".into(),
            count: 4,
            tokens: None,
            guidance: None,
            schedule: None,
            temperature: None,
            steps: None,
            sampler: None,
            seed: 0,
            decode_steps: None,
            decode_sampler: None,
            decode_guidance: None,
            given: Vec::new(),
            previews: false,
        }
    }
}

pub async fn generate(State(desk): State<Arc<Desk>>, headers: HeaderMap, body: Body) -> Result<Response> {
    let bytes = body::read(&headers, body, &desk.limits).await?;
    let request: GenerateRequest = body::json(&bytes)?;
    let most = desk.limits.pictures.min(TOGETHER);
    if !(1..=most).contains(&request.count) {
        let count = request.count;
        return Err(Problem::bad(format!(
            "{count} pictures are asked for; from 1 to {most} are drawn at once"
        )));
    }
    let GenerateRequest { decode_steps, decode_sampler, decode_guidance, .. } = request;
    let Some(config) = &desk.generator else {
        let message = "no generator is loaded; start the server with --generator";
        return Err(Problem::new(StatusCode::NOT_FOUND, message));
    };
    let usual = config.decode_options(desk.tokenizers[0].usual.clone());
    let decoding = decode_options(decode_steps, decode_sampler, decode_guidance, &usual, 0, &desk)?;
    let options = request.options(config);
    check_steps(options.drawing.steps, &desk.limits)?;
    options.validate(config)?;
    desk.worker.stream("generate", move |models, ticket, events| {
        let generator = models.generator.as_ref().expect("its configuration is known");
        let (request, options, decoding) = (&request, &options, &decoding);
        Job { models, generator, request, options, decoding, ticket, events }.run()
    })
}

/// Pictures that are drawn and decoded together, as the command `generate` does.
const TOGETHER: usize = 16;

struct Job<'a> {
    models: &'a Models,
    generator: &'a GeneratorModel,
    request: &'a GenerateRequest,
    options: &'a GenerateOptions,
    decoding: &'a DecodeOptions,
    ticket: &'a Ticket,
    events: &'a Events,
}

impl Job<'_> {
    fn run(&self) -> Result<()> {
        let begun = Instant::now();
        let Self { generator, request, options, .. } = self;
        let label = generator.class(&request.class)?;
        let labels = vec![label; request.count];
        let seeds: Vec<u64> = (0..request.count as u64).map(|i| request.seed.wrapping_add(i)).collect();
        let given = self.given()?;
        let name = class_name(generator, label);
        let begin = json!({ "class": label, "name": name, "seeds": seeds, "tokens": options.tokens });
        self.events.send("begun", &begin);

        let mut noise = Noise::per_sample(seeds.iter().map(|&seed| Seed::new(seed).of(Purpose::Tokens)));
        let shown = powers(options.tokens);
        let mut problem = None;
        let mut watch = |progress: Progress, so_far: &dyn Fn() -> Tokens| {
            let is_new = progress.done > request.given.len() && progress.done < progress.total;
            if request.previews && is_new && shown.contains(&progress.done) && self.events.keeps_up() {
                let preview = self.preview(&so_far(), &seeds);
                if let Err(found) = preview {
                    problem = Some(found);
                    return ControlFlow::Break(());
                }
            }
            self.ticket.go_on()
        };
        let drawn =
            generator.generator.continue_watched(&labels, given.as_ref(), options, &mut noise, &mut watch);
        let tokens = drawn.map_err(|error| problem.take().unwrap_or_else(|| self.ticket.explain(&error)))?;
        let pictures = self.decode(&tokens, &seeds, self.decoding)?;
        let pictures: Vec<Value> = pictures
            .iter()
            .zip(&seeds)
            .zip(nested(&tokens))
            .map(|((png, seed), tokens)| json!({ "png": png, "seed": seed, "tokens": tokens }))
            .collect();
        self.events.send("pictures", &json!({ "pictures": pictures }));
        self.events.send("done", &json!({ "seconds": begun.elapsed().as_secs_f64() }));
        Ok(())
    }

    /// The kept tokens, for each picture.
    fn given(&self) -> Result<Option<Tokens>> {
        if self.request.given.is_empty() {
            return Ok(None);
        }
        let one = from_nested(std::slice::from_ref(&self.request.given), &self.models.device)?;
        Ok(Some(Tokens(one.0.repeat_dim(0, self.request.count))))
    }

    fn preview(&self, tokens: &Tokens, seeds: &[u64]) -> Result<()> {
        let quick = DecodeOptions { steps: self.decoding.steps.min(PREVIEW_STEPS), ..self.decoding.clone() };
        let pictures = self.decode(tokens, seeds, &quick)?;
        let pictures: Vec<Value> = pictures.iter().map(|png| json!({ "png": png })).collect();
        self.events.send("preview", &json!({ "tokens": tokens.count(), "pictures": pictures }));
        Ok(())
    }

    /// PNG files in base64.
    fn decode(&self, tokens: &Tokens, seeds: &[u64], options: &DecodeOptions) -> Result<Vec<String>> {
        let latents = seeds.iter().map(|&seed| Seed::new(seed).of(Purpose::Latents));
        let mut noise = Noise::per_sample(latents);
        let keep = vec![tokens.count(); seeds.len()];
        let tokenizer = self.models.tokenizer(0);
        let mut observe = |_| self.ticket.go_on();
        let decoded = tokenizer.decode_observed(tokens, &keep, options, &mut noise, &mut observe);
        let decoded = decoded.map_err(|error| self.ticket.explain(&error))?;
        Ok(from_pixels(&decoded).iter().map(picture).collect())
    }
}
