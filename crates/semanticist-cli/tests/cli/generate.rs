//! `generate`, `train generator`, and `models` of generators.

use burn::tensor::Device;
use semanticist::generator::{Generator, GeneratorConfig, GeneratorNetworks};
use semanticist::model::GeneratorModel;
use semanticist::weights::{self, HostTensor, Precision};
use semanticist::{ModelFile, Noise};

use super::{Folder, size};

const CONFIG: &str = r#"{
    "tokens": 4, "token_dim": 4, "classes": 3, "width": 16, "depth": 1, "heads": 2,
    "head": {"width": 16, "depth": 1}
}"#;

const GENERATE: &str = "generate --generator generator.safetensors --model model.safetensors --steps 3 \
                        --decode-steps 2";

/// A folder with a tokenizer and a generator of its tokens, of random weights.
fn folder() -> Folder {
    let folder = Folder::new();
    write(&folder, "generator.safetensors", CONFIG);
    folder
}

fn write(folder: &Folder, name: &str, config: &str) {
    write_with(folder, name, config, ["goldfish, Carassius auratus", "tabby cat", "wok"]);
}

fn write_with(folder: &Folder, name: &str, config: &str, classes: [&str; 3]) {
    let (device, mut noise) = (Device::flex(), Noise::seeded(2));
    let config: GeneratorConfig = serde_json::from_str(config).unwrap();
    let networks = GeneratorNetworks::init(&config, &mut noise, &device).unwrap();
    let mut drawn = weights::Weights::new();
    for (name, tensor) in weights::collect(&networks, "").iter() {
        let values: Vec<f32> = noise.uniform(tensor.shape().iter().product());
        let values: Vec<f32> = values.into_iter().map(|value| (value - 0.5) * 0.6).collect();
        drawn.insert(name, HostTensor::from_f32(tensor.shape(), &values));
    }
    let networks = weights::apply(networks, "", &mut drawn);
    let tokenizer = ModelFile::open(&folder.path("model.safetensors"))
        .unwrap()
        .into_tokenizer()
        .unwrap()
        .load(&device)
        .unwrap();
    let model = GeneratorModel {
        generator: Generator { config, networks },
        classes: classes.map(String::from).to_vec(),
        tokenizer: Some(tokenizer.hash().unwrap().to_string()),
        training: None,
    };
    model.save(&folder.path(name), Precision::F32).unwrap();
}

#[test]
fn classes_become_a_sheet_or_files() {
    let folder = folder();
    let run = folder.run(&format!("{GENERATE} --class goldfish 2 -n 2")).ok();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("done: generated.png\n", ""));
    // Four cells of 12 × 16 pixels, 12 between them; a line of text.
    assert_eq!(size(&folder.path("generated.png")), (4 * (192 + 12) + 12, 192 + 4 + 15 + 24));
    folder.run(&format!("{GENERATE} --class WOK Goldfish -n 2 --out-dir out")).ok();
    let names = folder.names();
    for name in ["out/goldfish.png", "out/goldfish-2.png", "out/wok.png", "out/wok-2.png"] {
        assert!(names.contains(&name.to_string()), "{names:?}");
    }
    assert_eq!(size(&folder.path("out/wok.png")), (16, 16));
    assert!(folder.bytes("out/wok.png") != folder.bytes("out/wok-2.png"), "each has noise of its own");
}

#[test]
fn a_strip_shows_the_draw_after_one_two_and_all_tokens() {
    let folder = folder();
    folder.run(&format!("{GENERATE} --class wok -n 1 --progressive -o strip.png")).ok();
    assert_eq!(size(&folder.path("strip.png")).0, 3 * (192 + 12) + 12);
}

