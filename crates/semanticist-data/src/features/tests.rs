use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::tensor::{Device, Tensor};
use semanticist::Pixels;
use semanticist::image::{RgbImage, to_pixels};
use semanticist::weights::Precision as Stored;

use super::*;
use crate::testing::put;
use crate::{Source, Split};

/// Images of 9 × 8 pixels and a folder for their cache.
struct Bench {
    folder: tempfile::TempDir,
    source: Source,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..5 {
            put(&folder.path().join("data"), &format!("{number}.png"), &crate::testing::png(number));
        }
        let source = Source::open(&[folder.path().join("data")], Split::All).unwrap();
        Self { folder, source }
    }

    fn plan(&self, views: Views, stored: Stored) -> FeaturePlan {
        let info = FeatureInfo {
            teacher: "abc".into(),
            data: self.source.fingerprint().unwrap(),
            images: self.source.len(),
            image_size: 8,
            views,
            positions: 4,
            width: 6,
            computed: Precision::Float32,
        };
        FeaturePlan::new(info, stored, Some(2))
    }

    fn fill(&self, plan: &FeaturePlan, limit: usize) -> Result<PathBuf> {
        let cache = self.folder.path().join("cache");
        std::fs::create_dir_all(&cache).unwrap();
        let mut calls = 0;
        plan.fill(&cache, &self.source, &network, &Device::flex(), 4, &mut |_| {
            calls += 1;
            if calls < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(cache)
    }
}

/// The first two pixels of each row of the left upper quarter: left and right differ.
fn network(images: &Pixels) -> Result<Tensor<3>> {
    let batch = images.0.dims()[0];
    Ok(images.0.clone().slice([0..batch, 0..3, 0..4, 0..2]).swap_dims(1, 2).reshape([batch, 4, 6]))
}

fn expected(number: usize, mirrored: bool) -> Vec<f32> {
    let image = semanticist::image::decode("", &crate::testing::png(number)).unwrap();
    let mut view: RgbImage = crate::transform::evaluation(&image, 8);
    if mirrored {
        image::imageops::flip_horizontal_in_place(&mut view);
    }
    network(&to_pixels(&[view], &Device::flex())).unwrap().into_data().try_to_vec::<f32>().unwrap()
}

#[test]
fn features_come_back_by_image_and_view_as_the_network_gave_them() {
    let bench = Bench::new();
    for (stored, allowed) in [(Stored::F32, 0.0), (Stored::F16, 1.0 / 2048.0)] {
        let plan = bench.plan(Views::Flip, stored);
        let cache = FeatureCache::open(&bench.fill(&plan, usize::MAX).unwrap()).unwrap();
        assert_eq!((cache.info(), plan.shards()), (&plan.info, 3));
        for (image, mirrored) in (0..5).flat_map(|image| [(image, false), (image, true)]) {
            let (found, expected) = (cache.features(Shown { image, mirrored }), expected(image, mirrored));
            assert_eq!(found.len(), expected.len());
            let near = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= allowed * b.abs());
            assert!(near, "{image} {mirrored}: {found:?} {expected:?}");
        }
        assert_ne!(expected(3, false), expected(3, true));
        std::fs::remove_dir_all(bench.folder.path().join("cache")).unwrap();
    }
    assert_eq!(bench.plan(Views::Flip, Stored::F16).bytes(), 5 * 2 * 4 * 6 * 2);
}

#[test]
fn an_interrupted_cache_is_refused_and_goes_on() {
    let bench = Bench::new();
    let plan = bench.plan(Views::Center, Stored::F16);
    let cache = bench.fill(&plan, 2).unwrap();
    assert_eq!(plan.complete(&cache).unwrap(), 1);
    let error = FeatureCache::open(&cache).unwrap_err().to_string();
    assert!(error.contains("1 shards of 3") && error.contains("`cache-features`"), "{error}");
    bench.fill(&plan, usize::MAX).unwrap();
    assert_eq!(FeatureCache::open(&cache).unwrap().features(Shown { image: 4, mirrored: false }).len(), 24);
    let other = bench.fill(&bench.plan(Views::Flip, Stored::F16), usize::MAX).unwrap_err().to_string();
    assert!(other.contains("another model, data set or choice"), "{other}");
}

#[test]
fn a_broken_image_keeps_its_place() {
    let bench = Bench::new();
    for number in 0..300 {
        put(
            &bench.folder.path().join("many"),
            &format!("{number:03}.png"),
            &crate::testing::png(number % 200),
        );
    }
    put(&bench.folder.path().join("many"), "002.png", b"no image");
    let source = Source::open(&[bench.folder.path().join("many")], Split::All).unwrap();
    let bench = Bench { source, ..bench };
    let cache = bench.fill(&bench.plan(Views::Center, Stored::F32), usize::MAX).unwrap();
    let cache = FeatureCache::open(&cache).unwrap();
    let of = |image| cache.features(Shown { image, mirrored: false });
    assert!(of(2).iter().all(|value| value.is_nan()));
    assert_eq!(of(3), expected(3, false));
}

#[test]
fn a_cache_of_anything_else_is_refused() {
    let bench = Bench::new();
    let cache = FeatureCache::open(&bench.fill(&bench.plan(Views::Center, Stored::F16), 9).unwrap()).unwrap();
    let data = bench.source.fingerprint().unwrap();
    cache.check(&data, 8, 0.0).unwrap();
    let refusal = |data: &str, size, flip| cache.check(data, size, flip).unwrap_err().to_string();
    assert!(refusal("5:0", 8, 0.0).contains("other data (5:"));
    assert!(refusal(&data, 16, 0.0).contains("of 8 pixels, the run of 16"));
    assert!(refusal(&data, 8, 0.5).contains("--views flip"));
}

#[test]
fn equal_caches_have_one_fingerprint() {
    let bench = Bench::new();
    let fingerprint = |stored| {
        let cache = bench.fill(&bench.plan(Views::Center, stored), usize::MAX).unwrap();
        let found = FeatureCache::open(&cache).unwrap().fingerprint();
        std::fs::remove_dir_all(cache).unwrap();
        found
    };
    let first = fingerprint(Stored::F16);
    assert_eq!(first, fingerprint(Stored::F16));
    assert_ne!(first, fingerprint(Stored::F32), "rounded features are others");
}
