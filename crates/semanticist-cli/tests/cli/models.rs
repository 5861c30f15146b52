//! `models` and `verify`.

use semanticist::diffusion::{DiffusionConfig, FlowConfig};

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
fn what_a_model_takes_of_memory_is_told() {
    let folder = Folder::new();
    let json = folder.run("models info model.safetensors --json").json();
    let bytes = |part: &str| json["memory"][part].as_u64().unwrap();
    assert_eq!(bytes("weights"), json["parameters"]["total"].as_u64().unwrap() * 4);
    assert!(bytes("encode") > 0 && bytes("decode") > 0 && bytes("autoencoder") == 0);
    let text = folder.run("models info model.safetensors").ok().stdout;
    for part in ["for the weights", "to encode", "to decode", "per image of a batch"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn files_that_lie_or_attack_are_refused_and_nothing_is_run() {
    let folder = Folder::new();
    folder.file("sizes.toml", SIZES.as_bytes());
    let whole = folder.bytes("model.safetensors");
    folder.file("truncated.safetensors", &whole[..whole.len() - 5]);
    // Every size in the header is ten times what follows it.
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header =
        std::str::from_utf8(&whole[8..8 + length]).unwrap().replace("\"shape\":[32", "\"shape\":[320");
    let lying = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &whole[8 + length..]].concat();
    folder.file("lying.safetensors", &lying);
    folder.file("endless.safetensors", &[&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    for name in ["attack.pkl", "attack_inside.pkl"] {
        let attack = format!("{}/../semanticist/tests/data/weights/{name}", env!("CARGO_MANIFEST_DIR"));
        folder.file(name, &std::fs::read(attack).unwrap());
    }
    std::fs::create_dir(folder.path("folder")).unwrap();
    folder.run("models export model.safetensors --published -o torch.safetensors").ok();
    for (arguments, part) in [
        ("info truncated.safetensors", "copy or download it again"),
        ("info lying.safetensors", "has a damaged safetensors header"),
        ("info endless.safetensors", "is not a safetensors file"),
        ("info attack.pkl --config sizes.toml", "posix.system when opened in Python; nothing was run"),
        ("import attack_inside.pkl --config sizes.toml -o x.safetensors", "nothing was run"),
        ("info folder", "is a folder; give the .safetensors file itself"),
        ("info folder --config sizes.toml", "is a folder without weights"),
        ("info model.safetensors --config sizes.toml", "leave --config, --preset"),
        ("info model.safetensors --preset l-256x16", "leave --config, --preset"),
        ("import model.safetensors --config sizes.toml -o x.safetensors", "leave --config"),
    ] {
        folder.fails(&format!("models {arguments}"), 1, part);
    }
    // A checkpoint of other sizes than the preset's.
    folder.file("other.toml", SIZES.replace("width = 32", "width = 64").as_bytes());
    folder.fails("models info torch.safetensors --config other.toml", 1, "of another shape or type");
    assert!(!folder.path("PWNED").exists());
}

#[test]
fn without_a_file_it_is_the_model_in_the_box() {
    let json = Folder::new().run("models info --json").json();
    assert_eq!(json["file"], "tiny (built in)");
    assert_eq!((&json["config"]["image_size"], &json["config"]["tokens"]), (&64.into(), &64.into()));
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

/// [`super::CONFIG`] as a user writes it.
const SIZES: &str = r#"
image_size = 16
tokens = 4
token_dim = 4
encoder = { patch_size = 4, blocks = { width = 32, depth = 1, heads = 2 } }
decoder = { patch_size = 4, blocks = { width = 32, depth = 1, heads = 2 } }
autoencoder = { kind = "pixel" }
"#;

#[test]
fn what_is_exported_for_pytorch_comes_back_as_the_same_model() {
    let folder = Folder::new();
    folder.file("sizes.toml", SIZES.as_bytes());
    folder.run("models export model.safetensors --published -o torch.safetensors").ok();
    let (weights, _) = semanticist::weights::load(&folder.path("torch.safetensors")).unwrap();
    for name in ["dit.pos_embed", "encoder.cls_token", "encoder2slot.weight", "dit.blocks.0.attn.qkv.bias"] {
        assert!(weights.get(name).is_some(), "{name}");
    }
    folder.run("models import torch.safetensors --config sizes.toml -o back.safetensors").ok();
    let info = |name: &str| folder.run(&format!("models info {name} --json")).json();
    let (before, after) = (info("model.safetensors"), info("back.safetensors"));
    assert_eq!((&before["hash"], &before["config"]), (&after["hash"], &after["config"]));
    assert_eq!(after["training"]["imported_from"], "torch.safetensors");
    folder.run("models import torch.safetensors --config sizes.toml -o half.safetensors --store f16").ok();
    assert!(folder.bytes("half.safetensors").len() * 3 < folder.bytes("back.safetensors").len() * 2);
}

#[test]
fn how_a_finished_tokenizer_decodes_can_be_changed_and_its_tokens_stay_good() {
    let folder = Folder::new();
    folder.photo("p/x.png", 40);
    folder.run("encode p -o t.parquet --model model.safetensors").ok();
    let decoded = |arguments: &str| {
        folder.run(&format!("decode t.parquet -o decoded --overwrite --model {arguments}")).ok();
        folder.bytes("decoded/x.png")
    };
    folder.run("models edit model.safetensors --decode-steps 2 --decode-guidance 1 -o few.safetensors").ok();
    let few = decoded("few.safetensors");
    assert!(
        few == decoded("model.safetensors --steps 2 --guidance 1") && few != decoded("model.safetensors")
    );
    // What is not asked for stays, and a file can take its own place.
    folder.run("models edit few.safetensors --decode-sampler ddim-trailing -o few.safetensors").ok();
    assert!(
        decoded("few.safetensors")
            == decoded("model.safetensors --steps 2 --guidance 1 --sampler ddim-trailing")
    );
    let json = folder.run("models info few.safetensors --json").json();
    let expected = serde_json::json!({"steps": 2, "sampler": "ddim-trailing", "guidance": {"scale": 1.0}});
    assert_eq!((&json["config"]["decoding"], &json["training"]["steps"]), (&expected, &7.into()));
    let weights = |file: &str| semanticist::weights::load(&folder.path(file)).unwrap().0;
    let (before, after) = (weights("model.safetensors"), weights("few.safetensors"));
    assert!(before.iter().zip(after.iter()).all(|((a, x), (b, y))| a == b && x.bytes() == y.bytes()));
    assert!(before.names().eq(after.names()));
    for (asked, code, part) in [
        ("", 2, "nothing is asked"),
        ("--drawn-tokens 2", 2, "are of generators"),
        ("--decode-sampler heun", 1, "\"heun\" is one of flows"),
    ] {
        folder.fails(&format!("models edit model.safetensors {asked} -o x.safetensors"), code, part);
    }
}

#[test]
fn a_sampler_is_fitted_to_a_flow_and_decodes_where_it_fits() {
    let folder = Folder::new();
    folder.model_of(DiffusionConfig::Flow(FlowConfig::default()), "flow.safetensors", 1);
    folder.photos(&["p/1.png", "p/2.png", "p/3.png", "p/4.png", "p/5.png", "p/6.png"]);
    folder.run("encode p -o t.parquet --model flow.safetensors").ok();
    let fit = "models fit-sampler flow.safetensors --data p --images 3 --steps 3,2 --guidance 1";
    let json = folder.run(&format!("{fit} -o fitted.safetensors --json")).json();
    for (row, steps) in json["rows"].as_array().unwrap().iter().zip([3, 2]) {
        let [before, fitted] = ["before_psnr", "fitted_psnr"].map(|name| row[name].as_f64().unwrap());
        assert!(row["steps"] == steps && fitted > before, "{row}");
        assert_eq!(row["times"].as_array().unwrap().len(), steps);
    }
    assert_eq!((&json["before"], &json["tokens"]), (&"ab2".into(), &serde_json::json!([1, 2, 4])));
    // From other numbers of tokens another is fitted.
    let few = folder.run(&format!("{fit} --tokens 1,2 -o few.safetensors --json")).json();
    assert!(few["tokens"] == serde_json::json!([1, 2]) && few["rows"] != json["rows"], "{few}");
    let short = fit.replace("--images 3", "--images 2");
    let short = folder.run(&format!("{short} --tokens 4,2,1 -o few.safetensors --json")).json();
    assert_eq!(short["tokens"], serde_json::json!([4, 2]));
    let decoded = |arguments: &str| {
        folder.run(&format!("decode t.parquet -o decoded --overwrite --model {arguments}")).ok();
        folder.bytes("decoded/1.png")
    };
    let usual = decoded("fitted.safetensors --steps 2 --guidance 1");
    assert!(usual == decoded("fitted.safetensors --steps 2 --guidance 1 --sampler fitted"));
    assert!(usual != decoded("flow.safetensors --steps 2 --guidance 1"));
    // Of other guidance and other steps nothing was fitted.
    for other in ["--steps 2 --guidance 2", "--steps 4 --guidance 1"] {
        assert!(
            decoded(&format!("fitted.safetensors {other}")) == decoded(&format!("flow.safetensors {other}"))
        );
    }
    // One of as many steps is replaced, the other stays.
    let again = fit.replace("flow", "fitted").replace("3,2 --guidance 1", "2 --guidance 2");
    let text = folder.run(&format!("{again} -o fitted.safetensors")).ok().stdout;
    assert!(text.contains("fitted to 3 photos with guidance 2") && text.contains("done: fitted"), "{text}");
    let json = folder.run("models info fitted.safetensors --json").json();
    let there = json["config"]["fitted_samplers"].as_array().unwrap();
    let there: Vec<_> =
        there.iter().map(|it| (it["times"].as_array().unwrap().len(), &it["guidance"])).collect();
    assert_eq!(there, [(2, &2.0.into()), (3, &1.0.into())]);
    let text = folder.run("models info fitted.safetensors").ok().stdout;
    let first = "  fitted_samplers\n    1\n      guidance = 2.0\n      times = [";
    assert!(text.contains(first) && text.contains("\n      weights\n        1 = ["), "{text}");
    for (asked, code, part) in [
        ("models fit-sampler flow.safetensors --data p --steps 17 -o x.safetensors", 2, "use 1 to 16"),
        (
            "models fit-sampler flow.safetensors --data p --steps 2,3,2 -o x.safetensors",
            2,
            "2 is there twice",
        ),
        ("models fit-sampler flow.safetensors --data p/1.png -o x.safetensors", 1, "give two or more"),
        ("models fit-sampler flow.safetensors --data p --tokens 5 -o x.safetensors", 2, "use 0 to 4"),
        (
            "decode t.parquet -o x --model fitted.safetensors --sampler fitted --steps 4",
            2,
            "fitted to it take 2, 3",
        ),
        (
            "decode t.parquet -o x --model flow.safetensors --sampler fitted --steps 4",
            2,
            "none was fitted to it",
        ),
        (
            "reconstruct p/1.png --model model.safetensors --sampler fitted --steps 4",
            2,
            "none was fitted to it",
        ),
    ] {
        folder.fails(asked, code, part);
    }
}

#[test]
fn an_import_says_what_it_misses() {
    let folder = Folder::new();
    folder.file("sizes.toml", SIZES.as_bytes());
    folder.photos(&["photos/cat.png"]);
    folder.run("models export model.safetensors --published -o torch.safetensors").ok();
    for (arguments, code, part) in [
        ("torch.safetensors -o x.safetensors", 2, "--preset NAME"),
        ("torch.safetensors --preset l -o x.safetensors", 2, "l-256x16"),
        ("torch.safetensors --autoencoder kl.ckpt -o x.safetensors", 2, "--preset"),
        ("torch.safetensors --preset b-256x16 -o x.safetensors", 1, "holds no autoencoder"),
        ("torch.safetensors --config sizes.toml -o missing/x.safetensors", 1, "create it first"),
        ("photos --config sizes.toml -o x.safetensors", 1, "is a folder without weights"),
        ("sizes.toml --config sizes.toml -o x.safetensors", 1, "cannot be read as a checkpoint"),
    ] {
        folder.fails(&format!("models import {arguments}"), code, part);
    }
    folder.fails("models export model.safetensors -o x.safetensors", 2, "--published");
    folder.fails("models export torch.safetensors --published -o x.safetensors", 1, "does not say of what");
}
