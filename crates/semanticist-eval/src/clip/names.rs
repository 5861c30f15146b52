//! The names that OpenAI, OpenCLIP and `transformers` have for the weights of a CLIP, and ours.
//!
//! Queries, keys and values are put together that a file has apart, projections are turned to be as those of linear layers,
//! and the factor of the quick GELU is multiplied into the weights: `x σ(a x) = silu(a x) / a`.

use std::path::Path;

use semanticist::weights::{HostTensor, Weights};
use semanticist::{Error, Result};

use super::tower::TowerSize;
use super::{ClipActivation, Sizes};
use crate::transformer_files::{floats, join_attention};

/// The width of an attention head, in every tower but some of OpenCLIP's.
const HEAD: usize = 64;

/// OpenCLIP's towers for images of other heads (ViT-H/14, g/14, bigG/14): their width and how many they have
/// (mlfoundations/open_clip, `model_configs`).
const OTHER_HEADS: &[(usize, usize)] = &[(1280, 16), (1408, 16), (1664, 16)];

/// Of the quick GELU, `x σ(1.702 x)`.
const QUICK: f32 = 1.702;

/// Of the network beside its blocks: ours, OpenAI's, transformers'.
const TOP: &[[&str; 3]] = &[
    ["image.class_token", "visual.class_embedding", "vision_model.embeddings.class_embedding"],
    ["image.patches.weight", "visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"],
    ["image.positions", "visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"],
    ["image.first_norm.weight", "visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"],
    ["image.first_norm.bias", "visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"],
    ["image.tower.norm.weight", "visual.ln_post.weight", "vision_model.post_layernorm.weight"],
    ["image.tower.norm.bias", "visual.ln_post.bias", "vision_model.post_layernorm.bias"],
    ["image.tower.projection", "visual.proj", "visual_projection.weight"],
    ["text.pieces", "token_embedding.weight", "text_model.embeddings.token_embedding.weight"],
    ["text.positions", "positional_embedding", "text_model.embeddings.position_embedding.weight"],
    ["text.tower.norm.weight", "ln_final.weight", "text_model.final_layer_norm.weight"],
    ["text.tower.norm.bias", "ln_final.bias", "text_model.final_layer_norm.bias"],
    ["text.tower.projection", "text_projection", "text_projection.weight"],
    ["logit_scale", "logit_scale", "logit_scale"],
];

/// Projections that are `[W, E]` in OpenAI's files.
const TURNED: &[&str] = &["visual.proj", "text_projection"];

/// Where the blocks of our towers are in files.
const BLOCKS: &[(&str, &[&str])] = &[
    ("image.tower", &["visual.transformer.resblocks.", "vision_model.encoder.layers."]),
    ("text.tower", &["transformer.resblocks.", "text_model.encoder.layers."]),
];

/// Of a block: ours, and all that it is called in files.
const BLOCK: &[(&str, &[&str])] = &[
    ("norm1", &["ln_1", "layer_norm1"]),
    ("norm2", &["ln_2", "layer_norm2"]),
    ("attention.qkv", &["attn.in_proj"]),
    ("query", &["self_attn.q_proj"]),
    ("key", &["self_attn.k_proj"]),
    ("value", &["self_attn.v_proj"]),
    ("attention.out", &["attn.out_proj", "self_attn.out_proj"]),
    ("mlp.up", &["mlp.c_fc", "mlp.fc1"]),
    ("mlp.down", &["mlp.c_proj", "mlp.fc2"]),
];

/// What is no weight: sizes and tables that follow from them.
const UNUSED: &[&str] = &[
    "input_resolution",
    "context_length",
    "vocab_size",
    "attn_mask",
    "vision_model.embeddings.position_ids",
    "text_model.embeddings.position_ids",
];

/// What data-parallel training puts before all names, and OpenCLIP before those of its later text towers.
const PREFIXES: &[&str] = &["module.", "text."];

const EXPECTED: &str = "expected a CLIP with a vision transformer: model.safetensors of openai/clip-vit-base-patch32 and the like, \
                        a file of OpenCLIP, or the state dictionary of one of OpenAI's";

/// Whether a name is one of a CLIP.
pub(super) fn known(name: &str) -> bool {
    ours(name).is_some() || UNUSED.contains(&bare(name))
}

fn bare(name: &str) -> &str {
    PREFIXES.iter().fold(name, |name, prefix| name.strip_prefix(prefix).unwrap_or(name))
}

fn ours(name: &str) -> Option<String> {
    let name = bare(name);
    if let Some([ours, ..]) = TOP.iter().find(|[_, openai, other]| name == *openai || name == *other) {
        return Some((*ours).to_string());
    }
    let (tower, rest) = BLOCKS.iter().find_map(|(tower, prefixes)| {
        Some((tower, prefixes.iter().find_map(|prefix| name.strip_prefix(prefix))?))
    })?;
    let (number, rest) = rest.split_once('.')?;
    let number: usize = number.parse().ok()?;
    // `attn.in_proj_weight`, but `attn.out_proj.weight`.
    let (layer, kind) = rest.rsplit_once(if rest.starts_with("attn.in_proj") { '_' } else { '.' })?;
    let (ours, _) = BLOCK.iter().find(|(_, theirs)| theirs.contains(&layer))?;
    matches!(kind, "weight" | "bias").then(|| format!("{tower}.blocks.{number}.{ours}.{kind}"))
}

