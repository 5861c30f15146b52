//! Data sets of the hub, against a server that stands in for it.

use super::Folder;
use super::hub::{Behaviour, COMMIT, Server, at, fails, run};
use super::stores::shards;

/// A hub with this data set under `ada/photos`.
fn behaviour(folder: &Folder) -> Behaviour {
    let api = "api/datasets/ada/photos";
    let mut list = vec![r#"{"type": "directory", "path": "data"}"#.to_string()];
    let mut files = Vec::new();
    for (name, content) in shards(folder) {
        list.push(format!(r#"{{"type": "file", "path": "data/{name}", "size": {}}}"#, content.len()));
        files.push((format!("datasets/ada/photos/resolve/{COMMIT}/data/{name}"), content.clone()));
        files.push((format!("datasets/ada/photos/resolve/main/data/{name}"), content));
    }
    list.push(r#"{"type": "file", "path": "README.md", "size": 3}"#.into());
    let list = format!("[{}]", list.join(", "));
    files.push((format!("{api}/revision/main"), format!(r#"{{"sha": "{COMMIT}"}}"#).into_bytes()));
    files.push((format!("{api}/tree/{COMMIT}?recursive=true"), list.into_bytes()));
    Behaviour { files, ..Behaviour::default() }
}

#[test]
fn the_part_that_is_asked_for_is_fetched_once_and_then_used_without_a_network() {
    let folder = Folder::new();
    let server = Server::start(Behaviour { cuts: vec![usize::MAX, usize::MAX, 700], ..behaviour(&folder) });
    let encode = |endpoint: &str, name: &str, more: &str| {
        at(
            &folder,
            endpoint,
            &format!("encode {name} -o t.safetensors --model model.safetensors --json {more}"),
        )
    };
    let images = |command| run(command).json()["images"].clone();
    assert_eq!(images(encode(&server.address, "hf://datasets/ada/photos", "--split train")), 17);
    let fetched: Vec<_> = server.requests("GET").into_iter().map(|request| request.path).collect();
    assert!(fetched.iter().any(|path| path.ends_with("train-1.tar")), "{fetched:?}");
    assert!(!fetched.iter().any(|path| path.ends_with("val-0.tar")), "{fetched:?}");
    let snapshot = format!("hf/hub/datasets--ada--photos/snapshots/{COMMIT}/data/train-0.tar");
    assert!(folder.bytes(&snapshot) == shards(&folder)[0].1, "taken up again where the connection broke");

    assert_eq!(images(encode(&server.address, "hf://datasets/ada/photos/data/train-*", "")), 17);
    let again = server.requests("GET").split_off(fetched.len());
    assert!(again.iter().all(|request| request.path.starts_with("api/")), "fetched twice: {again:?}");
    let mut offline = encode("http://127.0.0.1:1", "hf://datasets/ada/photos", "--split train");
    offline.env("HF_HUB_OFFLINE", "1");
    assert_eq!(images(offline), 17);
    // A file by its full name needs no list.
    assert_eq!(images(encode(&server.address, "hf://datasets/ada/photos/data/val-0.tar", "")), 4);
}

#[test]
fn what_the_hub_does_not_have_is_said() {
    let folder = Folder::new();
    let server = Server::start(Behaviour {
        refusals: vec![("api/datasets/nobody", 401, "RepoNotFound")],
        ..behaviour(&folder)
    });
    for (name, code, part) in [
        (
            "hf://datasets/ada/photos/x/*.parquet",
            1,
            "none of its 4 files is a Parquet or tar file of that name",
        ),
        ("hf://datasets/nobody/photos", 1, "there is no repository nobody/photos"),
        ("hf://datasets/ada", 2, "expected hf://datasets/OWNER/NAME"),
        ("hf://models/ada/x", 2, "expected hf://datasets/OWNER/NAME"),
    ] {
        fails(
            at(&folder, &server.address, &format!("encode {name} -o t.parquet --model model.safetensors")),
            code,
            part,
        );
    }
}
