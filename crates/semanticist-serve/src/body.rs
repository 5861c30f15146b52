//! What comes in: bodies of limited size and time, images, tokens, settings.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use semanticist::image::{Fit, RgbImage, decode_within};
use semanticist_eval::sweep::Subject;
use serde::de::DeserializeOwned;

use crate::limits::Limits;
use crate::problem::{Problem, Result};
use crate::routes::Desk;

/// The whole body.
///
/// One that says itself that it is too large is read and thrown away before the answer: to hang up on a client that
/// still sends would break its connection before it reads why.
///
/// # Errors
/// If it is larger than allowed, or does not arrive in time.
pub async fn read(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<Vec<u8>> {
    let too_large = |found: String| {
        let most = limits.body >> 20;
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body has {found}; at most {most} MiB are accepted"),
        )
    };
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = length.filter(|&length| length > limits.body as u64) {
        let _ = tokio::time::timeout(limits.body_time, throw_away(body, 4 * limits.body)).await;
        return Err(too_large(format!("{length} bytes")));
    }
    let bytes = tokio::time::timeout(limits.body_time, axum::body::to_bytes(body, limits.body)).await;
    match bytes {
        Ok(Ok(bytes)) => Ok(bytes.to_vec()),
        Ok(Err(error)) if error.to_string().contains("length limit") => Err(too_large("more".into())),
        Ok(Err(error)) => Err(Problem::bad(format!("the body broke off: {error}"))),
        Err(_) => {
            let seconds = limits.body_time.as_secs();
            let message = format!("the body did not arrive within {seconds} s; send it at once");
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

/// Reads what comes until it ends, pauses, or is more than `most` bytes.
async fn throw_away(body: Body, most: usize) {
    const PAUSE: Duration = Duration::from_millis(300);
    let (mut body, mut seen) = (pin!(body), 0);
    while seen <= most {
        let part = poll_fn(|context| body.as_mut().poll_frame(context));
        match tokio::time::timeout(PAUSE, part).await {
            Ok(Some(Ok(part))) => seen += part.data_ref().map_or(0, |bytes| bytes.len()),
            _ => return,
        }
    }
}

/// The settings in the query of an address.
///
/// # Errors
/// Names what is unknown or cannot be read.
pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T> {
    axum::extract::Query::try_from_uri(uri).map(|query| query.0).map_err(|error| {
        use std::error::Error;
        let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        Problem::bad(format!("the settings in the address: {cause}"))
    })
}

/// The settings in a JSON body.
///
/// # Errors
/// Names what is unknown or cannot be read.
pub fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Problem::bad(format!("the JSON body: {error}")))
}

/// The image in a body, as a tokenizer looks at it. Decoding takes long for large ones, so it is done beside.
///
/// # Errors
/// If it does not arrive as [`read`] says, is no image, or too large.
pub async fn subject(
    headers: &HeaderMap,
    body: Body,
    fit: Fit,
    tokenizer: usize,
    desk: &Desk,
) -> Result<Subject> {
    let bytes = read(headers, body, &desk.limits).await?;
    if bytes.is_empty() {
        return Err(Problem::bad("the body is empty; send the bytes of an image file as the body"));
    }
    let (most, size) = (desk.limits.decoded, desk.tokenizers[tokenizer].image_size);
    let _permit = desk.decoding.acquire().await.expect("the semaphore is never closed");
    let decode = move || {
        let image: RgbImage = decode_within("body", &bytes, most)?;
        Ok(Subject::of(&image, size, fit))
    };
    tokio::task::spawn_blocking(decode).await.unwrap_or_else(|_| Err(Problem::lost()))
}
