//! `evaluate`: what it measures, on how many images, and what it refuses.

use semanticist::weights;
use serde_json::Value;

use super::Folder;

const ON: &str = "--data photos --model model.safetensors";

/// The column of a table, by the names of columns.
fn column(table: &Value, name: &str) -> Vec<Value> {
    let columns = table["columns"].as_array().unwrap();
    let at =
        columns.iter().position(|column| column == name).unwrap_or_else(|| panic!("{name} in {columns:?}"));
    table["rows"].as_array().unwrap().iter().map(|row| row[at].clone()).collect()
}

/// It fails after it remarked on the data.
fn fails_later(folder: &Folder, arguments: &str, part: &str) {
    let run = folder.run(arguments);
    assert!(run.code == Some(1) && run.stderr.contains(part), "{arguments}: {}", run.stderr);
}

fn photos() -> Folder {
    let folder = Folder::new();
    folder.photos(&["photos/a/1.png", "photos/a/2.png", "photos/b/3.png"]);
    folder
}

#[test]
fn every_count_has_its_row_beside_what_bounds_it() {
    let folder = photos();
    let evaluate = format!("evaluate reconstruction {ON} --steps 2 --json");
    let report = folder.run(&format!("{evaluate} --tokens 0,1,4")).json();
    assert_eq!(report["made"]["images"], 3);
    let table = &report["tables"][0];
    let names = column(table, "images from");
    assert_eq!(names, ["0 tokens", "1 token", "4 tokens", "the autoencoder alone"]);
    let [samples, means] = ["PSNR dB", "mean PSNR dB"].map(|name| column(table, name));
    assert!(samples.iter().chain(&means[..3]).all(|psnr| psnr.as_f64().unwrap() > 0.0));
    // Nothing of a model is better than its autoencoder.
    assert!(samples[3].as_f64().unwrap() > samples[2].as_f64().unwrap());
    // Fewer images are spread over the classes, and counts do not disturb each other.
    let two = folder.run(&format!("{evaluate} --tokens 4 --images 2")).json();
    assert_eq!(two["made"]["images"], 2);
    let alone = folder.run(&format!("{evaluate} --tokens 4")).json();
    assert_eq!(alone["tables"][0]["rows"][0][1], table["rows"][2][1]);
    assert_ne!(alone["tables"][0]["rows"][0][1], two["tables"][0]["rows"][0][1]);
}

#[test]
fn other_pictures_are_measured_against_the_same_images() {
    let folder = photos();
    std::fs::create_dir(folder.path("same")).unwrap();
    for (number, photo) in ["a/1.png", "a/2.png", "b/3.png"].iter().enumerate() {
        std::fs::copy(folder.path("photos").join(photo), folder.path(&format!("same/{number}.png"))).unwrap();
    }
    let evaluate = format!("evaluate reconstruction {ON} --steps 1 --sampler ddim-trailing --tokens 4");
    let report = folder.run(&format!("{evaluate} --series Other=same --json")).json();
    let table = &report["tables"][0];
    assert_eq!(column(table, "images from").last().unwrap(), "Other");
    assert_eq!(column(table, "PSNR dB").last().unwrap().as_f64(), Some(100.0), "they are equal");
    std::fs::remove_file(folder.path("same/1.png")).unwrap();
    fails_later(&folder, &format!("{evaluate} --series Other=same"), "2 images, but the data has 3");
    folder.fails(&format!("{evaluate} --series same"), 2, "NAME=PATH");
    let twice = folder.run(&format!("{evaluate} --series a=same --series a=photos"));
    assert!(twice.code == Some(2) && twice.stderr.contains("--series a: is there twice"), "{}", twice.stderr);
    // The names of the images in another order are other pairs; of pictures too small nothing can be said.
    std::fs::create_dir_all(folder.path("turned/z")).unwrap();
    std::fs::copy(folder.path("photos/a/1.png"), folder.path("turned/z/1.png")).unwrap();
    for name in ["2.png", "3.png"] {
        std::fs::copy(folder.path("same/0.png"), folder.path(&format!("turned/{name}"))).unwrap();
    }
    fails_later(
        &folder,
        &format!("{evaluate} --series Other=turned"),
        "in another order: number 1 is 2, where",
    );
    let small = semanticist::image::RgbImage::new(8, 8);
    semanticist::image::save_png(&small, &folder.path("same/1.png")).unwrap();
    fails_later(
        &folder,
        &format!("{evaluate} --series Other=same"),
        "8×8 pixels, but photos/a/2.png has 20×17",
    );
}

