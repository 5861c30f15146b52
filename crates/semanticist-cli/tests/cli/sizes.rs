//! Images of any size and shape, and models that are too large.

use std::fs::File;
use std::io::Write;

use semanticist::image::{RgbImage, save_png};
use semanticist::model::{shapes, tokenizer_metadata};
use semanticist::weights::Dtype;
use semanticist::weights::header::{self, Entry};
use semanticist_data::tokens::TokenReader;

use super::{CONFIG, Folder, near, size};

const PAINT: &str = "--model model.safetensors --steps 2";

#[test]
fn a_model_serves_other_sizes_and_says_so() {
    let folder = Folder::new();
    folder.photos(&["p/x.png", "p/y.png"]);
    let run = folder.run("encode p -o large.parquet --size 24 --model model.safetensors").ok();
    assert!(run.stderr.contains("was trained on 16×16 pixels, not 24×24"), "{}", run.stderr);
    folder.run("encode p -o own.parquet --size 16 --model model.safetensors").ok();
    folder.run("encode p -o plain.parquet --model model.safetensors").ok();
    let tokens = |name: &str| -> Vec<Vec<f32>> {
        TokenReader::open(&folder.path(name)).unwrap().map(|record| record.unwrap().tokens).collect()
    };
    assert_eq!(tokens("own.parquet"), tokens("plain.parquet"), "its own size changes nothing");
    assert_ne!(tokens("large.parquet"), tokens("plain.parquet"));
    // The tokens are of the same model, and of no size.
    for side in [8, 24] {
        let run = folder.run(&format!("decode large.parquet -o out{side} --size {side} {PAINT}")).ok();
        assert!(run.stderr.contains("was trained on 16×16"), "{}", run.stderr);
        assert_eq!(size(&folder.path(&format!("out{side}/x.png"))), (side, side));
    }
    folder.run(&format!("reconstruct p/x.png -o sheet.png --tokens 4 --size 32 {PAINT}")).ok();
    for (wrong, part) in [("18", "18 is not a multiple of patch size 4"), ("0", "whole number from 1")] {
        folder.fails(&format!("encode p -o t.parquet --size {wrong} --model model.safetensors"), 2, part);
    }
}

#[test]
fn what_is_not_square_is_cropped_or_padded_but_never_squeezed() {
    let folder = Folder::new();
    // Its sides are white, its middle is black.
    let sides = |x: u32| if (8..24).contains(&x) { 0 } else { 255 };
    let wide = RgbImage::from_fn(32, 16, |x, _| image::Rgb([sides(x); 3]));
    save_png(&wide, &folder.path("wide.png")).unwrap();
    let sheet = |fit: &str| {
        let name = format!("{fit}.png");
        folder.run(&format!("reconstruct wide.png -o {name} --tokens 4 --fit {fit} {PAINT}")).ok();
        semanticist::image::open(&folder.path(&name)).unwrap()
    };
    let (cropped, padded) = (sheet("crop"), sheet("pad"));
    // The original stands first, 12 pixels from the corner: 16×16 magnified 12 times, 16×8 24 times.
    assert!((0..192).all(|x| cropped.get_pixel(12 + x, 100).0 == [0; 3]), "only the middle is left");
    let row: Vec<u8> = (0..16).map(|x| padded.get_pixel(12 + 24 * x + 12, 100).0[0]).collect();
    assert!(row[0] > 200 && row[8] < 50 && row[15] > 200, "{row:?}");
    assert_eq!(padded.width(), 12 + 2 * (16 * 24 + 12));

    folder.run("encode wide.png -o crop.parquet --model model.safetensors").ok();
    folder.run("encode wide.png -o pad.parquet --fit pad --model model.safetensors").ok();
    assert!(folder.bytes("crop.parquet") != folder.bytes("pad.parquet"));
    for (tokens, expected) in [("crop", (16, 16)), ("pad", (16, 8))] {
        folder.run(&format!("decode {tokens}.parquet -o {tokens} {PAINT}")).ok();
        assert_eq!(size(&folder.path(&format!("{tokens}/wide.png"))), expected, "{tokens}");
    }
    folder.run("encode wide.png -o pad.safetensors --fit pad --model model.safetensors").ok();
    folder.run(&format!("decode pad.safetensors -o again {PAINT}")).ok();
    assert!(near(&folder.path("again/wide.png"), &folder.path("pad/wide.png")));
    folder.fails("encode wide.png -o t.parquet --fit squeeze --model model.safetensors", 2, "crop, pad");
}

/// A file of a model whose weights are nearly a terabyte of zeros that take no room on the disk.
fn huge(folder: &Folder) {
    let wide = CONFIG.replacen("\"width\": 32", "\"width\": 131072", 1);
    let config: semanticist::TokenizerConfig = serde_json::from_str(&wide).unwrap();
    let shapes = shapes(&config).unwrap();
    let entry = |(name, shape): (&String, &Vec<usize>)| Entry {
        name: name.clone(),
        dtype: Dtype::F32,
        shape: shape.clone(),
    };
    let entries: Vec<Entry> = shapes.iter().map(entry).collect();
    let header = header::write(&entries, &tokenizer_metadata(&config), 0);
    let numbers: usize = shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
    let mut file = File::create(folder.path("huge.safetensors")).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(header.len() as u64 + 4 * numbers as u64).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_fit_is_refused_before_it_is_tried() {
    let folder = Folder::new();
    folder.photo("cat.png", 3);
    folder.run("encode cat.png -o tokens.parquet --model model.safetensors").ok();
    huge(&folder);
    for command in [
        "encode cat.png -o t.parquet --model huge.safetensors",
        "reconstruct cat.png --model huge.safetensors",
        "decode tokens.parquet -o out --model huge.safetensors --force",
    ] {
        let run = folder.run(command);
        assert_eq!(run.code, Some(1), "{command}: {}", run.stderr);
        assert!(
            run.stderr.contains("GiB of memory, 768.") && run.stderr.contains("are free"),
            "{}",
            run.stderr
        );
        assert!(run.stderr.contains("--no-memory-check"), "{}", run.stderr);
    }
    // What it holds is told all the same, and what it would need.
    let told = folder.run("models info huge.safetensors --json");
    assert!(told.stderr.contains("smaller model or a machine with more memory"), "{}", told.stderr);
    let info = told.json();
    assert!(info["hash"].is_null() && info["memory"]["weights"].as_u64().unwrap() > 768 << 30);
    assert_eq!(info["config"]["encoder"]["blocks"]["width"], 131_072);
    folder.run("encode cat.png -o t.parquet --no-memory-check --model model.safetensors").ok();
}
