//! Training on shards in a store that fails now and then, against the same shards in files.

use std::process::Command;

use super::Folder;
use server::{Fault, Server};

#[allow(dead_code, reason = "the tests of semanticist-data use all of it")]
#[path = "../../../semanticist-data/src/stores/server.rs"]
mod server;

const CONFIG: &str = r#"
steps = 7
batch = 4
[model]
image_size = 16
tokens = 4
token_dim = 4
encoder = { patch_size = 4, drop_path = 0.1, blocks = { width = 16, depth = 1, heads = 2 } }
decoder = { patch_size = 1, blocks = { width = 16, depth = 1, heads = 2 } }
autoencoder = { kind = "linear", patch_size = 4, channels = 8, whitening = 0.25 }
diffusion = { steps = 1000, schedule = "linear", prediction = "velocity" }
[learning_rate]
peak = 1e-3
warmup_steps = 2
decay = "constant"
[validation]
images = 2
tokens = [1, 4]
samples = 1
"#;

/// A tar file of these files.
pub fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, content) in files {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[148..156].fill(b' ');
        header[156] = b'0';
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        header[154] = 0;
        all.extend_from_slice(&header);
        all.extend_from_slice(content);
        all.resize(all.len().next_multiple_of(512), 0);
    }
    all.resize(all.len() + 1024, 0);
    all
}

/// Shards of a training and a validation part, by name.
pub fn shards(folder: &Folder) -> Vec<(&'static str, Vec<u8>)> {
    [("train-0.tar", 0..9), ("train-1.tar", 9..17), ("val-0.tar", 17..21)]
        .map(|(shard, numbers)| {
            let files: Vec<_> = numbers
                .map(|number: u8| {
                    folder.photo("photo.png", number);
                    (format!("{number}.png"), folder.bytes("photo.png"))
                })
                .collect();
            (shard, tar(&files))
        })
        .into()
}

/// The command with this store, and nothing else of the environment's.
fn at(folder: &Folder, server: &Server, arguments: &str) -> Command {
    let mut command = folder.command(arguments);
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.env("AWS_ENDPOINT_URL", &server.address).env("XDG_CACHE_HOME", folder.path("cache"));
    command.env("AWS_ACCESS_KEY_ID", "ada").env("AWS_SECRET_ACCESS_KEY", "secret");
    command
}

#[test]
fn a_run_on_a_store_that_fails_now_and_then_is_the_run_on_files() {
    let (folder, server) = (Folder::new(), Server::start());
    folder.file("tiny.toml", CONFIG.as_bytes());
    std::fs::create_dir(folder.path("photos")).unwrap();
    for (name, content) in shards(&folder) {
        folder.file(&format!("photos/{name}"), &content);
        server.put(&format!("bucket/photos/{name}"), &content);
    }
    let train = |data: &str, out: &str| {
        let arguments = format!("train tokenizer tiny.toml --data {data} --out {out} --threads 1");
        let run = at(&folder, &server, &arguments).output().unwrap();
        let errors = String::from_utf8(run.stderr).unwrap();
        (run.status.code(), errors)
    };
    let run = |data: &str, out: &str| {
        let (code, errors) = train(data, out);
        assert_eq!(code, Some(0), "{data}: {errors}");
        assert!(errors.contains("17 training images, 4 for validation"), "{errors}");
        folder.bytes(&format!("{out}/checkpoints/step-00000007/weights.safetensors"))
    };
    let here = run("photos", "here");
    server.fail(&[Fault::Unavailable, Fault::Dropped, Fault::Cut, Fault::Short]);
    assert!(run("s3://bucket/photos", "there") == here);
    assert!(server.has_failed());

    server.fail_forever(Some(Fault::Forbidden));
    let (code, errors) = train("s3://bucket/photos/train-0.tar", "refused");
    assert_eq!(code, Some(1));
    assert!(errors.contains("s3://bucket/photos/train-0.tar: the store does not allow it"), "{errors}");
}

#[test]
fn weights_belong_to_a_run() {
    let folder = Folder::new();
    folder.file("tiny.toml", CONFIG.as_bytes());
    for (name, content) in shards(&folder) {
        folder.file(name, &content);
    }
    let train = |weights: &str, more: &str| {
        folder.run(&format!(
            "train tokenizer tiny.toml --data train-0.tar train-1.tar --set data.weights={weights} --threads 1 {more}"
        ))
    };
    train("[3,1]", "--out a").ok();
    train("[]", "--out b").ok();
    let weights = |out: &str| folder.bytes(&format!("{out}/checkpoints/step-00000007/weights.safetensors"));
    assert_ne!(weights("a"), weights("b"));
    let changed = train("[3,2]", "--out a --resume");
    assert_eq!(changed.code, Some(1));
    assert!(changed.stderr.contains("data.weights: was [3.0,1.0], is [3.0,2.0]"), "{}", changed.stderr);
    let wrong = train("[1]", "--out c");
    assert!(wrong.code == Some(1) && wrong.stderr.contains("1 weights for 2 sources"), "{}", wrong.stderr);
}
