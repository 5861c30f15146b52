//! `--tokenizer`: TiTok and LlamaGen's VQ-16 in the place of a tokenizer of ours.

use std::path::Path;

use semanticist::weights::{self, Metadata, Precision};
use semanticist_data::tokens::TokenReader;
use serde_json::Value;

use super::Folder;

/// Three photos and narrow tokenizers with random weights: TiTok of 5 tokens of 6 numbers, VQ-16 of 256 of 4.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.photos(&["photos/a/1.png", "photos/a/2.png", "photos/b/3.png"]);
    ["titok", "vq"].into_iter().for_each(|name| tokenizer(&folder, name));
    folder
}

/// Puts the recorded weights of a tokenizer into a file.
pub fn tokenizer(folder: &Folder, name: &str) {
    let recording = format!("../semanticist-verify/tests/data/reference/{name}.safetensors");
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join(recording);
    let weights = weights::load(&recording).unwrap().0.split_prefix("weights.");
    let path = folder.path(&format!("{name}.safetensors"));
    weights::save(&path, &weights, &Metadata::new(), Precision::F16).unwrap();
}

const PHOTOS: &str = "photos/a/1.png photos/a/2.png photos/b/3.png";

fn psnr(report: &Value, image: usize) -> Vec<f64> {
    let rows = report["images"][image]["rows"].as_array().unwrap();
    rows.iter().map(|row| row["psnr"].as_f64().unwrap()).collect()
}

#[test]
fn images_come_back_from_parts_of_their_tokens() {
    let folder = folder();
    let reconstruct = "reconstruct --tokenizer titok=titok.safetensors --json";
    let report = folder.run(&format!("{reconstruct} photos/a/1.png -o sheet.png")).json();
    let tokens = |row: &Value| row["tokens"].as_u64().unwrap();
    let rows = report["images"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(tokens).collect::<Vec<_>>(), [1, 2, 4, 5]);
    assert!(folder.path("sheet.png").exists());
    let first = psnr(&report, 0);
    assert!(first[0] != first[1], "what a token adds shows");
    // Components of three images: two of them, which are fewer numbers than one token has; so one says all.
    let pca =
        folder.run(&format!("{reconstruct} {PHOTOS} -o out/ --decomposition pca --tokens 0,1,5")).json();
    let found = psnr(&pca, 0);
    assert!(found[0] != found[1] && (found[1] - found[2]).abs() < 1e-9, "{found:?}");
    assert!((found[2] - first[3]).abs() < 1e-3, "all components are the tokens: {found:?} {first:?}");
    let vq = "reconstruct --tokenizer vq=vq.safetensors photos/b/3.png -o vq.png --tokens 0,64,256";
    let out = folder.run(vq).ok();
    assert!(out.stdout.contains("   256"), "{}", out.stdout);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let folder = folder();
    let reconstruct = "reconstruct photos/a/1.png --tokenizer titok=titok.safetensors -o x.png";
    folder.fails(
        &format!("{reconstruct} --decomposition pca"),
        2,
        "fitted to the given images; give several",
    );
    folder.fails(&format!("{reconstruct} --decomposition first-k,pca"), 2, "one of first-k and pca");
    folder.fails(&format!("{reconstruct} --decomposition half"), 2, "first-k, pca");
    folder.fails(
        &format!("{reconstruct} --steps 3"),
        2,
        "--steps: TiTok computes in float32 and decodes in one pass",
    );
    folder.fails(&format!("{reconstruct} --precision bfloat16"), 2, "--precision");
    folder.fails(&format!("{reconstruct} --size 32"), 2, "--size");
    folder.fails(&format!("{reconstruct} --model model.safetensors"), 2, "cannot be used with");
    folder.fails(&format!("{reconstruct} --tokens 6"), 2, "the model has 5 tokens");
    folder.fails("reconstruct photos/a/1.png --decomposition pca -o x.png", 2, "--tokenizer");
    folder.fails("reconstruct photos/a/1.png --tokenizer dalle=x -o x.png", 2, "titok, vq");
    folder.fails("reconstruct photos/a/1.png --tokenizer titok -o x.png", 2, "NAME=FILE");
    let other = "reconstruct photos/a/1.png -o x.png --tokenizer";
    folder.fails(&format!("{other} vq=titok.safetensors"), 1, "is not the VQ-16 of LlamaGen");
    folder.fails(&format!("{other} titok=model.safetensors"), 1, "is not a TiTok");
    folder.fails(&format!("{other} titok=photos/a/1.png"), 1, "expected a checkpoint");
}

