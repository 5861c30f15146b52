//! Models from the hub, with a bar while they are fetched.

use std::path::PathBuf;

use anyhow::Result;
use semanticist_hub::{Hub, Remote, Transfer};

use crate::output::note;
use crate::progress::Progress;

/// The copy of a file in the cache, fetched if there is none.
pub fn find(remote: &Remote) -> Result<PathBuf> {
    let mut bar = Bar(None);
    Ok(Hub::from_env()?.find(remote, &mut |transfer| bar.show(transfer))?)
}

/// The newest version of a file, in the cache.
pub fn pull(hub: &Hub, remote: &Remote) -> Result<PathBuf> {
    let mut bar = Bar(None);
    Ok(hub.pull(remote, &mut |transfer| bar.show(transfer))?)
}

struct Bar(Option<Progress>);

impl Bar {
    fn show(&mut self, transfer: Transfer) {
        match transfer {
            Transfer::Started { remote, had, bytes } => {
                match had {
                    0 => note(&format!("{remote}: fetching {}", megabytes(bytes))),
                    _ => note(&format!("{remote}: going on after {}", megabytes(had))),
                }
                let bar = Progress::new(usize::try_from(bytes).unwrap_or(usize::MAX), "fetching");
                bar.advance(had as usize);
                self.0 = Some(bar);
            }
            Transfer::Advanced { bytes } => {
                if let Some(bar) = &self.0 {
                    bar.advance(bytes as usize);
                }
            }
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
