//! `serve`: the server as people start it, against the commands.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Folder;

/// A server on a free port, which ends with the test.
struct Serving {
    child: Child,
    page: String,
}

impl Serving {
    fn start(folder: &Folder, arguments: &str) -> Self {
        let mut command = folder.command(&format!("serve --port 0 {arguments}"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut page = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut page).unwrap();
        assert!(page.starts_with("http://127.0.0.1:"), "{page}");
        Self { child, page: page.trim().to_string() }
    }

    /// The events that a photo gives.
    fn reconstruct(&self, photo: &[u8], query: &str) -> Vec<(String, Value)> {
        let url = format!("{}api/reconstruct?{query}", self.page);
        let text = ureq::post(url).send(photo).unwrap().body_mut().read_to_string().unwrap();
        let events = text.split_terminator("\n\n").map(|event| {
            let (name, data) = event.split_once("\ndata: ").unwrap();
            (name.replace("event: ", ""), serde_json::from_str(data).unwrap())
        });
        events.collect()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sheet(events: &[(String, Value)]) -> Vec<u8> {
    let (name, data) = events.last().unwrap();
    assert_eq!(name, "done", "{data}");
    STANDARD.decode(data["sheet"].as_str().unwrap()).unwrap()
}

#[test]
fn the_page_gives_the_bytes_of_the_command() {
    let folder = Folder::new();
    folder.photo("cat.png", 3);
    let photo = folder.bytes("cat.png");
    let serving = Serving::start(&folder, "--model model.safetensors");
    for (options, query) in [
        ("--steps 3", "steps=3&previews=2"),
        ("--steps 4 --tokens 0,3,1 --seed 7 --guidance 3", "steps=4&tokens=0,3,1&seed=7&guidance=3"),
        ("--steps 3 --sampler dpm++ --fit pad", "steps=3&sampler=dpm%2B%2B&fit=pad"),
    ] {
        folder.run(&format!("reconstruct cat.png -o sheet.png --model model.safetensors {options}")).ok();
        assert!(sheet(&serving.reconstruct(&photo, query)) == folder.bytes("sheet.png"), "{options}");
    }
    assert_eq!(folder.names(), ["cat.png", "model.safetensors", "sheet.png"], "nothing is written");
}

#[test]
fn the_built_in_photo_and_models_are_served() {
    let folder = Folder::new();
    let serving = Serving::start(&folder, "");
    let get = |path: &str| ureq::get(format!("{}{path}", serving.page)).call().unwrap().into_body();
    let models: Value = serde_json::from_reader(get("api/models").as_reader()).unwrap();
    for model in [&models["tokenizers"][0], &models["generator"]] {
        assert!(model["notes"]["card"].as_str().unwrap().contains("| data |"), "{model}");
    }
    let photo =
        get(&format!("api/samples/{}", models["samples"][0].as_str().unwrap())).read_to_vec().unwrap();
    let events = serving.reconstruct(&photo, "steps=2");
    folder.run("reconstruct -o sheet.png --steps 2").ok();
    assert!(sheet(&events) == folder.bytes("sheet.png"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_it_in_order() {
    let folder = Folder::new();
    let mut serving = Serving::start(&folder, "--model model.safetensors --verbose");
    let id = serving.child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(serving.child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    serving.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("stopping"), "{log}");
}

#[test]
fn what_cannot_be_served_is_said_first() {
    let folder = Folder::new();
    folder.fails("serve --host 0.0.0.0 --port 0 --model model.safetensors", 1, "a token is needed");
    folder.fails("serve --model absent.safetensors", 1, "absent.safetensors");
    folder.fails("serve --model model.safetensors --generator tiny-generator", 2, "the tokenizer decodes");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    folder.fails(&format!("serve --model model.safetensors --port {port}"), 1, "--port and --host choose");
    assert_eq!(folder.run("serve --token short").code, Some(2));
}

#[test]
fn a_tokenizer_beside_is_asked_by_the_name_it_was_given() {
    let folder = Folder::new();
    folder.photo("cat.png", 3);
    let serving = Serving::start(&folder, "--beside model.safetensors");
    let events = serving.reconstruct(&folder.bytes("cat.png"), "model=model.safetensors&steps=3");
    folder.run("reconstruct cat.png --model model.safetensors --steps 3 -o sheet.png").ok();
    assert!(sheet(&events) == folder.bytes("sheet.png"));
    let twice = "serve --model model.safetensors --beside model.safetensors";
    folder.fails(twice, 2, "--beside model.safetensors: it is served already");
}
