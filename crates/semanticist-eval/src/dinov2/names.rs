//! The names that `torch.hub` and `transformers` have for the weights of a DINOv2, and ours.
//!
//! The scale per channel at the end of a branch (LayerScale) is multiplied into the weights of the layer before it,
//! and so are queries, keys and values put together that a file has apart.

use std::path::Path;

use semanticist::nn::GridResize;
use semanticist::weights::{HostTensor, Weights};
use semanticist::{Error, Result};

use super::{HEAD, Sizes};
use crate::transformer_files::{floats, join_attention};

/// Of the network beside its blocks: ours, torch.hub's, transformers'.
const TOP: &[[&str; 3]] = &[
    ["class_token", "cls_token", "embeddings.cls_token"],
    ["registers", "register_tokens", "embeddings.register_tokens"],
    ["positions", "pos_embed", "embeddings.position_embeddings"],
    ["patches.weight", "patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"],
    ["patches.bias", "patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"],
    ["norm.weight", "norm.weight", "layernorm.weight"],
    ["norm.bias", "norm.bias", "layernorm.bias"],
];

/// What pre-training alone needs.
const UNUSED: &[&str] = &["mask_token", "embeddings.mask_token"];

/// Of a block: ours, and all that it is called in files.
const BLOCK: &[(&str, &[&str])] = &[
    ("norm1", &["norm1"]),
    ("norm2", &["norm2"]),
    ("attention.qkv", &["attn.qkv"]),
    ("query", &["attention.attention.query", "attention.q_proj"]),
    ("key", &["attention.attention.key", "attention.k_proj"]),
    ("value", &["attention.attention.value", "attention.v_proj"]),
    ("attention.out", &["attn.proj", "attention.output.dense", "attention.o_proj"]),
    ("mlp.up", &["mlp.fc1"]),
    ("mlp.down", &["mlp.fc2"]),
    // Gate and what it gates, one below the other.
    ("gate_and_up", &["mlp.w12", "mlp.weights_in"]),
    ("gated.gate", &["mlp.gate_proj"]),
    ("gated.up", &["mlp.up_proj"]),
    ("gated.down", &["mlp.w3", "mlp.weights_out", "mlp.down_proj"]),
];

/// The scales at the end of a block's branches: ours, and what they are called in files.
const SCALES: &[(&str, &[&str])] =
    &[("scale1", &["ls1.gamma", "layer_scale1.lambda1"]), ("scale2", &["ls2.gamma", "layer_scale2.lambda1"])];

/// Prefixes of the classes of `transformers` that hold a DINOv2.
const WRAPPERS: &[&str] = &["dinov2.", "dinov2_with_registers.", "backbone."];

/// A file's weights under our names.
pub(super) struct Translated {
    pub weights: Weights,
    pub sizes: Sizes,
    pub resize: GridResize,
}

/// Whether a name is one of a DINOv2.
pub(super) fn known(name: &str) -> bool {
    ours(name).is_some() || UNUSED.contains(&bare(name))
}

fn bare(name: &str) -> &str {
    WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)).unwrap_or(name)
}

fn ours(name: &str) -> Option<String> {
    let name = bare(name);
    if let Some([ours, ..]) = TOP.iter().find(|[_, hub, transformers]| name == *hub || name == *transformers)
    {
        return Some((*ours).to_string());
    }
    let rest = name.strip_prefix("blocks.").or_else(|| name.strip_prefix("encoder.layer."))?;
    let (number, rest) = rest.split_once('.')?;
    let number: usize = number.parse().ok()?;
    let scale = SCALES.iter().find(|(_, theirs)| theirs.contains(&rest));
    let layer = || {
        let (layer, kind) = rest.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
        let (ours, _) = BLOCK.iter().find(|(_, theirs)| theirs.contains(&layer))?;
        Some(format!("blocks.{number}.{ours}.{kind}"))
    };
    scale.map(|(ours, _)| format!("blocks.{number}.{ours}")).or_else(layer)
}

/// Gives a file's weights our names and forms.
///
/// # Errors
/// If it is not a DINOv2's.
pub(super) fn translate(found: Weights, source: &Path) -> Result<Translated> {
    let (mut weights, mut unknown) = (Weights::new(), Vec::new());
    let mut hub = false;
    for (name, tensor) in found.iter() {
        match ours(name) {
            Some(ours) => weights.insert(ours, tensor.clone()),
            None if UNUSED.contains(&bare(name)) => {}
            None => unknown.push(name),
        }
        hub |= bare(name) == "pos_embed";
    }
    if !unknown.is_empty() {
        unknown.truncate(5);
        return Err(Error::file(
            source,
            format!(
                "is not a DINOv2: it has {}; expected a file of torch.hub (dinov2_vitb14_pretrain.pth and the like) or of \
                 transformers (facebook/dinov2-base and the like)",
                unknown.join(", ")
            ),
        ));
    }
    let sizes = sizes(&weights, source, hub)?;
    for block in 0..sizes.depth {
        put_together(&mut weights, &format!("blocks.{block}"), sizes, source)?;
    }
    // The published code of torch.hub enlarges the grid by a tenth of a patch before it resizes without registers
    // (`interpolate_offset`), and with them smooths (`interpolate_antialias`); transformers does the latter alone.
    let resize = match (sizes.registers > 0, hub) {
        (true, _) => GridResize::Antialiased,
        (false, true) => GridResize::Offset(0.1),
        (false, false) => GridResize::Plain,
    };
    Ok(Translated { weights, sizes, resize })
}

