//! `encode`.

use std::fs;

use semanticist_data::tokens::{TokenReader, TokenRecord};

use super::{Folder, truncated_jpeg};

fn records(folder: &Folder, name: &str) -> Vec<TokenRecord> {
    TokenReader::open(&folder.path(name)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn files_and_folders_become_tokens() {
    let folder = Folder::new();
    folder.photos(&["p/a/x.png", "p/b/x.png", "p/b/y.png", "z.png"]);
    let encode = |output: &str, options: &str| {
        folder.run(&format!("encode p z.png -o {output} --model model.safetensors {options}")).ok()
    };
    let run = encode("t.parquet", "");
    assert!(run.stdout.starts_with("t.parquet: 4 images, 4 × 4 numbers each, in "), "{}", run.stdout);
    assert_eq!(run.stderr, "");
    let found = records(&folder, "t.parquet");
    let paths: Vec<_> = found.iter().map(|record| (record.path.as_str(), record.label)).collect();
    let expected = [("p/a/x.png", Some(0)), ("p/b/x.png", Some(1)), ("p/b/y.png", Some(1)), ("z.png", None)];
    assert_eq!(paths, expected);

    encode("t.safetensors", "");
    assert_eq!(records(&folder, "t.safetensors"), found, "both forms hold the same");
    encode("batch.parquet", "--batch 3 --threads 1");
    for (one, other) in records(&folder, "batch.parquet").iter().zip(&found) {
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        assert!(one.tokens.iter().zip(&other.tokens).all(near), "the batch changes no token");
    }
    let json = encode("short.parquet", "--tokens 2 --json").json();
    assert_eq!((&json["images"], &json["tokens"]), (&4.into(), &2.into()));
    for (short, whole) in records(&folder, "short.parquet").iter().zip(&found) {
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        assert_eq!(short.tokens.len(), 8);
        assert!(short.tokens.iter().zip(&whole.tokens).all(near), "the first tokens need no others");
    }
}

#[test]
fn one_percent_may_be_broken_and_is_named() {
    let folder = Folder::new();
    (0..200).for_each(|i| folder.photo(&format!("p/{i:03}.png"), i as u8));
    folder.file("p/017.png", &truncated_jpeg());
    folder.file("t.parquet", b"what was there before");
    let encode = "encode p -o t.parquet --tokens 1 --model model.safetensors";
    let run = folder.run(&format!("{encode} --json"));
    assert!(run.stderr.starts_with("skipped p/017.png: truncated JPEG"), "{}", run.stderr);
    let json = run.json();
    assert_eq!(json["images"], 199);
    assert_eq!(json["skipped"][0]["path"], "p/017.png");
    assert_eq!(records(&folder, "t.parquet").len(), 199);

    folder.file("p/018.png", b"");
    folder.file("p/100.png", b"text");
    let before = folder.content();
    let run = folder.run(encode);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("error: 3 of 200 images are broken"), "{}", run.stderr);
    assert!(run.stderr.contains("\n  p/018.png: the file is empty"), "{}", run.stderr);
    assert!(folder.content() == before, "the last good file stays, and nothing else is left");
}

#[test]
fn what_cannot_be_encoded_is_said() {
    let folder = Folder::new();
    folder.photo("cat.png", 3);
    folder.file("taken", b"mine");
    fs::create_dir(folder.path("empty")).unwrap();
    fs::create_dir(folder.path("folder.parquet")).unwrap();
    folder.run("encode cat.png -o tokens.parquet --model model.safetensors").ok();
    let cases = [
        ("cat.png -o t.csv", 2, "expected .parquet or .safetensors"),
        ("cat.png", 2, "--output"),
        ("-o t.parquet", 2, "INPUT"),
        ("cat.png -o t.parquet --tokens 5", 2, "use 1 to 4"),
        ("cat.png -o t.parquet --tokens 0", 2, "whole number from 1"),
        ("cat.png -o t.parquet --batch 0", 2, "whole number from 1"),
        ("cat.png -o t.parquet --split some", 2, "validation"),
        ("cat.png -o missing/t.parquet", 1, "the folder missing does not exist; create it first"),
        ("cat.png -o folder.parquet", 1, "is a folder; give the name of a file"),
        ("cat.png -o taken/t.parquet", 1, "taken is not a folder"),
        ("missing -o t.parquet", 1, "missing: cannot open: No such file"),
        ("empty -o t.parquet", 1, "no images in empty; expected image files"),
        ("tokens.parquet -o t.parquet", 1, "tokens.parquet"),
    ];
    for (arguments, code, part) in cases {
        folder.fails(&format!("encode {arguments} --model model.safetensors"), code, part);
    }
    #[cfg(target_os = "linux")]
    folder.fails("encode cat.png -o /proc/t.parquet --model model.safetensors", 1, "/proc/t.parquet: cannot");
}
