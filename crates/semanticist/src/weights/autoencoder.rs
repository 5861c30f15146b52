//! Published KL autoencoders under our names, whichever convention they follow.
//!
//! Latent diffusion (and MAR) and diffusers name the same layers differently, count the decoder's
//! levels from opposite ends, and keep the layers of attention as convolutions or as linear layers.

use std::path::Path;

use super::names::{captures, fill};
use super::{HostTensor, Weights, published};
use crate::{Error, Result};

/// What makes up a place in the network.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// One layer with weight and bias.
    Layer,
    Residual,
    Attention,
}

/// Kind, our name, latent diffusion's, diffusers'. `{l}` is a level counted from the finest, `{r}` from
/// the coarsest, `{i}` a block.
type Place = (Kind, &'static str, [&'static str; 2]);

const PLACES: &[Place] = &[
    (Kind::Layer, "encoder.input", ["encoder.conv_in", "encoder.conv_in"]),
    (
        Kind::Residual,
        "encoder.levels.{l}.blocks.{i}",
        ["encoder.down.{l}.block.{i}", "encoder.down_blocks.{l}.resnets.{i}"],
    ),
    (
        Kind::Attention,
        "encoder.levels.{l}.attentions.{i}",
        ["encoder.down.{l}.attn.{i}", "encoder.down_blocks.{l}.attentions.{i}"],
    ),
    (
        Kind::Layer,
        "encoder.levels.{l}.resample",
        ["encoder.down.{l}.downsample.conv", "encoder.down_blocks.{l}.downsamplers.0.conv"],
    ),
    (Kind::Residual, "encoder.middle.first", ["encoder.mid.block_1", "encoder.mid_block.resnets.0"]),
    (Kind::Attention, "encoder.middle.attention", ["encoder.mid.attn_1", "encoder.mid_block.attentions.0"]),
    (Kind::Residual, "encoder.middle.second", ["encoder.mid.block_2", "encoder.mid_block.resnets.1"]),
    (Kind::Layer, "encoder.norm", ["encoder.norm_out", "encoder.conv_norm_out"]),
    (Kind::Layer, "encoder.output", ["encoder.conv_out", "encoder.conv_out"]),
    (Kind::Layer, "moments", ["quant_conv", "quant_conv"]),
    (Kind::Layer, "latents", ["post_quant_conv", "post_quant_conv"]),
    (Kind::Layer, "decoder.input", ["decoder.conv_in", "decoder.conv_in"]),
    (Kind::Residual, "decoder.middle.first", ["decoder.mid.block_1", "decoder.mid_block.resnets.0"]),
    (Kind::Attention, "decoder.middle.attention", ["decoder.mid.attn_1", "decoder.mid_block.attentions.0"]),
    (Kind::Residual, "decoder.middle.second", ["decoder.mid.block_2", "decoder.mid_block.resnets.1"]),
    (
        Kind::Residual,
        "decoder.levels.{l}.blocks.{i}",
        ["decoder.up.{l}.block.{i}", "decoder.up_blocks.{r}.resnets.{i}"],
    ),
    (
        Kind::Attention,
        "decoder.levels.{l}.attentions.{i}",
        ["decoder.up.{l}.attn.{i}", "decoder.up_blocks.{r}.attentions.{i}"],
    ),
    (
        Kind::Layer,
        "decoder.levels.{l}.resample",
        ["decoder.up.{l}.upsample.conv", "decoder.up_blocks.{r}.upsamplers.0.conv"],
    ),
    (Kind::Layer, "decoder.norm", ["decoder.norm_out", "decoder.conv_norm_out"]),
    (Kind::Layer, "decoder.output", ["decoder.conv_out", "decoder.conv_out"]),
];

/// What follows a place: ours, latent diffusion's, diffusers' of today and of its first versions.
type Part = (&'static str, &'static str, &'static [&'static str]);

