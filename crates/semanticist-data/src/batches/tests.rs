use std::path::Path;

use super::super::source::Split;
use super::super::testing::{png, put, shard};
use super::*;

fn options() -> BatchOptions {
    let (seed, share, crop) = (Seed::new(5), Share::WHOLE, Crop::Largest);
    BatchOptions { size: 8, batch: 7, share, seed, workers: 2, crop, flip: 0.5 }
}

fn open(path: &Path) -> Arc<Source> {
    Arc::new(Source::open(&[path.to_path_buf()], Split::All).unwrap())
}

fn folder(images: &[Vec<u8>]) -> (tempfile::TempDir, Arc<Source>) {
    let root = tempfile::tempdir().unwrap();
    for (number, image) in images.iter().enumerate() {
        put(root.path(), &format!("{number:03}.png"), image);
    }
    let source = open(root.path());
    (root, source)
}

fn shards(images: &[Vec<u8>]) -> (tempfile::TempDir, Arc<Source>) {
    let root = tempfile::tempdir().unwrap();
    let images: Vec<_> = images.iter().cloned().map(Some).collect();
    shard(&root.path().join("a.parquet"), &images, 6);
    let source = open(root.path());
    (root, source)
}

fn start(source: &Arc<Source>) -> Batches {
    Batches::new(source.clone(), options(), Position::default())
}

fn pngs(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(png).collect()
}

#[test]
fn an_epoch_has_every_image_once_across_the_borders_of_batches() {
    for (_root, source) in [folder(&pngs(35)), shards(&pngs(35))] {
        let mut batches = start(&source);
        for epoch in 1..4 {
            let mut names: Vec<_> = batches.by_ref().take(5).flat_map(|batch| batch.unwrap().names).collect();
            assert_eq!(batches.next, Position { epoch, index: 0 });
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), 35);
        }
    }
}

#[test]
fn views_say_which_image_they_are_of_and_whether_mirrored() {
    for (_root, source) in [folder(&pngs(35)), shards(&pngs(35))] {
        let records: Vec<Record> = source.records().map(Result::unwrap).collect();
        let mut mirrored = 0;
        let options = BatchOptions { crop: Crop::Center, ..options() };
        let batches = Batches::new(source.clone(), options, Position::default());
        for batch in batches.take(10).map(Result::unwrap) {
            for ((shown, name), image) in batch.shown.iter().zip(&batch.names).zip(&batch.images) {
                let record = &records[shown.image];
                assert_eq!(&record.name, name);
                let stored = decode(name, &record.bytes).unwrap();
                let expected = crate::transform::evaluation(&stored, 8);
                let expected =
                    if shown.mirrored { image::imageops::flip_horizontal(&expected) } else { expected };
                assert_eq!(&expected, image);
                mirrored += usize::from(shown.mirrored);
            }
        }
        assert!((15..55).contains(&mirrored), "{mirrored} of 70");
    }
}

#[test]
fn resuming_goes_on_as_if_uninterrupted() {
    for (_root, source) in [folder(&pngs(17)), shards(&pngs(17))] {
        let whole: Vec<_> = start(&source).take(9).map(Result::unwrap).collect();
        for done in 1..8 {
            let rest = Batches::new(source.clone(), options(), whole[done - 1].next);
            let rest: Vec<_> = rest.take(9 - done).map(Result::unwrap).collect();
            assert!(rest == whole[done..], "after {done} batches");
        }
    }
}

#[test]
fn the_number_of_workers_changes_nothing() {
    let (_root, source) = shards(&pngs(23));
    let batches = |workers| -> Vec<_> {
        let options = BatchOptions { workers, ..options() };
        Batches::new(source.clone(), options, Position::default()).take(8).map(Result::unwrap).collect()
    };
    let one = batches(1);
    assert!(one == batches(2) && one == batches(5) && one == batches(0));
}

