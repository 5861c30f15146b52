use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Int64Array, StringArray};

use super::super::testing::{png, put, shard, write, write_described};
use super::super::webdataset::tests::archive;
use super::*;

fn open(paths: &[&Path]) -> Result<Source> {
    Source::open(&paths.iter().map(|path| path.to_path_buf()).collect::<Vec<_>>(), Split::All)
}

/// Each record's label and the number drawn in its image.
fn found(source: &Source) -> Vec<(Option<i64>, usize)> {
    let records: Vec<_> = source.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), source.len());
    let number = |record: &Record| (0..40).find(|&number| png(number) == record.bytes).unwrap();
    records.iter().map(|record| (record.label, number(record))).collect()
}

#[test]
fn class_folders_give_labels() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "dog/2.JPEG", &png(2));
    put(root.path(), "cat/deep/er/1.png", &png(1));
    put(root.path(), "cat/0.webp", &png(0));
    put(root.path(), "cat/notes.txt", b"not an image");
    put(root.path(), "cat/.hidden.png", b"");
    put(root.path(), ".git/x.png", b"");
    put(root.path(), "empty/readme", b"");
    let source = open(&[root.path()]).unwrap();
    assert_eq!(source.classes().unwrap(), ["cat", "dog", "empty"]);
    assert_eq!(found(&source), [(Some(0), 0), (Some(0), 1), (Some(1), 2)]);
    assert_eq!(source.skipped(), 2);
}

#[test]
fn labels_agree_across_folders() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "a/cat/0.png", &png(0));
    put(root.path(), "a/dog/1.png", &png(1));
    put(root.path(), "b/dog/2.png", &png(2));
    put(root.path(), "3.anything", &png(3));
    let source =
        open(&[&root.path().join("a"), &root.path().join("b"), &root.path().join("3.anything")]).unwrap();
    assert_eq!(found(&source), [(Some(0), 0), (Some(1), 1), (Some(1), 2), (None, 3)]);
}

#[test]
fn tar_files_are_shards_of_a_split_and_lists_say_where_images_are() {
    let root = tempfile::tempdir().unwrap();
    for (name, number, label) in [("train-0.tar", 0, "4"), ("train-1.tar", 1, "5"), ("val-0.tar", 2, "4")] {
        archive(&root.path().join(name), &[("a.png", &png(number)), ("a.cls", label.as_bytes())]);
    }
    let folder = [root.path().to_path_buf()];
    let [training, validation] =
        [Split::Train, Split::Validation].map(|it| Source::open(&folder, it).unwrap());
    assert_eq!(found(&training), [(Some(4), 0), (Some(5), 1)]);
    assert_eq!((found(&validation), validation.classes()), (vec![(Some(4), 2)], None));
    assert_ne!(training.fingerprint().unwrap(), open(&[root.path()]).unwrap().fingerprint().unwrap());

    put(root.path(), "images/3.png", &png(3));
    put(root.path(), "images/4.png", &png(4));
    let (named, numbered) = (root.path().join("named.jsonl"), root.path().join("numbered.jsonl"));
    let line = |number: usize, more: &str| format!("{{\"image\": \"images/{number}.png\"{more}}}\n");
    std::fs::write(&named, line(4, ", \"class\": \"dog\"") + &line(3, ", \"class\": \"cat\"")).unwrap();
    std::fs::write(&numbered, line(3, ", \"label\": 9") + &line(4, "")).unwrap();
    let source = open(&[&named]).unwrap();
    assert_eq!(source.classes().unwrap(), ["cat", "dog"]);
    assert_eq!(found(&source), [(Some(1), 4), (Some(0), 3)]);
    assert_eq!(found(&open(&[&numbered]).unwrap()), [(Some(9), 3), (None, 4)]);
}

