//! The perception test over HTTP.

use std::collections::BTreeSet;
use std::path::Path;

use semanticist::image::{RgbImage, decode};
use semanticist_serve::{Limits, OpenStudy};
use semanticist_study::{Answers, Item, OriginalShown, Plan, Study};
use serde_json::{Value, json};

use super::{start, start_with};

/// Four trials and one for practice, of pictures that say in their colour what they are.
pub fn study(folder: &Path) -> OpenStudy {
    let plan = Plan {
        title: "Which is nearer?".into(),
        consent: "Only answers are kept.".into(),
        seed: 1,
        reveal_ms: vec![100, 200],
        trials: 4,
        practice: 1,
        original: OriginalShown::Before,
        original_ms: 500,
    };
    let items = (0..5u8).map(|number| {
        let image = |kind: u8| RgbImage::from_pixel(4, 4, [number, kind, 0].into());
        Ok(Item {
            name: format!("{number}"),
            original: image(0),
            distractor: image(1),
            generated: vec![image(2)],
        })
    });
    let folder = folder.join("study");
    OpenStudy::new(Study::create(&folder, plan, vec!["2 tokens".into()], Value::Null, items).unwrap())
        .unwrap()
}

pub fn answer(trial: usize, choice: &str) -> Value {
    json!({
        "trial": trial, "choice": choice, "shown_ms": 100.2, "frames": 6, "late_frames": 0, "frame_ms": 16.7, "response_ms": 700.5,
    })
}

#[test]
fn people_take_part_at_once_come_back_and_nothing_says_which_side_is_which() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_with(Limits::default(), None, Some(study(folder.path())));
    assert_eq!(server.get("/api/study").ok().json()["trials"], 4);
    assert!(server.get("/study").ok().text().contains("study.js"));
    let join = || {
        let joined = server.post("/api/study/participants", "").ok().json();
        (joined["participant"].as_str().unwrap().to_string(), joined)
    };
    let [(first, joined), (second, _)] = [join(), join()];
    assert_ne!(first, second);
    assert_eq!((joined["trials"].as_array().unwrap().len(), &joined["answered"]), (5, &json!([])));
    let mut sides = BTreeSet::new();
    for id in [&first, &second] {
        for trial in 1..5 {
            let kinds = ["original", "left", "right"].map(|which| {
                let found = server.get(&format!("/api/study/participants/{id}/trials/{trial}/{which}")).ok();
                assert_eq!(found.kind, "image/png");
                decode("picture", &found.body).unwrap().get_pixel(0, 0).0
            });
            assert!(kinds.iter().all(|kind| kind[0] == kinds[0][0]), "of one photo");
            assert_eq!((kinds[0][1], kinds[1][1] + kinds[2][1]), (0, 3));
            sides.insert(kinds[1][1]);
            let choice = if kinds[1][1] == 2 { "left" } else { "right" };
            let path = format!("/api/study/participants/{id}/answers");
            let kept = server.post(&path, answer(trial, choice).to_string()).ok().json();
            assert_eq!(kept, json!({"answered": trial, "of": 4}));
        }
    }
    assert_eq!(sides.len(), 2);
    assert_eq!(
        server.get(&format!("/api/study/participants/{first}")).ok().json()["answered"],
        json!([1, 2, 3, 4])
    );
    drop(server);
    let study = Study::open(&folder.path().join("study")).unwrap();
    let all = Answers::open(&study).unwrap().all().unwrap();
    assert!(all.len() == 8 && all.iter().all(|it| it.choice == "generated" && it.score == 1.0));
}

#[test]
fn what_does_not_belong_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_with(Limits::default(), None, Some(study(folder.path())));
    let joined = server.post("/api/study/participants", "").ok().json();
    let id = joined["participant"].as_str().unwrap();
    let path = format!("/api/study/participants/{id}");
    let answers = format!("{path}/answers");
    assert!(server.get("/api/study/participants/0123").refused(404).contains("no such participant"));
    assert!(server.get(&format!("{path}/trials/5/left")).refused(404).contains("there are 5"));
    assert!(
        server.get(&format!("{path}/trials/1/generated")).refused(404).contains("original, left or right")
    );
    assert!(
        server.get(&format!("{path}/trials/..%2Fx/left")).refused(404).contains("there is no trial ../x")
    );
    assert!(server.post(&answers, answer(0, "left").to_string()).refused(400).contains("practice"));
    assert!(server.post(&answers, answer(9, "left").to_string()).refused(400).contains("there are 5"));
    assert!(server.post(&answers, answer(1, "both").to_string()).refused(400).contains("JSON body"));
    server.post(&answers, answer(1, "left").to_string()).ok();
    server.post(&answers, answer(1, "left").to_string()).ok();
    assert!(server.post(&answers, answer(1, "same").to_string()).refused(400).contains("otherwise"));
    let without = start(Limits::default(), None);
    assert!(without.get("/api/study").refused(404).contains("--study DIR"));
}
