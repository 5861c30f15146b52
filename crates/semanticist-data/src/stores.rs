//! Shards that lie elsewhere: in the stores of S3, Google and Azure, through the crate `object_store`, and behind HTTP.
//!
//! They are read in parts, where a run needs them, and never copied whole. A read that fails is tried again for some
//! seconds, whatever the reason, unless asking again cannot help. Who may read is said by the variables of the
//! environment that other programs for these stores take as well: `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` and the like, those
//! that begin with `GOOGLE_` and those with `AZURE_`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};
use semanticist::{Error, Result};
use tokio::runtime::Runtime;

use super::folder;
use super::ranges::in_parallel;
use super::source::Split;
use transport::Connector;

mod braces;
mod transport;

/// How often something is tried, the first time included.
const ATTEMPTS: u32 = 8;

/// The pause after the first attempt; each further one is twice as long, so that all are 13 seconds.
const PAUSE: Duration = Duration::from_millis(100);

/// Objects that are looked at at once.
const TOGETHER: usize = 16;

/// How much of an answer a message quotes, in characters.
const QUOTED: usize = 400;

/// Parts of the addresses at which a machine in a cloud is told who it is: of Amazon, Google and Azure.
const ROLES: [&str; 4] =
    ["/latest/api/token", "/latest/meta-data/", "/computeMetadata/", "/metadata/identity/"];

/// Who asks, as it is told.
const WHO_ASKS: &str = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_SERVICE_ACCOUNT, or AZURE_STORAGE_ACCOUNT_NAME \
                        and AZURE_STORAGE_ACCOUNT_KEY (of a public bucket AWS_SKIP_SIGNATURE=true, \
                        GOOGLE_SKIP_SIGNATURE=true or AZURE_SKIP_SIGNATURE=true)";

/// A file in a store, or behind an address, as it was when it was found.
#[derive(Debug, Clone)]
pub struct Object {
    url: String,
    bytes: u64,
    stated: Option<String>,
    path: Path,
    store: Arc<dyn ObjectStore>,
    manners: Manners,
}

/// How stores are dealt with.
#[derive(Debug, Clone)]
struct Manners {
    /// After the first attempt.
    pause: Duration,
    /// Where lists of tar files are remembered.
    listings: Option<Arc<FilePath>>,
}

/// What an address names.
#[derive(Debug)]
pub(crate) struct Found {
    pub objects: Vec<Object>,
    /// How many other files there are.
    pub skipped: usize,
}

/// The stores that were asked so far.
#[derive(Debug)]
pub(crate) struct Stores {
    variables: BTreeMap<String, String>,
    manners: Manners,
    /// By scheme and host or bucket.
    known: BTreeMap<String, Arc<dyn ObjectStore>>,
}

/// Why an attempt failed.
enum Broken {
    /// It may help to try again.
    Off(String),
    /// It does not.
    Finally(String),
}

impl Object {
    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many there are.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the store says of the content: its ETag, or for want of one the time of its last change, or nothing.
    pub fn stated(&self) -> Option<&str> {
        self.stated.as_deref()
    }

    /// The folder for what is remembered of objects, if there is a home for it.
    pub fn listings(&self) -> Option<&FilePath> {
        self.manners.listings.as_deref()
    }

    /// The bytes of this range, which lies within the object.
    ///
    /// # Errors
    /// If they do not come after several attempts, or the object is another one now.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let what = format!("read the bytes {} to {}", range.start, range.end - 1);
        let read = persist(&self.url, &what, self.manners.pause, || {
            let options =
                GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
            let (found, bytes) = wait(async {
                let result = self.store.get_opts(&self.path, options).await?;
                Ok((result.meta.clone(), result.bytes().await?))
            })?;
            self.check(&found).map_err(Broken::Finally)?;
            let (came, asked) = (bytes.len() as u64, range.end - range.start);
            if came != asked {
                return Err(Broken::Off(format!("{came} of {asked} bytes came")));
            }
            Ok(bytes)
        });
        // What was shortened cannot give the range, and says no more than that.
        read.map_err(|error| match wait(self.store.head(&self.path)).map(|found| self.check(&found)) {
            Ok(Err(changed)) => Error::file(&self.url, changed),
            _ => error,
        })
    }

    fn check(&self, found: &ObjectMeta) -> Result<(), String> {
        let stated = stated(found);
        if found.size == self.bytes && stated == self.stated {
            return Ok(());
        }
        let (was, is) = (self.bytes, found.size);
        let [before, now] = [&self.stated, &stated].map(|it| it.as_deref().unwrap_or("no ETag"));
        Err(format!(
            "the object changed while it was in use: it had {was} bytes and {before} when it was found, now it has {is} \
             and {now}; put it back, or begin again with the new data"
        ))
    }
}

