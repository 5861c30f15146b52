//! Server-sent events: results as they come.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::worker::Waiting;

/// Events that wait for a slow client.
const CAPACITY: usize = 256;

/// Where a job puts its events. It never waits: the threads that compute have better to do.
#[derive(Debug)]
pub struct Events(Sender<Bytes>);

impl Events {
    pub fn channel() -> (Self, Receiver<Bytes>) {
        let (sender, receiver) = channel(CAPACITY);
        (Self(sender), receiver)
    }

    /// Whether it arrives: not if the client has gone, or takes nothing while hundreds wait.
    pub fn send(&self, name: &str, data: &impl Serialize) -> bool {
        let data = serde_json::to_string(data).expect("events are plain data with text keys");
        self.0.try_send(Bytes::from(format!("event: {name}\ndata: {data}\n\n"))).is_ok()
    }

    /// Whether the client keeps up, so that what only looks nice may be sent too.
    pub fn keeps_up(&self) -> bool {
        self.0.capacity() > CAPACITY / 2
    }
}

/// The response of which `stream` is the body; `waiting` is dropped with it.
pub fn event_response(stream: Receiver<Bytes>, waiting: Waiting) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, Body::from_stream(EventStream { stream, _waiting: waiting })).into_response()
}

struct EventStream {
    stream: Receiver<Bytes>,
    _waiting: Waiting,
}

impl Stream for EventStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_recv(context).map(|bytes| bytes.map(Ok))
    }
}
