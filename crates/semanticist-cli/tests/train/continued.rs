//! Runs that begin with a trained tokenizer.

use semanticist::weights;

use super::{prepare, stderr, train};

#[test]
fn a_run_begins_with_a_trained_tokenizer_and_may_leave_its_encoder_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    let few = ["--set", "steps=3", "--set", "log.validate_every=0"];
    let first = train(folder, "first").args(few).output().unwrap();
    assert!(first.status.success(), "{}", stderr(&first));

    let from = ["--from", "first/model.safetensors", "--set", "objective.frozen_encoder=true"];
    let overlap = ["--set", "model.decoder.overlap=true"];
    let second = train(folder, "second").args(few).args(from).args(overlap).output().unwrap();
    assert!(second.status.success(), "{}", stderr(&second));
    let said = stderr(&second);
    assert!(said.contains("new: decoder.output.overlap\n"), "{said}");
    let stored = |run: &str| weights::load(&folder.join(run).join("model.safetensors")).unwrap().0;
    let (first, second) = (stored("first"), stored("second"));
    let same = |name: &str| first.get(name).unwrap().to_f32() == second.get(name).unwrap().to_f32();
    let (encoder, rest): (Vec<&str>, Vec<&str>) =
        first.names().partition(|name| name.starts_with("encoder.") || name.starts_with("autoencoder."));
    assert!(encoder.len() > 10 && encoder.into_iter().all(same));
    assert!(!rest.into_iter().all(same));
    assert!(second.get("decoder.output.overlap").unwrap().to_f32().unwrap().iter().any(|&it| it != 0.0));

    // It goes on without being told whose weights it began with.
    let longer = ["--resume", "--force", "--set", "steps=4", "--set", "log.validate_every=0"];
    let frozen = ["--set", "objective.frozen_encoder=true"];
    let third = train(folder, "second").args(longer).args(frozen).args(overlap).output().unwrap();
    assert!(third.status.success(), "{}", stderr(&third));

    let refused = |arguments: &[&str], part: &str| {
        let run = train(folder, "refused").args(arguments).output().unwrap();
        assert!(!run.status.success() && stderr(&run).contains(part), "{arguments:?}: {}", stderr(&run));
    };
    refused(&frozen, "--from");
    let from = ["--from", "first/model.safetensors", "--set"];
    refused(&[&from[..], &["model.encoder.blocks.width=24"]].concat(), "does not fit");
    refused(&[&from[..], &["model.autoencoder.channels=6"]].concat(), "autoencoder is another one");
    let narrower = weights::load(&folder.join("second/model.safetensors")).unwrap().0;
    assert!(narrower.get("decoder.output.overlap").is_some());
    refused(&["--from", "second/model.safetensors"], "decoder.output.overlap has no place");
    assert!(!folder.join("refused/checkpoints").exists());
}
