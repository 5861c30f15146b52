//! Networks of other sizes than the recorded ones.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use safetensors::SafeTensors;
use semanticist::decoder::{Decoder, DecoderConfig, LatentShape};
use semanticist::diffusion::guidance::guide;
use semanticist::encoder::{Encoder, EncoderConfig, POSITION_DEVIATION, TokenShape};
use semanticist::nn::BlockSize;
use semanticist::weights::{self, HostTensor, Weights, names};
use semanticist::{Noise, Pixels, Tokens};

use crate::{checked, host, write};

/// Our own networks at other sizes, recorded in the same format.
#[test]
fn sizes_come_from_the_metadata() {
    let folder = tempfile::tempdir().unwrap();
    record_encoder(folder.path());
    record_decoder(folder.path());
    let report = checked(folder.path(), &["encoder", "decoder"]);
    assert!(report.passed(), "{}", report.table());
    assert_eq!(report.checks.len(), 4 + 3);
}

fn record_encoder(folder: &Path) {
    let (device, mut noise) = (Device::flex(), Noise::seeded(1));
    let blocks = BlockSize { width: 20, depth: 1, heads: 5, mlp_ratio: 3 };
    let config = EncoderConfig {
        patch_size: 3,
        blocks,
        drop_path: 0.0,
        position_deviation: POSITION_DEVIATION,
        linear_projection: false,
    };
    let encoder = Encoder::init(&config, 12, TokenShape { count: 5, dim: 3 }, 0.0, &mut noise, &device);
    let images = noise.normal([2, 3, 12, 12], &device);
    let output = encoder.forward(&Pixels(images.clone()), 5, None);
    let mut tensors = published(weights::collect(&encoder, "encoder"));
    tensors.insert("image", host(images));
    tensors.insert("features", host(output.features));
    tensors.insert("tokens_raw", host(output.raw));
    tensors.insert("tokens", host(output.tokens.0));
    let config = r#"{"image_size": 12, "patch_size": 3, "dim": 20, "depth": 1, "heads": 5, "tokens": 5,
        "token_dim": 3}"#;
    write(folder, "encoder", &tensors, config);
}

fn record_decoder(folder: &Path) {
    let (device, mut noise) = (Device::flex(), Noise::seeded(2));
    let blocks = BlockSize { width: 16, depth: 2, heads: 2, mlp_ratio: 4 };
    let config = DecoderConfig {
        patch_size: 3,
        blocks,
        repa: None,
        linear_estimate: false,
        overlap: false,
        refinement: None,
    };
    let latent = LatentShape { channels: 2, side: 6, outputs_per_channel: 2, told_span: false };
    let tokens = TokenShape { count: 3, dim: 4 };
    let blank = Decoder::init(&config, latent, tokens, &mut noise, &device);
    // A new decoder answers 0 whatever it is asked: every parameter gets a value.
    let mut filled = Weights::new();
    for (name, tensor) in weights::collect(&blank, "decoder").iter() {
        let values = noise.uniform(tensor.shape().iter().product());
        let values: Vec<f32> = values.into_iter().map(|v| v - 0.5).collect();
        filled.insert(name, HostTensor::from_f32(tensor.shape(), &values));
    }
    let decoder = weights::apply(blank, "decoder", &mut filled.clone());
    let latents = noise.normal([1, 2, 6, 6], &device);
    let tokens = noise.normal([1, 3, 4], &device);
    let ask = |keep: usize| decoder.forward(latents.clone(), &[998.0], &Tokens(tokens.clone()), &[keep]);
    let mut tensors = published(filled);
    tensors.insert("out_all_tokens", host(ask(3)));
    tensors.insert("out_kept", host(ask(2)));
    tensors.insert("out_cfg3", host(guide(ask(0), ask(2), 3.0, 2)));
    tensors.insert("latent", host(latents.clone()));
    tensors.insert("tokens", host(tokens.clone()));
    let config = r#"{"latent_size": 6, "latent_channels": 2, "patch_size": 3, "dim": 16, "depth": 2,
        "heads": 2, "tokens": 3, "token_dim": 4, "repa_layer": null, "note": "no projector"}"#;
    write(folder, "decoder", &tensors, config);
    let path = folder.join("decoder.safetensors");
    add_integers(&path, &[("keep", 2), ("timestep", 998)]);
}

/// `HostTensor` makes floats only: integers are written by the `safetensors` crate.
fn add_integers(path: &Path, integers: &[(&str, i64)]) {
    use safetensors::tensor::{Dtype, TensorView};
    let bytes = fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values: Vec<_> = integers.iter().map(|(name, value)| (*name, value.to_le_bytes())).collect();
    let mut tensors: Vec<(String, TensorView)> = file.tensors();
    tensors.extend(
        values
            .iter()
            .map(|(name, bytes)| (name.to_string(), TensorView::new(Dtype::I64, vec![1], bytes).unwrap())),
    );
    fs::write(path, safetensors::serialize(tensors, header.metadata().clone()).unwrap()).unwrap();
}

fn published(parameters: Weights) -> Weights {
    let mut tensors = Weights::new();
    for (name, tensor) in parameters.iter() {
        let name = names::to_published(name).unwrap();
        tensors.insert(format!("weights.{name}"), tensor.clone());
    }
    tensors
}
