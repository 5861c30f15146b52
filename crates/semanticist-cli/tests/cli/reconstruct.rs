//! `reconstruct`.

use std::fs;

use super::{Folder, size, truncated_jpeg};

const PAINT: &str = "reconstruct --model model.safetensors --steps 2";

#[test]
fn precision_changes_pictures_by_little() {
    let folder = Folder::new();
    folder.photo("cat.png", 1);
    let row = |precision: &str| {
        let run =
            format!("reconstruct cat.png --model model.safetensors --steps 4 --tokens 4 --json {precision}");
        folder.run(&run).json()["images"][0]["rows"][0]["psnr"].as_f64().unwrap()
    };
    let (exact, rounded) = (row(""), row("--precision bfloat16"));
    assert_eq!(exact, row("--precision float32"));
    assert!(exact != rounded && (exact - rounded).abs() < 0.3, "{exact} {rounded}");
    folder.fails("reconstruct cat.png --precision half", 2, "bfloat16");
}

#[test]
fn a_photo_gives_a_sheet_and_a_table() {
    let folder = Folder::new();
    folder.photo("photos/cat.png", 3);
    let run = folder.run(&format!("{PAINT} photos/cat.png")).ok();
    let words: Vec<Vec<&str>> = run.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0][..5], ["photos/cat.png", "->", "cat.tokens.png,", "decoded", "in"]);
    assert_eq!(words[1], ["tokens", "PSNR", "dB", "SSIM"]);
    assert_eq!(words[2..].iter().map(|line| line[0]).collect::<Vec<_>>(), ["1", "2", "4"]);
    assert_eq!(run.stderr, "", "there is no bar without a terminal");
    // Four cells of 12 × 16 pixels, 12 between them; two lines of text.
    assert_eq!(size(&folder.path("cat.tokens.png")), (4 * (192 + 12) + 12, 192 + 4 + 30 + 24));
    assert_eq!(folder.names(), ["cat.tokens.png", "model.safetensors", "photos/cat.png"]);
}

#[test]
fn json_holds_the_same() {
    let folder = Folder::new();
    folder.photo("cat.png", 3);
    let json = folder.run(&format!("{PAINT} cat.png --tokens 4,1 -o my.png --json")).json();
    let image = &json["images"][0];
    assert_eq!((&image["path"], &image["sheet"]), (&"cat.png".into(), &"my.png".into()));
    let rows = image["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["tokens"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 1]);
    for row in rows {
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 3, "{keys:?}");
        assert!(row["psnr"].as_f64().unwrap() > 0.0 && row["ssim"].as_f64().unwrap() < 1.0);
    }
    assert!(image["seconds"].as_f64().unwrap() > 0.0);
    assert_ne!(rows[0]["psnr"], rows[1]["psnr"], "tokens make a difference");
}

#[test]
fn the_seed_decides_every_byte() {
    let folder = Folder::new();
    folder.photo("cat.png", 3);
    let paint = |name: &str, options: &str| {
        folder.run(&format!("{PAINT} cat.png --tokens 1,3 -o {name} {options}")).ok();
        folder.bytes(name)
    };
    let first = paint("a.png", "");
    assert!(first == paint("b.png", "--seed 0 --threads 1"));
    assert!(first == paint("c.png", "--threads 2 --sampler ddim --guidance 1.5"));
    assert!(first != paint("d.png", "--seed 1"));
    assert!(first != paint("e.png", "--guidance 3"));
    for sampler in ["ddpm", "ddim:0.5", "dpm++"] {
        let options = format!("--sampler {sampler}");
        assert!(paint("f.png", &options) == paint("g.png", &options), "{sampler}");
    }
}

#[test]
fn several_photos_go_to_a_folder_and_none_hides_another() {
    let folder = Folder::new();
    folder.photos(&["a/cat.png", "b/cat.png", "b/dog.png"]);
    let images = "a/cat.png b/cat.png b/dog.png --tokens 1";
    folder.fails(&format!("{PAINT} {images} -o sheet.png"), 2, "folder");
    let json = folder.run(&format!("{PAINT} {images} -o out/sheets --json")).json();
    assert_eq!(json["images"].as_array().unwrap().len(), 3);
    for name in ["cat", "cat-2", "dog"] {
        assert!(folder.path(&format!("out/sheets/{name}.tokens.png")).is_file(), "{name}");
    }
    folder.run(&format!("{PAINT} b/dog.png --tokens 1 -o new/")).ok();
    assert!(folder.path("new/dog.tokens.png").is_file());
}

#[test]
fn the_box_is_enough() {
    let folder = Folder::new();
    let run = folder.run("reconstruct --steps 2 --tokens 1").ok();
    assert!(run.stdout.starts_with("chelsea.png (built in) -> chelsea.tokens.png"), "{}", run.stdout);
    assert!(folder.path("chelsea.tokens.png").is_file());
}

