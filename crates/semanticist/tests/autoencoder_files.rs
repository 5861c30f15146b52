//! KL autoencoders in files: published ones are read by their names, ours come back exactly, and
//! what does not fit is refused with its names.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use semanticist::autoencoder::{Autoencoder, AutoencoderConfig, KlConfig};
use semanticist::decoder::DecoderConfig;
use semanticist::diffusion::DiffusionConfig;
use semanticist::encoder::{EncoderConfig, POSITION_DEVIATION};
use semanticist::model::{PublishedTokenizer, TokenizerFile, load_autoencoder, save_autoencoder};
use semanticist::nn::BlockSize;
use semanticist::tokenizer::Networks;
use semanticist::weights::{self, HostTensor, Metadata, Precision, Weights, names};
use semanticist::{ModelFile, Noise, Pixels, TokenizerConfig};
use tempfile::TempDir;

/// The sizes of the recording.
fn config() -> KlConfig {
    KlConfig {
        channels: 8,
        base_width: 32,
        width_multipliers: vec![1, 1, 2],
        blocks: 1,
        encoder_attention: vec![2],
        decoder_attention: vec![],
        groups: 32,
        quant_conv: true,
        scale: 0.5,
        shift: 0.0,
    }
}

/// The recorded weights, under the names of latent diffusion.
fn published() -> Weights {
    let file = "../semanticist-verify/tests/data/reference/autoencoder_ldm.safetensors";
    let (mut tensors, _) = weights::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    tensors.split_prefix("weights.")
}

fn written(folder: &TempDir, weights: &Weights) -> PathBuf {
    let path = folder.path().join("published.safetensors");
    weights::save(&path, weights, &Metadata::new(), Precision::F32).unwrap();
    path
}

fn refusal(path: &Path, config: KlConfig) -> String {
    load_autoencoder(path, &AutoencoderConfig::Kl(config), &Device::flex()).unwrap_err().to_string()
}

fn latents(autoencoder: &Autoencoder) -> Tensor<4> {
    autoencoder.encode(&Pixels(Noise::seeded(1).normal([1, 3, 16, 16], &Device::flex()))).0
}

#[test]
fn a_published_autoencoder_survives_our_file_bit_by_bit() {
    let (folder, device) = (tempfile::tempdir().unwrap(), Device::flex());
    let kl = AutoencoderConfig::Kl(config());
    let (_, autoencoder) = load_autoencoder(&written(&folder, &published()), &kl, &device).unwrap();
    let own = folder.path().join("own.safetensors");
    save_autoencoder(&own, &kl, &autoencoder, None).unwrap();
    let (_, again) = load_autoencoder(&own, &kl, &device).unwrap();
    assert_eq!(latents(&again).into_data(), latents(&autoencoder).into_data());
    let elements = |tensor: &HostTensor| tensor.shape().iter().product::<usize>();
    let count: usize = published().iter().map(|(_, tensor)| elements(tensor)).sum();
    assert_eq!(autoencoder.num_params(), count);
    // Our file knows its scale; what makes other networks is refused.
    let other = AutoencoderConfig::Kl(KlConfig { scale: 0.25, ..config() });
    assert_eq!(load_autoencoder(&own, &other, &device).unwrap().0, kl);
    assert!(refusal(&own, KlConfig { blocks: 2, ..config() }).contains("asks for"));
}

#[test]
fn what_is_missing_unused_or_misshapen_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(&folder, &published());
    let message = refusal(&path, KlConfig { blocks: 2, ..config() });
    assert!(message.contains("58 missing: autoencoder.encoder.levels.0.blocks.1.norm1.weight"), "{message}");
    let message = refusal(&path, KlConfig { encoder_attention: vec![], ..config() });
    assert!(message.contains("10 not used: autoencoder.encoder.levels.2.attentions.0.k.bias"), "{message}");
    let message = refusal(&path, KlConfig { channels: 4, ..config() });
    assert!(message.contains("autoencoder.moments.bias is [16], expected [8]"), "{message}");
    let mut more = published();
    more.insert("encoder.surprise.weight", HostTensor::from_f32(&[1], &[0.0]));
    assert!(refusal(&written(&folder, &more), config()).contains("unknown names: encoder.surprise.weight"));
}

#[test]
fn other_autoencoders_have_no_published_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(&folder, &published());
    let error = load_autoencoder(&path, &AutoencoderConfig::Pixel {}, &Device::flex()).unwrap_err();
    assert!(error.to_string().contains("does not say of what"), "{error}");
}

fn tokenizer_config() -> TokenizerConfig {
    let blocks = BlockSize { width: 8, depth: 1, heads: 2, mlp_ratio: 2 };
    TokenizerConfig {
        image_size: 16,
        tokens: 2,
        token_dim: 4,
        token_epsilon: 0.0,
        encoder: EncoderConfig {
            patch_size: 8,
            blocks,
            drop_path: 0.0,
            position_deviation: POSITION_DEVIATION,
            linear_projection: false,
        },
        decoder: DecoderConfig {
            patch_size: 2,
            blocks,
            repa: None,
            linear_estimate: false,
            overlap: false,
            refinement: None,
        },
        autoencoder: AutoencoderConfig::Kl(config()),
        diffusion: DiffusionConfig::default(),
        decoding: None,
        fitted_samplers: Vec::new(),
    }
}

#[test]
fn a_published_tokenizer_takes_its_autoencoder_from_another_file() {
    let (folder, device, config) = (tempfile::tempdir().unwrap(), Device::flex(), tokenizer_config());
    let networks = Networks::init(&config, &mut Noise::seeded(1), &device).unwrap();
    let mut renamed = Weights::new();
    for (name, tensor) in weights::collect(&networks, "").iter() {
        renamed.insert(names::to_published(name).unwrap(), tensor.clone());
    }
    let path = folder.path().join("tokenizer.safetensors");
    weights::save(&path, &renamed, &Metadata::new(), Precision::F32).unwrap();
    let file = written(&folder, &published());

    let load = |autoencoder| {
        TokenizerFile::published(&path, PublishedTokenizer { config: &config, autoencoder })
            .and_then(|file| file.load(&device))
    };
    assert!(matches!(load(None), Err(semanticist::Error::AutoencoderNeeded { .. })));
    let model = load(Some(&file)).unwrap();
    let own = folder.path().join("model.safetensors");
    model.tokenizer.save(&own, None, Precision::F16).unwrap();
    // The autoencoder keeps its precision where the rest is stored in half of it.
    let again = ModelFile::open(&own).unwrap().into_tokenizer().unwrap().load(&device).unwrap();
    assert_eq!(latents(&again.tokenizer.autoencoder).dims(), [1, 8, 4, 4]);
    assert_eq!(
        latents(&again.tokenizer.autoencoder).into_data(),
        latents(&model.tokenizer.autoencoder).into_data()
    );
}
