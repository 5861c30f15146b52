//! `semanticist cache-features`: images to what a teacher sees in them, for a tokenizer's training.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use anyhow::Result;
use semanticist::Pixels;
use semanticist_data::features::{FeatureInfo, FeaturePlan};
use semanticist_eval::Teacher;

use super::choice::listen;
use super::sources;
use crate::args::CacheFeatures;
use crate::failure::Interrupted;
use crate::output::{self, note};
use crate::progress::Progress;

pub fn run(request: &CacheFeatures) -> Result<()> {
    let source = sources::open(&request.inputs, request.split.into())?;
    let precision = request.machine.precision();
    let device = request.machine.start(precision)?;
    let teacher = Teacher::load(&request.teacher, request.size, precision, &device)?;
    let info = FeatureInfo {
        teacher: teacher.hash().to_string(),
        data: source.fingerprint()?,
        images: source.len(),
        image_size: request.size,
        views: request.views.into(),
        positions: teacher.positions(),
        width: teacher.width(),
        computed: precision,
    };
    let plan = FeaturePlan::new(info, request.store.into(), request.shard);
    output::create_folder(&request.output)?;
    let folder = request.output.display();
    let complete = plan.complete(&request.output)?;
    note(&format!(
        "{folder}: {} images × {} views × {} × {} numbers, {:.1} MB in {} shards, {complete} of them complete",
        plan.info.images,
        plan.info.views.count(),
        plan.info.positions,
        plan.info.width,
        plan.bytes() as f64 / 1e6,
        plan.shards(),
    ));
    let interrupted = listen()?;
    let progress = Progress::new(plan.info.images, "looking");
    let mut go_on = |images: usize| {
        progress.advance(images);
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let network = |images: &Pixels| teacher.features(images);
    let broken = plan.fill(&request.output, &source, &network, &device, request.batch, &mut go_on)?;
    drop(progress);
    for (name, problem) in broken.items() {
        note(&format!("skipped {name}: {problem}"));
    }
    let complete = plan.complete(&request.output)?;
    if complete < plan.shards() {
        note(&format!("{folder}: {complete} of {} shards are kept; the same command goes on", plan.shards()));
        return Err(Interrupted.into());
    }
    output::print(&format!(
        "done: {folder}; train with --set data.crop=center --set objective.repa.cache={folder}"
    ))
}
