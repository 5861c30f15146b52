//! What the published files call the weights.

use super::super::names::Convention;

/// Of the network beside its transformers and residual blocks: ours, the published.
const TOP: &[[&str; 2]] = &[
    ["latent_tokens", "latent_tokens"],
    ["patches.{p}", "encoder.patch_embed.{p}"],
    ["projection.{p}", "encoder.conv_out.{p}"],
    ["codebook.weight", "quantize.embedding.weight"],
    ["embedding.{p}", "decoder.decoder_embed.{p}"],
    ["mask_token", "decoder.mask_token"],
    ["widening.{p}", "decoder.ffn.0.{p}"],
    ["logits.{p}", "decoder.ffn.2.{p}"],
    ["pixel_codes", "pixel_quantize.embedding.weight"],
    ["pixel_decoder.input.{p}", "pixel_decoder.conv_in.{p}"],
    ["pixel_decoder.levels.{l}.resample.{p}", "pixel_decoder.up.{l}.upsample_conv.{p}"],
    ["pixel_decoder.norm.{p}", "pixel_decoder.norm_out.{p}"],
    ["pixel_decoder.output.{p}", "pixel_decoder.conv_out.{p}"],
];

/// Of a transformer, which is `encoder` or `decoder`.
const HALF: &[[&str; 2]] = &[
    ["class_token", "class_embedding"],
    ["positions", "positional_embedding"],
    ["latent_positions", "latent_token_positional_embedding"],
    ["norm_before.{p}", "ln_pre.{p}"],
    ["blocks.{i}.norm1.{p}", "transformer.{i}.ln_1.{p}"],
    ["blocks.{i}.attention.qkv.weight", "transformer.{i}.attn.in_proj_weight"],
    ["blocks.{i}.attention.qkv.bias", "transformer.{i}.attn.in_proj_bias"],
    ["blocks.{i}.attention.out.{p}", "transformer.{i}.attn.out_proj.{p}"],
    ["blocks.{i}.norm2.{p}", "transformer.{i}.ln_2.{p}"],
    ["blocks.{i}.mlp.up.{p}", "transformer.{i}.mlp.c_fc.{p}"],
    ["blocks.{i}.mlp.down.{p}", "transformer.{i}.mlp.c_proj.{p}"],
    ["norm_after.{p}", "ln_post.{p}"],
];

/// Where residual blocks are.
const RESIDUAL: &[[&str; 2]] = &[["middle.{i}", "mid.{i}"], ["levels.{l}.blocks.{i}", "up.{l}.block.{i}"]];

/// Of one of them.
const BLOCK: &[[&str; 2]] = &[
    ["norm1.{p}", "norm1.{p}"],
    ["conv1.weight", "conv1.weight"],
    ["norm2.{p}", "norm2.{p}"],
    ["conv2.weight", "conv2.weight"],
    ["shortcut.weight", "nin_shortcut.weight"],
];

pub(super) fn convention() -> Convention {
    let mut names: Vec<(String, String)> =
        TOP.iter().map(|[ours, theirs]| (ours.to_string(), theirs.to_string())).collect();
    for half in ["encoder", "decoder"] {
        names.extend(HALF.iter().map(|names| names.map(|name| format!("{half}.{name}")).into()));
    }
    for [ours, theirs] in RESIDUAL {
        let of_place = |[our_part, part]: &[&str; 2]| {
            (format!("pixel_decoder.{ours}.{our_part}"), format!("pixel_decoder.{theirs}.{part}"))
        };
        names.extend(BLOCK.iter().map(of_place));
    }
    Convention {
        names,
        unused: &[],
        expected: [
            "a TiTok",
            "TiTok-S-128, B-64 or L-32 (tokenizer_titok_l32_imagenet and the like: with a pixel decoder; those that predict pixels \
             themselves, such as bl64 and sl256, are other networks)",
        ],
    }
}