/// Gives a file's weights our names and forms, and says what network they make.
///
/// # Errors
/// If it is not a CLIP's.
pub(super) fn translate(
    found: Weights,
    activation: ClipActivation,
    source: &Path,
) -> Result<(Weights, Sizes)> {
    let (mut weights, mut unknown) = (Weights::new(), Vec::new());
    for (name, tensor) in found.iter() {
        match ours(name) {
            Some(ours) if TURNED.contains(&bare(name)) => weights.insert(ours, turned(tensor, source)?),
            Some(ours) => weights.insert(ours, tensor.clone()),
            None if UNUSED.contains(&bare(name)) => {}
            None => unknown.push(name),
        }
    }
    if !unknown.is_empty() {
        unknown.truncate(5);
        return Err(Error::file(
            source,
            format!("is not such a CLIP: it has {}; {EXPECTED}", unknown.join(", ")),
        ));
    }
    let sizes = sizes(&weights, source)?;
    for (tower, size) in [("image.tower", sizes.image), ("text.tower", sizes.text)] {
        for number in 0..size.depth {
            let block = format!("{tower}.blocks.{number}");
            join_attention(&mut weights, &block, size.width, source)?;
            if activation == ClipActivation::QuickGelu {
                for (name, factor) in
                    [("mlp.up.weight", QUICK), ("mlp.up.bias", QUICK), ("mlp.down.weight", QUICK.recip())]
                {
                    scale(&mut weights, &format!("{block}.{name}"), factor, source)?;
                }
            }
        }
    }
    let width = sizes.image.width;
    weights.insert("image.patches.bias", HostTensor::from_f32(&[width], &vec![0.0; width]));
    if let Some(scale) = weights.remove("logit_scale") {
        let values = floats(&scale, source)?;
        weights.insert("logit_scale", HostTensor::from_f32(&[values.len()], &values));
    }
    Ok((weights, sizes))
}

fn sizes(weights: &Weights, source: &Path) -> Result<Sizes> {
    let shape = |ours: &str| {
        let problem = || {
            let [_, openai, other] = TOP.iter().find(|[name, ..]| *name == ours).expect("it is in the table");
            Error::file(
                source,
                format!("is not a whole CLIP: it has neither {openai} nor {other}; {EXPECTED}"),
            )
        };
        weights.get(ours).map(|tensor| tensor.shape().to_vec()).ok_or_else(problem)
    };
    let refuse = |what: &str, shape: &[usize]| {
        Error::file(source, format!("is not a CLIP: its {what} are {shape:?}; {EXPECTED}"))
    };
    let (patches, places) = (shape("image.patches.weight")?, shape("image.positions")?);
    let (pieces, context) = (shape("text.pieces")?, shape("text.positions")?);
    let (projection, _) = (shape("image.tower.projection")?, shape("text.tower.projection")?);
    let [width, 3, patch, square] = patches[..] else { return Err(refuse("patches", &patches)) };
    let grid = places.first().copied().unwrap_or(0).saturating_sub(1).isqrt();
    if patch != square || patch == 0 {
        return Err(refuse("patches", &patches));
    }
    if places != [1 + grid * grid, width] || grid == 0 {
        return Err(refuse("positions of images", &places));
    }
    let [vocabulary @ (1..), text_width] = pieces[..] else { return Err(refuse("pieces", &pieces)) };
    let [context_length @ (1..), _] = context[..] else { return Err(refuse("positions of texts", &context)) };
    let [embedding @ (1..), _] = projection[..] else { return Err(refuse("projections", &projection)) };
    let heads = OTHER_HEADS.iter().find(|(of, _)| *of == width).map_or(width / HEAD, |(_, heads)| *heads);
    Ok(Sizes {
        image: tower_size(weights, "image.tower", (width, heads), source)?,
        patch,
        grid,
        text: tower_size(weights, "text.tower", (text_width, text_width / HEAD), source)?,
        vocabulary,
        context: context_length,
        embedding,
    })
}

fn tower_size(
    weights: &Weights,
    tower: &str,
    (width, heads): (usize, usize),
    source: &Path,
) -> Result<TowerSize> {
    let of = |number: usize, name: &str| weights.get(&format!("{tower}.blocks.{number}.{name}"));
    let depth = (0..).take_while(|number| of(*number, "norm1.weight").is_some()).count();
    let hidden = of(0, "mlp.up.weight").and_then(|tensor| tensor.shape().first().copied());
    let Some(hidden) = hidden.filter(|hidden| *hidden > 0 && depth > 0) else {
        return Err(Error::file(
            source,
            format!("is not a whole CLIP: the first block is missing; {EXPECTED}"),
        ));
    };
    if width == 0 || !width.is_multiple_of(HEAD) {
        let problem = format!("is not a CLIP: a width of {width}; expected {HEAD} for each head");
        return Err(Error::file(source, problem));
    }
    Ok(TowerSize { width, depth, heads, hidden })
}

fn scale(weights: &mut Weights, name: &str, factor: f32, source: &Path) -> Result<()> {
    let Some(tensor) = weights.remove(name) else { return Ok(()) };
    let values: Vec<f32> = floats(&tensor, source)?.into_iter().map(|value| value * factor).collect();
    weights.insert(name, HostTensor::from_f32(tensor.shape(), &values));
    Ok(())
}

/// `[W, E]` -> `[E, W]`
fn turned(tensor: &HostTensor, source: &Path) -> Result<HostTensor> {
    let [rows, columns] = tensor.shape() else {
        let problem = format!("is not a CLIP: a projection is {:?}; {EXPECTED}", tensor.shape());
        return Err(Error::file(source, problem));
    };
    let values = floats(tensor, source)?;
    let turned = (0..rows * columns).map(|at| values[at % rows * columns + at / rows]);
    Ok(HostTensor::from_f32(&[*columns, *rows], &turned.collect::<Vec<_>>()))
}
