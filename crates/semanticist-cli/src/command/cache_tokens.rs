//! `semanticist cache-tokens`: images to the tokens that a generator learns from.

use anyhow::Result;
use semanticist::model::Work;
use semanticist_data::tokens::TokenFileInfo;
use semanticist_data::tokens::cache::CachePlan;

use super::choice::check_count;
use super::shards;
use super::sources;
use crate::args::CacheTokens;
use crate::output::{self, note};

pub fn run(request: &CacheTokens) -> Result<()> {
    let views = request.views()?;
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
        views,
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
    shards::fill(
        &request.output,
        (plan.images, plan.shards()),
        "encoding",
        |go_on| plan.fill(&request.output, &source, &model.tokenizer, &device, request.batch, go_on),
        || plan.complete(&request.output),
    )?;
    output::print(&format!("done: {folder}"))
}
