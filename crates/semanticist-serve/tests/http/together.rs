//! Requests that wait at the same time are computed in one batch, and nobody notices but by the time.

use std::io::Read;
use std::net::TcpStream;

use semanticist_serve::Limits;
use serde_json::{Value, json};

use super::{Running, photo, request, start};

/// The body of an answer on a connection that then closes.
fn body(mut stream: TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..end]));
    answer.split_off(end)
}

fn batches(server: &Running, kind: &str) -> u64 {
    let metrics = server.get("/metrics").ok().text();
    let name = format!("semanticist_batches_total{{kind=\"{kind}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

#[test]
fn those_that_are_alike_are_computed_together() {
    let server = start(Limits::default(), None);
    let tokens = |value: f64| json!([[value, 1.0, -1.0, 0.5], [0.1, value, 0.0, 0.2]]);
    // Two images in one request, other tokens, other seeds; another number of steps is another way.
    let asked: Vec<(String, Value)> = vec![
        ("/api/decode?format=json&steps=4&seed=1".into(), json!({"tokens": [tokens(0.5)]})),
        ("/api/decode?format=json&steps=4&seed=2".into(), json!({"tokens": [tokens(0.5), tokens(0.7)]})),
        ("/api/decode?format=json&steps=3&seed=1".into(), json!({"tokens": [tokens(0.5)]})),
        ("/api/decode?format=json&steps=4&seed=3".into(), json!({"tokens": [tokens(-2.0)]})),
    ];
    let alone: Vec<Vec<u8>> =
        asked.iter().map(|(path, tokens)| server.post(path, tokens.to_string()).ok().body).collect();
    let squares = [photo(), photo()];
    let encoded = server.post("/api/encode", &squares[0]).ok().body;
    assert_eq!((batches(&server, "decode"), batches(&server, "encode")), (4, 1));

    let computed = server.long_job();
    let send = |path: &str, body: &[u8]| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        server.raw(&[head.as_bytes(), body].concat())
    };
    let mut waiting = 0;
    let mut wait = |stream: TcpStream| {
        waiting += 1;
        server.wait_for(&format!("semanticist_jobs_waiting {waiting}"));
        stream
    };
    // Who leaves is not waited for, and takes nobody along.
    drop(wait(send(&asked[0].0, asked[0].1.to_string().as_bytes())));
    let decoding: Vec<TcpStream> =
        asked.iter().map(|(path, tokens)| wait(send(path, tokens.to_string().as_bytes()))).collect();
    let encoding: Vec<TcpStream> = squares.iter().map(|photo| wait(send("/api/encode", photo))).collect();
    drop(computed);
    for (stream, alone) in decoding.into_iter().zip(alone) {
        assert_eq!(body(stream), alone);
    }
    for stream in encoding {
        assert_eq!(body(stream), encoded);
    }
    assert_eq!((batches(&server, "decode"), batches(&server, "encode")), (6, 2));
    server.wait_for("semanticist_jobs_total{kind=\"decode\",outcome=\"done\"} 8");
    server.wait_for("semanticist_jobs_total{kind=\"decode\",outcome=\"abandoned\"} 1");
}

/// What is wrong with one is wrong with all that are like it, and with nobody else.
#[test]
fn what_is_wrong_with_some_does_not_touch_others() {
    let server = start(Limits::default(), None);
    let computed = server.long_job();
    let connect = |tokens: Value| {
        let body = json!({"tokens": tokens}).to_string();
        server.raw(&request("/api/decode?steps=2", body.as_bytes()))
    };
    let wrong: Vec<TcpStream> = (0..2).map(|_| connect(json!([[[1, 2, 3]]]))).collect();
    let right = connect(json!([[[1, 2, 3, 4]]]));
    server.wait_for("semanticist_jobs_waiting 3");
    drop(computed);
    let status = |mut stream: TcpStream| {
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        answer[9..].to_vec()
    };
    assert!(wrong.into_iter().all(|stream| status(stream) == b"400"));
    assert_eq!(status(right), b"200");
}
