//! From the hub into the cache: goes on where an interrupted transfer ended, and keeps nothing that does
//! not have the hash which the hub states.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

use crate::{Error, Hub, Remote, Result, Transfer};

/// How often a transfer that breaks off is taken up again without a byte of progress.
const ATTEMPTS: u32 = 4;
/// How many redirections are followed to what the hub says of a file.
const REDIRECTIONS: usize = 5;

/// What the hub says of a file before it is transferred.
struct Stated {
    /// The hash of the content if it is large: SHA-256; else one of git's.
    hash: String,
    commit: String,
    bytes: u64,
}

/// The newest version of a file, in the cache.
pub(crate) fn fetch(hub: &Hub, remote: &Remote, observe: &mut dyn FnMut(Transfer)) -> Result<PathBuf> {
    let client = Client::new(hub, remote);
    let stated = client.ask()?;
    let blob = hub.cache.blob(remote, &stated.hash)?;
    if fs::metadata(&blob).map(|found| found.len()).ok() != Some(stated.bytes) {
        client.transfer(&stated, &blob, observe)?;
    }
    hub.cache.link(remote, &stated.commit, &blob)
}

/// Who asks the hub for a file.
pub(crate) struct Client<'a> {
    agent: Agent,
    hub: &'a Hub,
    remote: &'a Remote,
}

impl<'a> Client<'a> {
    /// For this file, which need not be there if the hub is asked for something else.
    pub fn new(hub: &'a Hub, remote: &'a Remote) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("semanticist/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(Duration::from_secs(20)))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build();
        Self { agent: agent.into(), hub, remote }
    }

    /// The hub's answer in JSON, and the address of its continuation if there is one.
    ///
    /// # Errors
    /// If the hub cannot be reached, again and again, or does not answer so.
    pub fn json<T: DeserializeOwned>(&self, url: &str) -> Result<(T, Option<String>)> {
        let mut attempt = 0;
        let mut response = loop {
            let response = self.authorized(self.agent.get(url)).call();
            attempt += 1;
            match response {
                Ok(response) if !response.status().is_server_error() || attempt > ATTEMPTS => break response,
                Err(error) if attempt > ATTEMPTS => return Err(self.unreachable(error)),
                Ok(_) | Err(_) => sleep(Duration::from_millis(125 << attempt)),
            }
        };
        if !response.status().is_success() {
            return Err(self.refused(&response));
        }
        let next = header(&response, "link").and_then(|link| link.strip_prefix('<')?.split_once('>'));
        let next = next.filter(|(_, what)| what.contains("next")).map(|(url, _)| url.to_string());
        // What it continues at must be the hub, whom the token is for.
        let next = next.filter(|url| url.starts_with(&format!("{}/", self.hub.endpoint)));
        let text = response.body_mut().read_to_string().map_err(|error| self.unreachable(error))?;
        let answer = serde_json::from_str(&text).map_err(|error| {
            let problem =
                format!("{} does not answer as the hub does ({error}); check HF_ENDPOINT", self.hub.endpoint);
            Error::refused(self.remote, problem)
        })?;
        Ok((answer, next))
    }

