//! `classify`, and `models info` of a classifier.

use burn::tensor::Device;
use semanticist::classifier::ClassifierNetwork;
use semanticist::model::ClassifierModel;
use semanticist::nn::{BlockSize, Linear};
use semanticist::weights::Precision;
use semanticist::{Classifier, ClassifierConfig, Noise};

use super::Folder;

/// A classifier of random weights called `classifier.safetensors`.
pub fn folder() -> Folder {
    let folder = Folder::new();
    let blocks = BlockSize { width: 16, depth: 1, heads: 2, mlp_ratio: 2 };
    let config = ClassifierConfig { image_size: 16, classes: 3, patch_size: 4, blocks, drop_path: 0.0 };
    let (device, mut noise) = (Device::flex(), Noise::seeded(1));
    let mut network = ClassifierNetwork::init(&config, &mut noise, &device).unwrap();
    network.head = Linear::init(16, 3, &mut noise, &device);
    let classes = ["cat", "dog, hound", "owl"].map(String::from).to_vec();
    let training = Some(serde_json::json!({ "steps": 9 }));
    let model = ClassifierModel { classifier: Classifier { config, network }, classes, training };
    model.save(&folder.path("classifier.safetensors"), Precision::F32).unwrap();
    folder
}

#[test]
fn images_have_classes_and_labelled_ones_an_accuracy() {
    let folder = folder();
    folder.photos(&["p/cat/a.png", "p/cat/b.png", "p/owl/c.png", "d.png"]);
    let text = folder.run("classify d.png --model classifier.safetensors --top 2").ok().stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "d.png"), "{text}");
    assert!(lines[1].contains(" %  ") && !text.contains("labelled"), "{text}");

    let json = folder.run("classify d.png p --model classifier.safetensors --data p --json").json();
    let images = json["images"].as_array().unwrap();
    assert_eq!((images.len(), images[3]["path"].as_str().unwrap().ends_with("c.png")), (4, true));
    let mut correct = 0;
    for (image, class) in images.iter().zip(["", "cat", "cat", "owl"]) {
        let classes = image["classes"].as_array().unwrap();
        let probabilities: Vec<f64> =
            classes.iter().map(|class| class["probability"].as_f64().unwrap()).collect();
        assert!(probabilities.is_sorted_by(|a, b| a >= b), "{image}");
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{image}");
        correct += usize::from(classes[0]["name"] == class);
    }
    let accuracy = &json["accuracy"];
    assert_eq!((&accuracy["images"], &accuracy["top5"]), (&3.into(), &1.0.into()));
    assert!((accuracy["top1"].as_f64().unwrap() - correct as f64 / 3.0).abs() < 1e-12, "{json}");
    let info = folder.run("models info classifier.safetensors --json").json();
    assert_eq!((&info["kind"], &info["hash"]), (&"classifier".into(), &json["model"]));

    // Of fewer images all classes are seen, and without images there is accuracy alone.
    let text = folder.run("classify --model classifier.safetensors --data p --images 2").ok().stdout;
    assert!(text.starts_with("2 labelled images\n  top-1 ") && text.contains("nats"), "{text}");
}

#[test]
fn a_classifier_tells_what_it_holds() {
    let folder = folder();
    let text = folder.run("models info classifier.safetensors").ok().stdout;
    for part in ["kind         classifier", "patch_size = 4", "1  dog, hound", "steps = 9"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let export = "models export classifier.safetensors --published -o x.safetensors";
    folder.fails(export, 2, "a classifier, which has no published form");
    folder.fails(
        "reconstruct --model classifier.safetensors",
        1,
        "holds one classifier, expected one tokenizer",
    );
}

#[test]
fn what_cannot_be_classified_is_said() {
    let folder = folder();
    folder.photos(&["d.png", "p/cat/a.png", "p/yak/b.png", "flat/c.png"]);
    folder.file("text.png", b"no image");
    std::fs::create_dir(folder.path("empty")).unwrap();
    let own = "--model classifier.safetensors";
    for (arguments, code, part) in [
        ("d.png".to_string(), 2, "--model <FILE>"),
        (own.to_string(), 2, "<IMAGE>"),
        ("d.png --model model.safetensors".into(), 1, "holds one tokenizer, expected one classifier"),
        ("d.png --model tiny".into(), 1, "holds one tokenizer, expected one classifier"),
        ("d.png --model semanticist-l".into(), 2, "is not a classifier"),
        ("d.png --model none.safetensors".into(), 1, "none.safetensors"),
        (format!("none.png {own}"), 1, "none.png: cannot open"),
        (format!("empty {own}"), 1, "no images in empty"),
        (format!("text.png {own}"), 1, "text.png"),
        (format!("d.png {own} --top 0"), 2, "whole number from 1"),
        (format!("d.png {own} --images 2"), 2, "--data"),
        (format!("{own} --data p"), 1, "does not know 1 of the 2 classes of the data, such as \"yak\""),
        (format!("{own} --data flat"), 1, "has no class; expected folders of class folders"),
    ] {
        let run = folder.run(&format!("classify {arguments}"));
        assert_eq!(run.code, Some(code), "{arguments}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{arguments}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{arguments}");
    }
}
