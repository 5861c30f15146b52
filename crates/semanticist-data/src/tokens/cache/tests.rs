use std::ops::ControlFlow;

use burn::tensor::Device;
use semanticist::image::{RgbImage, to_pixels};
use semanticist::tokenizer::Networks;
use semanticist::weights::Precision;
use semanticist::{Noise, Tokenizer, TokenizerConfig};

use super::*;
use crate::{Source, Split, Views};

const CONFIG: &str = r#"{
    "image_size": 16, "tokens": 4, "token_dim": 3,
    "encoder": {"patch_size": 4, "blocks": {"width": 16, "depth": 1, "heads": 2}},
    "decoder": {"patch_size": 4, "blocks": {"width": 16, "depth": 1, "heads": 2}},
    "autoencoder": {"kind": "pixel"}
}"#;

struct Bench {
    folder: tempfile::TempDir,
    source: Source,
    tokenizer: Tokenizer,
    device: Device,
}

fn picture(seed: u32) -> RgbImage {
    RgbImage::from_fn(16, 16, |x, y| image::Rgb([(x * 13 + seed * 40) as u8, (y * 9) as u8, (x * y) as u8]))
}

impl Bench {
    /// Five images of the classes a, b, a, b, a.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for seed in 0..5 {
            let class = folder.path().join("data").join(["a", "b"][seed as usize % 2]);
            std::fs::create_dir_all(&class).unwrap();
            picture(seed).save(class.join(format!("{seed}.png"))).unwrap();
        }
        let source = Source::open(&[folder.path().join("data")], Split::All).unwrap();
        let config: TokenizerConfig = serde_json::from_str(CONFIG).unwrap();
        let device = Device::flex();
        let networks = Networks::init(&config, &mut Noise::seeded(1), &device).unwrap();
        let autoencoder = semanticist::autoencoder::Autoencoder::Pixel;
        Self { folder, source, tokenizer: Tokenizer { config, networks, autoencoder }, device }
    }

    fn plan(&self, views: Views, stored: Precision) -> CachePlan {
        CachePlan {
            info: TokenFileInfo { model_hash: "abc".into(), tokens: 2, token_dim: 3 },
            views,
            stored,
            computed: semanticist::Precision::Float32,
            images: self.source.len(),
            shard_images: 2,
            classes: self.source.classes().map(<[String]>::to_vec),
        }
    }

    /// Fills `cache`; stops after `limit` calls of the observer.
    fn fill(&self, plan: &CachePlan, limit: usize) -> Result<PathBuf> {
        let cache = self.folder.path().join("cache");
        std::fs::create_dir_all(&cache).unwrap();
        let mut calls = 0;
        plan.fill(&cache, &self.source, &self.tokenizer, &self.device, 2, &mut |_| {
            calls += 1;
            if calls < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(cache)
    }
}

#[test]
fn tokens_come_back_by_image_and_view_as_the_encoder_gave_them() {
    let bench = Bench::new();
    let cache = bench.fill(&bench.plan(Views::Flip, Precision::F32), usize::MAX).unwrap();
    let cache = TokenCache::open(&[cache]).unwrap();
    assert_eq!((cache.len(), cache.views(4)), (5, 2));
    assert_eq!(cache.classes().unwrap(), ["a", "b"]);
    assert_eq!((0..5).map(|i| cache.label(i).unwrap()).collect::<Vec<_>>(), [0, 0, 0, 1, 1]);
    // The fourth image is the first of class b, image 1.
    let view = image::imageops::flip_horizontal(&picture(1));
    let tokens = bench.tokenizer.encode(&to_pixels(&[view], &bench.device), 2).unwrap();
    let expected = tokens.0.into_data().try_to_vec::<f32>().unwrap();
    let found = cache.tokens(3, 1, 2);
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
    assert_eq!(cache.tokens(3, 1, 1), found[..3]);
}

#[test]
fn an_interrupted_cache_is_refused_and_goes_on_with_the_same_result() {
    let bench = Bench::new();
    let plan = bench.plan(Views::Center, Precision::F16);
    // Two images per batch and shard: the third shard is never begun.
    let cache = bench.fill(&plan, 2).unwrap();
    assert_eq!(plan.complete(&cache).unwrap(), 1);
    let error = TokenCache::open(std::slice::from_ref(&cache)).unwrap_err().to_string();
    assert!(error.contains("1 shards of 3") && error.contains("cache-tokens"), "{error}");
    bench.fill(&plan, usize::MAX).unwrap();
    assert_eq!(plan.complete(&cache).unwrap(), 3);
    let parts = TokenCache::open(std::slice::from_ref(&cache)).unwrap();
    std::fs::remove_dir_all(&cache).unwrap();
    let whole = TokenCache::open(&[bench.fill(&plan, usize::MAX).unwrap()]).unwrap();
    assert!((0..5).all(|i| parts.tokens(i, 0, 2) == whole.tokens(i, 0, 2)));
}

#[test]
fn another_plan_does_not_mix_with_the_first() {
    let bench = Bench::new();
    bench.fill(&bench.plan(Views::Center, Precision::F16), usize::MAX).unwrap();
    let error = bench.fill(&bench.plan(Views::Flip, Precision::F16), usize::MAX).unwrap_err();
    assert!(error.to_string().contains("another model, data set or choice"), "{error}");
    let more = CachePlan { shard_images: 1, ..bench.plan(Views::Center, Precision::F16) };
    let error = more.complete(&bench.folder.path().join("cache")).unwrap_err();
    assert!(error.to_string().contains("another folder"), "{error}");
}

#[test]
fn the_size_is_that_of_the_numbers() {
    let plan = Bench::new().plan(Views::TenCrop, Precision::F16);
    assert_eq!((plan.bytes(), plan.shards()), (5 * 20 * 2 * 3 * 2, 3));
}