#[test]
fn encoding_writes_entries_of_the_codebook() {
    let folder = folder();
    folder.run("encode photos -o all.safetensors --tokenizer titok=titok.safetensors").ok();
    folder.run("encode photos -o two.parquet --tokenizer titok=titok.safetensors --tokens 2 --batch 2").ok();
    let read = |name: &str| TokenReader::open(&folder.path(name)).unwrap();
    assert_eq!((read("all.safetensors").info().tokens, read("all.safetensors").info().token_dim), (5, 6));
    for (all, two) in read("all.safetensors").zip(read("two.parquet")) {
        let (all, two) = (all.unwrap(), two.unwrap());
        assert_eq!((all.tokens.len(), &all.path), (30, &two.path));
        assert_eq!(all.tokens[..12], two.tokens);
        for vector in all.tokens.chunks(6) {
            let length: f32 = vector.iter().map(|value| value * value).sum();
            assert!((length - 1.0).abs() < 1e-5, "{length}");
        }
    }
    folder.run("encode photos -o codes.parquet --tokenizer titok=titok.safetensors --codes").ok();
    assert_eq!(read("codes.parquet").info().token_dim, 1);
    let codes: Vec<f32> = read("codes.parquet").flat_map(|record| record.unwrap().tokens).collect();
    assert!(codes.len() == 15 && codes.iter().all(|code| code.fract() == 0.0 && (0.0..24.0).contains(code)));
    // Equal codes are equal entries, and the reverse.
    let vectors: Vec<f32> = read("all.safetensors").flat_map(|record| record.unwrap().tokens).collect();
    let vectors: Vec<_> = vectors.chunks(6).collect();
    for (a, code) in codes.iter().enumerate() {
        for (b, other) in codes.iter().enumerate() {
            assert_eq!(code == other, vectors[a] == vectors[b], "{a} {b}");
        }
    }
    folder.fails("encode photos -o x.parquet --codes", 2, "--tokenizer");
    // A decoder of ours has nothing to do with them.
    folder.fails("decode all.safetensors -o out --model model.safetensors", 1, "5 tokens of 6 numbers");
}

#[test]
fn reconstruction_has_a_row_for_every_count_and_decomposition() {
    let folder = folder();
    let evaluate =
        "evaluate reconstruction --data photos --tokenizer titok=titok.safetensors --json found.json";
    folder.run(evaluate).ok();
    let found: Value = serde_json::from_slice(&std::fs::read(folder.path("found.json")).unwrap()).unwrap();
    assert_eq!(found["made"]["model"]["name"], "TiTok");
    assert_eq!((&found["made"]["images"], &found["made"]["image_size"]), (&3.into(), &16.into()));
    let table = &found["tables"][0];
    assert_eq!(table["columns"], serde_json::json!(["images from", "kept", "bits", "PSNR dB", "SSIM"]));
    let rows = table["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| (row[0].as_str().unwrap(), row[1].as_str().unwrap())).collect();
    let counts = ["0 tokens", "1 token", "2 tokens", "4 tokens", "5 tokens"];
    let expected: Vec<_> =
        ["first-k", "pca"].iter().flat_map(|kind| counts.map(|count| (count, *kind))).collect();
    assert_eq!(names, expected);
    // All tokens are all tokens, whichever way: of three images, components of three say everything.
    let [first, pca] = [4, 9].map(|row: usize| rows[row][3].as_f64().unwrap());
    assert!((first - pca).abs() < 1e-3, "{first} {pca}");
    let bits = rows[4][2].as_f64().unwrap();
    assert!((bits - 5.0 * 24f64.log2()).abs() < 1e-9 && rows[9][2].is_null());
    // The same sheet of a single image, and the same call, are the same numbers.
    let report =
        folder.run(&format!("reconstruct {PHOTOS} --tokenizer titok=titok.safetensors -o out/ --json"));
    let report = report.json();
    let mean = (0..3).map(|image| psnr(&report, image)[3]).sum::<f64>() / 3.0;
    assert!((mean - first).abs() < 1e-6, "{mean} {first}");
    assert!(folder.run(evaluate).stderr.contains("has it already"));
    assert!(!folder.run(&format!("{evaluate} --decomposition pca")).stderr.contains("has it already"));
}

#[test]
fn spectra_are_drawn_for_each_decomposition() {
    let folder = folder();
    let evaluate = "evaluate spectrum --data photos --tokenizer vq=vq.safetensors --tokens 64,256";
    let found = folder.run(&format!("{evaluate} --series Same=photos --json --plot found.svg")).json();
    let table = &found["tables"][0];
    assert_eq!(table["columns"], serde_json::json!(["pictures from", "first-k", "pca"]));
    let rows = table["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    assert!(rows[0][1].as_f64().unwrap() > 0.0 && rows[0][1] != rows[1][1]);
    assert_eq!((&rows[2][0], rows[2][1].as_f64()), (&"Same".into(), Some(0.0)));
    let svg = std::fs::read_to_string(folder.path("found.svg")).unwrap();
    assert!(svg.contains("Spectrum from the first tokens") && svg.contains("principal components of tokens"));
    let one = folder.run(&format!("{evaluate} --decomposition first-k --json")).json();
    assert_eq!(one["tables"][0]["rows"][0][1], rows[0][1]);
    assert_eq!(one["tables"][0]["columns"], serde_json::json!(["pictures from", "first-k"]));
}
