//! `cache-features`.

use semanticist_data::features::FeatureCache;
use semanticist_data::{Shown, Views};

use super::Folder;

#[test]
fn a_cache_holds_what_a_teacher_sees_and_is_not_mixed_with_another() {
    let folder = Folder::new();
    folder.photos(&["p/cat/a.png", "p/cat/b.png", "p/dog/c.png"]);
    let cache = "cache-features p -o cache --shard 2 --teacher model.safetensors --size 16";
    let run = folder.run(cache).ok();
    assert!(run.stderr.contains("3 images × 2 views × "), "{}", run.stderr);
    assert!(run.stderr.contains("in 2 shards, 0 of them complete"), "{}", run.stderr);
    assert!(run.stdout.contains("--set objective.repa.cache=cache"), "{}", run.stdout);
    let found = FeatureCache::open(&folder.path("cache")).unwrap();
    let info = found.info().clone();
    assert_eq!((info.images, info.image_size, info.views), (3, 16, Views::Flip));
    let of = |mirrored| found.features(Shown { image: 2, mirrored });
    assert!(of(false).len() == info.positions * info.width && of(false) != of(true));

    assert!(folder.run(cache).ok().stderr.contains("2 of them complete"));
    let before = folder.content();
    folder.fails(&format!("{cache} --views center"), 1, "another model, data set or choice");
    folder.fails(&format!("{cache} --precision bfloat16"), 1, "another model, data set or choice");
    folder.fails("cache-features p -o cache --teacher absent.safetensors --size 16", 1, "absent.safetensors");
    assert!(folder.content() == before);
}
