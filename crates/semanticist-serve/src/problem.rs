//! Why a request is not answered as asked: a status, and a sentence that says what was found and expected.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use semanticist::Error;
use serde_json::json;

/// An answer that is an error: `{"error": "…"}`.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub message: String,
    /// Seconds after which it makes sense to ask again.
    pub retry_after: Option<u64>,
}

pub type Result<T, E = Problem> = std::result::Result<T, E>;

impl Problem {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    /// The request makes no sense.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The queue is full.
    pub fn busy(waiting: usize, seconds: u64) -> Self {
        let message = format!("{waiting} requests are waiting already; try again in {seconds} s");
        Self { retry_after: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    /// A job ended without a result: it panicked, or the server stops.
    pub fn lost() -> Self {
        let message = "the work ended without a result: the server stops, or has an error that its log names";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// A job took longer than it may.
    pub fn late(seconds: u64) -> Self {
        let message =
            format!("not done within {seconds} s; ask for fewer steps or pictures, or when fewer others do");
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        match error {
            Error::Image { problem, .. } => Self::bad(format!("the image: {problem}")),
            Error::Input(_) | Error::Config(_) => Self::bad(error.to_string()),
            Error::Cancelled => Self::lost(),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.message }).to_string();
        let content = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (self.status, content, body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
