//! `models info` and `verify`.

use super::Folder;

#[test]
fn a_model_file_tells_what_it_holds() {
    let folder = Folder::new();
    let text = folder.run("models info model.safetensors").ok().stdout;
    for part in ["model.safetensors\n", "16 × 16 pixels", "4 × 4 numbers", "kind = pixel", "steps = 7"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let json = folder.run("models info model.safetensors --json").json();
    assert_eq!(json["file"], "model.safetensors");
    assert_eq!(json["bytes"], folder.bytes("model.safetensors").len());
    assert_eq!(json["hash"].as_str().unwrap().len(), 64);
    assert_eq!(json["config"]["encoder"]["blocks"]["width"], 32);
    assert_eq!(json["training"]["steps"], 7);
    let parts = ["encoder", "decoder", "autoencoder"].map(|part| json["parameters"][part].as_u64().unwrap());
    assert_eq!(json["parameters"]["total"], parts.iter().sum::<u64>());
    assert!(parts[0] > 10_000 && parts[1] > 10_000 && parts[2] == 0, "{parts:?}");
}

#[test]
fn without_a_file_it_is_the_model_in_the_box() {
    let json = Folder::new().run("models info --json").json();
    assert_eq!(json["file"], "the model in the box");
    assert_eq!((&json["config"]["image_size"], &json["config"]["tokens"]), (&64.into(), &32.into()));
}

#[test]
fn what_is_no_model_is_said() {
    let folder = Folder::new();
    folder.file("text.safetensors", b"weights, weights, weights");
    folder.fails("models info missing.safetensors", 1, "missing.safetensors: cannot read");
    folder.fails("models info text.safetensors", 1, "text.safetensors");
    folder.fails("models info .", 1, "is a folder; give the .safetensors file itself");
    folder.fails("models info --config sizes.toml", 2, "FILE");
    assert_eq!(folder.run("models").code, Some(2));
}

#[test]
fn what_cannot_be_verified_is_said() {
    let folder = Folder::new();
    folder.file("file", b"");
    folder.fails("verify missing", 1, "missing");
    folder.fails("verify file", 1, "is not a folder");
    folder.fails("verify . --cases encoder,nonsense", 2, "there is no case \"nonsense\"; the cases are");
    let run = folder.run("verify . --json");
    assert_eq!(run.code, Some(1));
    assert!(serde_json::from_str::<serde_json::Value>(&run.stdout).is_ok());
}
