//! Every address that is answered, once: the router and the tests of the OpenAPI document are made of this table.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use semanticist::diffusion::{DecodeOptions, DiffusionConfig};
use semanticist::generator::GeneratorConfig;
use semanticist::model::TokenizerModel;
use tokio::sync::Semaphore;

use crate::api::study::OpenStudy;
use crate::api::{self, study};
use crate::auth;
use crate::batch::{Batches, Decode, Encode};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::page::ASSETS;
use crate::problem::{Problem, Result};
use crate::worker::Worker;

/// What every answer may need.
#[derive(Debug)]
pub struct Desk {
    pub worker: Worker,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub token: Option<String>,
    pub samples: &'static [(&'static str, &'static [u8])],
    /// `GET /api/models`, which does not change.
    pub models: String,
    /// What may be asked for, the main one first.
    pub tokenizers: Vec<Served>,
    /// Of the generator, if there is one.
    pub generator: Option<GeneratorConfig>,
    /// Requests that may be computed together.
    pub encode_batches: Arc<Batches<Encode>>,
    pub decode_batches: Arc<Batches<Decode>>,
    /// Places for images that are decoded: each may take twice what the limits allow it.
    pub decoding: Semaphore,
    /// The perception test, if one is open.
    pub study: Option<Arc<OpenStudy>>,
}

/// What those who talk need to know of a tokenizer.
#[derive(Debug)]
pub struct Served {
    /// What `model` calls it.
    pub name: String,
    /// Side of its images, in pixels.
    pub image_size: usize,
    /// How it is decoded unless something else is asked for.
    pub usual: DecodeOptions,
    /// What it learnt, which not every sampler fits.
    pub diffusion: DiffusionConfig,
}

impl Served {
    pub fn of(name: &str, model: &TokenizerModel) -> Self {
        let config = &model.tokenizer.config;
        let (usual, diffusion) = (config.decode_options(), config.diffusion.clone());
        Self { name: name.to_string(), image_size: config.image_size, usual, diffusion }
    }
}

impl Desk {
    /// The number of a tokenizer, the main one if none is named.
    ///
    /// # Errors
    /// Lists those that there are.
    pub fn tokenizer(&self, name: Option<&str>) -> Result<usize> {
        let Some(name) = name else { return Ok(0) };
        self.tokenizers.iter().position(|one| one.name == name).ok_or_else(|| {
            let names: Vec<_> = self.tokenizers.iter().map(|one| format!("\"{}\"", one.name)).collect();
            Problem::bad(format!("model={name}: there is {}", names.join(" and ")))
        })
    }
}

/// The interface for programs: method and path.
pub const ROUTES: &[(&str, &str)] = &[
    ("POST", "/api/encode"),
    ("POST", "/api/decode"),
    ("POST", "/api/reconstruct"),
    ("POST", "/api/explain"),
    ("POST", "/api/generate"),
    ("GET", "/api/models"),
    ("GET", "/api/samples/{name}"),
    ("GET", "/api/study"),
    ("POST", "/api/study/participants"),
    ("GET", "/api/study/participants/{id}"),
    ("POST", "/api/study/participants/{id}/answers"),
    ("GET", "/api/study/participants/{id}/trials/{trial}/{picture}"),
    ("GET", "/api/openapi.json"),
    ("GET", "/health"),
    ("GET", "/metrics"),
];

const OPENAPI: &str = include_str!("openapi.json");

pub fn router(desk: Arc<Desk>) -> Router {
    let mut router = Router::new();
    for (_, path) in ROUTES {
        router = router.route(
            path,
            match *path {
                "/api/encode" => post(api::encode),
                "/api/decode" => post(api::decode),
                "/api/reconstruct" => post(api::reconstruct),
                "/api/explain" => post(api::explain),
                "/api/generate" => post(api::generate),
                "/api/models" => get(models),
                "/api/samples/{name}" => get(sample),
                "/api/study" => get(study::describe),
                "/api/study/participants" => post(study::join),
                "/api/study/participants/{id}" => get(study::participant),
                "/api/study/participants/{id}/answers" => post(study::answer),
                "/api/study/participants/{id}/trials/{trial}/{picture}" => get(study::picture),
                "/api/openapi.json" => get(async || json(OPENAPI.to_string())),
                "/health" => get(async || json(r#"{"status":"ok"}"#.into())),
                "/metrics" => get(metrics),
                path => unreachable!("{path} is in the table without a handler"),
            },
        );
    }
    for asset in ASSETS {
        router = router.route(asset.path, get(async || asset.response()));
    }
    router
        .fallback(async |request: Request| {
            let message =
                format!("there is no {}; /api/openapi.json lists what there is", request.uri().path());
            Problem::new(StatusCode::NOT_FOUND, message)
        })
        .method_not_allowed_fallback(async |request: Request| {
            let (method, path) = (request.method(), request.uri().path());
            let message = format!("{path} does not take {method}; /api/openapi.json says what it takes");
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .layer(from_fn_with_state(Arc::clone(&desk), watch))
        .with_state(desk)
}

/// Refuses who may not ask, counts, and logs.
async fn watch(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    // Not what was asked for, which may be anything, but which route it met.
    let path = request.extensions().get::<MatchedPath>().map_or("other", |path| path.as_str()).to_string();
    let response = match auth::check(request.headers(), request.uri(), desk.token.as_deref()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let status = response.status().as_u16();
    desk.metrics.answered(&path, status);
    tracing::info!(%method, path, status, ms = begun.elapsed().as_millis() as u64, "answered");
    response
}

async fn models(State(desk): State<Arc<Desk>>) -> Response {
    json(desk.models.clone())
}

async fn sample(State(desk): State<Arc<Desk>>, Path(name): Path<String>) -> Result<Response> {
    let Some((_, bytes)) = desk.samples.iter().find(|(it, _)| *it == name) else {
        let names: Vec<_> = desk.samples.iter().map(|(name, _)| *name).collect();
        let message = format!("there is no photo {name}; there is {}", names.join(", "));
        return Err(Problem::new(StatusCode::NOT_FOUND, message));
    };
    let kind = if bytes.starts_with(b"\x89PNG") { "image/png" } else { "image/jpeg" };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], *bytes).into_response())
}

async fn metrics(State(desk): State<Arc<Desk>>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    ([(header::CONTENT_TYPE, kind)], desk.metrics.text()).into_response()
}

pub fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}
