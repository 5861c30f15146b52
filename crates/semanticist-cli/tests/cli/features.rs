//! `evaluate frechet` and `evaluate generation` in the features of published networks, and statistics in files.

use std::path::Path;

use semanticist::weights::{self, Metadata, Precision};
use serde_json::Value;

use super::Folder;

/// More pictures than the features of a narrow Inception-v3, 128, with random weights, and that network.
fn folder() -> Folder {
    let folder = Folder::new();
    let recording = "../semanticist-verify/tests/data/reference/inception.safetensors";
    let (mut recording, _) = weights::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(recording)).unwrap();
    let weights = recording.split_prefix("weights.");
    let path = folder.path("inception.safetensors");
    weights::save(&path, &weights, &Metadata::new(), Precision::F16).unwrap();
    for number in 0..130u8 {
        folder.photo(&format!("set/val/{number}.png"), number);
        folder.photo(&format!("set/train/{number}.png"), number.wrapping_mul(5).wrapping_add(3));
    }
    folder
}

const FEATURES: &str = "--images 130 --training-images 4 --features inception=inception.safetensors";

/// A cell by the names of its row and column.
fn cell(found: &Value, row: &str, column: &str) -> Value {
    let table = &found["tables"][0];
    let columns = table["columns"].as_array().unwrap();
    let at =
        columns.iter().position(|name| name == column).unwrap_or_else(|| panic!("{column} in {columns:?}"));
    let rows = table["rows"].as_array().unwrap();
    let row = rows.iter().find(|cells| cells[0] == row).unwrap_or_else(|| panic!("{row} in {rows:?}"));
    row[at].clone()
}

/// It fails after it remarked on the data.
fn fails_later(folder: &Folder, arguments: &str, part: &str) {
    let run = folder.run(arguments);
    assert!(run.code != Some(0) && run.stderr.contains(part), "{arguments}: {}", run.stderr);
}

#[test]
fn generated_pictures_have_fid_from_images_and_from_statistics() {
    let folder = folder();
    let evaluate = format!("evaluate generation --data set {FEATURES} --json");
    let found = folder.run(&format!("{evaluate} --series drawn=set/train --save-statistics own.npz")).json();
    let fid = cell(&found, "drawn", "FID of 130 images").as_f64().unwrap();
    assert_eq!(found["made"]["image_size"], 17);
    assert!(fid > 0.0 && cell(&found, "the images", "FID of 130 images").is_null());
    assert!(cell(&found, "the images", "IS").as_f64().unwrap() >= 1.0);
    // The features of sFID are 2023.
    assert!(cell(&found, "drawn", "sFID").is_null());
    let sentence = found["sentences"][0].as_str().unwrap();
    for part in [
        "not the published weights",
        "from 17 to 299 pixels (bilinear as pytorch-fid)",
        "the 130 images themselves",
    ] {
        assert!(sentence.contains(part), "{part} in {sentence}");
    }

    // The same from the file; what the user insists on is called gFID.
    let reference = format!("{evaluate} --series drawn=set/train --reference own.npz");
    let again = folder.run(&format!("{reference} --force")).json();
    assert!((cell(&again, "drawn", "gFID").as_f64().unwrap() / fid - 1.0).abs() < 1e-6);
    assert!(cell(&again, "the images", "gFID").as_f64().unwrap().abs() < 1e-6 * fid);
    assert!(again["sentences"][0].as_str().unwrap().contains("own.npz (SHA-256 "));

    fails_later(&folder, &format!("{reference} --size 16"), "17 pixels");
    let few = reference.replace("--images 130", "--images 100");
    fails_later(&folder, &few, "100 images in a space of 128 dimensions");
    let other = reference.replace("inception=", "inception-tf=");
    fails_later(&folder, &other, "was made by inception with weights");
    folder.fails(
        &format!("{evaluate} --series a=set --reference inception.safetensors"),
        1,
        "is no .npz file",
    );
    folder.fails("evaluate generation --data set --features inception=own.npz --series a=set", 1, "own.npz");
    folder.fails("evaluate generation --data set --series a=set", 2, "--features inception=FILE");
    folder.fails(
        "evaluate generation --data set --series a=set --features vgg=x",
        2,
        "inception, inception-tf",
    );
    folder.fails(&format!("evaluate generation --data set {FEATURES}"), 2, "--series");
}

#[test]
fn reconstructions_have_fid_at_every_count_and_not_from_training_images() {
    let folder = folder();
    let on = "--model model.safetensors --steps 1 --sampler ddim-trailing --tokens 1,4";
    let evaluate = format!("evaluate frechet --data set {on} {FEATURES}");
    let found = folder.run(&format!("{evaluate} --json")).json();
    let fid = |row: &str| cell(&found, row, "FID of 130 images").as_f64().unwrap();
    // Pixels are their own autoencoder here.
    let (alone, sampled) = (fid("the autoencoder alone"), fid("4 tokens, sampled"));
    assert!(alone.abs() < 1e-6 * sampled && fid("1 token, one-step mean") > 0.0, "{alone} {sampled}");
    assert_eq!(found["figures"][0]["title"], "FID of 130 images");
    let size = &found["made"]["image_size"];
    let save =
        format!("evaluate generation --data set/train --size {size} {FEATURES} --save-statistics train.npz");
    folder.run(&save).ok();
    fails_later(&folder, &format!("{evaluate} --reference train.npz"), "statistics of training images");
    std::fs::copy(folder.path("train.npz"), folder.path("VIRTUAL_train.npz")).unwrap();
    let classifier = "--reference train.npz --classifier inception.safetensors";
    fails_later(&folder, &format!("evaluate frechet --data set {on} {classifier}"), "inception.safetensors");
}

#[test]
fn tokenizers_with_a_codebook_have_fid_too() {
    let folder = folder();
    super::quantised::tokenizer(&folder, "titok");
    let on = "--tokenizer titok=titok.safetensors --decomposition pca --tokens 0,5";
    let evaluate = format!("evaluate frechet --data set {on} {FEATURES} --json");
    let found = folder.run(&evaluate).json();
    let fid = |row: &str| cell(&found, row, "FID of 130 images").as_f64().unwrap();
    // The mean of all tokens is one picture for all images, further away than any that differ.
    assert!(fid("0 tokens, pca") > fid("5 tokens, pca") && fid("training images") > 0.0);
    let protocol = found["protocol"].to_string();
    assert!(
        protocol.contains("The tokenizer is TiTok (weights ") && protocol.contains("of the 30 that could")
    );
    assert_eq!(found["figures"][0]["series"][0]["name"], "pca");
    folder.fails(&format!("evaluate frechet --data set {on}"), 2, "--features inception=FILE");
}
