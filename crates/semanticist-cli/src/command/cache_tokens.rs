//! `semanticist cache-tokens`: images to the tokens that a generator learns from.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use anyhow::Result;
use semanticist::model::Work;
use semanticist_data::tokens::TokenFileInfo;
use semanticist_data::tokens::cache::CachePlan;

use super::choice::{check_count, listen};
use super::sources;
use crate::args::CacheTokens;
use crate::failure::Interrupted;
use crate::output::{self, note};
use crate::progress::Progress;

pub fn run(request: &CacheTokens) -> Result<()> {
    let source = sources::open(&request.inputs, request.split.into())?;
    let precision = request.machine.precision();
    let device = request.machine.start(precision)?;
    let work = Work { encode: request.batch.min(source.len()), decode: 0, precision };
    let model = request.model.load_for(work, &device)?;
    let config = &model.tokenizer.config;
    let tokens = request.tokens.unwrap_or(config.tokens);
    check_count(tokens, config.tokens, "the model")?;
    let plan = CachePlan {
        info: TokenFileInfo { model_hash: model.hash()?.to_string(), tokens, token_dim: config.token_dim },
        views: request.views.into(),
        stored: request.store.into(),
        computed: precision,
        images: source.len(),
        shard_images: request.shard,
        classes: source.classes().map(<[String]>::to_vec),
    };
    output::create_folder(&request.output)?;
    let folder = request.output.display();
    let complete = plan.complete(&request.output)?;
    note(&format!(
        "{folder}: {} images × {} views × {tokens} × {} numbers, {:.1} MB in {} shards, {complete} of them \
         complete",
        plan.images,
        plan.views.count(),
        config.token_dim,
        plan.bytes() as f64 / 1e6,
        plan.shards(),
    ));
    let interrupted = listen()?;
    let progress = Progress::new(plan.images, "encoding");
    let mut go_on = |images: usize| {
        progress.advance(images);
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let broken = plan.fill(&request.output, &source, &model.tokenizer, &device, request.batch, &mut go_on)?;
    drop(progress);
    for (name, problem) in broken.items() {
        note(&format!("skipped {name}: {problem}"));
    }
    let complete = plan.complete(&request.output)?;
    if complete < plan.shards() {
        note(&format!("{folder}: {complete} of {} shards are kept; the same command goes on", plan.shards()));
        return Err(Interrupted.into());
    }
    output::print(&format!("done: {folder}"))
}