impl Kind {
    fn parts(self) -> &'static [Part] {
        match self {
            Self::Layer => &[("{p}", "{p}", &["{p}"])],
            Self::Residual => &[
                ("norm1.{p}", "norm1.{p}", &["norm1.{p}"]),
                ("conv1.{p}", "conv1.{p}", &["conv1.{p}"]),
                ("norm2.{p}", "norm2.{p}", &["norm2.{p}"]),
                ("conv2.{p}", "conv2.{p}", &["conv2.{p}"]),
                ("shortcut.{p}", "nin_shortcut.{p}", &["conv_shortcut.{p}"]),
            ],
            Self::Attention => &[
                ("norm.{p}", "norm.{p}", &["group_norm.{p}"]),
                ("q.{p}", "q.{p}", &["to_q.{p}", "query.{p}"]),
                ("k.{p}", "k.{p}", &["to_k.{p}", "key.{p}"]),
                ("v.{p}", "v.{p}", &["to_v.{p}", "value.{p}"]),
                ("out.{p}", "proj_out.{p}", &["to_out.0.{p}", "proj_attn.{p}"]),
            ],
        }
    }
}

/// What a file may hold besides: the losses of training (the discriminator and its like), which no
/// autoencoder needs.
const TRAINING: &str = "loss.";

/// Where a whole latent diffusion model keeps its autoencoder.
const INSIDE: &str = "first_stage_model.";

/// Our name of a published parameter of an autoencoder with `levels` levels.
pub fn from_published(name: &str, levels: usize) -> Option<String> {
    PLACES.iter().find_map(|(kind, ours, [diffusion, diffusers])| {
        kind.parts().iter().find_map(|(our_part, part, parts)| {
            let pattern = format!("{diffusion}.{part}");
            let patterns =
                std::iter::once(pattern).chain(parts.iter().map(|part| format!("{diffusers}.{part}")));
            let ours = format!("autoencoder.{ours}.{our_part}");
            patterns.into_iter().find_map(|pattern| translate(name, &pattern, &ours, levels))
        })
    })
}

fn translate(name: &str, from: &str, to: &str, levels: usize) -> Option<String> {
    let mut found = captures(name, from)?;
    let level;
    if let Some(reversed) = found.iter_mut().find(|(place, _)| *place == "{r}") {
        level = (levels - 1).checked_sub(reversed.1.parse().ok()?)?.to_string();
        *reversed = ("{l}", level.as_str());
        return Some(fill(to, &found));
    }
    Some(fill(to, &found))
}

/// Reads a published autoencoder with `levels` levels: a `torch.save` file, bare or as part of a
/// training checkpoint, or a safetensors file.
///
/// # Errors
/// If the file is neither, would run code, or holds other names.
pub fn load(path: &Path, levels: usize) -> Result<Weights> {
    let known = |name: &str| from_published(name.strip_prefix(INSIDE).unwrap_or(name), levels).is_some();
    translate_all(published::read(path, known)?.0, levels, path)
}

/// Gives published tensors our names and shapes; `source` is what errors call their origin.
///
/// # Errors
/// If a name is unknown or stands twice, or there is none.
pub fn translate_all(mut weights: Weights, levels: usize, source: &Path) -> Result<Weights> {
    let inside = weights.split_prefix(INSIDE);
    if !inside.is_empty() {
        weights = inside;
    }
    let mut ours = Weights::new();
    let (mut unknown, mut twice) = (Vec::new(), Vec::new());
    for (wrapped, tensor) in weights.iter() {
        let published = published::unwrapped(wrapped);
        match from_published(&published, levels) {
            _ if published.starts_with(TRAINING) => {}
            Some(name) if ours.get(&name).is_some() => twice.push(wrapped),
            Some(name) => ours.insert(name, without_kernel(tensor.clone())),
            None => unknown.push(wrapped),
        }
    }
    let expected = "those of a KL autoencoder as latent diffusion, MAR or diffusers write it";
    published::refuse(source, &unknown, "unknown", expected)?;
    published::refuse(source, &twice, "repeated", "every weight once")?;
    if ours.is_empty() {
        return Err(Error::file(source, format!("holds no tensors; expected {expected}")));
    }
    Ok(ours)
}