fn sizes(weights: &Weights, source: &Path, hub: bool) -> Result<Sizes> {
    let shape = |ours: &str| {
        let theirs =
            TOP.iter().find(|[name, ..]| *name == ours).map_or(ours, |names| names[if hub { 1 } else { 2 }]);
        let problem = || Error::file(source, format!("is not a whole DINOv2: {theirs} is missing"));
        weights.get(ours).map(|tensor| tensor.shape().to_vec()).ok_or_else(problem)
    };
    let (patches, positions) = (shape("patches.weight")?, shape("positions")?);
    shape("class_token")?;
    shape("norm.weight")?;
    let [width, 3, patch, square] = patches[..] else {
        return Err(Error::file(source, format!("is not a DINOv2: its patches are {patches:?}")));
    };
    let [1, places, _] = positions[..] else {
        return Err(Error::file(source, format!("is not a DINOv2: its positions are {positions:?}")));
    };
    if patch != square || !width.is_multiple_of(HEAD) || (places.max(1) - 1).isqrt().pow(2) + 1 != places {
        return Err(Error::file(
            source,
            format!(
                "is not a DINOv2: patches {patches:?}, positions {positions:?}; expected widths of {HEAD} per head"
            ),
        ));
    }
    let registers = weights.get("registers").map_or(0, |tensor| tensor.shape().get(1).copied().unwrap_or(0));
    let depth =
        (0..).take_while(|block| weights.get(&format!("blocks.{block}.norm1.weight")).is_some()).count();
    let hidden = |name: &str| {
        weights.get(&format!("blocks.0.{name}.weight")).and_then(|tensor| tensor.shape().first().copied())
    };
    let (hidden, gated) = match (hidden("mlp.up"), hidden("gated.gate"), hidden("gate_and_up")) {
        (Some(hidden), _, _) => (hidden, false),
        (None, Some(hidden), _) => (hidden, true),
        (None, None, Some(both)) => (both / 2, true),
        (None, None, None) => {
            return Err(Error::file(source, "is not a whole DINOv2: its first block has no MLP"));
        }
    };
    Ok(Sizes { width, depth, patch, positions: places, registers, hidden, gated })
}

/// Brings a block's weights into the form of ours.
fn put_together(weights: &mut Weights, block: &str, sizes: Sizes, source: &Path) -> Result<()> {
    join_attention(weights, block, sizes.width, source)?;
    for (kind, rest) in [("weight", &[sizes.width][..]), ("bias", &[][..])] {
        if let Some(both) = weights.remove(&format!("{block}.gate_and_up.{kind}")) {
            let values = floats(&both, source)?;
            let (gate, up) = values.split_at(values.len() / 2);
            let shape = [&[both.shape().first().copied().unwrap_or(0) / 2], rest].concat();
            // Halves of anything else are left out, and then missed.
            if 2 * shape.iter().product::<usize>() == values.len() {
                for (name, half) in [("gate", gate), ("up", up)] {
                    weights
                        .insert(format!("{block}.gated.{name}.{kind}"), HostTensor::from_f32(&shape, half));
                }
            }
        }
    }
    let last = if sizes.gated { "gated.down" } else { "mlp.down" };
    for (scale, layer) in [("scale1", "attention.out"), ("scale2", last)] {
        let Some(scale) = weights.remove(&format!("{block}.{scale}")) else { continue };
        if scale.shape() != [sizes.width] {
            let (found, width) = (scale.shape(), sizes.width);
            let problem =
                format!("is not a DINOv2: a LayerScale of {block} is {found:?}, expected [{width}]");
            return Err(Error::file(source, problem));
        }
        let scale = floats(&scale, source)?;
        for kind in ["weight", "bias"] {
            let name = format!("{block}.{layer}.{kind}");
            let Some(tensor) = weights.remove(&name) else { continue };
            let mut values = floats(&tensor, source)?;
            let row = values.len() / scale.len().max(1);
            for (row, scale) in values.chunks_mut(row.max(1)).zip(&scale) {
                row.iter_mut().for_each(|value| *value *= scale);
            }
            weights.insert(name, HostTensor::from_f32(tensor.shape(), &values));
        }
    }
    Ok(())
}
