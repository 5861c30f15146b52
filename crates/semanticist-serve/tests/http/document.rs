//! The OpenAPI document says what the server does: routes, settings, defaults, and what answers hold.

use std::collections::BTreeSet;

use semanticist_serve::{Limits, ROUTES};
use serde_json::{Value, json};

use super::study::{answer, study};
use super::{Running, photo, start, start_with};

fn document(server: &Running) -> Value {
    server.get("/api/openapi.json").ok().json()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

/// Whether a value is as a schema says, with nothing that it does not name.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        return check(document, document.pointer(&reference[1..]).expect(reference), value, place);
    }
    if value.is_null() {
        assert_eq!(schema["nullable"], true, "{place} is null");
        return;
    }
    match schema["type"].as_str().unwrap_or_else(|| panic!("{place}: a schema without a type")) {
        "object" => {
            let value = value.as_object().unwrap_or_else(|| panic!("{place} is {value}"));
            let Some(properties) = schema["properties"].as_object() else { return };
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(value.contains_key(name.as_str().unwrap()), "{place} has no {name}");
            }
            for (name, value) in value {
                let schema =
                    properties.get(name).unwrap_or_else(|| panic!("{place}.{name} is not documented"));
                check(document, schema, value, &format!("{place}.{name}"));
            }
        }
        "array" => {
            for (at, value) in value.as_array().expect(place).iter().enumerate() {
                check(document, &schema["items"], value, &format!("{place}[{at}]"));
            }
        }
        "string" => {
            assert!(value.is_string(), "{place} is {value}");
            let values = schema["enum"].as_array();
            assert!(values.is_none_or(|values| values.contains(value)), "{place} is {value}");
        }
        "integer" => assert!(value.is_u64(), "{place} is {value}"),
        "number" => assert!(value.is_number(), "{place} is {value}"),
        "boolean" => assert!(value.is_boolean(), "{place} is {value}"),
        other => panic!("{place}: {other} is no type"),
    }
}

#[test]
fn every_route_is_documented_and_every_documented_one_answers() {
    let server = start(Limits::default(), None);
    let document = document(&server);
    let documented: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            keys(methods).into_iter().map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let routed = ROUTES.iter().map(|(method, path)| (method.to_string(), path.to_string()));
    assert_eq!(documented, routed.collect());
    for (method, path) in documented {
        let answer = if method == "GET" { server.get(&path) } else { server.post(&path, "") };
        let expected = document["paths"][&path][method.to_lowercase()]["responses"].as_object().unwrap();
        assert!(
            expected.contains_key(&answer.status.to_string()),
            "{method} {path} answers {}",
            answer.status
        );
    }
}

/// The message about an unknown setting lists those that there are.
#[test]
fn every_setting_is_documented() {
    let server = start(Limits::default(), None);
    let document = document(&server);
    for path in ["/api/encode", "/api/decode", "/api/reconstruct", "/api/explain"] {
        let message = server.post(&format!("{path}?no-such=1"), photo()).refused(400);
        // "expected one of `a`, `b`", or "expected `a` or `b`".
        let (_, list) = message.split_once("expected").unwrap();
        let known: BTreeSet<String> = list.split('`').skip(1).step_by(2).map(String::from).collect();
        let parameters = document["paths"][path]["post"]["parameters"].as_array().unwrap();
        let documented: BTreeSet<String> =
            parameters.iter().map(|one| one["name"].as_str().unwrap().to_string()).collect();
        assert_eq!(known, documented, "{path}");
        for parameter in parameters {
            let (name, schema) = (parameter["name"].as_str().unwrap(), &parameter["schema"]);
            // Nothing that is not of the documented type is taken.
            let message = server.post(&format!("{path}?{name}=%E2%98%83"), photo()).refused(400);
            assert!(!message.contains("unknown field"), "{path} {name}: {message}");
            for value in schema["enum"].as_array().into_iter().flatten() {
                let query = format!("{path}?{name}={}", value.as_str().unwrap());
                let status =
                    server.post(&query, if path == "/api/decode" { TOKENS.into() } else { photo() }).status;
                assert_eq!(status, 200, "{query}");
            }
        }
    }
    let models = server.get("/api/models").ok().json();
    let defaults = &models["defaults"];
    let request = &document["components"]["schemas"]["GenerateRequest"]["properties"];
    assert_eq!(keys(&defaults["generate"]), keys(request));
    for (name, schema) in request.as_object().unwrap() {
        let (found, documented) = (&defaults["generate"][name], &schema["default"]);
        assert!(found == documented || documented.is_null(), "{name} is {found} by default");
    }
    for parameter in document["paths"]["/api/reconstruct"]["post"]["parameters"].as_array().unwrap() {
        let (name, documented) = (parameter["name"].as_str().unwrap(), &parameter["schema"]["default"]);
        let found = &defaults["reconstruct"][name];
        // What the model says is documented without a number.
        assert!(found == documented || documented.is_null(), "{name} is {found} by default");
    }
}

const TOKENS: &str = r#"{"tokens": [[[1.0, -1.0, 0.5, 0.0]]]}"#;

#[test]
fn answers_hold_what_is_documented() {
    let server = start(Limits::default(), None);
    let document = document(&server);
    let is = |name: &str, value: &Value| {
        check(&document, &json!({"$ref": format!("#/components/schemas/{name}")}), value, name);
    };
    is("Models", &server.get("/api/models").ok().json());
    is("Health", &server.get("/health").ok().json());
    is("Tokens", &server.post("/api/encode", photo()).ok().json());
    is("Explanation", &server.post("/api/explain", photo()).ok().json());
    is("Pictures", &server.post("/api/decode?steps=2&format=json", TOKENS).ok().json());
    let folder = tempfile::tempdir().unwrap();
    let with_study = start_with(Limits::default(), None, Some(study(folder.path())));
    is("Study", &with_study.get("/api/study").ok().json());
    let joined = with_study.post("/api/study/participants", "").ok().json();
    is("Participant", &joined);
    let answer = answer(1, "same");
    is("StudyAnswer", &answer);
    let path = format!("/api/study/participants/{}/answers", joined["participant"].as_str().unwrap());
    is("Progress", &with_study.post(&path, answer.to_string()).ok().json());
    is("Problem", &server.post("/api/encode", "").json());
    let all = |path: &str, body: Vec<u8>, name: &str| {
        let events = server.post(path, body).ok().events();
        let (_, data) = events.iter().find(|(name, _)| name == "pictures").unwrap();
        for picture in data["pictures"].as_array().unwrap() {
            is(name, picture);
        }
    };
    all("/api/reconstruct?steps=2", photo(), "Reconstruction");
    let mut request =
        json!({"class": "1", "steps": 2, "decode_steps": 2, "sampler": "euler", "previews": true});
    is("GenerateRequest", &request);
    all("/api/generate", request.to_string().into_bytes(), "Drawn");
    request["given"] = json!([[0.5, 1.0, -1.0, 0.0]]);
    all("/api/generate", request.to_string().into_bytes(), "Drawn");
    let metrics = server.get("/metrics").ok().text();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("semanticist_") && value.parse::<f64>().is_ok(), "{line}");
    }
}