#[test]
fn shards_that_agree_name_their_classes() {
    let root = tempfile::tempdir().unwrap();
    let described = |name: &str, classes: &str| {
        let label = format!(r#"{{"_type": "ClassLabel", "names": {classes}}}"#);
        let text = format!(r#"{{"info": {{"features": {{"label": {label}}}}}}}"#);
        let images: ArrayRef = Arc::new(BinaryArray::from_iter_values([png(0)]));
        write_described(&root.path().join(name), &[("image", images)], 1, Some(&text));
        root.path().join(name)
    };
    let first = described("0.parquet", r#"["cat", "dog"]"#);
    let second = described("1.parquet", r#"["cat", "dog"]"#);
    let other = described("2.parquet", r#"["bird"]"#);
    assert_eq!(open(&[&first, &second]).unwrap().classes().unwrap(), ["cat", "dog"]);
    assert_eq!(open(&[&first, &other]).unwrap().classes(), None);
}

#[test]
fn folders_of_splits_are_not_classes() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "train/dog/0.png", &png(0));
    put(root.path(), "val/dog/1.png", &png(1));
    let of = |split| found(&Source::open(&[root.path().to_path_buf()], split).unwrap());
    assert_eq!(of(Split::Train), [(Some(0), 0)]);
    assert_eq!(of(Split::Validation), [(Some(0), 1)]);
    assert_eq!(of(Split::All).len(), 2);
}

#[test]
fn all_layouts_give_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let images: Vec<_> = (0..10).map(|number| Some(png(number))).collect();
    for (number, image) in images.iter().enumerate() {
        put(root.path(), &format!("flat/{number}.png"), image.as_ref().unwrap());
    }
    put(root.path(), "shards/README.md", b"");
    shard(&root.path().join("shards/a.parquet"), &images[..7], 3);
    shard(&root.path().join("shards/b.parquet"), &images[7..], 100);
    let plain: ArrayRef = Arc::new(BinaryArray::from_iter_values(images.iter().flatten()));
    write(&root.path().join("plain.parquet"), &[("image", plain)], 4);

    let numbers = |path: &str| {
        let source = open(&[&root.path().join(path)]).unwrap();
        (source.chunks().len(), found(&source).into_iter().map(|(_, number)| number).collect::<Vec<_>>())
    };
    let all: Vec<_> = (0..10).collect();
    assert_eq!(numbers("flat"), (10, all.clone()));
    assert_eq!(numbers("shards"), (4, all.clone()));
    assert_eq!(numbers("plain.parquet"), (3, all));
}

#[test]
fn rows_of_a_shard_are_named_and_labelled() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.parquet");
    shard(&path, &[Some(png(0)), Some(png(1)), None, Some(png(3))], 2);
    let records: Vec<_> = open(&[&path]).unwrap().records().collect();
    let name = |row: &str| format!("{}#{row}", path.display());
    assert_eq!(records[0].as_ref().unwrap().name, name("0 (0.png)"));
    assert_eq!(records[1].as_ref().unwrap().name, name("1"));
    assert_eq!(records[3].as_ref().unwrap().label, Some(3));
    let missing = records[2].as_ref().unwrap_err();
    assert!(matches!(missing, Error::Image { name: found, .. } if *found == name("2 (2.png)")));
}

#[test]
fn splits_are_chosen_by_name() {
    let root = tempfile::tempdir().unwrap();
    for (number, name) in ["train-0.parquet", "validation-0.parquet", "extra.parquet"].iter().enumerate() {
        shard(&root.path().join(name), &[Some(png(number))], 9);
    }
    let of = |split| {
        let source = Source::open(&[root.path().to_path_buf()], split).unwrap();
        (found(&source).into_iter().map(|(_, number)| number).collect::<Vec<_>>(), source.skipped())
    };
    assert_eq!(of(Split::Train), (vec![0], 2));
    assert_eq!(of(Split::Validation), (vec![1], 2));
    assert_eq!(of(Split::All), (vec![2, 0, 1], 0));
    fs::remove_file(root.path().join("train-0.parquet")).unwrap();
    let error = Source::open(&[root.path().to_path_buf()], Split::Train).unwrap_err().to_string();
    assert!(error.contains("none of the 2 shards") && error.contains("\"train\""), "{error}");
}

#[test]
fn what_cannot_be_used_is_named() {
    let root = tempfile::tempdir().unwrap();
    let error = |path: &Path| open(&[path]).unwrap_err().to_string();
    assert!(error(root.path()).contains("no images in"), "{}", error(root.path()));
    assert!(error(&root.path().join("none")).contains("cannot open"));
    let path = root.path().join("a.parquet");
    fs::write(&path, b"PAR1 nonsense").unwrap();
    assert!(error(&path).contains("not a readable Parquet file"));
    let (text, number): (ArrayRef, ArrayRef) =
        (Arc::new(StringArray::from(vec!["x"])), Arc::new(Int64Array::from(vec![1])));
    write(&path, &[("image", text), ("id", number)], 1);
    let message = error(&path);
    assert!(
        message.contains("found the columns [image: Utf8, id: Int64]; expected image: Binary"),
        "{message}"
    );
}

#[cfg(unix)]
#[test]
fn loops_of_links_end_and_dangling_links_are_broken_images() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "dog/0.png", &png(0));
    std::os::unix::fs::symlink(root.path(), root.path().join("dog/loop")).unwrap();
    std::os::unix::fs::symlink(root.path(), root.path().join("again")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.path().join("dog/1.png")).unwrap();
    let source = open(&[root.path()]).unwrap();
    assert_eq!(source.classes().unwrap(), ["dog"]);
    let records: Vec<_> = source.records().collect();
    assert_eq!(records.len(), 2);
    assert!(matches!(&records[1], Err(Error::Image { problem, .. }) if problem.contains("cannot read")));
}

