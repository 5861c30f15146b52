//! `train` through the real binary: a kill at any moment costs nothing but time.

mod continued;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use semanticist::weights::{self, Metadata, Precision};

const CONFIG: &str = r#"
steps = 24
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
[log]
every = 1
checkpoint_every = 2
validate_every = 12
[validation]
images = 2
tokens = [1, 4]
samples = 1
"#;

fn semanticist(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semanticist"));
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn train(folder: &Path, out: &str) -> Command {
    let mut command = semanticist(folder);
    command.args(["train", "tokenizer", "tiny.toml", "--data", "photos", "--threads", "1", "--out", out]);
    command
}

fn prepare(folder: &Path) {
    fs::write(folder.join("tiny.toml"), CONFIG).unwrap();
    fs::create_dir(folder.join("photos")).unwrap();
    for seed in 0..120u32 {
        let picture = image::RgbImage::from_fn(16, 16, |x, y| {
            image::Rgb([(x * 16) as u8, (y * seed) as u8, ((x * y + seed * 7) % 256) as u8])
        });
        picture.save(folder.join(format!("photos/{seed}.png"))).unwrap();
    }
}

fn stderr(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// The recorded KL autoencoder as a published file, and what says its sizes.
fn write_kl_autoencoder(path: &Path) -> &'static str {
    let recording = "../semanticist-verify/tests/data/reference/autoencoder_ldm.safetensors";
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join(recording);
    let published = weights::load(&recording).unwrap().0.split_prefix("weights.");
    weights::save(path, &published, &Metadata::new(), Precision::F32).unwrap();
    r#"model.autoencoder={ kind = "kl", channels = 8, base_width = 32, width_multipliers = [1, 1, 2],
        blocks = 1, encoder_attention = [2], scale = 0.5 }"#
}

/// What a run ended with, without what depends on the clock.
fn result(folder: &Path, out: &str) -> (Vec<u8>, Vec<serde_json::Value>) {
    let steps = fs::read_dir(folder.join(out).join("checkpoints")).unwrap();
    let last = steps.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).max().unwrap();
    let weights = last.join("weights.safetensors");
    let journal = fs::read_to_string(folder.join(out).join("journal.jsonl")).unwrap();
    let records = journal.lines().map(|line| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        for name in ["images_per_second", "data_wait"] {
            record.as_object_mut().unwrap().remove(name);
        }
        record
    });
    (fs::read(weights).unwrap(), records.collect())
}

#[test]
fn a_killed_run_ends_as_if_it_had_not_been() {
    killed_and_resumed(12, &[]);
}

#[test]
#[ignore = "takes minutes: the test before with fifty kills and ten times the steps"]
fn a_run_that_is_killed_fifty_times_ends_as_if_it_had_not_been() {
    killed_and_resumed(50, &["--set", "steps=240", "--set", "log.checkpoint_every=2"]);
}

/// Kills a run up to `kills` times at different moments, some while a checkpoint is being written, and resumes it
/// until it ends: as a run that was left alone.
fn killed_and_resumed(kills: u64, settings: &[&str]) {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    let whole = train(folder, "whole").args(settings).output().unwrap();
    assert!(whole.status.success(), "{}", stderr(&whole));

    let mut killed = 0;
    for attempt in 0..4 * kills {
        let mut command = train(folder, "parts");
        command.args(settings);
        if folder.join("parts/checkpoints").exists() {
            command.arg("--resume");
        }
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 + 47 * (attempt * attempt) % 400));
        if killed < kills && child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            killed += 1;
        }
        let output = child.wait_with_output().unwrap();
        let text = stderr(&output);
        if output.status.success() {
            assert!(killed > 0);
            eprintln!("killed {killed} times");
            assert_eq!(result(folder, "parts"), result(folder, "whole"));
            return;
        }
        // A kill before the first checkpoint leaves nothing to resume from; that is said.
        assert!(output.status.code().is_none() || text.contains("no checkpoint"), "{text}");
        if text.contains("no checkpoint") {
            fs::remove_dir_all(folder.join("parts")).unwrap();
        }
    }
    panic!("no run came to its end");
}

