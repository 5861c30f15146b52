//! `semanticist models pull`: a published model into the cache.

use std::path::Path;

use anyhow::Result;

use semanticist_hub::{Hub, Kind, Known, Location, Remote};

use crate::args::ModelsPull;
use crate::{failure, fetch, output};

pub fn run(request: &ModelsPull) -> Result<()> {
    let hub = Hub::from_env()?;
    let files = files(&request.name)?;
    let paths = files.iter().map(|remote| fetch::pull(&hub, remote)).collect::<Result<Vec<_>>>()?;
    let lines: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    output::print(&lines.join("\n"))
}

/// What a name stands for: a tokenizer needs its autoencoder as well.
fn files(name: &str) -> Result<Vec<Remote>> {
    let known: &Known = match Location::of(Path::new(name))? {
        Location::Remote(remote) => return Ok(vec![remote]),
        Location::Known(known) => known,
        Location::Builtin(_) => {
            return Err(failure::usage(format!("\"{name}\" is built in; it need not be fetched")));
        }
        Location::File(_) => {
            return Err(failure::usage(format!("\"{name}\" is a file; name a model of `models list`")));
        }
    };
    let autoencoder = match known.kind {
        Kind::Tokenizer { autoencoder, .. } => Known::find(autoencoder).map(Known::remote),
        Kind::Autoencoder { .. } | Kind::Generator { .. } => None,
    };
    Ok([known.remote()].into_iter().chain(autoencoder).collect())
}
