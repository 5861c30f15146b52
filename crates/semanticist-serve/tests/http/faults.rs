//! What is refused, and what becomes of clients that go away.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use semanticist_serve::{Limits, Server, Settings, Studio};

use super::{photo, request, start, studio};

fn limits() -> Limits {
    Limits { body: 1 << 20, decoded: 4 << 20, ..Limits::default() }
}

#[test]
fn what_cannot_be_used_is_named() {
    let server = start(limits(), None);
    let encode = |query: &str, body: &[u8]| server.post(&format!("/api/encode{query}"), body).refused(400);
    assert!(encode("", b"").contains("the body is empty"));
    assert!(encode("", b"hello").contains("not an image: starts with \"hello\""));
    assert!(encode("", &photo()[..60]).contains("broken PNG"));
    assert!(encode("?tokens=9", &photo()).contains("9 tokens asked of a tokenizer that has 1 to 4"));
    assert!(encode("?tokens=many", &photo()).contains("invalid digit"));
    assert!(encode("?token=1", &photo()).contains("unknown field `token`, expected one of"));
    let reconstruct = |query: &str| server.post(&format!("/api/reconstruct?{query}"), photo()).refused(400);
    assert!(
        reconstruct("tokens=1,,2").contains("\"\" is no number of tokens; expected a list such as 1,2,4")
    );
    assert!(reconstruct("tokens=1,1").contains("1 is given twice"));
    assert!(reconstruct("steps=1001").contains("at most 1000"));
    assert!(reconstruct("guidance=-1").contains("at least 0"));
    assert!(reconstruct("sampler=best").contains("unknown sampler"));
    assert!(reconstruct("sampler=euler").contains("one of flows"), "{}", reconstruct("sampler=euler"));
    assert!(reconstruct("steps=0").contains("0 "));
    let decode = |body: &str| server.post("/api/decode", body).refused(400);
    assert!(decode(r#"{"tokens": []}"#).contains("no token"));
    assert!(decode(r#"{"tokens": [[[1, 2, 3]]]}"#).contains("1 tokens of 3 numbers; the decoder takes"));
    assert!(decode(r#"{"tokens": [[[1, 2, 3, 4], [1]]]}"#).contains("different lengths"));
    assert!(decode("garbage").contains("neither JSON"));
    let two = r#"{"tokens": [[[1, 2, 3, 4]], [[1, 2, 3, 4]]]}"#;
    assert!(decode(two).contains("add format=json"));
    let generate = |body: &str| server.post("/api/generate", body).refused(400);
    assert!(generate(r#"{"count": 17}"#).contains("from 1 to 16"));
    assert!(generate(r#"{"steps": 1}"#).contains("step"));
    assert!(generate(r#"{"tokens": 9}"#).contains("9 tokens"));
    assert!(generate(r#"{"colour": 1}"#).contains("unknown field `colour`"));
    assert!(server.get("/api/nothing").refused(404).contains("/api/openapi.json"));
    assert!(server.get("/api/encode").refused(405).contains("does not take GET"));
}

/// What is found only when the model looks at it is the last event.
#[test]
fn late_problems_are_events() {
    let server = start(limits(), None);
    for (path, body, expected) in [
        ("/api/reconstruct?tokens=5", photo(), "5 tokens asked"),
        ("/api/generate", br#"{"class": "tabbi"}"#.to_vec(), "the nearest are \"tabby\""),
        ("/api/generate", br#"{"given": [[1, 2]]}"#.to_vec(), "1 tokens of 2 numbers"),
    ] {
        let events = server.post(path, body).ok().events();
        let (name, data) = events.last().unwrap();
        assert_eq!(name, "error", "{path}");
        assert!(data["error"].as_str().unwrap().contains(expected), "{path}: {data}");
    }
    server.post("/api/encode", photo()).ok();
}

#[test]
fn large_bodies_and_bombs_are_refused() {
    let server = start(limits(), None);
    let large = server.post("/api/encode", vec![0; (1 << 20) + 1]).refused(413);
    assert!(large.contains("1048577 bytes; at most 1 MiB"), "{large}");
    // Without a length, what comes is counted.
    let mut stream =
        server.raw(b"POST /api/encode HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = [format!("{:x}\r\n", 1 << 16).as_bytes(), &[7; 1 << 16], b"\r\n"].concat();
    // The server may have hung up before the last one.
    let _ = (0..17).try_for_each(|_| stream.write_all(&chunk));
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    // 30000 × 30000 pixels in 33 bytes of header.
    let mut bomb = photo();
    bomb[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
    let message = server.post("/api/encode", &bomb).refused(400);
    assert!(message.contains("image") && !message.contains("panic"), "{message}");
    server.post("/api/encode", photo()).ok();
}

#[test]
fn half_a_body_is_not_waited_for() {
    let server = start(Limits { body_time: Duration::from_millis(300), ..limits() }, None);
    let mut stream = server.raw(&request("/api/encode", &photo())[..120]);
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[test]
fn a_token_is_needed_where_one_is_set() {
    let server = start(limits(), Some("open sesame"));
    for path in ["/api/models", "/metrics"] {
        assert!(server.get(path).refused(401).contains("Authorization: Bearer"));
    }
    let with = |token: &str| {
        let request = ureq::get(server.url("/api/models")).header("Authorization", format!("Bearer {token}"));
        super::Answer::of(request.config().http_status_as_error(false).build().call().unwrap())
    };
    assert!(with("open").refused(401).contains("another one"));
    with("open sesame").ok();
    server.get("/health").ok();
    assert!(server.get("/").ok().text().contains("<title>Semanticist</title>"));
}

#[test]
fn other_machines_need_a_token() {
    let settings = Settings { address: "0.0.0.0:0".parse().unwrap(), token: None, limits: Limits::default() };
    let message = Server::bind(studio(), settings).unwrap_err().to_string();
    assert!(message.contains("a token is needed"), "{message}");
}

#[test]
fn a_full_queue_says_when_to_come_again_and_who_leaves_makes_room() {
    let server = start(Limits { queue: 1, ..limits() }, None);
    let computed = server.long_job();
    let waiting = server.raw(&request("/api/encode", &photo()));
    server.wait_for("semanticist_jobs_waiting 1");
    let answer = server.post("/api/encode", photo());
    let seconds: u64 = answer.retry_after.as_deref().unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    assert!(answer.refused(429).contains("1 requests are waiting already"));

    // What waited is skipped, what was computed ends at its next step.
    drop(waiting);
    let begun = Instant::now();
    drop(computed);
    server.wait_for("semanticist_jobs_total{kind=\"reconstruct\",outcome=\"abandoned\"} 1");
    server.wait_for("semanticist_jobs_total{kind=\"encode\",outcome=\"abandoned\"} 1");
    server.post("/api/encode", photo()).ok();
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_job_has_its_time() {
    let server = start(Limits { job_time: Duration::from_millis(100), ..limits() }, None);
    let events = server.post("/api/reconstruct?steps=1000", photo()).ok().events();
    let (name, data) = events.last().unwrap();
    assert_eq!(name, "error");
    assert!(data["error"].as_str().unwrap().contains("not done within"), "{data}");
}

#[test]
fn a_stopped_server_ends_what_it_computes() {
    let mut server = start(limits(), None);
    let mut stream = server.long_job();
    let begun = Instant::now();
    drop(server.stop.take());
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    drop(server);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn tokenizers_are_needed_and_told_apart() {
    let message = |tokenizers| {
        let settings =
            Settings { address: "127.0.0.1:0".parse().unwrap(), token: None, limits: Limits::default() };
        Server::bind(Studio { tokenizers, ..studio() }, settings).unwrap_err().to_string()
    };
    assert_eq!(message(vec![]), "there is no tokenizer to serve");
    let [first, second] = [studio(), studio()].map(|it| it.tokenizers.into_iter().next().unwrap());
    assert_eq!(message(vec![first, second]), "two tokenizers are called \"small\"; name them differently");
}
