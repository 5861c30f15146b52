//! `evaluate zero-shot`: the classes that CLIP tells.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use semanticist::image::{open, to_pixels};
use semanticist::weights::{self, Metadata, Precision};
use semanticist_eval::clip::{Clip, ClipActivation, ClipTokenizer, class_embedding};

use super::Folder;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Photos of three classes, a narrow CLIP with random weights, and its tokenizer.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.photos(&["photos/cat/1.png", "photos/cat/2.png", "photos/golden_bird/3.png", "photos/owl/4.png"]);
    let recording = data("semanticist-verify/tests/data/reference/clip.safetensors");
    let weights = weights::load(&recording).unwrap().0.split_prefix("weights.");
    weights::save(&folder.path("clip.safetensors"), &weights, &Metadata::new(), Precision::F32).unwrap();
    let tokenizer = data("semanticist-eval/tests/data/clip/tokenizer.json");
    std::fs::copy(tokenizer, folder.path("tokenizer.json")).unwrap();
    folder
}

const CLIP: &str = "--clip clip.safetensors --clip-tokenizer tokenizer.json";
const ON: &str = "--data photos --model model.safetensors --steps 1 --sampler ddim-trailing --tokens 0,4";

/// Top-1 and top-5 in percent of a row.
fn row(found: &serde_json::Value, name: &str) -> [f64; 2] {
    let rows = found["tables"][0]["rows"].as_array().unwrap();
    let row = rows.iter().find(|cells| cells[0] == name).unwrap_or_else(|| panic!("{name} in {rows:?}"));
    [1, 2].map(|at| row[at].as_f64().unwrap())
}

/// How many of the photos CLIP knows, asked by the library one by one, in percent.
fn expected(folder: &Folder, names: [&str; 3]) -> f64 {
    let device = Device::flex();
    let (network, _) =
        Clip::load(&folder.path("clip.safetensors"), ClipActivation::QuickGelu, &device).unwrap();
    let tokenizer = ClipTokenizer::open(&folder.path("tokenizer.json")).unwrap();
    let classes = names.map(|name| class_embedding(&network, &tokenizer, name).unwrap());
    let right = [("cat/1", 0), ("cat/2", 0), ("golden_bird/3", 1), ("owl/4", 2)].into_iter().filter(
        |(name, class)| {
            let photo = open(&folder.path(&format!("photos/{name}.png"))).unwrap();
            let square = semanticist::image::center_crop(&photo, 16);
            let features = network.image_features(&to_pixels(&[network.prepared(&square)], &device));
            let scores =
                classes.clone().map(|class| network.logits(features.clone(), class).into_scalar::<f32>());
            (0..3).all(|other| scores[other] <= scores[*class])
        },
    );
    25.0 * right.count() as f64
}

#[test]
fn classes_of_images_and_reconstructions_are_told_and_work_goes_on() {
    let folder = folder();
    let evaluate = format!("evaluate zero-shot {ON} {CLIP}");
    let found = folder.run(&format!("{evaluate} --series same=photos --json --plot found.svg")).json();
    let of_images = row(&found, "the images");
    assert_eq!(of_images, [expected(&folder, ["cat", "golden bird", "owl"]), 100.0]);
    // Pixels are their own autoencoder here.
    for same in ["the autoencoder alone", "same"] {
        assert_eq!(row(&found, same), of_images, "{same}");
    }
    for tokens in ["0 tokens", "4 tokens"] {
        let [top1, top5] = row(&found, tokens);
        assert!((0.0..=100.0).contains(&top1) && top5 == 100.0, "{tokens}: {top1} {top5}");
    }
    let protocol = found["protocol"].to_string();
    assert!(protocol.contains("80 sentences") && protocol.contains("from 16 to 32 pixels"), "{protocol}");
    assert!(found["sentences"][0].as_str().unwrap().contains("among 3"));
    assert!(std::fs::read_to_string(folder.path("found.svg")).unwrap().contains("images, top-1"));

    // The same again is not measured again, but other names or another activation are.
    let kept = format!("{evaluate} --json found.json");
    folder.run(&kept).ok();
    assert!(!folder.path("found.json.part").exists());
    assert!(folder.run(&kept).ok().stderr.contains("has it already"));
    folder.file("names.txt", b"cat\nowl\ndog\n");
    let named = folder.run(&format!("{evaluate} --class-names names.txt --json")).json();
    assert_eq!(row(&named, "the images")[0], expected(&folder, ["cat", "owl", "dog"]));
    for other in ["--class-names names.txt", "--clip-activation gelu"] {
        assert!(!folder.run(&format!("{kept} {other}")).ok().stderr.contains("has it already"), "{other}");
    }
}

#[test]
fn a_report_and_distances_take_clip_too() {
    let folder = folder();
    folder.run(&format!("evaluate report {ON} {CLIP} -o report --training-images 3")).ok();
    let page = std::fs::read_to_string(folder.path("report/README.md")).unwrap();
    assert!(page.contains("## Zero-shot") && page.contains("](zero-shot.json)"), "{page}");
    assert!(folder.path("report/zero-shot.svg").exists());
    for number in 0..50u8 {
        folder.photo(&format!("set/{number}.png"), number);
    }
    for features in ["clip", "clip-gelu"] {
        let on = format!("--images 50 --training-images 4 --features {features}=clip.safetensors");
        let found =
            folder.run(&format!("evaluate generation --data set --series same=set {on} --json")).json();
        let columns = found["tables"][0]["columns"].as_array().unwrap();
        assert!(columns.contains(&"FD-CLIP".into()), "{columns:?}");
        assert!(found["sentences"][0].as_str().unwrap().contains("CLIP of 48 numbers"));
    }
}

#[test]
fn what_clip_cannot_be_asked_is_said() {
    let folder = folder();
    let evaluate = format!("evaluate zero-shot {ON}");
    folder.fails(&evaluate, 2, "--clip FILE and --clip-tokenizer FILE");
    folder.fails(&format!("{evaluate} --clip clip.safetensors"), 2, "--clip-tokenizer");
    folder.fails(&format!("{evaluate} {CLIP} --clip-activation relu"), 2, "quick-gelu (OpenAI)");
    let fails = |arguments: &str, part: &str| {
        let run = folder.run(arguments);
        assert!(run.code == Some(1) && run.stderr.contains(part), "{arguments}: {}", run.stderr);
    };
    folder.file("names.txt", b"cat\nowl\n");
    fails(&format!("{evaluate} {CLIP} --class-names names.txt"), "2 names of classes, but the data has 3");
    fails(
        &format!("{evaluate} --clip model.safetensors --clip-tokenizer tokenizer.json"),
        "is not such a CLIP",
    );
    fails(&format!("{evaluate} --clip clip.safetensors --clip-tokenizer names.txt"), "names.txt");
    folder.photos(&["wordnet/n01440764/1.png", "wordnet/n01443537/2.png", "plain/1.png"]);
    let wordnet = evaluate.replace("--data photos", "--data wordnet");
    fails(&format!("{wordnet} {CLIP}"), "n01440764 and the like");
    folder.run(&format!("{wordnet} {CLIP} --class-names names.txt")).ok();
    let plain = evaluate.replace("--data photos", "--data plain");
    fails(&format!("{plain} {CLIP}"), "no names of classes");
    fails(&format!("{plain} {CLIP} --class-names names.txt"), "has no class");
}
