//! `decode`.

use std::fs;

use semanticist::ModelFile;
use semanticist_data::tokens::{TokenFileInfo, TokenRecord, TokenWriter};

use super::{Folder, near, size};

const PAINT: &str = "--model model.safetensors --steps 2";

fn encoded() -> Folder {
    let folder = Folder::new();
    folder.photos(&["p/a/x.png", "p/b/x.png", "p/b/y.png"]);
    folder.run("encode p -o t.parquet --model model.safetensors").ok();
    folder
}

/// A file of random tokens of the model, with these paths.
fn write_tokens(folder: &Folder, name: &str, paths: &[&str], value: f32) {
    let device = burn::tensor::Device::flex();
    let model_hash = ModelFile::open(&folder.path("model.safetensors"))
        .unwrap()
        .into_tokenizer()
        .unwrap()
        .load(&device)
        .unwrap()
        .hash()
        .unwrap()
        .to_string();
    let info = TokenFileInfo { model_hash, tokens: 4, token_dim: 4 };
    let mut writer = TokenWriter::create(&folder.path(name), info).unwrap();
    for path in paths {
        let path = path.to_string();
        writer.push(&TokenRecord { path, label: None, tokens: vec![value; 16], padded: None }).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn tokens_become_pictures_named_as_the_photos() {
    let folder = encoded();
    let run = folder.run(&format!("decode t.parquet -o out/all {PAINT}")).ok();
    assert!(run.stdout.starts_with("out/all: 3 images of 4 tokens each, in "), "{}", run.stdout);
    for name in ["a/x", "b/x", "b/y"] {
        assert_eq!(size(&folder.path(&format!("out/all/{name}.png"))), (16, 16));
    }
    let picture = |out: &str, options: &str| {
        folder.run(&format!("decode t.parquet -o {out} {PAINT} {options}")).ok();
        folder.path(&format!("{out}/b/y.png"))
    };
    let whole = folder.path("out/all/b/y.png");
    assert!(folder.bytes("out/all/b/y.png") == fs::read(picture("again", "--threads 1")).unwrap());
    assert!(near(&picture("one", "--batch 1"), &whole), "neighbours make no difference");
    assert!(!near(&picture("seed", "--seed 5"), &whole));
    let short = picture("short", "--tokens 2");
    assert!(!near(&short, &whole));

    folder.run("encode p -o short.safetensors --tokens 2 --model model.safetensors").ok();
    let json = folder.run(&format!("decode short.safetensors -o json {PAINT} --json")).json();
    assert_eq!((&json["tokens"], &json["folder"]), (&2.into(), &"json".into()));
    assert_eq!(json["images"][2]["path"], "p/b/y.png");
    assert_eq!(json["images"][2]["file"], "json/b/y.png");
    assert!(near(&folder.path("json/b/y.png"), &short), "a short file is as a file cut short");
}

#[test]
fn a_decoded_photo_is_the_reconstructed_one() {
    let folder = encoded();
    folder.run(&format!("decode t.parquet -o out {PAINT}")).ok();
    let sheet = format!("reconstruct p/b/y.png -o sheet.png --tokens 4 {PAINT}");
    folder.run(&sheet).ok();
    let open = |name: &str| semanticist::image::open(&folder.path(name)).unwrap();
    let (picture, sheet) = (open("out/b/y.png"), open("sheet.png"));
    let large = image::imageops::resize(&picture, 192, 192, image::imageops::FilterType::CatmullRom);
    for (x, y, pixel) in large.enumerate_pixels() {
        let cell = sheet.get_pixel(12 + 192 + 12 + x, 12 + y);
        assert!(cell.0.iter().zip(pixel.0).all(|(a, b)| a.abs_diff(b) <= 2), "{x} {y}: {cell:?} {pixel:?}");
    }
}

#[test]
fn no_name_leaves_the_folder_or_replaces_another() {
    let folder = Folder::new();
    let paths =
        ["../x.png", "../../x.png", "/etc/x.png", "C:\\x.png", "", "..", "x.jpg", "s.parquet#3 (x.png)"];
    write_tokens(&folder, "t.safetensors", &paths, 0.5);
    let before = folder.names().len();
    let json = folder.run(&format!("decode t.safetensors -o deep/out {PAINT} --json")).json();
    assert_eq!(json["images"].as_array().unwrap().len(), paths.len());
    let decoded = folder.names().iter().filter(|name| name.starts_with("deep/out/")).count();
    assert_eq!((decoded, folder.names().len()), (paths.len(), before + paths.len()), "{:?}", folder.names());
}

#[test]
fn tokens_of_another_model_are_refused() {
    let folder = encoded();
    folder.model("other.safetensors", 2);
    let decode = "decode t.parquet -o out --steps 2 --model other.safetensors";
    folder.fails(decode, 1, "decode them all the same with --force");
    folder.run(&format!("{decode} --force")).ok();
    // The built-in one has tokens of another width, which no force can decode.
    folder.fails("decode t.parquet -o out --force", 1, "t.parquet: holds 4 tokens of 4 numbers");
}

#[test]
fn pictures_that_are_there_stay() {
    let folder = encoded();
    fs::create_dir_all(folder.path("out/b")).unwrap();
    folder.file("out/b/x.png", b"mine");
    let decode = format!("decode t.parquet -o out {PAINT}");
    folder.fails(&decode, 1, "b/x.png: is already there; give an empty folder, or --overwrite");
    folder.run(&format!("{decode} --overwrite")).ok();
    assert_eq!(size(&folder.path("out/b/x.png")), (16, 16));
}

#[test]
fn what_cannot_be_decoded_is_said() {
    let folder = encoded();
    folder.file("taken", b"mine");
    folder.file("empty.parquet", b"");
    folder.file("text.safetensors", b"tokens, tokens, tokens");
    let whole = folder.bytes("t.parquet");
    folder.file("half.parquet", &whole[..whole.len() / 2]);
    write_tokens(&folder, "nan.parquet", &["cat.png"], f32::NAN);
    let cases = [
        ("t.parquet", 2, "--output"),
        ("t.parquet -o out --tokens 5", 2, "the file has 4 tokens per image; use 1 to 4"),
        ("t.parquet -o out --tokens 0", 2, "whole number from 1"),
        ("t.parquet -o out --batch none", 2, "whole number from 1"),
        ("t.parquet -o out --sampler euler", 2, "\"euler\" is one of flows"),
        ("t.parquet -o taken", 1, "taken: is a file; give the name of a folder"),
        ("t.parquet -o taken/out", 1, "taken/out: cannot create the folder"),
        ("missing.parquet -o out", 1, "missing.parquet: cannot read"),
        ("p/a/x.png -o out", 1, "expected .parquet or .safetensors"),
        ("empty.parquet -o out", 1, "empty.parquet: is not a readable Parquet file"),
        ("half.parquet -o out", 1, "half.parquet: is not a readable Parquet file"),
        ("text.safetensors -o out", 1, "text.safetensors"),
        ("model.safetensors -o out", 1, "expected a token file"),
        ("nan.parquet -o out", 1, "the tokens of cat.png are not finite numbers"),
    ];
    for (arguments, code, part) in cases {
        folder.fails(&format!("decode {arguments} --model model.safetensors"), code, part);
    }
    folder.fails("decode t.parquet -o out --steps 2000 --model model.safetensors", 2, "use 2 to 1000");
}
