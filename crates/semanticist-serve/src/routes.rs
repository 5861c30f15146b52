//! Every address that is answered, once: the router and the tests of the OpenAPI document are made of this table.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use semanticist::diffusion::DecodeOptions;
use tokio::sync::Semaphore;

use crate::api::study::OpenStudy;
use crate::api::{self, study};
use crate::auth;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::page::ASSETS;
use crate::problem::Problem;
use crate::worker::Worker;

/// What every answer may need.
#[derive(Debug)]
pub struct Desk {
    pub worker: Worker,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub token: Option<String>,
    pub sample: &'static [u8],
    /// `GET /api/models`, which does not change.
    pub models: String,
    /// Side of the model's images, in pixels.
    pub image_size: usize,
    /// How the model is decoded unless something else is asked for.
    pub usual: DecodeOptions,
    /// Places for images that are decoded: each may take twice what the limits allow it.
    pub decoding: Semaphore,
    /// The perception test, if one is open.
    pub study: Option<Arc<OpenStudy>>,
}

/// The interface for programs: method and path.
pub const ROUTES: &[(&str, &str)] = &[
    ("POST", "/api/encode"),
    ("POST", "/api/decode"),
    ("POST", "/api/reconstruct"),
    ("POST", "/api/generate"),
    ("GET", "/api/models"),
    ("GET", "/api/sample"),
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
                "/api/generate" => post(api::generate),
                "/api/models" => get(models),
                "/api/sample" => get(sample),
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

async fn sample(State(desk): State<Arc<Desk>>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("image/png"))], desk.sample).into_response()
}

async fn metrics(State(desk): State<Arc<Desk>>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    ([(header::CONTENT_TYPE, kind)], desk.metrics.text()).into_response()
}

pub fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}
