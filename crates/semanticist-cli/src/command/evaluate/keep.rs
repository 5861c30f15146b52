//! Findings that are made once: what is finished is kept beside them, and what is there already is not measured again.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use semanticist::files::write_atomically;
use semanticist_eval::findings::{Findings, Made};
use semanticist_eval::measure::{Finished, Measured, Observer};
use semanticist_eval::plot;
use serde_json::json;

use super::data::Data;
use crate::args::Images;
use crate::output::{self, note};
use crate::progress::Progress;

/// A measurement before it is made.
pub struct Work<'a> {
    pub kind: &'static str,
    pub made: Made,
    /// All images that take part.
    pub data: Vec<&'a Data>,
    /// How many images the observer will be told of.
    pub pieces: usize,
    /// Whether findings that are there already are enough: not where measuring writes another file too.
    pub takes_earlier: bool,
}

impl Work<'_> {
    /// Measures, unless `kept` has the findings; what is finished on the way is kept beside it.
    pub fn findings(
        self,
        kept: Option<&Path>,
        measure: impl FnOnce(&mut Finished, Observer) -> semanticist::Result<Measured>,
    ) -> Result<Findings> {
        let Self { kind, made, data, pieces, takes_earlier } = self;
        let begun = Instant::now();
        if let Some(found) =
            kept.filter(|_| takes_earlier).and_then(|path| finished_before(path, kind, &made))
        {
            return Ok(found);
        }
        let mut finished = match kept {
            Some(path) => Finished::open(&part_file(path), &json!([kind, made.identity()]))?,
            None => Finished::nowhere(),
        };
        if finished.found() > 0 {
            note(&format!("{kind}: going on behind {} finished parts", finished.found()));
        }
        let progress = Progress::new(pieces, "measuring");
        let measured = measure(&mut finished, &mut |images| progress.advance(images))?;
        drop(progress);
        data.into_iter().try_for_each(Data::check_unchanged)?;
        let Measured { images, protocol, sentences, tables, figures } = measured;
        let made = Made { images, seconds: begun.elapsed().as_secs_f64(), ..made };
        let findings = Findings { kind: kind.into(), made, protocol, sentences, tables, figures };
        if let Some(path) = kept {
            let text = serde_json::to_string_pretty(&findings)?;
            write_atomically(path, |file| std::io::Write::write_all(file, text.as_bytes()))?;
        }
        finished.done();
        Ok(findings)
    }
}

/// Measures for a file of findings, if one is asked for, and shows them as they are asked for.
pub fn show(on: &Images, measure: impl FnOnce(Option<&Path>) -> Result<Findings>) -> Result<()> {
    let json = on.json.as_deref();
    let findings = measure(json.filter(|path| !is_stdout(path)))?;
    if let Some(path) = &on.plot {
        plot::save(&findings.figures, path)?;
    }
    if json.is_some_and(is_stdout) { output::print_json(&findings) } else { output::print(&findings.text()) }
}

/// Whether findings are printed instead of written.
pub fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Where the parts of unfinished work are.
fn part_file(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    path.with_file_name(name)
}

/// What an earlier call wrote, if it was asked for the same.
fn finished_before(path: &Path, kind: &str, made: &Made) -> Option<Findings> {
    let found: Findings = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
    // Broken images are not counted in what was measured.
    let asked = Made { images: found.made.images, ..made.clone() };
    let same =
        found.kind == kind && found.made.identity() == asked.identity() && found.made.images <= made.images;
    if same {
        note(&format!("{kind}: {} has it already", path.display()));
    }
    same.then_some(found)
}
