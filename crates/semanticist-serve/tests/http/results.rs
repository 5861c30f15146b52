//! What comes back is what the library computes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use semanticist::image::{Fit, decode, from_pixels, to_pixels};
use semanticist::{DecodeOptions, Device, DrawOptions, GenerateOptions, Seed, Tokens};
use semanticist::{Noise, Purpose};
use semanticist_eval::spectrum::radial_power;
use semanticist_eval::sweep::Subject;
use semanticist_serve::Limits;
use serde_json::{Value, json};

use super::{Running, photo, serve, start, studio};

fn bytes(png: &Value) -> Vec<u8> {
    STANDARD.decode(png.as_str().unwrap()).unwrap()
}

fn events(server: &Running, path: &str, body: impl AsRef<[u8]>) -> Vec<(String, Value)> {
    server.post(path, body).ok().events()
}

#[test]
fn tokens_go_out_and_come_back_in_both_formats() {
    let server = start(Limits::default(), None);
    let json = server.post("/api/encode?tokens=3", photo()).ok();
    let tokens = json.json()["tokens"].clone();
    assert_eq!([tokens.as_array().unwrap().len(), tokens[0].as_array().unwrap().len()], [1, 3]);
    let file = server.post("/api/encode?tokens=3&format=safetensors", photo()).ok();
    assert_eq!(file.kind, "application/octet-stream");
    let query = "/api/decode?steps=3&seed=5";
    let from_json = server.post(query, &json.body).ok();
    let from_file = server.post(query, &file.body).ok();
    assert_eq!((from_json.kind.as_str(), &from_json.body), ("image/png", &from_file.body));
    let both =
        server.post(&format!("{query}&format=json"), json!({"tokens": [tokens[0], tokens[0]]}).to_string());
    let pictures = both.ok().json()["pictures"].clone();
    for picture in pictures.as_array().unwrap() {
        assert!(bytes(&picture["png"]) == from_json.body);
    }

    let device = Device::flex();
    let values: Vec<f32> = serde_json::from_value::<Vec<Vec<Vec<f32>>>>(tokens).unwrap().concat().concat();
    let tokens = Tokens::from_vec(values, [1, 3, 4], &device).unwrap();
    let options = DecodeOptions { steps: 3, ..DecodeOptions::default() };
    let expected = from_pixels(&studio().tokenizers[0].0.tokenizer.decode(&tokens, &options, 5).unwrap());
    assert_eq!(decode("answer", &from_json.body).unwrap(), expected[0]);
}

#[test]
fn a_photo_comes_as_events_and_previews_change_nothing() {
    let server = start(Limits::default(), None);
    let plain = events(&server, "/api/reconstruct?steps=8", photo());
    let names = |events: &[(String, Value)]| events.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&plain), ["begun", "pictures", "done"]);
    let (begun, pictures) = (&plain[0].1, &plain[1].1["pictures"]);
    assert_eq!(begun["counts"], json!([1, 2, 4]));
    assert_eq!(begun["tokens"].as_array().unwrap().len(), 4);
    let sizes: Vec<u64> =
        pictures.as_array().unwrap().iter().map(|one| one["bytes"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [16, 32, 64]);
    let shown = events(&server, "/api/reconstruct?steps=8&previews=3", photo());
    assert_eq!(names(&shown), ["begun", "preview", "preview", "preview", "pictures", "done"]);
    assert_eq!(shown[2].1["done"], 4);
    assert!(shown[4] == plain[1] && shown[5].1["sheet"] == plain[2].1["sheet"]);
    let seeded = events(&server, "/api/reconstruct?steps=8&seed=1", photo());
    assert!(seeded[1] != plain[1]);
}

#[test]
fn pictures_are_drawn_as_the_library_draws_them_and_varied_from_their_first_tokens() {
    let server = start(Limits::default(), None);
    let ask = |extra: Value| {
        let mut body = json!({"class": "cat", "count": 2, "steps": 4, "decode_steps": 3, "seed": 9});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        events(&server, "/api/generate", body.to_string())
    };
    let plain = ask(json!({}));
    assert_eq!((&plain[0].1["class"], &plain[0].1["name"]), (&json!(1), &json!("tabby")));
    let drawn = plain[1].1["pictures"].as_array().unwrap();
    let studio = studio();
    let (generator, _) = studio.generator.unwrap();
    let drawing = DrawOptions { steps: 4, ..DrawOptions::default() };
    let options = GenerateOptions { tokens: 4, drawing };
    let expected = generator.generator.generate(&[1, 1], &options, 9).unwrap();
    let found: Vec<f32> = drawn
        .iter()
        .flat_map(|picture| {
            serde_json::from_value::<Vec<Vec<f32>>>(picture["tokens"].clone()).unwrap().concat()
        })
        .collect();
    assert_eq!(found, expected.to_vec());
    let seeds = [9, 10].map(|seed| Seed::new(seed).of(Purpose::Latents));
    let decoding = DecodeOptions { steps: 3, ..DecodeOptions::default() };
    let decoded = studio.tokenizers[0].0.tokenizer.decode_observed(
        &expected,
        &[4, 4],
        &decoding,
        &mut Noise::per_sample(seeds),
        &mut semanticist::progress::unobserved,
    );
    for (picture, expected) in drawn.iter().zip(from_pixels(&decoded.unwrap())) {
        assert_eq!(decode("answer", &bytes(&picture["png"])).unwrap(), expected);
    }

    let shown = ask(json!({"previews": true}));
    let counts: Vec<&Value> =
        shown.iter().filter(|(name, _)| name == "preview").map(|(_, data)| &data["tokens"]).collect();
    assert_eq!(counts, [1, 2]);
    assert!(shown[3] == plain[1], "previews change nothing");

    let kept = drawn[0]["tokens"].as_array().unwrap()[..2].to_vec();
    let varied = ask(json!({"given": kept, "seed": 77, "previews": true}));
    let pictures = varied.iter().find(|(name, _)| name == "pictures").unwrap().1["pictures"].clone();
    for picture in pictures.as_array().unwrap() {
        assert_eq!(picture["tokens"].as_array().unwrap()[..2], kept);
        assert_ne!(picture["tokens"][2], drawn[0]["tokens"][2]);
    }
    assert_ne!(pictures[0]["tokens"][3], pictures[1]["tokens"][3]);
}