/// Networks with few channels that `verify` has recordings of.
fn perceptual_weights(folder: &Folder, file: &str, prefix: &str, name: &str) {
    let recording = format!("../semanticist-verify/tests/data/reference/{file}");
    let recording = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(recording);
    let weights = weights::load(&recording).unwrap().0.split_prefix(prefix);
    weights::save(&folder.path(name), &weights, &weights::Metadata::new(), weights::Precision::F32).unwrap();
}

#[test]
fn perceptual_measures_have_columns_where_their_weights_are_given() {
    let folder = photos();
    perceptual_weights(&folder, "lpips.safetensors", "weights.vgg.", "vgg.safetensors");
    perceptual_weights(&folder, "lpips.safetensors", "weights.alex.", "alex.safetensors");
    perceptual_weights(&folder, "dists.safetensors", "weights.", "dists.safetensors");
    let evaluate = format!("evaluate reconstruction {ON} --steps 2 --tokens 0,4 --json found.json");
    let both = "--lpips vgg.safetensors --dists dists.safetensors --series same=photos";
    let read = || -> Value {
        serde_json::from_str(&std::fs::read_to_string(folder.path("found.json")).unwrap()).unwrap()
    };
    folder.run(&format!("{evaluate} {both}")).ok();
    let report = read();
    let protocol = report["protocol"].to_string();
    assert!(protocol.contains("LPIPS is version 0.1 on vgg16") && protocol.contains("DISTS"), "{protocol}");
    for name in ["LPIPS", "DISTS"] {
        let found: Vec<f64> =
            column(&report["tables"][0], name).iter().map(|value| value.as_f64().unwrap()).collect();
        let [none, all, autoencoder, same] = found[..] else { panic!("{name}: {found:?}") };
        assert!(none > 0.01 && all > 0.01 && autoencoder < all && same.abs() < 1e-5, "{name}: {found:?}");
    }
    assert!(column(&report["tables"][0], "mean LPIPS")[0].as_f64().unwrap() > 0.01);
    // What was measured with other weights, or without, is not taken for it.
    assert!(folder.run(&format!("{evaluate} {both}")).stderr.contains("has it already"));
    folder.run(&format!("{evaluate} --series same=photos")).ok();
    assert!(!read()["tables"][0]["columns"].to_string().contains("LPIPS"));
    let ablation = format!("evaluate ablation {ON} --steps 2 --tokens 4 --dists dists.safetensors --json");
    let found = column(&folder.run(&ablation).json()["tables"][0], "DISTS");
    assert!(found[0].as_f64().unwrap() > 0.01);
    fails_later(&folder, &format!("{evaluate} --lpips alex.safetensors"), "takes 31 or more");
    fails_later(&folder, &format!("{evaluate} --dists vgg.safetensors"), "there is no alpha");
    fails_later(&folder, &format!("{evaluate} --lpips nowhere.pth"), "nowhere.pth");
}