    /// Asks for the file's hash, size and commit. Content on another host is not asked: the hub says all
    /// of it in the redirection there, and the token is none of that host's business.
    fn ask(&self) -> Result<Stated> {
        let mut url = self.remote.url(&self.hub.endpoint);
        for _ in 0..REDIRECTIONS {
            let request = self.authorized(self.agent.head(&url)).header("Accept-Encoding", "identity");
            let request = request.config().max_redirects(0).max_redirects_will_error(false).build();
            let response = request.call().map_err(|error| self.unreachable(error))?;
            match header(&response, "location").filter(|_| response.status().is_redirection()) {
                // On the same host, such as for a repository that was renamed.
                Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                    let host = url.parse::<Uri>().ok().and_then(|uri| uri.authority().cloned());
                    let problem = || Error::refused(self.remote, format!("the address {url} has no host"));
                    let host = host.ok_or_else(problem)?;
                    let scheme = if url.starts_with("https") { "https" } else { "http" };
                    url = format!("{scheme}://{host}{path}");
                }
                _ => return self.stated(&response),
            }
        }
        Err(Error::refused(self.remote, format!("{} redirects without end", self.hub.endpoint)))
    }

    fn stated(&self, response: &Response<Body>) -> Result<Stated> {
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(self.refused(response));
        }
        let found = |names: &[&str]| names.iter().find_map(|name| header(response, name));
        let hash = found(&["x-linked-etag", "etag"]);
        let hash = hash.map(|hash| hash.trim_start_matches("W/").trim_matches('"').to_string());
        // The hash becomes the name of a file.
        let hash = hash
            .filter(|hash| !hash.is_empty() && hash.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        let commit = found(&["x-repo-commit"]).map(str::to_owned);
        let commit =
            commit.filter(|commit| !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric()));
        let bytes = found(&["x-linked-size", "content-length"]).and_then(|size| size.parse().ok());
        let (Some(hash), Some(commit), Some(bytes)) = (hash, commit, bytes) else {
            let endpoint = &self.hub.endpoint;
            let problem = format!("{endpoint} does not answer as the hub does; check HF_ENDPOINT");
            return Err(Error::refused(self.remote, problem));
        };
        Ok(Stated { hash, commit, bytes })
    }

    /// Fetches the content into `blob`, beside which an unfinished one waits to be gone on with.
    fn transfer(&self, stated: &Stated, blob: &Path, observe: &mut dyn FnMut(Transfer)) -> Result<()> {
        let partial = blob.with_extension("incomplete");
        let unwritable = || Error::cache(&partial);
        let opened = OpenOptions::new().read(true).append(true).create(true).open(&partial);
        let mut file = opened.map_err(unwritable())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy(self.remote.to_string())),
            // A file system without locks: two transfers at once would be found out by the hash.
            Err(TryLockError::Error(_)) => {}
        }
        let mut content = Content::of(&mut file).map_err(unwritable())?;
        if content.bytes > stated.bytes {
            content = content.emptied().map_err(unwritable())?;
        }
        observe(Transfer::Started { remote: self.remote, had: content.bytes, bytes: stated.bytes });
        let mut attempt = 0;
        while content.bytes < stated.bytes {
            let before = content.bytes;
            let outcome = self.part(stated, &mut content, observe);
            attempt = if content.bytes > before { 0 } else { attempt + 1 };
            match outcome {
                Ok(()) => {}
                Err(Broken::Finally(error)) => return Err(error),
                Err(Broken::Off(problem)) if attempt >= ATTEMPTS => {
                    let (remote, had) = (self.remote.to_string(), megabytes(content.bytes));
                    return Err(Error::BrokeOff { remote, had, problem });
                }
                Err(Broken::Off(_)) => sleep(Duration::from_millis(250 << attempt)),
            }
        }
        self.check(stated, content, &partial)?;
        file.sync_all().map_err(unwritable())?;
        fs::rename(&partial, blob).map_err(unwritable())
    }

    /// Reads on until the content is complete or the connection breaks.
    fn part(
        &self,
        stated: &Stated,
        content: &mut Content,
        observe: &mut dyn FnMut(Transfer),
    ) -> Result<(), Broken> {
        let unwritable = |error| Broken::Finally(Error::cache(self.hub.cache.folder())(error));
        let url = self.remote.url(&self.hub.endpoint);
        let request = self.authorized(self.agent.get(&url)).header("Accept-Encoding", "identity");
        let request = request.header("Range", format!("bytes={}-", content.bytes));
        let mut response = request.call().map_err(|error| Broken::Off(error.to_string()))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&response, content.bytes) => {}
            // A server that knows no ranges begins at the beginning, and so must we.
            StatusCode::OK | StatusCode::PARTIAL_CONTENT if content.bytes == 0 => {}
            StatusCode::OK => content.restart().map_err(unwritable)?,
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Broken::Off(self.refused(&response).to_string()));
            }
            status if status.is_success() => {
                let problem = "the server sent another part of the file than was asked for";
                return Err(Broken::Finally(Error::refused(self.remote, problem)));
            }
            _ => return Err(Broken::Finally(self.refused(&response))),
        }
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let room = usize::try_from(stated.bytes - content.bytes).unwrap_or(usize::MAX).min(buffer.len());
            if room == 0 {
                return Ok(());
            }
            let read = body.read(&mut buffer[..room]);
            let read = read.map_err(|error| Broken::Off(format!("the connection was lost: {error}")))?;
            if read == 0 {
                return Err(Broken::Off("the server closed the connection".into()));
            }
            content.append(&buffer[..read]).map_err(unwritable)?;
            observe(Transfer::Advanced { bytes: read as u64 });
        }
    }

    /// Removes what does not have the hash that the hub states.
    fn check(&self, stated: &Stated, content: Content, partial: &Path) -> Result<()> {
        let found = content.hash();
        let is_sha256 =
            stated.hash.len() == found.len() && stated.hash.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_sha256 || stated.hash.eq_ignore_ascii_case(&found) {
            return Ok(());
        }
        fs::remove_file(partial).map_err(Error::cache(partial))?;
        let first = |hash: &str| hash[..12].to_string();
        let (remote, expected, found) = (self.remote.to_string(), first(&stated.hash), first(&found));
        Err(Error::Corrupt { remote, found, expected })
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.hub.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// The answer of a hub that does not give the file.
    fn refused(&self, response: &Response<Body>) -> Error {
        let Remote { owner, repository, revision, file, .. } = self.remote;
        let (status, code) = (response.status(), header(response, "x-error-code").unwrap_or_default());
        let page = self.remote.page(&self.hub.endpoint);
        let login = match self.hub.token {
            Some(_) => "the token of HF_TOKEN does not allow to read it",
            None => "if it is private or asks for consent, set HF_TOKEN to your token",
        };
        let problem = match (status, code) {
            (_, "GatedRepo") => format!("its terms must be accepted first, on {page}; {login}"),
            (_, "EntryNotFound") => {
                format!("the repository {owner}/{repository} has no file {file}; see {page}")
            }
            (_, "RevisionNotFound") => {
                format!("the repository {owner}/{repository} has no revision {revision}")
            }
            // The hub answers 401 for what is not there as well, so as not to tell what is private.
            (_, "RepoNotFound") => format!("there is no repository {owner}/{repository}; {login}"),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => format!("may not be read; {login}"),
            (StatusCode::NOT_FOUND, _) => format!("is not there; see {page}"),
            _ => format!("{} answers {status}; try again later", self.hub.endpoint),
        };
        Error::refused(self.remote, problem)
    }

    fn unreachable(&self, error: ureq::Error) -> Error {
        let (remote, endpoint) = (self.remote.to_string(), self.hub.endpoint.clone());
        Error::Unreachable { remote, endpoint, source: Box::new(error) }
    }
}

/// Why a part of a transfer ended early.
enum Broken {
    /// It may go on. How it ended:
    Off(String),
    /// It would end in the same way again.
    Finally(Error),
}

/// An unfinished file and the hash of what it holds.
struct Content<'a> {
    file: &'a mut File,
    hash: Sha256,
    bytes: u64,
}

impl<'a> Content<'a> {
    /// What is there already.
    fn of(file: &'a mut File) -> std::io::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        let mut hash = Sha256::new();
        let bytes = std::io::copy(file, &mut HashWriter(&mut hash))?;
        Ok(Self { file, hash, bytes })
    }

    fn emptied(mut self) -> std::io::Result<Self> {
        self.restart()?;
        Ok(self)
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        (self.hash, self.bytes) = (Sha256::new(), 0);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn hash(self) -> String {
        self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// Whether a part of a file begins where it should: `bytes 5-9/10`.
fn starts_at(response: &Response<Body>, start: u64) -> bool {
    let range = header(response, "content-range").and_then(|range| range.strip_prefix("bytes "));
    range.and_then(|range| range.split('-').next()).and_then(|first| first.trim().parse().ok()) == Some(start)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
