//! `models list`, `models pull` and `--model NAME`, against a server that stands in for the hub.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest, Sha256};

use super::{Folder, Run};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server behaves.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// Content by path, such as `ada/model/resolve/main/model.safetensors`.
    pub files: Vec<(String, Vec<u8>)>,
    /// What it says the hash is, if not what it is.
    pub hash: Option<String>,
    /// Answers to requests that begin here: status and `X-Error-Code`.
    pub refusals: Vec<(&'static str, u16, &'static str)>,
    /// How many bytes of a file it sends before the connection breaks, for each of the first requests.
    pub cuts: Vec<usize>,
    /// Sends all of a file, whatever part is asked for.
    pub without_ranges: bool,
    /// Keeps the content on another server and redirects there, as the hub does.
    pub elsewhere: Option<String>,
    /// What an `Authorization` header must say.
    pub token: Option<&'static str>,
}

/// A request as it came: method, path and the headers that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub range: Option<usize>,
    pub authorization: Option<String>,
}

pub struct Server {
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        // Ends with the process of the tests.
        thread::spawn(move || {
            let mut cuts = behaviour.cuts.clone().into_iter();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read(&stream) else { continue };
                log.lock().unwrap().push(request.clone());
                // A client that has enough may close the connection.
                let _ = answer(&mut stream, &request, &behaviour, &mut cuts);
            }
        });
        Self { address, requests }
    }

    pub fn requests(&self, method: &str) -> Vec<Request> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|request| request.method == method).cloned().collect()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let first = lines.next()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_string(), words.next()?.trim_start_matches('/').to_string());
    let mut request = Request { method, path, range: None, authorization: None };
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        match name.to_lowercase().as_str() {
            "range" => request.range = value.strip_prefix("bytes=")?.trim_end_matches('-').parse().ok(),
            "authorization" => request.authorization = Some(value.to_string()),
            _ => {}
        }
    }
    Some(request)
}

