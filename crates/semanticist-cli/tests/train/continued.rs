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
    let overlap = ["--set", "model.autoencoder.overlap=true"];
    let wider =
        ["--set", "model.decoder.overlap=true", "--set", "model.decoder.refinement={width=4,depth=2}"];
    let new = [overlap, [wider[0], wider[1]], [wider[2], wider[3]]].concat();
    let second = train(folder, "second").args(few).args(from).args(&new).output().unwrap();
    assert!(second.status.success(), "{}", stderr(&second));
    let said = stderr(&second);
    assert!(said.contains("new: decoder.output.overlap, decoder.refinement\n"), "{said}");
    assert!(said.contains("overlap of its patches fitted to"), "{said}");
    let stored = |run: &str| weights::load(&folder.join(run).join("model.safetensors")).unwrap().0;
    let (first, second) = (stored("first"), stored("second"));
    let same = |name: &str| first.get(name).unwrap().to_f32() == second.get(name).unwrap().to_f32();
    let (encoder, rest): (Vec<&str>, Vec<&str>) =
        first.names().partition(|name| name.starts_with("encoder.") || name.starts_with("autoencoder."));
    assert!(encoder.len() > 10 && encoder.into_iter().all(same));
    assert!(!rest.into_iter().all(same));
    for learnt in [
        "autoencoder.overlap",
        "decoder.output.overlap",
        "decoder.refinement.output.weight",
        "decoder.refinement.features.linear.weight",
    ] {
        assert!(second.get(learnt).unwrap().to_f32().unwrap().iter().any(|&it| it != 0.0), "{learnt}");
    }

    // It goes on without being told whose weights it began with.
    let longer = ["--resume", "--force", "--set", "steps=4", "--set", "log.validate_every=0"];
    let frozen = ["--set", "objective.frozen_encoder=true"];
    let third = train(folder, "second").args(longer).args(frozen).args(&new).output().unwrap();
    assert!(third.status.success(), "{}", stderr(&third));

    let refused = |arguments: &[&str], part: &str| {
        let run = train(folder, "refused").args(arguments).output().unwrap();
        assert!(!run.status.success() && stderr(&run).contains(part), "{arguments:?}: {}", stderr(&run));
    };
    refused(&frozen, "--from");
    let from = ["--from", "first/model.safetensors", "--set"];
    refused(&[&from[..], &["model.encoder.blocks.width=24"]].concat(), "does not fit");
    refused(&[&from[..], &["model.autoencoder.channels=6"]].concat(), "autoencoder is another one");
    // What the configuration has no place for.
    let from = ["--from", "second/model.safetensors"];
    refused(&from, "autoencoder is another one");
    refused(&[&from[..], &overlap].concat(), "decoder.output.overlap has no place");
    assert!(!folder.join("refused/checkpoints").exists());
}

#[test]
fn a_tokenizer_grows_behind_its_first_tokens_which_stay() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    prepare(folder);
    let linear =
        ["--set", "model.encoder.linear_projection=true", "--set", "model.decoder.linear_estimate=true"];
    let few = ["--set", "steps=3", "--set", "log.validate_every=0", "--set", "model.image_size=32"];
    let first = train(folder, "first").args(few).args(linear).output().unwrap();
    assert!(first.status.success(), "{}", stderr(&first));

    let more = ["--set", "model.tokens=7", "--set", "objective.frozen_tokens=4"];
    let from = ["--from", "first/model.safetensors"];
    let second = train(folder, "second").args(few).args(linear).args(more).args(from).output().unwrap();
    assert!(second.status.success(), "{}", stderr(&second));
    let said = stderr(&second);
    assert!(said.contains("tokens 5 to 7 begin with 6 principal components"), "{said}");

    let tokens = |run: &str| {
        let file = format!("{run}.safetensors");
        let model = format!("{run}/model.safetensors");
        let made = crate::semanticist(folder)
            .args(["encode", "photos", "--model", &model, "-o", &file])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", stderr(&made));
        let stored = weights::load(&folder.join(file)).unwrap().0;
        let tokens = stored.get("tokens").unwrap();
        (tokens.shape().to_vec(), tokens.to_f32().unwrap())
    };
    let ((short, before), (long, after)) = (tokens("first"), tokens("second"));
    assert_eq!((&short[1..], &long[1..]), (&[4, 4][..], &[7, 4][..]));
    for (before, after) in before.chunks(4 * 4).zip(after.chunks(7 * 4)) {
        assert_eq!(before, &after[..4 * 4]);
    }

    // So what was made by the one is decoded by the other, and not the other way round.
    let decode = |tokens: &str, model: &str| {
        let model = format!("{model}/model.safetensors");
        crate::semanticist(folder)
            .args(["decode", tokens, "--model", &model, "-o", "pictures", "--overwrite"])
            .output()
            .unwrap()
    };
    let decoded = decode("first.safetensors", "second");
    assert!(decoded.status.success(), "{}", stderr(&decoded));
    assert!(!decode("second.safetensors", "first").status.success());

    let stored = |run: &str| weights::load(&folder.join(run).join("model.safetensors")).unwrap().0;
    let (one, other) = (stored("first"), stored("second"));
    let rows = |weights: &weights::Weights, name: &str| weights.get(name).unwrap().to_f32().unwrap();
    for name in ["encoder.concept_tokens", "encoder.linear.map.weight", "encoder.linear.map.bias"] {
        let (one, other) = (rows(&one, name), rows(&other, name));
        assert!(other.len() > one.len() && other[..one.len()] == one, "{name}");
    }
    // New tokens learn, too, and a run that goes on still knows whose tokens the first are.
    let longer = [
        "--resume",
        "--force",
        "--set",
        "steps=6",
        "--set",
        "log.validate_every=0",
        "--set",
        "model.image_size=32",
    ];
    let third = train(folder, "second").args(longer).args(linear).args(more).output().unwrap();
    assert!(third.status.success(), "{}", stderr(&third));
    let learning = ["--set", "model.tokens=7", "--set", "objective.frozen_tokens=3"];
    let other_run = train(folder, "second").args(longer).args(linear).args(learning).output().unwrap();
    let said = stderr(&other_run);
    assert!(!other_run.status.success() && said.contains("frozen_tokens: was 4, is 3"), "{said}");
    let later = stored("second");
    let decoded = decode("first.safetensors", "second");
    assert!(decoded.status.success(), "{}", stderr(&decoded));
    for name in ["encoder.concept_tokens", "encoder.linear.map.weight"] {
        let (before, after) = (rows(&other, name), rows(&later, name));
        assert!(
            before != after && before[..rows(&one, name).len()] == after[..rows(&one, name).len()],
            "{name}"
        );
    }

    let refused = |arguments: &[&str], part: &str| {
        let run = train(folder, "refused").args(few).args(linear).args(arguments).output().unwrap();
        assert!(!run.status.success() && stderr(&run).contains(part), "{arguments:?}: {}", stderr(&run));
    };
    refused(&more, "--from");
    let frozen = ["--set", "model.tokens=7", "--set", "objective.frozen_tokens=5"];
    refused(&[&frozen[..], &from].concat(), "has 4; freeze as many at most");
    refused(&["--set", "objective.frozen_tokens=4"], "leaves none of the 4 tokens");
    refused(&[&more[..], &from, &["--set", "optimizer.weight_decay=0.1"]].concat(), "weight_decay");
    refused(
        &[&more[..], &from, &["--set", "objective.frozen_encoder=true"]].concat(),
        "frozen_encoder = false",
    );
}