#[test]
fn the_shares_of_all_ranks_are_the_batches() {
    for (_root, source) in [folder(&pngs(23)), shards(&pngs(23))] {
        let batches =
            |share, start| Batches::new(source.clone(), BatchOptions { batch: 6, share, ..options() }, start);
        let whole = batches(Share::WHOLE, Position::default());
        let mut ranks = [0, 1, 2].map(|rank| batches(Share::of(rank, 3), Position::default()));
        let mut start = Position::default();
        for expected in whole.take(9).map(Result::unwrap) {
            let parts = ranks.each_mut().map(|rank| rank.next().unwrap().unwrap());
            assert!(parts.iter().all(|part| part.images.len() == 2 && part.next == expected.next));
            assert!(parts.iter().flat_map(|part| &part.images).eq(&expected.images));
            assert!(parts.iter().flat_map(|part| &part.labels).eq(&expected.labels));
            // Other ranks go on from there.
            let half = batches(Share::of(1, 2), start).next().unwrap().unwrap();
            assert!(half.names == expected.names[3..] && half.next == expected.next);
            start = expected.next;
        }
    }
}

#[test]
fn a_broken_image_shifts_no_other_ranks_images() {
    let mut images = pngs(120);
    images[40] = b"this is not an image".to_vec();
    for (_root, source) in [folder(&images), shards(&images)] {
        let mut twice = 0;
        for rank in 0..2 {
            let share = Share::of(rank, 2);
            let options = BatchOptions { batch: 8, share, ..options() };
            let batches = Batches::new(source.clone(), options, Position::default());
            for (number, batch) in batches.take(15).map(Result::unwrap).enumerate() {
                assert_eq!(batch.names.len(), 4);
                assert_eq!(batch.next, Position::default().after((number + 1) * 8, 120));
                let mut names = batch.names.clone();
                names.sort_unstable();
                names.dedup();
                twice += 4 - names.len();
            }
        }
        assert_eq!(twice, 1);
    }
}

#[test]
fn labels_belong_to_their_images() {
    let (_root, source) = shards(&pngs(23));
    for batch in start(&source).take(4).map(Result::unwrap) {
        for (image, label) in batch.images.iter().zip(&batch.labels) {
            assert_eq!(image.dimensions(), (8, 8));
            assert_eq!(i64::from(image.get_pixel(0, 0).0[0]), label.unwrap());
        }
    }
}

#[test]
fn a_broken_image_is_skipped_and_told_once() {
    let mut images = pngs(120);
    images[40] = b"this is not an image".to_vec();
    for (_root, source) in [folder(&images), shards(&images)] {
        let mut batches = start(&source);
        let names: Vec<_> = batches.by_ref().take(34).flat_map(|batch| batch.unwrap().names).collect();
        assert_eq!(names.len(), 34 * 7, "two epochs of 119");
        assert!(batches.next.epoch <= 2);
        let warnings = batches.take_warnings();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].0.contains("40") && warnings[0].1.contains("not an image"), "{warnings:?}");
        assert!(batches.take_warnings().is_empty());
        assert!(!names.contains(&warnings[0].0));
    }
}

#[test]
fn too_many_broken_images_end_the_stream() {
    let mut images = pngs(120);
    images[40].truncate(20);
    images[41].clear();
    for (_root, source) in [folder(&images), shards(&images)] {
        let mut batches = start(&source);
        let error = batches.find_map(Result::err).unwrap().to_string();
        assert!(error.starts_with("2 of 120 images are broken") && error.contains("(0 bytes)"), "{error}");
        assert!(batches.next().is_none());
    }
}

#[test]
fn nothing_but_broken_images_ends_the_stream() {
    let (_root, source) = folder(&vec![b"x".to_vec(); 3]);
    assert!(start(&source).next().unwrap().is_err());
}

/// Of three sources, each in its own kind and size.
fn three() -> (tempfile::TempDir, Vec<std::path::PathBuf>) {
    let root = tempfile::tempdir().unwrap();
    (0..20).for_each(|number| put(root.path(), &format!("files/{number:03}.png"), &png(number)));
    let images =
        |numbers: std::ops::Range<usize>| numbers.map(|number| Some(png(number))).collect::<Vec<_>>();
    shard(&root.path().join("a.parquet"), &images(20..29), 4);
    shard(&root.path().join("b.parquet"), &images(30..33), 2);
    let paths = ["files", "a.parquet", "b.parquet"].map(|name| root.path().join(name));
    (root, paths.to_vec())
}

