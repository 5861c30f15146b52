//! Our names of parameters beside those of the published checkpoints, in both directions.

/// Our name, published name. `{i}` is the index of a block, `{p}` is `weight` or `bias`.
///
/// Published names are those of `state_dict()` in the published PyTorch implementation.
const TABLE: &[(&str, &str)] = &[
    ("encoder.patches.{p}", "encoder.patch_embed.proj.{p}"),
    ("encoder.class_token", "encoder.cls_token"),
    ("encoder.positions", "encoder.pos_embed"),
    ("encoder.concept_tokens", "encoder.slot_embed"),
    ("encoder.blocks.{i}.norm1.{p}", "encoder.blocks.{i}.norm1.{p}"),
    ("encoder.blocks.{i}.attention.qkv.{p}", "encoder.blocks.{i}.attn.qkv.{p}"),
    ("encoder.blocks.{i}.attention.out.{p}", "encoder.blocks.{i}.attn.proj.{p}"),
    ("encoder.blocks.{i}.norm2.{p}", "encoder.blocks.{i}.norm2.{p}"),
    ("encoder.blocks.{i}.mlp.up.{p}", "encoder.blocks.{i}.mlp.fc1.{p}"),
    ("encoder.blocks.{i}.mlp.down.{p}", "encoder.blocks.{i}.mlp.fc2.{p}"),
    ("encoder.norm.{p}", "encoder.norm.{p}"),
    ("encoder.projection.{p}", "encoder2slot.{p}"),
    ("decoder.patches.{p}", "dit.x_embedder.proj.{p}"),
    ("decoder.time.up.{p}", "dit.t_embedder.mlp.0.{p}"),
    ("decoder.time.down.{p}", "dit.t_embedder.mlp.2.{p}"),
    ("decoder.tokens.{p}", "dit.autoenc_cond_embedder.{p}"),
    ("decoder.null_tokens", "dit.null_cond"),
    ("decoder.blocks.{i}.modulation.{p}", "dit.blocks.{i}.adaLN_modulation.1.{p}"),
    ("decoder.blocks.{i}.attention.qkv.{p}", "dit.blocks.{i}.attn.qkv.{p}"),
    ("decoder.blocks.{i}.attention.out.{p}", "dit.blocks.{i}.attn.proj.{p}"),
    ("decoder.blocks.{i}.mlp.up.{p}", "dit.blocks.{i}.mlp.fc1.{p}"),
    ("decoder.blocks.{i}.mlp.down.{p}", "dit.blocks.{i}.mlp.fc2.{p}"),
    ("decoder.output.modulation.{p}", "dit.final_layer.adaLN_modulation.1.{p}"),
    ("decoder.output.linear.{p}", "dit.final_layer.linear.{p}"),
    ("decoder.projector.first.{p}", "dit.projector.0.{p}"),
    ("decoder.projector.second.{p}", "dit.projector.2.{p}"),
    ("decoder.projector.third.{p}", "dit.projector.4.{p}"),
    ("transformer.classes", "cls_embedding.embedding_table.weight"),
    ("transformer.tokens.{p}", "z_proj.{p}"),
    ("transformer.positions", "pos_embed_learned"),
    ("transformer.embedding_norm.weight", "z_proj_ln.weight"),
    ("transformer.layers.{i}.norm1.weight", "layers.{i}.attention_norm.weight"),
    ("transformer.layers.{i}.attention.qkv.weight", "layers.{i}.attention.wqkv.weight"),
    ("transformer.layers.{i}.attention.out.weight", "layers.{i}.attention.wo.weight"),
    ("transformer.layers.{i}.norm2.weight", "layers.{i}.ffn_norm.weight"),
    ("transformer.layers.{i}.mlp.gate.weight", "layers.{i}.feed_forward.w1.weight"),
    ("transformer.layers.{i}.mlp.up.weight", "layers.{i}.feed_forward.w3.weight"),
    ("transformer.layers.{i}.mlp.down.weight", "layers.{i}.feed_forward.w2.weight"),
    ("transformer.norm.weight", "norm.weight"),
    ("transformer.answer_positions", "diffusion_pos_embed_learned"),
    ("head.time.up.{p}", "diffloss.net.time_embed.mlp.0.{p}"),
    ("head.time.down.{p}", "diffloss.net.time_embed.mlp.2.{p}"),
    ("head.condition.{p}", "diffloss.net.cond_embed.{p}"),
    ("head.input.{p}", "diffloss.net.input_proj.{p}"),
    ("head.blocks.{i}.norm.{p}", "diffloss.net.res_blocks.{i}.in_ln.{p}"),
    ("head.blocks.{i}.modulation.{p}", "diffloss.net.res_blocks.{i}.adaLN_modulation.1.{p}"),
    ("head.blocks.{i}.up.{p}", "diffloss.net.res_blocks.{i}.mlp.0.{p}"),
    ("head.blocks.{i}.down.{p}", "diffloss.net.res_blocks.{i}.mlp.2.{p}"),
    ("head.output.modulation.{p}", "diffloss.net.final_layer.adaLN_modulation.1.{p}"),
    ("head.output.linear.{p}", "diffloss.net.final_layer.linear.{p}"),
];