impl Stores {
    /// With what the environment says of those who ask.
    pub fn from_env() -> Self {
        Self::with(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    fn with(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables: BTreeMap<_, _> = variables.into_iter().collect();
        let folder = |name: &str| variables.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
        let listings = cache.map(|cache| cache.join("semanticist").join("listings").into());
        Self { variables, manners: Manners { pause: PAUSE, listings }, known: BTreeMap::new() }
    }

    /// The shards that `address` names: itself, what its braces stand for, or those below it, of which `split` chooses.
    ///
    /// # Errors
    /// If it names nothing, or the store cannot be asked.
    pub fn find(&mut self, address: &str, split: Split) -> Result<Found> {
        if !folder::is_shard(FilePath::new(address)) {
            return self.below(address, split);
        }
        let addresses = braces::expand(address)?;
        let places = addresses.iter().map(|one| self.place(one)).collect::<Result<Vec<_>>>()?;
        let all: Vec<_> = addresses.into_iter().zip(places).collect();
        let objects = in_parallel(&all, TOGETHER, |(url, (store, path))| {
            let found = persist(url, "look", self.manners.pause, || wait(store.head(path)))?;
            Ok(Object::of(url.clone(), found, store, &self.manners))
        })?;
        Ok(Found { objects, skipped: 0 })
    }

    /// The shards below an address.
    fn below(&mut self, address: &str, split: Split) -> Result<Found> {
        if address.starts_with("http") {
            return Err(Error::Data(format!(
                "{address}: folders behind HTTP cannot be listed; name the shards, such as \
                 {}/train-{{000000..000146}}.tar",
                address.trim_end_matches('/')
            )));
        }
        let (store, root) = self.place(address)?;
        let (mut shards, mut skipped) = (BTreeMap::new(), 0);
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            let list = || wait(store.list_with_delimiter(Some(&folder)));
            let found = persist(address, "list what is there", self.manners.pause, list)?;
            folders.extend(found.common_prefixes.into_iter().filter(|folder| !is_hidden(folder)));
            for object in found.objects.into_iter().filter(|object| !is_hidden(&object.location)) {
                let name = PathBuf::from(object.location.as_ref());
                match folder::is_shard(&name) {
                    true => drop(shards.insert(name, object)),
                    false => skipped += 1,
                }
            }
        }
        if shards.is_empty() {
            return Err(Error::Data(format!(
                "{address}: no Parquet or tar files in {skipped} objects there; images of their own are read from this \
                 machine only"
            )));
        }
        let chosen = folder::choose(FilePath::new(root.as_ref()), shards.keys().cloned().collect(), split)?;
        skipped += shards.len() - chosen.len();
        let bucket = bucket(address);
        let objects = chosen.iter().filter_map(|name| shards.remove(name)).map(|found| {
            let url = format!("{bucket}/{}", found.location);
            Object::of(url, found, &store, &self.manners)
        });
        Ok(Found { objects: objects.collect(), skipped })
    }

    /// The store of an address, and what it is called there.
    fn place(&mut self, address: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
        let bucket = bucket(address);
        let wrong = |problem: String| Error::Data(format!("{address}: {problem}"));
        let inner = address[bucket.len()..].trim_matches('/');
        let path = match bucket.starts_with("http") {
            true if inner.contains(['?', '#']) => {
                return Err(wrong(
                    "an address with ? or # is no file's; expected one that ends in .parquet or .tar".into(),
                ));
            }
            true => Path::from_url_path(inner),
            false => Path::parse(inner),
        };
        let path = path.map_err(|error| wrong(error.to_string()))?;
        if let Some(store) = self.known.get(bucket) {
            return Ok((store.clone(), path));
        }
        let store = self.build(bucket).map_err(|error| wrong(error.to_string()))?;
        let store = store.ok_or_else(|| {
            wrong(
                "there are no stores of this kind; expected s3://, gs://, az://, http:// or https://".into(),
            )
        })?;
        self.known.insert(bucket.to_string(), store.clone());
        Ok((store, path))
    }

    fn build(&self, bucket: &str) -> object_store::Result<Option<Arc<dyn ObjectStore>>> {
        // Attempts are counted here.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let signed = Connector { redirections: 0 };
        Ok(Some(match bucket.split_once("://").unwrap_or_default().0 {
            "s3" | "s3a" => {
                let builder = self
                    .described(AmazonS3Builder::new(), "AWS_", AmazonS3Builder::with_config)
                    .with_url(bucket);
                Arc::new(builder.with_retry(retry).with_http_connector(signed).build()?)
            }
            "gs" => {
                let builder = self
                    .described(
                        GoogleCloudStorageBuilder::new(),
                        "GOOGLE_",
                        GoogleCloudStorageBuilder::with_config,
                    )
                    .with_url(bucket);
                Arc::new(builder.with_retry(retry).with_http_connector(signed).build()?)
            }
            "az" | "abfs" | "abfss" => {
                let builder = self
                    .described(MicrosoftAzureBuilder::new(), "AZURE_", MicrosoftAzureBuilder::with_config)
                    .with_url(bucket);
                Arc::new(builder.with_retry(retry).with_http_connector(signed).build()?)
            }
            "http" | "https" => {
                let followed = Connector { redirections: 5 };
                let builder = HttpBuilder::new().with_url(bucket).with_retry(retry);
                Arc::new(builder.with_http_connector(followed).build()?)
            }
            _ => return Ok(None),
        }))
    }

    /// Lays the variables with this prefix that a builder knows over it.
    fn described<B, K: FromStr>(&self, builder: B, prefix: &str, with: impl Fn(B, K, String) -> B) -> B {
        let those = self.variables.iter().filter(|(name, _)| name.starts_with(prefix));
        those.fold(builder, |builder, (name, value)| match name.to_ascii_lowercase().parse() {
            Ok(key) => with(builder, key, value.clone()),
            Err(_) => builder,
        })
    }
}

impl Object {
    fn of(url: String, found: ObjectMeta, store: &Arc<dyn ObjectStore>, manners: &Manners) -> Self {
        let (stated, store, manners) = (stated(&found), store.clone(), manners.clone());
        Self { url, bytes: found.size, stated, path: found.location, store, manners }
    }
}

/// Scheme and host, or bucket, of an address.
fn bucket(address: &str) -> &str {
    let host = address.find("://").map_or(0, |scheme| scheme + 3);
    &address[..address[host..].find('/').map_or(address.len(), |slash| host + slash)]
}

fn is_hidden(path: &Path) -> bool {
    path.filename().is_some_and(|name| name.starts_with('.'))
}

/// What tells a content from another: lists and answers write ETags with and without quotes.
fn stated(found: &ObjectMeta) -> Option<String> {
    match &found.e_tag {
        Some(tag) => Some(format!("the ETag {}", tag.trim_start_matches("W/").trim_matches('"'))),
        // Behind HTTP there may be no time, which stands as 1970.
        None if found.last_modified.timestamp() == 0 => None,
        None => Some(format!("the time {}", found.last_modified.to_rfc3339())),
    }
}

/// The answer of a store. Its requests block, so that this thread is busy until it is there.
fn wait<T>(answer: impl Future<Output = object_store::Result<T>>) -> Result<T, Broken> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a clock needs nothing of the system")
    });
    runtime.block_on(answer).map_err(|error| {
        use object_store::Error::{
            InvalidPath, NotFound, NotImplemented, NotSupported, PermissionDenied, Unauthenticated,
            UnknownConfigurationKey,
        };
        let text = quoted(&error);
        match error {
            NotFound { .. } => Broken::Finally(format!("there is nothing of that name ({text})")),
            PermissionDenied { .. } | Unauthenticated { .. } => Broken::Finally(format!(
                "the store does not allow it ({text}); check the variables that say who asks: {WHO_ASKS}"
            )),
            NotSupported { .. } | NotImplemented { .. } | InvalidPath { .. } | UnknownConfigurationKey { .. } => {
                Broken::Finally(text)
            }
            _ if ROLES.iter().any(|role| text.contains(role)) => Broken::Off(format!(
                "no variable says who asks, and this machine has no role in a cloud that would ({text}); set {WHO_ASKS}"
            )),
            _ => Broken::Off(text),
        }
    })
}

/// An error in one line that is not too long.
fn quoted(error: &object_store::Error) -> String {
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Tries until it works, cannot work, or was tried [`ATTEMPTS`] times.
fn persist<T>(
    url: &str,
    what: impl Display,
    mut pause: Duration,
    mut attempt: impl FnMut() -> Result<T, Broken>,
) -> Result<T> {
    let begun = Instant::now();
    for number in 1.. {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(Broken::Finally(problem)) => return Err(Error::file(url, problem)),
            Err(Broken::Off(problem)) if number == ATTEMPTS => {
                let seconds = begun.elapsed().as_secs();
                return Err(Error::file(
                    url,
                    format!("cannot {what}: {problem}; tried {ATTEMPTS} times in {seconds} s"),
                ));
            }
            Err(Broken::Off(_)) => {
                sleep(pause);
                pause *= 2;
            }
        }
    }
    unreachable!("the last attempt returns")
}

#[cfg(test)]
mod server;

#[cfg(test)]
mod tests;
