//! `semanticist models pull`: a published model into the cache.

use std::path::Path;

use anyhow::Result;

use super::location::{Location, unknown};
use crate::args::ModelsPull;
use crate::hub::{Hub, Kind, Known, Remote};
use crate::{boxed, failure, output};

pub fn run(request: &ModelsPull) -> Result<()> {
    let hub = Hub::from_env()?;
    let paths = files(&request.name)?.iter().map(|remote| hub.pull(remote)).collect::<Result<Vec<_>>>()?;
    let lines: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    output::print(&lines.join("\n"))
}

/// What a name stands for: a tokenizer needs its autoencoder as well.
fn files(name: &str) -> Result<Vec<Remote>> {
    if let Some(remote) = Remote::parse(name)? {
        return Ok(vec![remote]);
    }
    let Some(known) = Known::find(name) else {
        return Err(failure::usage(match Location::of(Path::new(name)) {
            Ok(Location::Box) => format!("\"{name}\" is {}; it need not be fetched", boxed::MODEL_NAME),
            _ => unknown(name),
        }));
    };
    let autoencoder = match known.kind {
        Kind::Tokenizer { autoencoder, .. } => Known::find(autoencoder).map(Known::remote),
        Kind::Autoencoder { .. } | Kind::Generator => None,
    };
    Ok([known.remote()].into_iter().chain(autoencoder).collect())
}