/// The decoder's frozen sine-cosine table, which published files may hold and we compute.
pub const FROZEN_POSITIONS: &str = "dit.pos_embed";

/// Our name of a published parameter.
pub fn from_published(name: &str) -> Option<String> {
    TABLE.iter().find_map(|(ours, published)| translate(name, published, ours)).or_else(|| unchanged(name))
}

/// The published name of one of our parameters.
pub fn to_published(name: &str) -> Option<String> {
    TABLE.iter().find_map(|(ours, published)| translate(name, ours, published)).or_else(|| unchanged(name))
}

/// The autoencoder is not part of published tokenizers, so its names are ours everywhere.
fn unchanged(name: &str) -> Option<String> {
    name.starts_with("autoencoder.").then(|| name.to_owned())
}

/// `name`, if it has the form `from`, in the form `to`.
fn translate(name: &str, from: &str, to: &str) -> Option<String> {
    Some(fill(to, &captures(name, from)?))
}

/// What stands for each `{…}` of a pattern in `name`, if it has that form: `weight` or `bias` for
/// `{p}`, a number for every other.
pub fn captures<'a>(name: &'a str, pattern: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
    let mut found = Vec::new();
    let mut parts = name.split('.');
    for pattern in pattern.split('.') {
        let part = parts.next()?;
        let fits = match pattern {
            "{p}" => matches!(part, "weight" | "bias"),
            _ if pattern.starts_with('{') => {
                !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
            }
            _ => pattern == part,
        };
        if !fits {
            return None;
        }
        if pattern.starts_with('{') {
            found.push((pattern, part));
        }
    }
    parts.next().is_none().then_some(found)
}

/// A pattern with what stands for its `{…}`.
pub fn fill(pattern: &str, captures: &[(&str, &str)]) -> String {
    captures.iter().fold(pattern.to_owned(), |name, (place, value)| name.replace(place, value))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The names in the state dictionaries of the full-size tokenizer with DiT-B/2 and of the generator.
    fn published_names() -> Vec<String> {
        let texts = [
            include_str!("../../tests/data/weights/tokenizer-DiT-B-2.json"),
            include_str!("../../tests/data/weights/generator-GPT-L.json"),
        ];
        let names = |text| serde_json::from_str::<BTreeMap<String, Vec<usize>>>(text).unwrap().into_keys();
        texts.into_iter().flat_map(names).collect()
    }

    #[test]
    fn every_published_name_has_ours_and_comes_back() {
        let mut ours: Vec<String> = Vec::new();
        for published in published_names().iter().filter(|name| *name != FROZEN_POSITIONS) {
            let name = from_published(published).unwrap_or_else(|| panic!("{published} has no name of ours"));
            assert_eq!(to_published(&name).as_ref(), Some(published), "{name}");
            ours.push(name);
        }
        let count = ours.len();
        ours.sort_unstable();
        ours.dedup();
        assert_eq!(ours.len(), count, "two published names share one of ours");
    }

    #[test]
    fn every_row_of_the_table_is_used_by_the_published_models() {
        let names = published_names();
        for (ours, published) in TABLE {
            let used = names.iter().any(|name| translate(name, published, ours).is_some());
            assert!(used, "{published}");
        }
    }

    #[test]
    fn only_whole_names_match() {
        for name in
            ["dit.blocks.x.attn.qkv.weight", "dit.blocks.1.attn.qkv", "encoder.cls_token.weight", "", "dit"]
        {
            assert_eq!(from_published(name), None, "{name}");
        }
        assert_eq!(from_published(FROZEN_POSITIONS), None);
        assert_eq!(from_published("autoencoder.a.b").as_deref(), Some("autoencoder.a.b"));
    }
}
