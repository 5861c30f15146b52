//! How much of anything a client may ask for.

use std::time::Duration;

/// What is refused.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Bytes that an image takes when it is decoded, whatever its file takes.
    pub decoded: u64,
    /// For a body to arrive.
    pub body_time: Duration,
    /// Jobs that wait, besides the one that is computed.
    pub queue: usize,
    /// From being queued to the end of a job.
    pub job_time: Duration,
    /// Connections at once; others wait to be accepted.
    pub connections: usize,
    /// For what is being computed when the server is told to stop.
    pub stop_time: Duration,
    /// Sampling steps of one request.
    pub steps: usize,
    /// Pictures of one request: counts of tokens, or images to draw or decode.
    pub pictures: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 32 << 20,
            decoded: 256 << 20,
            body_time: Duration::from_secs(30),
            queue: 16,
            job_time: Duration::from_secs(300),
            connections: 256,
            stop_time: Duration::from_secs(10),
            steps: 1000,
            pictures: 64,
        }
    }
}