fn answer(
    stream: &mut TcpStream,
    request: &Request,
    behaviour: &Behaviour,
    cuts: &mut impl Iterator<Item = usize>,
) -> std::io::Result<()> {
    let refusal = behaviour.refusals.iter().find(|(start, ..)| request.path.starts_with(start));
    let wrong_token = behaviour.token.is_some_and(|token| request.authorization.as_deref() != Some(token));
    if let Some((_, status, code)) = refusal {
        return write!(
            stream,
            "HTTP/1.1 {status} no\r\nX-Error-Code: {code}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    if wrong_token {
        return write!(stream, "HTTP/1.1 401 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let Some((_, content)) = behaviour.files.iter().find(|(path, _)| *path == request.path) else {
        return write!(
            stream,
            "HTTP/1.1 404 no\r\nX-Error-Code: EntryNotFound\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    };
    let hash = behaviour.hash.clone().unwrap_or_else(|| sha256(content));
    let stated = format!(
        "X-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{hash}\"\r\nX-Linked-Size: {}\r\nETag: \"other\"\r\nConnection: close\r\n",
        content.len()
    );
    if let Some(elsewhere) = &behaviour.elsewhere {
        let location = format!("{elsewhere}/{}", request.path);
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n{stated}\r\n"
        );
    }
    let start = if behaviour.without_ranges { 0 } else { request.range.unwrap_or(0) };
    if start > 0 && start >= content.len() {
        return write!(stream, "HTTP/1.1 416 no\r\nContent-Length: 0\r\n{stated}\r\n");
    }
    let (part, total) = (&content[start..], content.len());
    let status = match request.range {
        Some(_) if !behaviour.without_ranges => {
            format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}", total - 1)
        }
        _ => "200 OK".to_string(),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{stated}\r\n", part.len())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let sent = cuts.next().unwrap_or(part.len()).min(part.len());
    stream.write_all(&part[..sent])
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hub with this folder's model under `ada/model`.
fn model_behaviour(folder: &Folder) -> Behaviour {
    let path = "ada/model/resolve/main/model.safetensors".to_string();
    Behaviour { files: vec![(path, folder.bytes("model.safetensors"))], ..Behaviour::default() }
}

const MODEL: &str = "hf:ada/model/model.safetensors";

/// The command with a cache in this folder and this hub, and nothing else of the environment's.
pub fn at(folder: &Folder, endpoint: &str, arguments: &str) -> Command {
    let mut command = folder.command(arguments);
    for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"] {
        command.env_remove(name);
    }
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", folder.path("hf")).env("HF_ENDPOINT", endpoint);
    command
}

pub fn run(mut command: Command) -> Run {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(!stderr.contains("panicked"), "{stderr}");
    Run { arguments: format!("{command:?}"), code: output.status.code(), stdout, stderr }
}

/// Fails with code 1 or 2 and says `part`.
pub fn fails(command: Command, code: i32, part: &str) {
    let run = run(command);
    assert_eq!(run.code, Some(code), "{}: {}", run.arguments, run.stderr);
    assert!(run.stderr.contains(part), "{part:?} is not in {}", run.stderr);
    assert_eq!(run.stdout, "");
}

#[test]
fn a_model_is_fetched_once_and_then_found_without_a_network() {
    let folder = Folder::new();
    folder.photo("cat.png", 3);
    let server = Server::start(model_behaviour(&folder));
    let pulled = run(at(&folder, &server.address, &format!("models pull {MODEL}"))).ok();
    let path = folder.path(pulled.stdout.trim());
    assert_eq!(std::fs::read(&path).unwrap(), folder.bytes("model.safetensors"));
    assert!(path.starts_with(folder.path("hf/hub/models--ada--model/snapshots").join(COMMIT)), "{path:?}");
    assert!(folder.path("hf/hub/models--ada--model/refs/main").is_file());

    let before = server.requests("GET").len();
    let encode = |endpoint: &str, output: &str, offline: bool| {
        let mut command = at(&folder, endpoint, &format!("encode cat.png -o {output} --model {MODEL}"));
        if offline {
            command.env("HF_HUB_OFFLINE", "1");
        }
        run(command).ok();
        folder.bytes(output)
    };
    let first = encode(&server.address, "a.safetensors", false);
    assert_eq!(server.requests("GET").len(), before, "what is in the cache was fetched again");
    assert!(first == encode("http://127.0.0.1:1", "b.safetensors", false));
    assert!(first == encode("http://127.0.0.1:1", "c.safetensors", true));
    let listed = run(at(&folder, "http://127.0.0.1:1", "models list --json")).json();
    let own = listed.as_array().unwrap().iter().find(|entry| entry["name"] == MODEL).unwrap();
    assert_eq!((&own["place"], &own["kind"]), (&"cache".into(), &"tokenizer".into()));
    assert_eq!(own["bytes"], folder.bytes("model.safetensors").len());
    // The newest version is looked for, but what is here already is not sent again.
    run(at(&folder, &server.address, &format!("models pull {MODEL}"))).ok();
    assert_eq!(server.requests("GET").len(), before);
}

#[test]
fn a_model_is_fetched_when_it_is_first_used() {
    let folder = Folder::new();
    let server = Server::start(model_behaviour(&folder));
    let info = run(at(&folder, &server.address, &format!("models info {MODEL} --json"))).json();
    assert_eq!(info["hash"], folder.run("models info model.safetensors --json").json()["hash"]);
}

#[test]
fn an_interrupted_transfer_goes_on_where_it_ended() {
    let folder = Folder::new();
    let content = folder.bytes("model.safetensors");
    // Breaks off twice within a command, which takes it up again.
    let server = Server::start(Behaviour { cuts: vec![1000, 3000], ..model_behaviour(&folder) });
    let pulled = run(at(&folder, &server.address, &format!("models pull {MODEL}"))).ok();
    assert_eq!(std::fs::read(folder.path(pulled.stdout.trim())).unwrap(), content);
    let starts: Vec<_> = server.requests("GET").iter().map(|request| request.range).collect();
    assert_eq!(starts, [Some(0), Some(1000), Some(4000)]);

    // Breaks off for good, and the next command goes on.
    let folder = Folder::new();
    let server = Server::start(Behaviour { cuts: vec![5000, 0, 0, 0, 0], ..model_behaviour(&folder) });
    fails(at(&folder, &server.address, &format!("models pull {MODEL}")), 1, "fetch it again");
    let partial = folder.names().into_iter().find(|name| name.ends_with(".incomplete")).unwrap();
    assert_eq!(folder.bytes(&partial), content[..5000]);
    let again = run(at(&folder, &server.address, &format!("models pull {MODEL}"))).ok();
    assert!(again.stderr.contains("going on after"), "{}", again.stderr);
    assert_eq!(std::fs::read(folder.path(again.stdout.trim())).unwrap(), content);
    assert_eq!(server.requests("GET").last().unwrap().range, Some(5000));
    assert!(!folder.names().iter().any(|name| name.ends_with(".incomplete")));
}

#[test]
fn a_partial_file_is_not_trusted() {
    for (partial, without_ranges) in [("all of it", false), ("too much", false), ("a part", true)] {
        let folder = Folder::new();
        let content = folder.bytes("model.safetensors");
        let server = Server::start(Behaviour { without_ranges, ..model_behaviour(&folder) });
        let blobs = folder.path("hf/hub/models--ada--model/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        let found = match partial {
            "all of it" => content.clone(),
            "too much" => [&content[..], b"and more"].concat(),
            _ => content[..700].to_vec(),
        };
        std::fs::write(blobs.join(sha256(&content)).with_extension("incomplete"), found).unwrap();
        let pulled = run(at(&folder, &server.address, &format!("models pull {MODEL}"))).ok();
        assert_eq!(std::fs::read(folder.path(pulled.stdout.trim())).unwrap(), content, "{partial}");
    }
}

#[test]
fn what_has_another_hash_is_not_kept() {
    let folder = Folder::new();
    let server = Server::start(Behaviour { hash: Some("ab".repeat(32)), ..model_behaviour(&folder) });
    for _ in 0..2 {
        let pull = at(&folder, &server.address, &format!("models pull {MODEL}"));
        fails(pull, 1, "the hub states abababababab…; it was removed");
        assert!(!folder.names().iter().any(|name| name.contains("blobs/")), "{:?}", folder.names());
    }
    // Whatever it is called, it stays in its folder.
    let server =
        Server::start(Behaviour { hash: Some("../../../stolen".into()), ..model_behaviour(&folder) });
    fails(
        at(&folder, &server.address, &format!("models pull {MODEL}")),
        1,
        "does not answer as the hub does",
    );
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let folder = Folder::new();
    let storage = Server::start(model_behaviour(&folder));
    // Another name of the same machine is another host.
    let elsewhere = storage.address.replace("127.0.0.1", "localhost");
    let hub = Server::start(Behaviour {
        elsewhere: Some(elsewhere),
        token: Some("Bearer secret"),
        ..model_behaviour(&folder)
    });
    let pull = || at(&folder, &hub.address, &format!("models pull {MODEL}"));
    fails(pull(), 1, "set HF_TOKEN to your token");
    let mut wrong = pull();
    wrong.env("HF_TOKEN", "guess");
    fails(wrong, 1, "the token of HF_TOKEN does not allow to read it");
    let mut right = pull();
    right.env("HF_TOKEN", "secret");
    let pulled = run(right).ok();
    assert_eq!(std::fs::read(folder.path(pulled.stdout.trim())).unwrap(), folder.bytes("model.safetensors"));
    let sent = storage.requests("GET");
    assert!(!sent.is_empty() && sent.iter().all(|request| request.authorization.is_none()), "{sent:?}");
}

#[test]
fn a_hub_that_does_not_give_it_is_understood() {
    let folder = Folder::new();
    let refusals = vec![
        ("nobody/", 401, "RepoNotFound"),
        ("gated/", 403, "GatedRepo"),
        ("ada/model/resolve/v9/", 404, "RevisionNotFound"),
        ("ill/", 503, ""),
    ];
    let server = Server::start(Behaviour { refusals, ..model_behaviour(&folder) });
    for (name, part) in [
        (
            "hf:nobody/model/x.pkl",
            "there is no repository nobody/model; if it is private or asks for consent, set HF_TOKEN",
        ),
        ("hf:gated/model/x.pkl", "its terms must be accepted first, on http://127.0.0.1"),
        ("hf:ada/model/other.pkl", "the repository ada/model has no file other.pkl"),
        ("hf:ada/model@v9/model.safetensors", "has no revision v9"),
        ("hf:ill/model/x.pkl", "answers 503"),
    ] {
        fails(at(&folder, &server.address, &format!("models pull {name}")), 1, part);
        fails(at(&folder, &server.address, &format!("models info {name}")), 1, part);
    }
    assert!(server.requests("GET").is_empty());
}

#[test]
fn without_a_network_that_is_said() {
    let folder = Folder::new();
    folder.photo("cat.png", 3);
    for arguments in ["models pull mar-kl16", "encode cat.png -o t.parquet --model semanticist-l"] {
        fails(at(&folder, "http://127.0.0.1:1", arguments), 1, "http://127.0.0.1:1 cannot be reached");
        let mut offline = at(&folder, "http://127.0.0.1:1", arguments);
        offline.env("HF_HUB_OFFLINE", "1");
        fails(offline, 1, "HF_HUB_OFFLINE forbids");
    }
    let mut listed = at(&folder, "http://127.0.0.1:1", "models list");
    listed.env("HF_HUB_OFFLINE", "1");
    let text = run(listed).ok().stdout;
    for part in ["tiny ", "semanticist-xl", "sd-kl8", "MIT", "unknown", "~2204 MB", "research only"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_said() {
    let folder = Folder::new();
    folder.file("taken", b"mine");
    let server = Server::start(model_behaviour(&folder));
    let homes = if cfg!(target_os = "linux") { vec!["taken/hf", "/proc/hf"] } else { vec!["taken/hf"] };
    for home in homes {
        let mut pull = at(&folder, &server.address, &format!("models pull {MODEL}"));
        pull.env("HF_HOME", folder.path(home));
        fails(pull, 1, "the cache of models cannot be written; set HF_HOME to a folder that can");
    }
}

#[test]
fn names_that_are_no_models_are_said() {
    let folder = Folder::new();
    folder.photo("cat.png", 3);
    let nowhere = "http://127.0.0.1:1";
    for (arguments, code, part) in [
        (
            "models pull semanticist-m",
            2,
            "is neither a file nor a known model; use a file, tiny, tiny-generator, semanticist-l",
        ),
        ("models pull tiny", 2, "it need not be fetched"),
        ("models pull hf:ada/model", 2, "expected hf:OWNER/REPOSITORY/FILE"),
        ("encode cat.png -o t.parquet --model semanticist-m", 2, "known model"),
        ("encode cat.png -o t.parquet --model mar-kl16", 2, "is an autoencoder, not a tokenizer"),
        ("encode cat.png -o t.parquet --model semanticist-generator-l", 2, "is a generator, not a tokenizer"),
        ("models info hf:ada/../model/x", 2, "expected hf:OWNER/REPOSITORY/FILE"),
        (
            "models import cat.png --preset l-256x16 --autoencoder tiny -o x.safetensors",
            2,
            "not an autoencoder",
        ),
        ("encode cat.png -o t.parquet --model ./missing", 1, "missing: cannot read"),
    ] {
        fails(at(&folder, nowhere, arguments), code, part);
    }
    let boxed = run(at(&folder, nowhere, "models info tiny --json")).json();
    assert_eq!(boxed["hash"], folder.run("models info --json").json()["hash"]);
}
