//! `semanticist cache-features`: images to what a teacher sees in them, for a tokenizer's training.

use anyhow::Result;
use semanticist::Pixels;
use semanticist_data::features::{FeatureInfo, FeaturePlan};
use semanticist_eval::Teacher;

use super::shards;
use super::sources;
use crate::args::CacheFeatures;
use crate::output::{self, note};

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
    let network = |images: &Pixels| teacher.features(images);
    shards::fill(
        &request.output,
        (plan.info.images, plan.shards()),
        "looking",
        |go_on| plan.fill(&request.output, &source, &network, &device, request.batch, go_on),
        || plan.complete(&request.output),
    )?;
    output::print(&format!(
        "done: {folder}; train with --set data.crop=center --set objective.repa.cache={folder}"
    ))
}
