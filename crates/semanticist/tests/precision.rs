//! Models with their weights in bfloat16: near those in float32 in all that they do, and not to be saved.

use burn::tensor::{Device, Tensor};
use semanticist::generator::{GeneratorConfig, GeneratorNetworks, TokenGuidance};
use semanticist::model::GeneratorModel;
use semanticist::tokenizer::Networks;
use semanticist::weights::{self, HostTensor, Precision as Stored, Weights};
use semanticist::{
    DecodeOptions, DrawOptions, GenerateOptions, Generator, Noise, Pixels, Precision, Tokenizer,
};

/// New values for every parameter: initial ones hide blocks behind gates of 0.
fn drawn<M: burn::module::Module>(networks: M) -> M {
    let (mut noise, mut drawn) = (Noise::seeded(4), Weights::new());
    for (name, tensor) in weights::collect(&networks, "").iter() {
        let values = noise.uniform(tensor.shape().iter().product());
        let values: Vec<f32> = values.into_iter().map(|value| (value - 0.5) * 0.4).collect();
        drawn.insert(name, HostTensor::from_f32(tensor.shape(), &values));
    }
    weights::apply(networks, "", &mut drawn)
}

fn tokenizer() -> Tokenizer {
    let config: semanticist::TokenizerConfig = serde_json::from_str(
        r#"{"image_size": 16, "tokens": 6, "token_dim": 5,
            "encoder": {"patch_size": 4, "blocks": {"width": 24, "depth": 3, "heads": 3}},
            "decoder": {"patch_size": 2, "blocks": {"width": 24, "depth": 3, "heads": 2}},
            "autoencoder": {"kind": "pixel"}}"#,
    )
    .unwrap();
    let networks = Networks::init(&config, &mut Noise::seeded(1), &Device::flex()).unwrap();
    let autoencoder = semanticist::autoencoder::Autoencoder::Pixel;
    Tokenizer { networks: drawn(networks), config, autoencoder }
}

fn generator(condition: &str) -> Generator {
    let config: GeneratorConfig = serde_json::from_str(&format!(
        r#"{{"tokens": 5, "token_dim": 6, "classes": 3, "width": 32, "depth": 2, "heads": 4,
            "head": {{"width": 24, "depth": 2, "condition": "{condition}", "process": "flow"}}}}"#
    ))
    .unwrap();
    let networks = GeneratorNetworks::init(&config, &mut Noise::seeded(1), &Device::flex()).unwrap();
    Generator { networks: drawn(networks), config }
}

/// That two differ, and by less than `share` of the largest.
#[track_caller]
fn assert_near<const D: usize>(exact: Tensor<D>, rounded: Tensor<D>, share: f32) {
    let largest: f32 = exact.clone().abs().max().into_scalar();
    let apart: f32 = (exact - rounded).abs().max().into_scalar();
    assert!(apart > 0.0 && apart < share * largest, "{apart} of {largest}");
}

#[test]
fn a_tokenizer_does_all_it_did_and_at_other_sizes() {
    let exact = tokenizer();
    let rounded = exact.clone().with_precision(Precision::Bfloat16);
    assert_eq!([exact.precision(), rounded.precision()], [Precision::Float32, Precision::Bfloat16]);
    let same = exact.clone().with_precision(Precision::Float32);
    assert_eq!(same.precision(), Precision::Float32);
    let options = DecodeOptions { steps: 4, ..DecodeOptions::default() };
    for size in [16, 24] {
        let [exact, rounded] = [&exact, &rounded].map(|model| model.clone().resized(size).unwrap());
        let images = Noise::seeded(2).uniform(2 * 3 * size * size);
        let images = Tensor::<1>::from_floats(images.as_slice(), &Device::flex()).reshape([2, 3, size, size]);
        let encoded = [&exact, &rounded].map(|model| model.encode(&Pixels(images.clone()), 6).unwrap());
        assert_near(encoded[0].0.clone(), encoded[1].0.clone(), 2e-2);
        let [exact, rounded] =
            [&exact, &rounded].map(|model| model.decode(&encoded[0], &options, 1).unwrap());
        assert_near(exact.0, rounded.0, 4e-2);
    }
}

#[test]
fn a_generator_draws_nearly_the_same_tokens() {
    let guidance = TokenGuidance { scale: 2.0, ..DrawOptions::default().guidance };
    let drawing = DrawOptions { steps: 4, guidance, ..DrawOptions::default() };
    let options = GenerateOptions { tokens: 5, drawing };
    for condition in ["concat", "add"] {
        let exact = generator(condition);
        let rounded = exact.clone().with_precision(Precision::Bfloat16);
        assert_eq!(rounded.precision(), Precision::Bfloat16);
        let [exact, rounded] = [exact, rounded].map(|model| model.generate(&[0, 2], &options, 3).unwrap());
        assert_near(exact.0, rounded.0, 5e-2);
    }
}

#[test]
fn what_was_rounded_is_not_saved_and_what_trains_is_saved_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tokenizer = tokenizer();
    let rounded = tokenizer.clone().with_precision(Precision::Bfloat16);
    let model =
        |generator| GeneratorModel { generator, classes: Vec::new(), tokenizer: None, training: None };
    let generator = model(generator("concat").with_precision(Precision::Bfloat16));
    for refused in [
        rounded.save(&path, None, Stored::F32),
        rounded.export_published(&path, Stored::F32),
        generator.save(&path, Stored::F32),
        generator.export_published(&path, Stored::F32),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("rounded to bfloat16") && error.contains("as it was loaded"), "{error}");
    }
    assert!(!path.exists());

    let networks = Precision::Bfloat16.train(tokenizer.networks.clone());
    Tokenizer { networks, ..tokenizer.clone() }.save(&path, None, Stored::F32).unwrap();
    let opened = Tokenizer::open(&path, &Device::flex()).unwrap();
    let bytes =
        |networks| weights::collect(networks, "").iter().map(|(_, t)| t.bytes().to_vec()).collect::<Vec<_>>();
    assert!(bytes(&opened.networks) == bytes(&tokenizer.networks));
}