#[test]
fn the_seed_decides_every_byte_and_an_image_does_not_know_its_neighbours() {
    let folder = folder();
    let run = |out: &str, options: &str| {
        folder.run(&format!("{GENERATE} --class 1 --out-dir {out} {options}")).ok();
    };
    run("a", "-n 2 --seed 5");
    run("b", "-n 2 --seed 5 --threads 1");
    run("c", "-n 1 --seed 6");
    assert!(folder.bytes("a/tabby-cat.png") == folder.bytes("b/tabby-cat.png"));
    assert!(super::near(&folder.path("a/tabby-cat-2.png"), &folder.path("c/tabby-cat.png")));
    run("d", "-n 1 --seed 5 --guidance 1");
    assert!(folder.bytes("a/tabby-cat.png") != folder.bytes("d/tabby-cat.png"));
}

#[test]
fn what_cannot_be_drawn_is_said() {
    let folder = folder();
    write(&folder, "wide.safetensors", &CONFIG.replace("\"token_dim\": 4", "\"token_dim\": 5"));
    for (arguments, code, part) in [
        ("--class goldfsh", 2, "the nearest are \"goldfish\""),
        ("--class cat", 2, "the nearest are \"tabby cat\", "),
        ("--class 3", 2, "the classes are 0 to 2"),
        ("--class 1 -n 0", 2, "from 1 to"),
        ("--class 1 --tokens 5", 2, "the generator has 4 tokens"),
        ("--class 1 --guidance -1", 2, "guidance scale -1"),
        ("--class 1 --temperature -1", 2, "temperature -1"),
        ("--class 1 --sampler rk4", 2, "\"heun\""),
        ("--class 1 --sampler ddim", 2, "\"ddim\" is one of Gaussian diffusion"),
        ("--class 1 --decode-sampler heun", 2, "\"heun\" is one of flows"),
        ("--class 1 -o missing/x.png", 1, "create it first"),
        ("--class 1 -o x.jpg", 2, "sheets are PNG files"),
        ("--class 1 --out-dir model.safetensors", 1, "is a file"),
    ] {
        folder.fails(&format!("{GENERATE} {arguments}"), code, part);
    }
    let of = |file: &str| format!("generate --model model.safetensors --generator {file}");
    folder.fails(&of("wide.safetensors"), 2, "the tokenizer decodes 4 of 4");
    folder.fails(&of("model.safetensors"), 1, "holds one tokenizer, expected one generator");
    folder.fails(&of("nothing.safetensors"), 1, "nothing.safetensors");
    folder.fails(
        "reconstruct --model generator.safetensors",
        1,
        "holds one generator, expected one tokenizer",
    );
    folder.fails("reconstruct --model tiny-generator", 1, "tiny-generator: holds one generator");
}