#[test]
fn what_is_no_photo_is_said() {
    let folder = Folder::new();
    folder.photo("good.png", 3);
    folder.file("empty.png", b"");
    folder.file("text.png", b"Dear reader, this is no picture.");
    folder.file("half.jpg", &truncated_jpeg());
    fs::create_dir(folder.path("photos")).unwrap();
    let cases = [
        ("empty.png", "empty.png: the file is empty"),
        ("half.jpg", "half.jpg: truncated JPEG"),
        ("text.png", "text.png: not an image: starts with \"Dear reader, thi\"; accepted: PNG, JPEG"),
        ("missing.png", "missing.png: cannot read: No such file"),
        ("photos", "photos: is a folder; expected one image file"),
        ("good.png empty.png text.png", "2 images cannot be used:\n  empty.png"),
    ];
    for (images, part) in cases {
        folder.fails(&format!("{PAINT} {images}"), 1, part);
    }
}

#[test]
fn what_cannot_be_asked_for_is_said() {
    let folder = Folder::new();
    folder.photo("cat.png", 3);
    let cases = [
        ("--tokens 9", "use 0 to"),
        ("--tokens 5", "the model has 4 tokens per image; use 0 to 4"),
        ("--tokens two", "whole number from 0"),
        ("--tokens 1,,2", "whole number from 0"),
        ("--tokens 2,1,2", "2 is given twice"),
        ("--steps 0", "whole number from 1"),
        ("--steps 1", "one of the sampler \"ddim-trailing\""),
        ("--steps 2000", "use 2 to 1000"),
        ("--steps -3", "-3"),
        ("--sampler rk4", "unknown sampler \"rk4\"; use \"ddpm\""),
        ("--sampler euler", "is one of flows, and this is Gaussian diffusion; use \"ddpm\""),
        ("--sampler ddim:2", "ETA from 0 to 1"),
        ("--guidance nan", "not a number of at least 0"),
        ("--guidance -1", "not a number of at least 0"),
        ("--guidance strong", "expected a number, such as 1.5"),
        ("--seed -1", "-1"),
        ("--threads 0", "whole number from 1"),
        ("--device cuda:0", "no GPU support"),
        ("--device abacus", "unknown device; use \"cpu\""),
        ("-o sheet.jpg", "give a name that ends with .png"),
    ];
    for (options, part) in cases {
        folder.fails(&format!("reconstruct cat.png --model model.safetensors {options}"), 2, part);
    }
    folder.fails("reconstruct cat.png --config sizes.toml", 2, "--model");
}

#[test]
fn where_nothing_can_be_written_nothing_is() {
    let folder = Folder::new();
    folder.photo("cat.png", 3);
    folder.file("taken", b"mine");
    let cases = [
        ("-o missing/sheet.png", "the folder missing does not exist; create it first"),
        ("-o taken/sheet.png", "the folder taken is not a folder"),
        ("dog.png -o taken", "is a file; give the name of a folder"),
    ];
    for (output, part) in cases {
        folder.fails(&format!("{PAINT} cat.png {output}"), 1, part);
    }
    #[cfg(target_os = "linux")]
    {
        folder.fails(
            &format!("{PAINT} cat.png --tokens 1 -o /proc/sheet.png"),
            1,
            "/proc/sheet.png: cannot write",
        );
        std::os::unix::fs::symlink("/dev/full", folder.path("full.png")).unwrap();
        folder.fails(
            &format!("{PAINT} cat.png --tokens 1 -o full.png"),
            1,
            "full.png: cannot write: No space left",
        );
    }
}

#[test]
fn what_is_no_model_is_said() {
    let folder = Folder::new();
    folder.photo("cat.png", 3);
    folder.file("empty.safetensors", b"");
    folder.file("text.safetensors", b"weights, weights, weights");
    let whole = folder.bytes("model.safetensors");
    folder.file("half.safetensors", &whole[..whole.len() / 2]);
    folder.file("old.pkl", b"PK\x03\x04 and so on");
    folder.file("sizes.toml", b"[model]\nimage_size = \"big\"\n");
    folder.run("encode cat.png -o tokens.safetensors --model model.safetensors").ok();
    let cases = [
        ("missing.safetensors", "missing.safetensors: cannot read"),
        ("empty.safetensors", "is empty"),
        ("text.safetensors", "begins with"),
        ("half.safetensors", "half.safetensors"),
        ("old.pkl", "say it with --config FILE.toml"),
        ("tokens.safetensors", "say it with --config FILE.toml"),
        ("old.pkl --config missing.toml", "missing.toml: cannot read"),
        ("old.pkl --config sizes.toml", "sizes.toml: "),
    ];
    for (model, part) in cases {
        folder.fails(&format!("reconstruct cat.png --model {model}"), 1, part);
    }
}