#[test]
fn tokens_are_drawn_as_the_generators_file_says() {
    let mut studio = studio();
    let drawing = json!({"steps": 5, "guidance": {"scale": 2.0}});
    let (generator, _) = studio.generator.as_mut().unwrap();
    generator.generator.config.drawing = Some(serde_json::from_value(drawing).unwrap());
    let (said, usual) = (serve(studio, Limits::default(), None), start(Limits::default(), None));
    let ask = |server: &Running, extra: Value| {
        let mut body = json!({"class": "cat", "count": 1, "decode_steps": 3});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        events(server, "/api/generate", body.to_string())[1].1["pictures"].clone()
    };
    let drawn = ask(&said, json!({}));
    assert_eq!(drawn, ask(&usual, json!({"steps": 5, "guidance": 2.0})));
    assert_ne!(drawn, ask(&said, json!({"steps": 4})));
    let models = said.get("/api/models").ok().json();
    let defaults = &models["defaults"]["generate"];
    assert_eq!((&defaults["steps"], &defaults["guidance"]), (&json!(5), &json!(2.0)));
}

#[test]
fn a_photo_is_explained_in_numbers() {
    let server = start(Limits::default(), None);
    let found = server.post("/api/explain", photo()).ok().json();
    let variance = &found["variance"];
    assert_eq!(variance["counts"], json!([0, 1, 2, 3, 4]));
    assert_eq!((&variance["explained"][0], &variance["explained"][4]), (&json!(0.0), &json!(1.0)));
    let square = Subject::of(&decode("photo", &photo()).unwrap(), 16, Fit::Crop).square;
    assert_eq!(found["spectrum"]["original"], json!(radial_power(&square)));
    // As the page shows it: the picture of 2 tokens, whose power is that of the series.
    let pictures = events(&server, "/api/reconstruct?tokens=1,2,4", photo());
    let picture = decode("answer", &bytes(&pictures[1].1["pictures"][1]["png"])).unwrap();
    let series = found["spectrum"]["series"][1].clone();
    assert_eq!((&series["tokens"], &series["power"]), (&json!(2), &json!(radial_power(&picture))));
}

#[test]
fn every_tokenizer_is_asked_by_its_name() {
    let server = start(Limits::default(), None);
    let models = server.get("/api/models").ok().json();
    let names: Vec<&Value> =
        models["tokenizers"].as_array().unwrap().iter().map(|one| &one["notes"]["name"]).collect();
    assert_eq!(names, ["small", "other"]);
    let other = &studio().tokenizers[1].0.tokenizer;
    let square = Subject::of(&decode("photo", &photo()).unwrap(), 8, Fit::Crop).square;
    let expected = other.encode(&to_pixels(&[square], &Device::flex()), 3).unwrap();
    let answer = server.post("/api/encode?model=other", photo()).ok();
    let found: Vec<Vec<Vec<f32>>> = serde_json::from_value(answer.json()["tokens"].clone()).unwrap();
    assert_eq!(found.concat().concat(), expected.to_vec());
    let picture = server.post("/api/decode?model=other&seed=2", &answer.body).ok();
    let pictures = from_pixels(&other.decode(&expected, &other.config.decode_options(), 2).unwrap());
    assert_eq!(decode("answer", &picture.body).unwrap(), pictures[0]);
    let shown = events(&server, "/api/reconstruct?model=other", photo());
    assert_eq!(shown[0].1["counts"], json!([1, 2, 3]));
    let refused = server.post("/api/encode?model=third", photo()).refused(400);
    assert!(refused.contains("model=third: there is \"small\" and \"other\""), "{refused}");
}

/// A token that is not there is for the decoder what the list of models says, so that any of them can be taken away.
#[test]
fn null_tokens_stand_for_tokens_that_are_not_there() {
    let server = start(Limits::default(), None);
    let nulls = server.get("/api/models").ok().json()["tokenizers"][0]["null_tokens"].clone();
    let tokens = server.post("/api/encode?tokens=2", photo()).ok().json()["tokens"][0].clone();
    let picture =
        |tokens: Value| server.post("/api/decode?steps=3", json!({"tokens": [tokens]}).to_string()).ok().body;
    let filled = json!([tokens[0], tokens[1], nulls[2], nulls[3]]);
    assert!(picture(tokens.clone()) == picture(filled));
    assert!(picture(tokens.clone()) != picture(json!([tokens[0], nulls[1]])), "a token changes the picture");
}