#[test]
fn a_generator_is_trained_on_cached_tokens_and_draws() {
    let folder = Folder::new();
    folder.photos(&["p/cat/a.png", "p/cat/b.png", "p/dog/c.png", "p/dog/d.png"]);
    folder.run("cache-tokens p -o cache --model model.safetensors").ok();
    folder.file(
        "run.toml",
        b"steps = 3\nbatch = 2\n[model]\ntokens = 4\ntoken_dim = 4\nclasses = 2\nwidth = 16\ndepth = 1\n\
          heads = 2\nhead = { width = 16, depth = 1 }\n[learning_rate]\npeak = 1e-3\nwarmup_steps = 1\n\
          decay = \"cosine\"\n[log]\nevery = 1\nvalidate_every = 3\n[validation]\nsamples = 2\n",
    );
    let train = "train generator run.toml --tokens cache --model model.safetensors --out run";
    let run = folder.run(train).ok();
    assert!(run.stderr.contains("step 3: validation loss"), "{}", run.stderr);
    // Samples are drawn as `model.drawing` says: the usual temperature changes none, another all.
    let samples =
        |run: &str| std::fs::read(folder.path(&format!("{run}/samples/step-00000003.png"))).unwrap();
    for temperature in ["1", "0"] {
        let set = format!("--out t{temperature} --set model.drawing.temperature={temperature}");
        folder.run(&train.replace("--out run", &set)).ok();
    }
    assert!(samples("t1") == samples("run") && samples("t0") != samples("run"));
    for (arguments, part) in [
        (train.to_string(), "--resume"),
        (format!("{train} --set model.tokens=5"), "asks for 5 of 4"),
        (format!("{train} --set model.heads=3"), "3 heads do not divide"),
        (format!("{train} --set model.decoding={{steps=0}}"), "at least 1 step"),
        (format!("{train} --set model.drawn_tokens=5"), "drawn_tokens 5 is not in 1..=4"),
        (format!("{train} --set model.decoding={{sampler=\"heun\"}}"), "\"heun\" is one of flows"),
    ] {
        let run = folder.run(&arguments);
        assert!(run.code == Some(1) && run.stderr.contains(part), "{arguments}: {}", run.stderr);
    }
    // Another run begins with the first one's end: a step that learns nothing leaves it as it is.
    let on = "train generator run.toml --tokens cache --model model.safetensors --from run/model.safetensors --out on";
    let still = "--set steps=1 --set learning_rate.peak=1e-12 --set log.validate_every=0";
    let run = folder.run(&format!("{on} {still}")).ok();
    assert!(!run.stderr.contains("anew"), "{}", run.stderr);
    let weights = |file: &str| weights::load(&folder.path(file)).unwrap().0;
    let (ended, begun) = (weights("run/model.safetensors"), weights("on/model.safetensors"));
    for (name, tensor) in ended.iter() {
        assert_eq!(tensor.to_f32(), begun.get(name).unwrap().to_f32(), "{name}");
    }
    // One of fewer tokens draws these as before.
    let fewer = on.replace("--out on", "--out fewer") + " --set model.tokens=2";
    let run = folder.run(&format!("{fewer} {still}")).ok();
    assert!(run.stderr.contains("the first 2 of the 4 tokens"), "{}", run.stderr);
    let picture = |generator: &str| {
        let drawn =
            "--model model.safetensors --steps 3 --decode-steps 2 --class 1 -n 1 --tokens 2 -o drawn.png";
        folder.run(&format!("generate --generator {generator}/model.safetensors {drawn}")).ok();
        folder.bytes("drawn.png")
    };
    assert!(picture("run") == picture("fewer"));
    folder.photos(&["q/cat/a.png", "q/owl/b.png"]);
    folder.run("cache-tokens q -o others --model model.safetensors").ok();
    for (arguments, part) in [
        (format!("{on} --set model.width=32"), "does not fit the configuration's [model]"),
        (on.replace("run/model", "model"), "expected one generator"),
        (on.replace("cache", "others"), "class 1 of the tokens is \"owl\""),
    ] {
        let run = folder.run(&arguments.replace("--out on", "--out other"));
        assert!(run.code == Some(1) && run.stderr.contains(part), "{arguments}: {}", run.stderr);
    }
    let generate = "generate --generator run/model.safetensors --model model.safetensors --steps 2";
    // The spelling of earlier versions.
    folder.run(&format!("{generate} --paint-steps 2 --class dog -n 1")).ok();
    folder.fails(&format!("{generate} --class dgo"), 2, "\"dog\"");
}