#[test]
fn variance_goes_from_none_to_all_of_it_and_leaves_plots() {
    let folder = photos();
    let report = format!("evaluate variance {ON} --json found.json --plot found.svg");
    folder.run(&report);
    let found = std::fs::read_to_string(folder.path("found.json")).unwrap();
    let found: Value = serde_json::from_str(&found).unwrap();
    let shares = column(&found["tables"][0], "share");
    assert_eq!(shares.len(), 5, "0 to 4 tokens");
    assert_eq!((shares[0].as_f64(), shares[4].as_f64()), (Some(0.0), Some(1.0)));
    let svg = std::fs::read_to_string(folder.path("found.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("Share explained"));
    assert!(!folder.path("found.json.part").exists());
    // The same again is not measured again, but something else is.
    assert!(folder.run(&report).stderr.contains("has it already"));
    assert!(!folder.run(&format!("{report} --seed 1")).stderr.contains("has it already"));
    folder.fails(&format!("evaluate variance {ON} --plot found.pdf"), 2, ".svg or .png");
}

#[test]
fn a_report_is_a_page_with_its_numbers_and_goes_on() {
    let folder = photos();
    let report = format!("evaluate report {ON} --steps 2 --tokens 1,4 -o report --training-images 3");
    folder.run(&report);
    let page = std::fs::read_to_string(folder.path("report/README.md")).unwrap();
    for kind in ["reconstruction", "variance", "spectrum", "probe"] {
        assert!(
            page.contains(&format!("]({kind}.json)")) && folder.path(&format!("report/{kind}.svg")).exists()
        );
    }
    assert!(page.contains("| 4 tokens |") && page.contains("PCA"));
    let sheet = semanticist::image::open(&folder.path("report/samples.png")).unwrap();
    // Three images in rows of an original and two samples, each of 192 pixels.
    assert!(sheet.width() > 3 * 192 && sheet.height() > 3 * 192 && page.contains("samples.png"));
    std::fs::remove_file(folder.path("report/spectrum.json")).unwrap();
    let again = folder.run(&report).stderr;
    assert_eq!(again.matches("has it already").count(), 3, "{again}");
}

/// More images than a small classifier has features, that classifier, and as many images that it could have learnt from.
fn classified() -> Folder {
    let folder = super::classify::folder();
    for number in 0..18 {
        let class = ["cat", "owl"][number % 2];
        folder.photo(&format!("photos/{class}/{number}.png"), 11 * number as u8);
        folder.photo(&format!("learnt/{class}/{number}.png"), 11 * number as u8 + 4);
    }
    folder
}

#[test]
fn equal_sets_of_pictures_are_at_no_distance_to_a_classifier() {
    let folder = classified();
    let evaluate = format!("evaluate frechet {ON} --classifier classifier.safetensors --steps 2 --tokens 4");
    let report = folder.run(&format!("{evaluate} --series same=photos --training learnt --json")).json();
    let table = &report["tables"][0];
    let expected = [
        "the images",
        "the autoencoder alone",
        "4 tokens, sampled",
        "4 tokens, one-step mean",
        "training images",
        "same",
    ];
    assert_eq!(column(table, "pictures"), expected);
    let (distances, right) = (column(table, "distance"), column(table, "top-1 %"));
    assert!(distances[4].as_f64().unwrap() > 1e-6, "{distances:?}");
    // Pixels are their own autoencoder here.
    for same in [1, 5] {
        assert!(
            distances[same].as_f64().unwrap().abs() < 1e-6 && right[same] == right[0],
            "{distances:?} {right:?}"
        );
    }
    assert!(distances[2].as_f64().unwrap() > 1e-3, "{distances:?}");
    let few = format!("{evaluate} --images 16");
    fails_later(&folder, &few, "16");
}

#[test]
fn generated_pictures_are_held_against_images_without_a_tokenizer() {
    let folder = classified();
    for number in 0..18 {
        folder.photo(&format!("drawn/{number}.png"), 5 + 3 * number as u8);
    }
    let evaluate = "evaluate generation --data photos --classifier classifier.safetensors";
    let series = "--series same=photos --series drawn=drawn --series copied=learnt";
    let found = folder.run(&format!("{evaluate} {series} --training learnt --json")).json();
    assert!(found["made"]["model"].is_null());
    let table = &found["tables"][0];
    assert_eq!(column(table, "pictures"), ["the images", "training images", "same", "drawn", "copied"]);
    let of = |name: &str, row: usize| column(table, name)[row].as_f64().unwrap();
    assert_eq!((of("precision", 2), of("recall", 2)), (1.0, 1.0));
    assert!(of("distance", 2).abs() < 1e-6 && of("distance", 3) > 1e-6);
    // Pictures without class folders have no class; the images themselves are no copies, training images are.
    assert!(column(table, "top-1 %")[3].is_null());
    assert_eq!((of("near training %", 2), of("near training %", 4)), (0.0, 100.0));
    // How it was measured, and one of each series.
    let sentences = found["sentences"].as_array().unwrap();
    assert!(sentences.len() == 4 && sentences[3].as_str().unwrap().contains("100.0 %"), "{sentences:?}");
    // Without images that were learnt from, nobody can tell copies, and nothing stands for them.
    let found = folder.run(&format!("{evaluate} {series} --json")).json();
    let table = &found["tables"][0];
    assert_eq!(column(table, "pictures"), ["the images", "same", "drawn", "copied"]);
    assert!(column(table, "near training %").iter().all(Value::is_null));
    // Alone they have no neighbours, and no training image is looked at.
    let alone =
        folder.run(&format!("{evaluate} --training learnt --save-statistics images.npz --json")).json();
    assert_eq!(column(&alone["tables"][0], "pictures"), ["the images"]);
    std::fs::remove_file(folder.path("drawn/0.png")).unwrap();
    std::fs::remove_file(folder.path("drawn/1.png")).unwrap();
    fails_later(&folder, &format!("{evaluate} --series drawn=drawn"), "drawn: Fréchet distance: 16 images");
    let wrong = "evaluate generation --data photos --classifier model.safetensors --series a=drawn";
    folder.fails(wrong, 1, "tokenizer");
}

#[test]
fn an_ablation_has_every_way_to_decode_and_what_it_costs() {
    let folder = photos();
    let ways = "--steps 1,2 --sampler ddim-trailing --guidance 1,2 --tokens 0,4";
    let found = folder.run(&format!("evaluate ablation {ON} {ways} --plot found.png --json")).json();
    let table = &found["tables"][0];
    let names = column(table, "decoding");
    assert_eq!(
        (names.len(), &names[0], &names[7]),
        (8, &"ddim-trailing × 1, guidance 1".into(), &"ddim-trailing × 2, guidance 2".into())
    );
    assert!(column(table, "seconds per image").iter().all(|seconds| seconds.as_f64().unwrap() > 0.0));
    assert_eq!(found["figures"][0]["series"].as_array().unwrap().len(), 4);
    assert!(folder.path("found.png").exists());
    // The same decoding gives the same numbers as in `reconstruction`.
    let one = "--steps 2 --sampler ddim-trailing --guidance 2 --tokens 4 --json";
    let alone = folder.run(&format!("evaluate reconstruction {ON} {one}")).json();
    assert_eq!(column(&alone["tables"][0], "PSNR dB")[0], column(table, "PSNR dB")[7]);
    let run = folder.run(&format!("evaluate ablation {ON} --steps 1 --sampler ddim"));
    assert!(run.code == Some(2) && run.stderr.contains("ddim-trailing"), "{}", run.stderr);
}

#[test]
fn what_cannot_be_measured_is_said() {
    let folder = Folder::new();
    folder.photo("photos/1.png", 1);
    folder.fails(&format!("evaluate reconstruction {ON} --tokens 5"), 2, "use 0 to 4");
    fails_later(&folder, &format!("evaluate probe {ON}"), "images to fit principal components to");
    folder.photo("photos/2.png", 2);
    fails_later(&folder, &format!("evaluate probe {ON}"), "has no class");
    let mut damaged = folder.bytes("model.safetensors");
    let end = damaged.len() - 4;
    damaged[end..].copy_from_slice(&f32::NAN.to_le_bytes());
    folder.file("damaged.safetensors", &damaged);
    let evaluate = "evaluate reconstruction --data photos --model damaged.safetensors --steps 2";
    fails_later(&folder, evaluate, "not finite");
    std::fs::create_dir(folder.path("empty")).unwrap();
    folder.fails("evaluate spectrum --data empty --model model.safetensors", 1, "no images in empty");
}

#[test]
fn without_tokens_an_image_is_reconstructed_all_the_same() {
    let folder = Folder::new();
    folder.photo("cat.png", 1);
    let report = folder.run("reconstruct cat.png --model model.safetensors --steps 2 --tokens 0,4 --json");
    assert_eq!(report.json()["images"][0]["rows"].as_array().unwrap().len(), 2);
    // Where there must be a token, 0 is refused.
    folder.fails("encode cat.png -o t.parquet --tokens 0", 2, "whole number from 1");
}
