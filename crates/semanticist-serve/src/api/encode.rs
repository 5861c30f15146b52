//! `POST /api/encode`: an image to its first tokens.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use safetensors::tensor::{Dtype, TensorView};
use semanticist::image::Fit;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::nested;
use crate::batch::Encode;
use crate::body;
use crate::problem::{Problem, Result};
use crate::routes::{self, Desk};

/// The query.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EncodeSettings {
    /// How many; all if not given.
    tokens: Option<usize>,
    fit: Fit,
    /// Which tokenizer; the main one if not given.
    model: Option<String>,
    format: Format,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    Safetensors,
}

pub async fn encode(
    State(desk): State<Arc<Desk>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let settings: EncodeSettings = body::query(&uri)?;
    let tokenizer = desk.tokenizer(settings.model.as_deref())?;
    let subject = body::subject(&headers, body, settings.fit, tokenizer, &desk).await?;
    let wanted = Encode { tokenizer, square: subject.square, count: settings.tokens };
    let tokens = desk.worker.ask_together(&desk.encode_batches, wanted).await?;
    match settings.format {
        Format::Json => Ok(routes::json(json!({ "tokens": nested(&tokens) }).to_string())),
        Format::Safetensors => {
            let shape = tokens.0.dims();
            let values: Vec<u8> = tokens.to_vec().iter().flat_map(|value| value.to_le_bytes()).collect();
            let failed = |error: safetensors::SafeTensorError| {
                Problem::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            };
            let tensor = TensorView::new(Dtype::F32, shape.to_vec(), &values).map_err(failed)?;
            let file = safetensors::serialize([("tokens", tensor)], None).map_err(failed)?;
            let kind = HeaderValue::from_static("application/octet-stream");
            Ok(([(header::CONTENT_TYPE, kind)], file).into_response())
        }
    }
}