#[test]
fn pools_shrink_for_large_images() {
    assert_eq!(pool_rows(0, 0, 1), 4096, "files are not held in memory");
    assert_eq!(pool_rows(50_000, 50_000 * 2_000, 1), 4096);
    assert_eq!([pool_rows(1000, 1000 << 20, 1), pool_rows(1000, 1000 << 20, 2)], [512, 256]);
    assert_eq!(pool_rows(2, 5 << 30, 1), 1);
}

#[test]
fn spread_records_see_all_of_the_data() {
    let root = tempfile::tempdir().unwrap();
    let images: Vec<_> = (0..10).map(|number| Some(png(number))).collect();
    shard(&root.path().join("shard.parquet"), &images, 4);
    (10..20).for_each(|number| put(root.path(), &format!("files/{number}.png"), &png(number)));
    let source = open(&[&root.path().join("shard.parquet"), &root.path().join("files")]).unwrap();
    let numbers = |count| {
        let records = source.spread_records(count).map(|record| record.unwrap().bytes);
        records.map(|bytes| (0..20).find(|&n| png(n) == bytes).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(4), [0, 5, 10, 15]);
    assert_eq!(numbers(100), (0..20).collect::<Vec<_>>());
    assert!(numbers(0).is_empty());
}

#[test]
fn a_fingerprint_tells_data_apart_but_not_places() {
    let root = tempfile::tempdir().unwrap();
    let make = |folder: &str, label: &str, numbers: std::ops::Range<usize>| {
        let folder = root.path().join(folder);
        numbers.for_each(|number| put(&folder, &format!("{label}/{number}.png"), &png(number)));
        open(&[&folder]).unwrap().fingerprint().unwrap()
    };
    let first = make("a", "cat", 0..6);
    assert_eq!(first, make("elsewhere/b", "cat", 0..6));
    assert!(first.starts_with("6:"), "{first}");
    assert_ne!(first, make("c", "cat", 0..5), "an image less");
    assert_ne!(first, make("d", "cat", 1..7), "other images");
    let images: Vec<_> = (0..6).map(|number| Some(png(number))).collect();
    let of_shard = |group| {
        let path = root.path().join(format!("{group}.parquet"));
        shard(&path, &images, group);
        open(&[&path]).unwrap().fingerprint().unwrap()
    };
    assert_ne!(of_shard(2), of_shard(3), "the order of an epoch depends on the row groups");
}

#[test]
fn a_shard_that_changes_or_vanishes_while_it_is_used_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.parquet");
    let images = |count: usize| (0..count).map(|number| Some(png(number))).collect::<Vec<_>>();
    shard(&path, &images(4), 2);
    let source = open(&[&path]).unwrap();
    assert!(source.records().all(|record| record.is_ok()));
    shard(&path, &images(5), 2);
    let error = source.records().find_map(Result::err).unwrap().to_string();
    assert!(error.contains("train.parquet: the file changed while it was in use"), "{error}");
    fs::remove_file(&path).unwrap();
    let error = source.records().find_map(Result::err).unwrap().to_string();
    assert!(error.contains("train.parquet: cannot open"), "{error}");
}
