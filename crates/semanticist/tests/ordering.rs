//! What makes tokens a prefix code: the first k tokens ignore the later ones, on both sides.

use burn::tensor::{Device, Tensor};
use semanticist::decoder::{Decoder, RefinementConfig};
use semanticist::tokenizer::Networks;
use semanticist::{Noise, Pixels, TokenizerConfig, Tokens};

fn config() -> TokenizerConfig {
    serde_json::from_str(
        r#"{"image_size": 16, "tokens": 6, "token_dim": 5,
            "encoder": {"patch_size": 4, "drop_path": 0.5, "blocks": {"width": 24, "depth": 3, "heads": 3}},
            "decoder": {"patch_size": 2, "blocks": {"width": 24, "depth": 3, "heads": 2}},
            "autoencoder": {"kind": "pixel"}}"#,
    )
    .unwrap()
}

fn networks() -> Networks {
    Networks::init(&config(), &mut Noise::seeded(1), &Device::flex()).unwrap()
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().unwrap()
}

#[track_caller]
fn assert_close<const D: usize>(a: Tensor<D>, b: Tensor<D>, tolerance: f32) {
    let worst = numbers(a).iter().zip(numbers(b)).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= tolerance, "{worst}");
}

/// Weights everywhere, so that no block is the identity and the output is not 0.
fn shaken(networks: Networks) -> Networks {
    use burn::module::{Module, ModuleMapper, Param};
    struct Shake(Noise);
    impl ModuleMapper for Shake {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let noise = self.0.normal(param.dims(), &Device::flex());
            param.map(|value| value + noise * 0.1)
        }
    }
    networks.map(&mut Shake(Noise::seeded(9)))
}

#[test]
fn the_first_k_tokens_are_the_same_however_many_are_computed() {
    let encoder = shaken(networks()).encoder;
    let images = Pixels(Noise::seeded(2).normal([2, 3, 16, 16], &Device::flex()));
    let all = encoder.forward(&images, 6, None).tokens;
    for k in 1..6 {
        assert_close(encoder.forward(&images, k, None).tokens.0, all.prefix(k).0, 2e-5);
    }
}

#[test]
fn tokens_have_mean_zero_and_unbiased_deviation_one() {
    let images = Pixels(Noise::seeded(2).normal([2, 3, 16, 16], &Device::flex()));
    for token in numbers(shaken(networks()).encoder.forward(&images, 6, None).tokens.0).chunks(5) {
        let mean = token.iter().sum::<f32>() / 5.0;
        let variance = token.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 4.0;
        assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4, "{mean} {variance}");
    }
}

#[test]
fn a_constant_token_stays_finite() {
    let mut networks = networks();
    networks.encoder.projection.weight = networks.encoder.projection.weight.map(|w| w.zeros_like());
    let images = Pixels(Tensor::ones([1, 3, 16, 16], &Device::flex()));
    assert!(numbers(networks.encoder.forward(&images, 6, None).tokens.0).iter().all(|v| v.is_finite()));
}

fn decode(decoder: &Decoder, tokens: &Tokens, keep: &[usize]) -> Tensor<4> {
    let noisy = Noise::seeded(3).normal([2, 3, 16, 16], &Device::flex());
    decoder.forward(noisy, &[10.0, 900.0], tokens, keep)
}

#[test]
fn tokens_beyond_keep_do_not_matter_and_may_be_left_out() {
    let decoder = shaken(networks()).decoder;
    let device = Device::flex();
    let tokens = Tokens(Noise::seeded(4).normal([2, 6, 5], &device));
    let kept = decode(&decoder, &tokens, &[2, 4]);
    let other_end = Tensor::cat(vec![tokens.prefix(4).0, Noise::seeded(5).normal([2, 2, 5], &device)], 1);
    assert_eq!(numbers(kept.clone()), numbers(decode(&decoder, &Tokens(other_end), &[2, 4])));
    assert_eq!(numbers(kept.clone()), numbers(decode(&decoder, &tokens.prefix(4), &[2, 4])));
    assert_ne!(numbers(kept), numbers(decode(&decoder, &tokens, &[3, 4])));
}

#[test]
fn a_step_for_all_is_the_same_as_for_each() {
    let device = Device::flex();
    let tokens = Tokens(Noise::seeded(4).normal([4, 6, 5], &device));
    let noisy = Noise::seeded(3).normal([2, 3, 16, 16], &device);
    let keep = [0, 0, 6, 3];
    let twice = Tensor::cat(vec![noisy.clone(), noisy.clone()], 0);
    let mut refined = config();
    refined.decoder.refinement = Some(RefinementConfig { width: 4, depth: 1 });
    for config in [config(), refined] {
        let networks = Networks::init(&config, &mut Noise::seeded(1), &device).unwrap();
        let decoder = shaken(networks).decoder;
        let each = numbers(decoder.forward(twice.clone(), &[700.0; 4], &tokens, &keep));
        let all = numbers(decoder.step(noisy.clone(), 700.0, 0.0, &decoder.condition(&tokens, &keep)));
        let largest = each.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(each.iter().zip(&all).all(|(a, b)| (a - b).abs() < 1e-5 * largest));
    }
}

#[test]
fn fresh_decoder_blocks_are_the_identity_and_the_output_is_zero() {
    let mut decoder = networks().decoder;
    let tokens = Tokens(Noise::seeded(4).normal([2, 6, 5], &Device::flex()));
    assert!(numbers(decode(&decoder, &tokens, &[6, 6])).iter().all(|&v| v == 0.0));
    // With another output layer the result must not depend on the number of blocks.
    decoder.output = shaken(networks()).decoder.output;
    let deep = decode(&decoder, &tokens, &[6, 6]);
    decoder.blocks.truncate(1);
    assert_eq!(numbers(deep), numbers(decode(&decoder, &tokens, &[6, 6])));
}

#[test]
fn drop_path_acts_only_when_given_noise_and_keeps_the_expectation() {
    let encoder = shaken(networks()).encoder;
    let images = Pixels(Noise::seeded(2).normal([2, 3, 16, 16], &Device::flex()));
    let plain = encoder.forward(&images, 6, None).features;
    let dropped = |seed| encoder.forward(&images, 6, Some(&mut Noise::seeded(seed))).features;
    assert_eq!(numbers(dropped(1)), numbers(dropped(1)));
    assert_ne!(numbers(dropped(1)), numbers(dropped(2)));
    assert_ne!(numbers(plain), numbers(dropped(1)));
}

#[test]
fn initial_weights_have_their_documented_spread() {
    let mut config = config();
    config.encoder.blocks.width = 240;
    let networks = Networks::init(&config, &mut Noise::seeded(1), &Device::flex()).unwrap();
    let deviation = |x: Vec<f32>| (x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32).sqrt();
    let close =
        |found: f32, expected: f32| assert!((found / expected - 1.0).abs() < 0.05, "{found} {expected}");
    close(deviation(numbers(networks.encoder.positions.val())), 0.02);
    close(deviation(numbers(networks.encoder.concept_tokens.val())), 0.02);
    let qkv = numbers(networks.encoder.blocks[1].attention.qkv.weight.val());
    close(deviation(qkv), (2.0f32 / (240.0 + 720.0)).sqrt());
    assert!(numbers(networks.encoder.blocks[1].attention.qkv.bias.val()).iter().all(|&v| v == 0.0));
    close(deviation(numbers(networks.decoder.time.up.weight.val())), 0.02);
}
