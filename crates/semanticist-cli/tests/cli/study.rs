//! `study`: perception tests are made and evaluated.

use std::fs;
use std::path::PathBuf;

use semanticist::image::RgbImage;
use semanticist_study::{Answer, Answers, Choice, Study};
use serde_json::Value;

use super::Folder;

const NEW: &str = "study new --model model.safetensors -o made";

/// Two classes of three photos each.
fn folder() -> Folder {
    let folder = Folder::new();
    for (class, number) in [("cat", 0), ("cat", 1), ("cat", 2), ("dog", 3), ("dog", 4), ("dog", 5)] {
        folder.photo(&format!("photos/{class}/{number}.png"), number);
    }
    folder
}

fn picture(folder: &Folder, item: usize, name: &str) -> RgbImage {
    semanticist::image::open(&folder.path(&format!("made/pictures/{item:05}/{name}.png"))).unwrap()
}

fn file(folder: &Folder) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.path("made/study.json")).unwrap()).unwrap()
}

/// The photo of a number, as the small model of 16 pixels sees it.
fn seen(folder: &Folder, path: PathBuf) -> RgbImage {
    semanticist_data::transform::evaluation(
        &semanticist::image::open(&folder.path(path.to_str().unwrap())).unwrap(),
        16,
    )
}

#[test]
fn a_study_has_photos_pictures_and_another_photo_of_the_class() {
    let folder = folder();
    let run = folder.run(&format!("{NEW} --data photos --images 2 --tokens 1,4 --practice 1"));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("semanticist serve --study made --open"), "{}", run.stdout);
    let found = file(&folder);
    assert_eq!(found["series"], serde_json::json!(["1 token", "4 tokens"]));
    assert_eq!((&found["plan"]["trials"], found["items"].as_array().unwrap().len()), (&2.into(), 2));
    for (item, name) in found["items"].as_array().unwrap().iter().enumerate() {
        let name = PathBuf::from(name.as_str().unwrap());
        assert_eq!(picture(&folder, item, "original"), seen(&folder, name.clone()));
        let class = name.parent().unwrap();
        let others = fs::read_dir(folder.path(class.to_str().unwrap())).unwrap();
        let others =
            others.map(|entry| class.join(entry.unwrap().file_name())).filter(|other| *other != name);
        let distractor = picture(&folder, item, "distractor");
        assert_eq!(others.filter(|other| seen(&folder, other.clone()) == distractor).count(), 1);
        assert_ne!(picture(&folder, item, "generated-0"), picture(&folder, item, "generated-1"));
    }
    // What the command `reconstruct` would show.
    let name = found["items"][0].as_str().unwrap();
    folder.run(&format!("encode {name} -o t.safetensors --model model.safetensors")).ok();
    folder.run("decode t.safetensors -o decoded --model model.safetensors").ok();
    let decoded = fs::read_dir(folder.path("decoded")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(semanticist::image::open(&decoded).unwrap(), picture(&folder, 0, "generated-1"));
}

#[test]
fn distractors_and_other_series_come_by_name_or_by_order() {
    let folder = folder();
    for number in 0..6u8 {
        // In another order than the photos.
        folder.photo(&format!("named/{}/{number}.png", 9 - number), 100 + number);
        folder.photo(&format!("ordered/x{number}.png"), 200 + number);
    }
    let options = "--data photos --images 6 --tokens 2 --practice 0 --trials 4 --distractors named --series other=ordered";
    folder.run(&format!("{NEW} {options}")).ok();
    for item in 0..6 {
        assert_eq!(
            picture(&folder, item, "distractor"),
            seen(&folder, format!("named/{}/{item}.png", 9 - item).into())
        );
        assert_eq!(
            picture(&folder, item, "generated-1"),
            seen(&folder, format!("ordered/x{item}.png").into())
        );
    }
    assert_eq!(file(&folder)["series"][1], "other");
}

#[test]
fn what_makes_no_study_is_refused() {
    let folder = folder();
    folder.photo("flat/a.png", 1);
    folder.photo("flat/b.png", 2);
    folder.photo("one/a.png", 1);
    let refused = |options: &str, part: &str| {
        let run = folder.run(&format!("{NEW} {options}"));
        assert!(run.code != Some(0) && run.stderr.contains(part), "{options}: {}", run.stderr);
        assert!(!run.stderr.contains("panicked") && !folder.path("made").exists(), "{options}");
    };
    refused("--data flat --images 2", "--distractors DIR");
    refused("--data photos --images 7", "the data has 6 photos");
    refused("--data photos --images 6", "no other photo of its class");
    refused(
        "--data photos --images 2 --distractors one",
        "1 pictures, which have not the names of the 2 photos",
    );
    refused("--data photos --images 2 --tokens 5", "4 tokens per image");
    refused("--data photos --images 2 --practice 0 --trials 3", "3 trials and 2 images");
    refused("--data photos --images 2 --consent none.txt", "none.txt");
    assert!(folder.run("study results photos").stderr.contains("study new"));
}

#[test]
fn results_are_a_table_a_plot_and_lines() {
    let folder = folder();
    folder.run(&format!("{NEW} --data photos --images 2 --practice 0 --reveal 100")).ok();
    let study = Study::open(&folder.path("made")).unwrap();
    let answers = Answers::open(&study).unwrap();
    for _ in 0..2 {
        let participant = answers.join().unwrap();
        for (trial, shown) in study.trials(participant.number).iter().enumerate() {
            let choice = if shown.generated_left { Choice::Left } else { Choice::Same };
            let (frames, late_frames) = (6, u32::from(trial == 0));
            let times = (100.0, 16.7, 900.0);
            let (shown_ms, frame_ms, response_ms) = times;
            let answer = Answer { trial, choice, shown_ms, frames, late_frames, frame_ms, response_ms };
            answers.add(&study, &participant, &answer).unwrap();
        }
    }
    let run = folder.run("study results made --csv a.csv --plot a.svg");
    assert!(run.stdout.starts_with("2 participants, 2 of them finished"), "{}{}", run.stdout, run.stderr);
    assert_eq!(fs::read_to_string(folder.path("a.csv")).unwrap().lines().count(), 5);
    assert!(fs::read_to_string(folder.path("a.svg")).unwrap().contains("reveal time, ms"));
    let all = folder.run("study results made --json").json();
    assert_eq!(all["scores"][0]["answers"], 4);
    let on_time = folder.run("study results made --on-time --json").json();
    assert_eq!(on_time["scores"][0]["answers"], 2);
}
