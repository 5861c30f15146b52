//! Caches that are filled shard by shard.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::Result;
use semanticist_data::Broken;

use super::choice::listen;
use crate::failure::Interrupted;
use crate::output::note;
use crate::progress::Progress;

/// Fills the shards of a cache of so many images until all are complete, and names what was left out.
///
/// # Errors
/// If Ctrl-C came first; what is complete stays, and the next call goes on.
pub fn fill(
    folder: &Path,
    (images, shards): (usize, usize),
    doing: &'static str,
    fill: impl FnOnce(&mut dyn FnMut(usize) -> ControlFlow<()>) -> semanticist::Result<Broken>,
    complete: impl FnOnce() -> semanticist::Result<usize>,
) -> Result<()> {
    let interrupted = listen()?;
    let progress = Progress::new(images, doing);
    let broken = fill(&mut |images| {
        progress.advance(images);
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    drop(progress);
    for (name, problem) in broken.items() {
        note(&format!("skipped {name}: {problem}"));
    }
    let complete = complete()?;
    if complete < shards {
        note(&format!(
            "{}: {complete} of {shards} shards are kept; the same command goes on",
            folder.display()
        ));
        return Err(Interrupted.into());
    }
    Ok(())
}
