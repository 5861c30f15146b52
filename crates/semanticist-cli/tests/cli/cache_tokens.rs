//! `cache-tokens`.

use semanticist_data::tokens::cache::TokenCache;

use super::Folder;

#[test]
fn a_cache_holds_every_image_in_its_views_and_is_not_mixed_with_another() {
    let folder = Folder::new();
    folder.photos(&["p/cat/a.png", "p/cat/b.png", "p/dog/c.png"]);
    let cache = "cache-tokens p -o cache --shard 2 --model model.safetensors";
    let run = folder.run(&format!("{cache} --tokens 2 --views ten-crop")).ok();
    assert!(
        run.stderr.contains("3 images × 20 views × 2 × 4 numbers, 0.0 MB in 2 shards, 0 of"),
        "{}",
        run.stderr
    );
    assert_eq!(run.stdout, "done: cache\n");
    let found = TokenCache::open(&[folder.path("cache")]).unwrap();
    assert_eq!((found.len(), found.views(2), found.info().tokens), (3, 20, 2));
    assert_eq!((found.label(0), found.label(2)), (Some(0), Some(1)));
    assert_eq!(found.classes().unwrap(), ["cat", "dog"]);

    let again = folder.run(&format!("{cache} --tokens 2 --views ten-crop")).ok();
    assert!(again.stderr.contains("2 of them complete"), "{}", again.stderr);
    let before = folder.content();
    let other = folder.run(&format!("{cache} --tokens 3 --views ten-crop"));
    assert_eq!(other.code, Some(1));
    assert!(other.stderr.contains("another model, data set or choice"), "{}", other.stderr);
    assert!(folder.content() == before);
    let rounded = format!("{cache} --tokens 2 --views ten-crop --precision bfloat16");
    assert!(folder.run(&rounded).stderr.contains("another model, data set or choice"));
    assert!(folder.content() == before);
    folder.fails(&format!("{cache} --tokens 5"), 2, "use 1 to 4");
    folder.fails(&format!("{cache} --views flip --crops 3"), 2, "--views random-crops");
    for views in ["random-crops", "zoomed-crops"] {
        let drawn = format!("cache-tokens p -o {views} --model model.safetensors --views {views} --crops 3");
        assert!(folder.run(&drawn).ok().stderr.contains("3 images × 3 views"));
    }
    folder.fails("cache-tokens p -o model.safetensors", 1, "is a file");
}