/// Waits until a run has saved its first checkpoint.
#[cfg(unix)]
fn wait_for_checkpoint(run: &Path) {
    for _ in 0..3000 {
        if run.join("checkpoints/step-00000002").exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no checkpoint after a minute");
}

#[cfg(unix)]
#[test]
fn a_scheduler_s_signal_saves_and_a_second_run_is_refused_meanwhile() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    let endless = ["--set", "steps=1000000", "--set", "log.validate_every=0"];
    let child = train(folder, "run").args(endless).spawn().unwrap();
    wait_for_checkpoint(&folder.join("run"));
    for resume in [&[][..], &["--resume"]] {
        let second = train(folder, "run").args(endless).args(resume).output().unwrap();
        let text = stderr(&second);
        assert_eq!(second.status.code(), Some(1), "{text}");
        assert!(
            text.contains(&format!("process {}", child.id())) && text.contains("another --out"),
            "{text}"
        );
    }
    // Twice, as some schedulers do.
    for _ in 0..2 {
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("saved; go on with the same command"), "{text}");
    // The last step that the journal tells of is the one that was saved.
    let journal = fs::read_to_string(folder.join("run/journal.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
    assert!(folder.join(format!("run/checkpoints/step-{:08}", last["step"].as_u64().unwrap())).exists());
}

/// A limit on the size of files stands for a full disk: writing fails in the middle of one.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_costs_only_what_could_not_be_saved() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    let first = train(folder, "run").args(["--set", "steps=2"]).output().unwrap();
    assert!(first.status.success(), "{}", stderr(&first));
    let smallest = folder.join("run/checkpoints/step-00000002/weights.safetensors");
    let before = fs::read(&smallest).unwrap();
    // In units of 512 bytes, or of 1024 in some shells: below the size of the weights in either.
    let limit = before.len() / 1024 / 2;
    let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$@\"");
    let go_on = |mut command: Command| {
        command.args(["--resume", "--force", "--set", "steps=6"]);
        command
    };
    let plain = go_on(train(folder, "run"));
    let mut limited = Command::new("sh");
    limited.current_dir(folder).args(["-c", &script, "sh"]).arg(plain.get_program()).args(plain.get_args());
    let output = limited.output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in ["cannot write", "stopped after step 4", "last checkpoint is of step 2", "--resume"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(fs::read(&smallest).unwrap() == before);
    let left: Vec<_> =
        fs::read_dir(folder.join("run/checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "one checkpoint and what is frozen: {left:?}");
    let output = go_on(train(folder, "run")).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn what_cannot_be_trained_is_said_and_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    let cases: &[(&[&str], i32, &str)] = &[
        (&["missing.toml", "--data", "photos"], 1, "missing.toml"),
        (&["tiny.toml", "--data", "nowhere"], 1, "nowhere"),
        (&["tiny.toml", "--data", "photos", "--set", "model.tokns=3"], 1, "did you mean `tokens`"),
        (&["tiny.toml", "--data", "photos", "--set", "nonsense"], 1, "KEY=VALUE"),
        (&["tiny.toml", "--data", "photos", "--resume"], 1, "no checkpoint"),
        (&["tiny.toml"], 2, "--data"),
    ];
    for (arguments, code, part) in cases {
        let mut command = semanticist(folder);
        let output = command.args(["train", "tokenizer"]).args(*arguments).args(["--out", "run"]).output();
        let output = output.unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
        assert!(!folder.join("run/model.safetensors").exists());
    }
}

#[test]
fn an_autoencoder_is_fitted_once_and_shared() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    let mut fit = semanticist(folder);
    fit.args(["train", "autoencoder", "tiny.toml", "--data", "photos", "--out", "linear.safetensors"]);
    let output = fit.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("% of the variance"));
    let run = |out, file| {
        let mut command = train(folder, out);
        command.args(["--set", "steps=1", "--autoencoder", file]).output().unwrap()
    };
    assert!(run("shared", "linear.safetensors").status.success());
    let wrong = stderr(&run("wrong", "shared/model.safetensors"));
    assert!(wrong.contains("holds one tokenizer, expected one autoencoder"), "{wrong}");
}

#[test]
fn a_published_kl_autoencoder_serves_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    let setting = write_kl_autoencoder(&folder.join("kl.safetensors"));
    let run = |out, more: &[&str]| {
        let settings = ["--set", setting, "--set", "steps=2"];
        train(folder, out).args(settings).args(more).output().unwrap()
    };
    let missing = stderr(&run("missing", &[]));
    assert!(missing.contains("give it with --autoencoder FILE"), "{missing}");
    let other = stderr(&run("other", &["--autoencoder", "photos/1.png"]));
    assert!(other.contains("expected a checkpoint written by torch.save"), "{other}");
    let output = run("run", &["--autoencoder", "kl.safetensors"]);
    assert!(output.status.success(), "{}", stderr(&output));
    // The model's file has the autoencoder in it.
    let mut command = semanticist(folder);
    command.args(["reconstruct", "photos/1.png", "--model", "run/model.safetensors", "--steps", "2"]);
    let output = command.args(["--tokens", "4", "-o", "sheet.png"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let refused = stderr(&run("run", &["--resume", "--set", "steps=3"]));
    assert!(refused.contains("steps: was 2, is 3") && refused.contains("--force"), "{refused}");
    let resumed = run("run", &["--resume", "--force", "--set", "steps=3"]);
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    assert!(folder.join("run/checkpoints/step-00000003").exists());
}

#[test]
fn an_autoencoder_is_trained_and_carries_a_tokenizer() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    let networks = "channels = 4, base_width = 8, width_multipliers = [1, 2], blocks = 1, \
                    encoder_attention = [], groups = 4";
    let config = format!(
        "steps = 4\nbatch = 2\n[model]\nimage_size = 16\nautoencoder = {{ kind = \"kl\", {networks} }}\n\
         discriminator = {{ width = 8, layers = 2, weight = 0.1, from_step = 2 }}\n[data]\nfit_images = 8\n\
         [learning_rate]\npeak = 1e-3\nwarmup_steps = 1\ndecay = \"cosine\"\n\
         [log]\nevery = 1\ncheckpoint_every = 2\nvalidate_every = 4\n[validation]\nimages = 4\nsamples = 2\n"
    );
    fs::write(folder.join("kl.toml"), config).unwrap();
    let run = |arguments: &[&str]| {
        let output = semanticist(folder).args(arguments).args(["--data", "photos"]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    let said = run(&["train", "autoencoder", "kl.toml", "--out", "kl"]);
    assert!(said.contains("step 4: PSNR"), "{said}");
    assert!(folder.join("kl/samples/step-00000004.png").is_file());
    let journal = fs::read_to_string(folder.join("kl/journal.jsonl")).unwrap();
    let has_critic = |step: usize| journal.lines().nth(step - 1).unwrap().contains("\"discriminator\"");
    assert_eq!([1, 2, 3, 4].map(has_critic), [false, false, true, true]);

    // The tokenizer's configuration has the same networks; the scale comes from the file.
    let table = format!("model.autoencoder={{ kind = \"kl\", {networks} }}");
    let take = ["--autoencoder", "kl/model.safetensors", "--set", &table, "--set", "steps=2"];
    run(&[&["train", "tokenizer", "tiny.toml", "--out", "tokens"], &take[..]].concat());
    let info = semanticist(folder).args(["models", "info", "tokens/model.safetensors"]).output().unwrap();
    assert!(info.status.success(), "{}", stderr(&info));
    let (_, metadata) = weights::load(&folder.join("tokens/model.safetensors")).unwrap();
    let scale = |text: &str| {
        let config: serde_json::Value = serde_json::from_str(text).unwrap();
        config.pointer("/autoencoder/scale").or(config.pointer("/scale")).unwrap().as_f64().unwrap()
    };
    let (_, trained) = weights::load(&folder.join("kl/model.safetensors")).unwrap();
    assert_eq!(scale(&metadata["config"]), scale(&trained["config"]));
    assert_ne!(scale(&metadata["config"]), 1.0);
}

#[test]
fn precision_is_an_entry_of_the_configuration() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    let few = ["--set", "steps=2", "--set", "log.validate_every=0"];
    let run = |more: &[&str]| train(folder, "run").args(few).args(more).output().unwrap();
    let output = run(&["--precision", "bfloat16"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(fs::read_to_string(folder.join("run/config.toml")).unwrap().contains("precision = \"bfloat16\""));
    let refused = stderr(&run(&["--resume"]));
    assert!(refused.contains("precision: was \"bfloat16\", is \"float32\""), "{refused}");
    assert!(run(&["--resume", "--force"]).status.success());

    let fit = ["train", "autoencoder", "tiny.toml", "--data", "photos", "--out", "linear.safetensors"];
    let fitted = |precision| semanticist(folder).args(fit).args(["--precision", precision]).output().unwrap();
    assert!(stderr(&fitted("bfloat16")).contains("fitted in float32"));
    assert!(fitted("float32").status.success());
}

#[test]
fn a_decoder_learns_few_steps_of_a_file_and_is_used_as_that_says() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    let run = |out: &str, more: &[&str]| {
        let settings = ["--set", "steps=2", "--set", "log.validate_every=2"];
        train(folder, out).args(settings).args(more).output().unwrap()
    };
    assert!(run("teacher", &[]).status.success());
    let distil = ["--set", "objective.distillation.teacher=teacher/model.safetensors"];
    let said = stderr(&run("wrong", &[&distil[..], &["--autoencoder", "a.safetensors"]].concat()));
    assert!(said.contains("uses the autoencoder of its teacher"), "{said}");
    let few = [&distil[..], &["--set", "objective.distillation.student_steps=[1]"]].concat();
    let output = run("student", &few);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("distance to the teacher by steps  1:"), "{}", stderr(&output));
    // The teacher is in the run's folder.
    fs::remove_dir_all(folder.join("teacher")).unwrap();
    let more = [&few[..], &["--set", "steps=3", "--resume", "--force"]].concat();
    let output = run("student", &more);
    assert!(output.status.success(), "{}", stderr(&output));

    let ask = |line: &str| semanticist(folder).args(line.split(' ')).output().unwrap();
    let info = ask("models info student/model.safetensors --json");
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    let decoding = r#"{"steps":1,"sampler":"ddim-trailing","guidance":{"scale":1.0}}"#;
    let expected: serde_json::Value = serde_json::from_str(decoding).unwrap();
    assert_eq!(info["config"]["decoding"], expected);
    assert_eq!(info["training"]["config"]["objective"]["distillation"]["guidance"], 1.5);

    let picture = |more: &str| {
        let line = format!("reconstruct photos/1.png --model student/model.safetensors -o sheet.png{more}");
        let output = ask(&line);
        assert!(output.status.success(), "{}", stderr(&output));
        fs::read(folder.join("sheet.png")).unwrap()
    };
    let usual = picture("");
    assert_eq!(usual, picture(" --steps 1 --sampler ddim-trailing --guidance 1"));
    assert_ne!(usual, picture(" --steps 2"));
    let refused = ask("reconstruct photos/1.png --model student/model.safetensors --sampler ddpm");
    assert!(stderr(&refused).contains("one of the sampler \"ddim-trailing\""), "{}", stderr(&refused));
}

#[test]
fn a_dry_run_says_what_a_run_takes_and_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    let plan = |settings: &[&str]| {
        let mut command = train(folder, "runs/1");
        command.arg("--dry-run").args(settings).output().unwrap()
    };
    let output = plan(&["--json", "--set", "steps=3 epochs", "--set", "accumulate=2"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!folder.join("runs").exists());
    // 120 photos in batches of 4.
    assert_eq!(
        (&report["examples"], &report["steps"], &report["epochs"]),
        (&120.into(), &90.into(), &3.0.into())
    );
    let parts = report["parameters"].as_object().unwrap();
    assert_eq!(parts.keys().collect::<Vec<_>>(), ["tokenizer.decoder", "tokenizer.encoder"]);
    let learnt: u64 = parts.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(report["memory"]["optimizer"], 8 * learnt);
    assert_eq!(report["disk"]["checkpoint"], 16 * learnt);
    assert!(report["speed"]["hours"].as_f64().unwrap() > 0.0);
    assert!(report["memory_free"].as_u64().unwrap() > report["memory_needed"].as_u64().unwrap());

    let text = String::from_utf8(plan(&[]).stdout).unwrap();
    for part in
        ["tokenizer.encoder", "120 examples an epoch, 30.0 steps of 4", "24 steps, 0.8 epochs", "images/s"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // Of too large a run everything is said but its speed.
    let large = ["--set", "model.decoder.blocks.width=4096", "--set", "model.decoder.blocks.depth=64"];
    let output = plan(&large);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("no step was made"), "{}", stderr(&output));
    assert!(stderr(&output).contains("training needs about"), "{}", stderr(&output));
    let started = train(folder, "runs/1").args(large).output().unwrap();
    assert!(stderr(&started).contains("--no-memory-check"), "{}", stderr(&started));
    assert!(!folder.join("runs").exists());
}

#[test]
fn runs_are_listed_and_compared() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    for (out, steps) in [("runs/one", "steps=4"), ("runs/two", "steps=12")] {
        let output = train(folder, out).args(["--set", steps]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(out) && said.contains("tensorboard --logdir"), "{said}");
    }
    let list = |arguments: &[&str]| semanticist(folder).arg("runs").args(arguments).output().unwrap();
    let table = list(&["runs", "--plot", "losses.svg"]);
    assert!(table.status.success(), "{}", stderr(&table));
    let table = String::from_utf8(table.stdout).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[1].starts_with("runs/one  finished") && lines[1].contains(" 4/4 "), "{table}");
    assert!(lines[2].contains(" 12/12 ") && lines[2].contains("step 12: validation_mse"), "{table}");
    assert!(fs::read_to_string(folder.join("losses.svg")).unwrap().contains("runs/two"));
    let json: serde_json::Value = serde_json::from_slice(&list(&["runs", "--json"]).stdout).unwrap();
    assert_eq!((&json[1]["state"], &json[1]["images"]), (&"finished".into(), &48.into()));
    let none = list(&["photos"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(stderr(&none).contains("no runs in photos"), "{}", stderr(&none));
}

#[cfg(not(feature = "mpi"))]
#[test]
fn processes_that_cannot_train_together_do_not_train_apart() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    for launcher in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"] {
        let output = train(folder, "run").env(launcher, "2").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("--features semanticist-cli/mpi"), "{}", stderr(&output));
        assert!(!folder.join("run").exists());
    }
    let alone =
        train(folder, "run").env("SLURM_STEP_NUM_TASKS", "1").args(["--set", "steps=1"]).output().unwrap();
    assert!(alone.status.success(), "{}", stderr(&alone));
}
