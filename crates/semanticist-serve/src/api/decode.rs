//! `POST /api/decode`: tokens to pictures.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use safetensors::{Dtype, SafeTensors};
use semanticist::diffusion::Sampler;
use semanticist::image::png;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{decode_options, flat, picture};
use crate::batch::Decode;
use crate::body;
use crate::problem::{Problem, Result};
use crate::routes::{self, Desk};

/// The query.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DecodeSettings {
    seed: u64,
    steps: Option<usize>,
    sampler: Option<Sampler>,
    guidance: Option<f64>,
    /// Which tokenizer; the main one if not given.
    model: Option<String>,
    format: Format,
}

impl Default for DecodeSettings {
    fn default() -> Self {
        Self { seed: 0, steps: None, sampler: None, guidance: None, model: None, format: Format::Png }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Png,
    Json,
}

/// The body, unless it is a safetensors file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    /// Images, of tokens, of numbers.
    tokens: Vec<Vec<Vec<f32>>>,
}

pub async fn decode(
    State(desk): State<Arc<Desk>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let settings: DecodeSettings = body::query(&uri)?;
    let DecodeSettings { seed, steps, sampler, guidance, model, format } = settings;
    let tokenizer = desk.tokenizer(model.as_deref())?;
    let usual = &desk.tokenizers[tokenizer].usual;
    let options = decode_options(steps, sampler, guidance, usual, tokenizer, &desk)?;
    let bytes = body::read(&headers, body, &desk.limits).await?;
    let images =
        if bytes.first() == Some(&b'{') { body::json::<Given>(&bytes)?.tokens } else { read(&bytes)? };
    let (count, most) = (images.len(), desk.limits.pictures);
    if count > most {
        return Err(Problem::bad(format!(
            "the tokens of {count} images; at most {most} are decoded at once"
        )));
    }
    if format == Format::Png && count > 1 {
        let message = format!("the tokens of {count} images are no single PNG file; add format=json");
        return Err(Problem::bad(message));
    }
    let (shape, values) = flat(&images)?;
    let wanted = Decode { tokenizer, shape, values, options, seed };
    let pictures = desk.worker.ask_together(&desk.decode_batches, wanted).await?;
    match format {
        Format::Png => {
            let kind = HeaderValue::from_static("image/png");
            Ok(([(header::CONTENT_TYPE, kind)], png(&pictures[0])).into_response())
        }
        Format::Json => {
            let pictures: Vec<_> = pictures.iter().map(|image| json!({ "png": picture(image) })).collect();
            Ok(routes::json(json!({ "pictures": pictures }).to_string()))
        }
    }
}

/// The tensor `tokens` of a safetensors file, `[n, K, D]` in float32, as `encode` writes it.
fn read(bytes: &[u8]) -> Result<Vec<Vec<Vec<f32>>>> {
    let neither = |error| {
        Problem::bad(format!("the body is neither JSON (\"{{\" first) nor a safetensors file: {error}"))
    };
    let file = SafeTensors::deserialize(bytes).map_err(neither)?;
    let tensor = file.tensor("tokens").map_err(|_| {
        Problem::bad("the safetensors file has no tensor \"tokens\"; expected one of [n, K, D] in float32")
    })?;
    let (&[images, count, dim], Dtype::F32) = (tensor.shape(), tensor.dtype()) else {
        let (shape, dtype) = (tensor.shape(), tensor.dtype());
        return Err(Problem::bad(format!(
            "\"tokens\" is {shape:?} in {dtype:?}; expected [n, K, D] in float32 (F32)"
        )));
    };
    if images == 0 || count == 0 || dim == 0 {
        return Err(Problem::bad(format!(
            "\"tokens\" is {:?}; expected at least one number",
            tensor.shape()
        )));
    }
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of four bytes"));
    let values: Vec<f32> = tensor.data().chunks_exact(4).map(number).collect();
    Ok(values.chunks(count * dim).map(|image| image.chunks(dim).map(<[f32]>::to_vec).collect()).collect())
}