#[test]
fn an_epoch_draws_from_sources_in_proportion_to_their_weights() {
    let (_root, paths) = three();
    let open = || Source::open(&paths, Split::All).unwrap();
    let source = Arc::new(open().weighted(&[1.0, 2.0, 5.0]).unwrap());
    assert_eq!(source.len(), 32);
    let numbers: Vec<u8> = (start(&source).take(64).map(Result::unwrap))
        .flat_map(|batch| batch.images.into_iter().map(|image| image.get_pixel(0, 0).0[0]))
        .collect();
    let drawn =
        |images: &[u8], range: std::ops::Range<u8>| images.iter().filter(|n| range.contains(n)).count();
    for epoch in numbers.chunks_exact(32) {
        assert_eq!([drawn(epoch, 0..20), drawn(epoch, 20..29), drawn(epoch, 30..33)], [4, 8, 20]);
    }
    // 14 epochs of 32 are 448 images: of each source all equally often, to one.
    for (range, each) in [(0..20, 448 / 8 / 20), (20..29, 448 / 4 / 9), (30..33, 448 * 5 / 8 / 3)] {
        for number in range {
            let seen = numbers.iter().filter(|found| **found == number).count();
            assert!((each..=each + 1).contains(&seen), "{number}: {seen} times, expected {each}");
        }
    }
    let joined = Arc::new(open());
    assert_eq!(joined.fingerprint().unwrap(), source.fingerprint().unwrap());
    let one = open().weighted(&[]).unwrap();
    let names =
        |source: &Arc<Source>| start(source).take(5).flat_map(|it| it.unwrap().names).collect::<Vec<_>>();
    assert_eq!(names(&joined), names(&Arc::new(one)));
    for (weights, part) in [
        (&[1.0][..], "1 weights for 3 sources"),
        (&[1.0, 0.0, 1.0], "not above 0"),
        (&[1.0, f64::NAN, 1.0], "NaN"),
    ] {
        let error = open().weighted(weights).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn weighted_sources_go_on_as_if_uninterrupted() {
    let (_root, paths) = three();
    let source = Arc::new(Source::open(&paths, Split::All).unwrap().weighted(&[1.0, 2.0, 0.7]).unwrap());
    let whole: Vec<_> = start(&source).take(15).map(Result::unwrap).collect();
    for done in 1..14 {
        let rest = Batches::new(source.clone(), options(), whole[done - 1].next);
        let rest: Vec<_> = rest.take(15 - done).map(Result::unwrap).collect();
        assert!(rest == whole[done..], "after {done} batches");
    }
}

#[test]
fn another_data_set_cannot_be_resumed() {
    let (_root, source) = folder(&pngs(3));
    let far = Position { epoch: 1, index: 3 };
    let error = Batches::new(source, options(), far).next().unwrap().unwrap_err().to_string();
    assert!(error.contains("cannot go on at image 3") && error.contains("has 3"), "{error}");
}

#[test]
fn a_damaged_shard_ends_the_stream() {
    let (root, source) = shards(&pngs(30));
    let path = root.path().join("a.parquet");
    let before = std::fs::metadata(&path).unwrap();
    std::fs::write(&path, vec![0xAB; before.len() as usize]).unwrap();
    // What a disk does to a file leaves its time as it was.
    let damaged = std::fs::File::options().write(true).open(&path).unwrap();
    damaged.set_modified(before.modified().unwrap()).unwrap();
    let error = start(&source).next().unwrap().unwrap_err().to_string();
    assert!(error.contains("a.parquet: cannot read row group"), "{error}");
}

#[test]
#[ignore = "measures the speed on the shards in SEMANTICIST_DATA"]
fn speed() {
    let path = std::env::var_os("SEMANTICIST_DATA").expect("SEMANTICIST_DATA names a folder of shards");
    let source = Arc::new(Source::open(&[path.into()], Split::Train).unwrap());
    let options = BatchOptions { size: 64, batch: 64, ..options() };
    let mut batches = Batches::new(source.clone(), options, Position::default());
    let began = std::time::Instant::now();
    let steps = source.len() / 64;
    assert!(batches.by_ref().take(steps).all(|batch| batch.is_ok()));
    let seconds = began.elapsed().as_secs_f64();
    let (rate, warnings) = ((steps * 64) as f64 / seconds, batches.take_warnings());
    eprintln!("{} images, {rate:.0} images/s, warnings: {warnings:?}", source.len());
}
