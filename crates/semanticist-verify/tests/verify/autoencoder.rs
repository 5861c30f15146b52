//! The recorded autoencoder again, under the other convention of names.

use std::path::Path;

use semanticist::weights::{self, HostTensor, Weights};

use crate::write;

/// The recording of latent diffusion's names under those of diffusers, spelled independently of the
/// product's table.
pub fn write_diffusers(folder: &Path) {
    let (tensors, _) = weights::load(&folder.join("autoencoder_ldm.safetensors")).unwrap();
    let mut renamed = Weights::new();
    for (name, tensor) in tensors.iter() {
        let (rows, columns) = (tensor.shape()[0], tensor.shape().get(1).copied().unwrap_or_default());
        let attention = name.contains(".attn");
        let tensor = if attention && tensor.shape().len() == 4 {
            HostTensor::from_f32(&[rows, columns], &tensor.to_f32().unwrap())
        } else {
            tensor.clone()
        };
        renamed.insert(diffusers_name(name, attention), tensor);
    }
    let config = r#"{"latent_channels": 8, "block_out_channels": [32, 32, 64], "layers_per_block": 1,
        "norm_num_groups": 32,
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;
    write(folder, "autoencoder_diffusers", &renamed, config);
}

fn diffusers_name(name: &str, attention: bool) -> String {
    let (levels, attention_parts) = (
        [("up.0.", "up_blocks.2."), ("up.1.", "up_blocks.1."), ("up.2.", "up_blocks.0.")],
        [(".norm.", ".group_norm."), (".q.", ".to_q."), (".k.", ".to_k."), (".v.", ".to_v.")],
    );
    let everywhere = [
        ("down.", "down_blocks."),
        ("downsample.", "downsamplers.0."),
        ("upsample.", "upsamplers.0."),
        ("mid.block_1.", "mid_block.resnets.0."),
        ("mid.block_2.", "mid_block.resnets.1."),
        ("mid.attn_1.", "mid_block.attentions.0."),
        (".block.", ".resnets."),
        (".attn.", ".attentions."),
        ("nin_shortcut", "conv_shortcut"),
        ("proj_out", "to_out.0"),
        (".norm_out", ".conv_norm_out"),
    ];
    let all = levels.iter().chain(&everywhere).chain(attention_parts.iter().filter(|_| attention));
    all.fold(name.to_string(), |name, (from, to)| name.replace(from, to))
}