#[test]
fn what_is_drawn_is_decoded_as_the_generators_file_says() {
    let folder = folder();
    write(&folder, "sampled.safetensors", &CONFIG.replacen('{', r#"{ "decoding": { "steps": 2 },"#, 1));
    let draw = "generate --model model.safetensors --steps 3 --class 1 -n 1";
    let picture = |arguments: &str| {
        folder.run(&format!("{draw} --out-dir drawn {arguments}")).ok();
        folder.bytes("drawn/tabby-cat.png")
    };
    let said = picture("--generator sampled.safetensors");
    assert!(said == picture("--generator generator.safetensors --decode-steps 2"));
    assert!(said != picture("--generator generator.safetensors"));
    assert!(said != picture("--generator sampled.safetensors --decode-steps 3"));
}

#[test]
fn as_many_tokens_are_drawn_as_the_generators_file_says() {
    let folder = folder();
    write(&folder, "few.safetensors", &CONFIG.replacen('{', r#"{ "drawn_tokens": 2,"#, 1));
    let picture = |arguments: &str| {
        folder
            .run(&format!(
                "generate --model model.safetensors --steps 3 --class 1 -n 1 --out-dir drawn {arguments}"
            ))
            .ok();
        folder.bytes("drawn/tabby-cat.png")
    };
    let few = picture("--generator few.safetensors");
    assert!(few == picture("--generator generator.safetensors --tokens 2"));
    assert!(few != picture("--generator few.safetensors --tokens 4"));
    // A finished file can be made to say so, too.
    folder.run("models edit generator.safetensors --drawn-tokens 2 -o edited.safetensors").ok();
    assert!(few == picture("--generator edited.safetensors"));
    for (asked, code, part) in [
        ("--drawn-tokens 5", 1, "drawn_tokens 5 is not in 1..=4"),
        ("--decode-steps 3", 2, "give both --decode-steps and --decode-guidance"),
    ] {
        folder.fails(&format!("models edit generator.safetensors {asked} -o x.safetensors"), code, part);
    }
    folder.run("models edit few.safetensors --decode-steps 3 --decode-guidance 2 -o edited.safetensors").ok();
    let edited = picture("--generator edited.safetensors");
    assert!(
        edited == picture("--generator few.safetensors --decode-steps 3 --decode-guidance 2")
            && edited != few
    );
    // Behind those of a photo all others.
    folder.photo("photo.png", 7);
    folder.run("generate --generator few.safetensors --model model.safetensors --steps 3 --from photo.png --keep 3 --class 1").ok();
}

#[test]
fn tokens_are_drawn_as_the_generators_file_says() {
    let folder = folder();
    let drawing = r#"{ "drawing": { "steps": 3, "guidance": { "scale": 2.0, "schedule": "linear" } },"#;
    write(&folder, "said.safetensors", &CONFIG.replacen('{', drawing, 1));
    let picture = |arguments: &str| {
        folder
            .run(&format!("generate --model model.safetensors --class 1 -n 1 --out-dir drawn {arguments}"))
            .ok();
        folder.bytes("drawn/tabby-cat.png")
    };
    let said = picture("--generator said.safetensors");
    assert!(
        said == picture("--generator generator.safetensors --steps 3 --guidance 2 --schedule linear"),
        "as asked for"
    );
    let other = picture("--generator said.safetensors --guidance 6");
    assert!(other != said);
    // A finished file is made to say something else: what is not asked for stays.
    folder.run("models edit said.safetensors --guidance 6 -o edited.safetensors").ok();
    assert!(other == picture("--generator edited.safetensors"));
    folder.fails("models edit said.safetensors --sampler ddpm -o x.safetensors", 1, "\"sde\", \"euler\"");
    folder.fails("models edit said.safetensors -o x.safetensors", 2, "nothing is asked to be changed");
    folder.fails("models edit model.safetensors --steps 3 -o x.safetensors", 2, "are --decode-steps");
}

#[test]
fn a_generator_goes_to_pytorch_and_back() {
    let folder = folder();
    let info = folder.run("models info generator.safetensors --json").json();
    assert_eq!((&info["kind"], &info["config"]["classes"]), (&"generator".into(), &3.into()));
    let text = folder.run("models info generator.safetensors").ok().stdout;
    assert!(text.contains("tabby cat") && text.contains("kind         generator"), "{text}");
    folder.run("models export generator.safetensors --published -o torch.safetensors").ok();
    let (published, _) = weights::load(&folder.path("torch.safetensors")).unwrap();
    assert!(published.get("diffloss.net.res_blocks.0.adaLN_modulation.1.weight").is_some());
    folder.fails("models import torch.safetensors --preset gpt-l -o x.safetensors", 1, "of another shape");
}

#[test]
fn the_first_tokens_of_a_photo_are_kept_and_the_rest_is_drawn() {
    let folder = folder();
    folder.photo("photo.png", 7);
    folder.run(&format!("{GENERATE} --from photo.png --keep 0,3 -n 2 --class 2 --out-dir varied")).ok();
    folder.run(&format!("{GENERATE} --class 2 -n 2 --out-dir drawn")).ok();
    // Nothing kept is drawn as without a photo.
    assert_eq!(folder.bytes("varied/0-kept.png"), folder.bytes("drawn/wok.png"));
    assert_eq!(folder.bytes("varied/0-kept-2.png"), folder.bytes("drawn/wok-2.png"));
    let kept = [folder.bytes("varied/3-kept.png"), folder.bytes("varied/3-kept-2.png")];
    assert!(kept[0] != kept[1] && kept[0] != folder.bytes("drawn/wok.png"));
    // Two rows of the photo and four images of any class.
    folder.run(&format!("{GENERATE} --from photo.png --keep 1,2")).ok();
    assert_eq!(size(&folder.path("generated.png")).0, 5 * (192 + 12) + 12);
    folder.fails(&format!("{GENERATE} --from photo.png --keep 4"), 2, "of 4 tokens none would be left");
    folder.fails(&format!("{GENERATE} --from none.png"), 1, "none.png");
    folder.fails(&format!("{GENERATE} --from photo.png --progressive"), 2, "--progressive");
}

#[test]
fn a_sweep_of_guidance_draws_and_measures_at_every_scale() {
    let folder = super::classify::folder();
    // The classes of the classifier, in another order.
    write_with(&folder, "generator.safetensors", CONFIG, ["owl", "cat", "dog, hound"]);
    write(&folder, "others.safetensors", CONFIG);
    for number in 0..18u8 {
        folder
            .photo(&format!("photos/{}/{number}.png", ["cat", "owl"][usize::from(number % 2)]), 11 * number);
    }
    let sweep = "evaluate guidance --data photos --images 18 --classifier classifier.safetensors --model model.safetensors \
                 --steps 3 --decode-steps 2 --json";
    let with = |generator: &str, scales: &str| format!("{sweep} --generator {generator} --scales {scales}");
    let found = folder.run(&format!("{} --plot sweep.svg", with("generator.safetensors", "4,1"))).json();
    let rows = found["tables"][0]["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row[0].as_str().unwrap()).collect();
    assert_eq!(names, ["the images", "guidance 1", "guidance 4"]);
    assert_eq!(rows[1][1], 18);
    assert_ne!(rows[1][2], rows[2][2]);
    // Distances and told classes over the scales, and a sentence on each beside how it was measured.
    let figures = found["figures"].as_array().unwrap();
    assert!(
        figures.len() == 2 && figures[1]["series"][0]["points"].as_array().unwrap().len() == 2,
        "{figures:?}"
    );
    assert_eq!(found["sentences"].as_array().unwrap().len(), 3);
    assert!(folder.path("sweep.svg").exists());
    // What is drawn at a scale does not depend on the others.
    let alone = folder.run(&with("generator.safetensors", "4")).json();
    assert_eq!(alone["tables"][0]["rows"][1], rows[2]);
    let fewer = folder.run(&format!("{} --tokens 2", with("generator.safetensors", "4"))).json();
    assert_ne!(fewer["tables"][0]["rows"][1], rows[2]);
    let colder = folder.run(&format!("{} --temperature 0", with("generator.safetensors", "4"))).json();
    assert_ne!(colder["tables"][0]["rows"][1], rows[2]);
    folder.fails(
        &format!("{} --temperature -1", with("generator.safetensors", "4")),
        2,
        "temperature -1 is not a number of at least 0",
    );
    folder.fails(
        &format!("{} --tokens 5", with("generator.safetensors", "4")),
        2,
        "5 tokens asked of a generator",
    );
    let run = folder.run(&with("others.safetensors", "1"));
    assert!(run.code == Some(1) && run.stderr.contains("does not know 3 of the 3 classes"), "{}", run.stderr);
}