/// A convolution of 1×1 positions is a linear layer.
fn without_kernel(tensor: HostTensor) -> HostTensor {
    match *tensor.shape() {
        [outputs, inputs, 1, 1] => tensor.reshaped(&[outputs, inputs]),
        _ => tensor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conventions_meet_in_our_names() {
        for (ours, published) in [
            ("encoder.input.weight", &["encoder.conv_in.weight"] as &[_]),
            ("encoder.norm.bias", &["encoder.norm_out.bias", "encoder.conv_norm_out.bias"]),
            (
                "encoder.levels.2.attentions.1.q.weight",
                &[
                    "encoder.down.2.attn.1.q.weight",
                    "encoder.down_blocks.2.attentions.1.to_q.weight",
                    "encoder.down_blocks.2.attentions.1.query.weight",
                ],
            ),
            (
                "decoder.middle.attention.out.bias",
                &[
                    "decoder.mid.attn_1.proj_out.bias",
                    "decoder.mid_block.attentions.0.to_out.0.bias",
                    "decoder.mid_block.attentions.0.proj_attn.bias",
                ],
            ),
            (
                "decoder.levels.3.blocks.1.shortcut.weight",
                &[
                    "decoder.up.3.block.1.nin_shortcut.weight",
                    "decoder.up_blocks.0.resnets.1.conv_shortcut.weight",
                ],
            ),
            (
                "decoder.levels.1.resample.bias",
                &["decoder.up.1.upsample.conv.bias", "decoder.up_blocks.2.upsamplers.0.conv.bias"],
            ),
            ("latents.bias", &["post_quant_conv.bias"]),
        ] {
            for name in published {
                let found = from_published(name, 4);
                assert_eq!(found.as_deref(), Some(format!("autoencoder.{ours}").as_str()), "{name}");
            }
        }
    }

    #[test]
    fn what_no_autoencoder_of_this_depth_has_is_unknown() {
        for name in [
            "decoder.up_blocks.4.resnets.0.conv1.weight",
            "encoder.down.0.block.0.conv3.weight",
            "encoder.down.x.block.0.conv1.weight",
            "encoder.conv_in",
            "encoder.conv_in.weight.more",
            "",
        ] {
            assert_eq!(from_published(name, 4), None, "{name}");
        }
    }

    fn named(names: &[&str]) -> Weights {
        let mut weights = Weights::new();
        for name in names {
            weights.insert(*name, HostTensor::from_f32(&[2, 1, 1, 1], &[1.0, 2.0]));
        }
        weights
    }

    #[test]
    fn wrappers_and_losses_fall_away_and_kernels_of_one_position_become_matrices() {
        let names = ["_orig_mod.quant_conv.weight", "loss.discriminator.main.0.weight"];
        let weights = translate_all(named(&names), 4, Path::new("f")).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["autoencoder.moments.weight"]);
        assert_eq!(weights.get("autoencoder.moments.weight").unwrap().shape(), [2, 1]);
    }

    #[test]
    fn an_autoencoder_inside_a_model_is_taken_alone() {
        let names = ["first_stage_model.encoder.conv_in.bias", "model.diffusion_model.out.0.bias"];
        let weights = translate_all(named(&names), 4, Path::new("f")).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["autoencoder.encoder.input.bias"]);
    }

    #[test]
    fn training_checkpoints_and_whole_models_are_looked_into() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/weights");
        for name in ["autoencoder.pkl", "latent_diffusion.pkl"] {
            let weights = load(&folder.join(name), 4).unwrap();
            assert_eq!(weights.names().collect::<Vec<_>>(), ["autoencoder.moments.weight"], "{name}");
            let tensor = weights.get("autoencoder.moments.weight").unwrap();
            assert_eq!(tensor.to_f32().unwrap(), [0.0, 0.25, 0.5, 0.75]);
        }
        let refused = load(&folder.join("attack_inside.pkl"), 4).unwrap_err().to_string();
        assert!(refused.contains("posix.system"), "{refused}");
        let tokenizer = load(&folder.join("published.pkl"), 4).unwrap_err().to_string();
        assert!(tokenizer.contains("expected the model's, bare or under one of"), "{tokenizer}");
    }

    #[test]
    fn what_does_not_belong_is_listed() {
        let refusal =
            |names: &[&str]| translate_all(named(names), 3, Path::new("f")).unwrap_err().to_string();
        assert!(refusal(&["surprise.weight"]).contains("1 unknown names: surprise.weight"));
        let both = ["encoder.norm_out.bias", "encoder.conv_norm_out.bias"];
        assert!(refusal(&both).contains("1 repeated names"));
        assert!(refusal(&[]).contains("holds no tensors"));
    }
}
