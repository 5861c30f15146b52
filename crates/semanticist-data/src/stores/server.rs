//! A store for tests: speaks what S3, Google's store and a plain HTTP server have in common (GET, HEAD, ranges, ETags,
//! `ListObjectsV2`) for files in memory, and fails as it is told.
//!
//! Our own, since the S3 servers among the crates (`s3s` with `s3s-fs`) do not fail on demand, and take longer to
//! compile than what they would test.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest, Sha256};

/// How a request goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends before anything is said.
    Dropped,
    /// 503, as a store says that it is asked too much.
    Unavailable,
    /// The connection ends in the middle of what was promised.
    Cut,
    /// Fewer bytes than were asked for, as if those were all.
    Short,
    /// 403.
    Forbidden,
}

#[derive(Default)]
struct State {
    /// Content by bucket and name, with `/` between.
    files: BTreeMap<String, Vec<u8>>,
    /// What happens to the next requests for content, in turn.
    faults: Vec<Fault>,
    /// What happens to all of them after that.
    forever: Option<Fault>,
    /// Ranges that were answered, by name.
    served: Vec<(String, std::ops::Range<usize>)>,
}

/// The server; it ends with the process.
#[derive(Clone)]
pub struct Server {
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.unwrap(), shared.clone());
                // Answers are written in pieces, which would wait for each other.
                stream.set_nodelay(true).unwrap();
                thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    // A client that has enough closes the connection.
                    while answer(&stream, &mut reader, &state).is_some() {}
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Self { address, state }
    }

    pub fn put(&self, name: &str, content: &[u8]) {
        self.state.lock().unwrap().files.insert(name.into(), content.to_vec());
    }

    /// These happen to the next requests for content, and then nothing.
    pub fn fail(&self, faults: &[Fault]) {
        self.state.lock().unwrap().faults = faults.to_vec();
    }

    /// This happens from now on.
    pub fn fail_forever(&self, fault: Option<Fault>) {
        self.state.lock().unwrap().forever = fault;
    }

    /// Whether all that was to fail has failed.
    pub fn has_failed(&self) -> bool {
        self.state.lock().unwrap().faults.is_empty()
    }

    /// The ranges of files that were answered since the last call.
    pub fn take_served(&self) -> Vec<(String, std::ops::Range<usize>)> {
        std::mem::take(&mut self.state.lock().unwrap().served)
    }
}

fn answer(mut stream: &TcpStream, reader: &mut impl BufRead, state: &Mutex<State>) -> Option<()> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_string()),
        }
    }
    let header = |name: &str| {
        let find = |line: &String| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_string())
        };
        lines.iter().find_map(find)
    };
    let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).ok()?;
    let mut words = lines[0].split(' ');
    let (method, target) = (words.next()?, words.next()?.trim_start_matches('/'));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = decoded(path);

    let mut state = state.lock().unwrap();
    if query.contains("list-type=2") {
        let body = list(&state.files, path.trim_end_matches('/'), query);
        return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok();
    }
    let Some(content) = state.files.get(&path).cloned() else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok();
    };
    let tag = Sha256::digest(&content).iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
    let stated = format!(
        "ETag: \"{tag}\"\r\nLast-Modified: Sat, 28 Nov 2026 12:00:00 GMT\r\nAccept-Ranges: bytes\r\n"
    );
    let fault = if state.faults.is_empty() { state.forever } else { Some(state.faults.remove(0)) };
    if fault == Some(Fault::Forbidden) {
        return write!(stream, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").ok();
    }
    if method == "HEAD" {
        return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{stated}\r\n", content.len()).ok();
    }
    let range = header("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some(
            first.parse().ok()?
                ..last.parse::<usize>().map_or(content.len(), |last| last + 1).min(content.len()),
        )
    });
    let range = range.unwrap_or(0..content.len());
    if range.start >= content.len() {
        return write!(stream, "HTTP/1.1 416 no\r\nContent-Length: 0\r\n\r\n").ok();
    }
    let status = format!(
        "206 Partial Content\r\nContent-Range: bytes {}-{}/{}",
        range.start,
        range.end - 1,
        content.len()
    );
    let part = &content[range.clone()];
    match fault {
        None => state.served.push((path, range)),
        Some(Fault::Dropped | Fault::Forbidden) => return None,
        Some(Fault::Unavailable) => {
            let body = "<Error><Code>SlowDown</Code></Error>";
            let length = body.len();
            return write!(stream, "HTTP/1.1 503 Slow Down\r\nContent-Length: {length}\r\n\r\n{body}").ok();
        }
        Some(Fault::Cut) => {
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{stated}\r\n", part.len()).ok()?;
            stream.write_all(&part[..part.len() / 2]).ok()?;
            return None;
        }
        Some(Fault::Short) => {
            let part = &part[..part.len() / 2];
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{stated}\r\n", part.len()).ok()?;
            return stream.write_all(part).ok();
        }
    }
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{stated}\r\n", part.len()).ok()?;
    stream.write_all(part).ok()
}

/// `ListObjectsV2`, two entries at a time.
fn list(files: &BTreeMap<String, Vec<u8>>, bucket: &str, query: &str) -> String {
    let parameter = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| decoded(value)).unwrap_or_default()
    };
    let prefix = format!("{bucket}/{}", parameter("prefix"));
    let mut found = BTreeSet::new();
    for name in files.keys().filter(|name| name.starts_with(&prefix)) {
        let inner = &name[prefix.len()..];
        let end = inner.find('/').filter(|_| !parameter("delimiter").is_empty()).map(|slash| slash + 1);
        found.insert(name[bucket.len() + 1..prefix.len() + end.unwrap_or(inner.len())].to_string());
    }
    let after = parameter("continuation-token");
    let rest: Vec<_> = found.into_iter().filter(|name| *name > after).collect();
    let page = &rest[..rest.len().min(2)];
    let entry = |name: &String| match name.strip_suffix('/') {
        Some(_) => format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"),
        None => {
            let content = &files[&format!("{bucket}/{name}")];
            let tag = Sha256::digest(content).iter().take(8).map(|b| format!("{b:02x}")).collect::<String>();
            format!(
                "<Contents><Key>{name}</Key><LastModified>2026-11-28T12:00:00.000Z</LastModified>\
                 <ETag>&quot;{tag}&quot;</ETag><Size>{}</Size></Contents>",
                content.len()
            )
        }
    };
    let next = match rest.len() > page.len() {
        true => format!("<NextContinuationToken>{}</NextContinuationToken>", page[page.len() - 1]),
        false => String::new(),
    };
    let entries: String = page.iter().map(entry).collect();
    format!("<?xml version=\"1.0\"?><ListBucketResult>{entries}{next}</ListBucketResult>")
}

/// Without its percent signs.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let digits = (first == b'%').then(|| after.get(..2)).flatten();
        let byte = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap()
}
