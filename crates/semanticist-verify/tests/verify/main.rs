//! `verify` on recordings that agree, that do not, and that are damaged.

mod alignment;
mod autoencoder;
mod sizes;

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use safetensors::SafeTensors;
use semanticist::weights::{self, HostTensor, Metadata, Precision, Weights, names};
use semanticist_verify::verify::{CaseDone, Check, Report, Verdict, case_names, verify};
use tempfile::TempDir;

/// A folder with a recording of every case, to be changed at will.
fn recordings() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reference");
    let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../semanticist/tests/data/preprocess");
    fs::create_dir(folder.path().join("checkpoints")).unwrap();
    copy(&data, folder.path());
    copy(&data.join("preprocess"), &folder.path().join("preprocess"));
    copy(&photos, &folder.path().join("preprocess"));
    write_checkpoint(folder.path());
    autoencoder::write_diffusers(folder.path());
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|e| e.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// What is read as a checkpoint is decided by content, so a safetensors file serves.
fn write_checkpoint(folder: &Path) {
    let mut all = Weights::new();
    for file in ["encoder", "decoder"] {
        let (mut tensors, _) = weights::load(&folder.join(format!("{file}.safetensors"))).unwrap();
        all.extend(tensors.split_prefix("weights."));
    }
    all.remove(names::FROZEN_POSITIONS).unwrap();
    let path = folder.join("checkpoints/tokenizer_ema.pkl");
    weights::save(&path, &all, &Metadata::new(), Precision::F32).unwrap();
    let (mut tensors, _) = weights::load(&folder.join("generator_si_concat.safetensors")).unwrap();
    let path = folder.join("checkpoints/generator_ema.pkl");
    weights::save(&path, &tensors.split_prefix("weights."), &Metadata::new(), Precision::F32).unwrap();
}

fn checked(folder: &Path, cases: &[&str]) -> Report {
    let cases: Vec<String> = cases.iter().map(|case| case.to_string()).collect();
    verify(folder, Some(&cases), semanticist::Precision::Float32, &Device::flex(), &mut |_| ()).unwrap()
}

fn disagreeing(report: &Report) -> Vec<&Check> {
    report.checks.iter().filter(|check| check.verdict != Verdict::Pass).collect()
}

fn quantities<'a>(checks: &[&'a Check]) -> Vec<&'a str> {
    checks.iter().map(|check| check.quantity.as_str()).collect()
}

/// Changes the bytes of one tensor in place.
fn overwrite(path: &Path, tensor: &str, change: impl Fn(&mut [u8])) {
    let mut bytes = fs::read(path).unwrap();
    let (start, length) = {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let data = file.tensor(tensor).unwrap().data().to_vec();
        let view = file.tensor(tensor).unwrap();
        (view.data().as_ptr() as usize - bytes.as_ptr() as usize, data.len())
    };
    change(&mut bytes[start..start + length]);
    fs::write(path, bytes).unwrap();
}

/// Writes a file again with another config.
fn reconfigure(path: &Path, change: impl Fn(&str) -> Option<String>) {
    let (tensors, mut metadata) = weights::load(path).unwrap();
    match change(&metadata["config"]) {
        Some(config) => metadata.insert("config".into(), config),
        None => metadata.remove("config"),
    };
    let changed = path.with_extension("changed");
    weights::save(&changed, &tensors, &metadata, Precision::F32).unwrap();
    fs::rename(changed, path).unwrap();
}

#[test]
fn every_case_agrees() {
    let folder = recordings();
    let mut told = Vec::new();
    let mut observe = |case: CaseDone| told.push((case.name, case.agreeing));
    let report =
        verify(folder.path(), None, semanticist::Precision::Float32, &Device::flex(), &mut observe).unwrap();
    assert!(report.passed(), "{}", report.table());
    assert_eq!(report.unknown, Vec::<String>::new());
    let expected: &[(&str, usize)] = &[
        ("encoder", 4),
        ("decoder", 5),
        ("training_step", 12),
        ("training_run", 10),
        ("diffusion_tables", 24),
        ("sampling", 3),
        ("preprocess", 3),
        ("checkpoints", 3),
        ("autoencoder_ldm", 2),
        ("autoencoder_diffusers", 2),
        ("generator_si_concat", 12),
        ("generator_si_adaln", 12),
        ("generator_ddpm_adaln", 10),
        ("generator_checkpoint", 1),
        ("inception", 12),
        ("dinov2", 36),
        ("lpips", 2),
        ("dists", 1),
        ("clip", 15),
        ("titok", 6),
        ("vq", 4),
    ];
    assert!(case_names().eq(expected.iter().map(|(case, _)| *case)));
    assert_eq!(told, expected, "every case is told of when it is done");
    for (case, count) in expected {
        let found = report.checks.iter().filter(|check| check.case == *case).count();
        assert_eq!(found, *count, "{case} in\n{}", report.table());
    }
}

#[test]
fn every_case_agrees_in_bfloat16_and_what_is_not_rounded_stays_exact() {
    let folder = recordings();
    let verified = |precision| verify(folder.path(), None, precision, &Device::flex(), &mut |_| ()).unwrap();
    let [exact, rounded] = [semanticist::Precision::Float32, semanticist::Precision::Bfloat16].map(verified);
    assert!(rounded.passed(), "{}", rounded.table());
    assert_eq!(exact.checks.len(), rounded.checks.len());
    for (exact, rounded) in exact.checks.iter().zip(&rounded.checks) {
        let what = format!("{} of {}", rounded.quantity, rounded.case);
        assert_eq!((&exact.case, &exact.quantity), (&rounded.case, &rounded.quantity));
        if exact.tolerance == rounded.tolerance {
            assert_eq!(exact.max_absolute, rounded.max_absolute, "{what} is float32 in either");
        } else if !["tokens, first k only", "dit.null_cond"].iter().any(|name| what.contains(name)) {
            assert!(exact.max_absolute < rounded.max_absolute, "{what} was not computed in bfloat16");
        }
    }
}

#[test]
fn a_changed_tensor_fails_its_own_check_and_no_other() {
    let folder = recordings();
    let spoil_f32 = |bytes: &mut [u8]| {
        let value = bytes.last_chunk_mut::<4>().unwrap();
        *value = (f32::from_le_bytes(*value) + 5.0).to_le_bytes();
    };
    for (case, tensor) in [
        ("encoder", "tokens_raw"),
        ("decoder", "out_cfg3"),
        ("training_step", "loss_vb"),
        ("training_step", "grads.dit.null_cond"),
        ("training_run", "ema.encoder.cls_token"),
        ("autoencoder_ldm", "moments"),
        ("autoencoder_diffusers", "decoded"),
    ] {
        let path = folder.path().join(format!("{case}.safetensors"));
        let original = fs::read(&path).unwrap();
        overwrite(&path, tensor, spoil_f32);
        let report = checked(folder.path(), &[case]);
        let failed = disagreeing(&report);
        assert_eq!(quantities(&failed), [tensor]);
        assert_eq!(failed[0].verdict, Verdict::Fail);
        assert!((failed[0].max_absolute - 5.0).abs() < 1e-3, "{}", report.table());
        fs::write(&path, original).unwrap();
    }
}

#[test]
fn one_bit_in_tables_pixels_and_stored_weights_is_seen() {
    let folder = recordings();
    let tables = folder.path().join("diffusion_tables.safetensors");
    overwrite(&tables, "linear.25.timesteps", |bytes| bytes[8] ^= 1);
    // Bit 16 of the 52 of a double's mantissa: 1e-11 of the value.
    overwrite(&tables, "cosine.ddim50.betas", |bytes| bytes[bytes.len() - 6] ^= 1);
    let report = checked(folder.path(), &["diffusion_tables"]);
    assert_eq!(quantities(&disagreeing(&report)), ["cosine.ddim50.betas", "linear.25.timesteps"]);

    let crop = folder.path().join("preprocess/chelsea.center64.png");
    let mut image = semanticist::image::open(&crop).unwrap();
    image.get_pixel_mut(63, 63).0[2] ^= 1;
    semanticist::image::save_png(&image, &crop).unwrap();
    let report = checked(folder.path(), &["preprocess"]);
    assert_eq!(quantities(&disagreeing(&report)), ["chelsea.center64.png"]);

    let checkpoint = folder.path().join("checkpoints/tokenizer_ema.pkl");
    overwrite(&checkpoint, "dit.null_cond", |bytes| bytes[0] ^= 1);
    let report = checked(folder.path(), &["checkpoints"]);
    assert_eq!(quantities(&disagreeing(&report)), ["stored weights"]);
}

#[test]
fn what_is_not_a_number_fails() {
    let folder = recordings();
    let not_a_number = |bytes: &mut [u8]| bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    overwrite(&folder.path().join("sampling.safetensors"), "10.cfg1.keep12.out", not_a_number);
    overwrite(&folder.path().join("encoder.safetensors"), "weights.encoder.cls_token", not_a_number);
    let report = checked(folder.path(), &["sampling", "encoder"]);
    let failed = disagreeing(&report);
    let expected = ["features", "tokens_raw", "tokens", "tokens, first k only", "10.cfg1.keep12.out"];
    assert_eq!(quantities(&failed), expected);
    assert!(failed.iter().all(|check| check.verdict == Verdict::Fail));
}

#[test]
fn a_cut_file_is_unreadable_and_the_other_cases_go_on() {
    let folder = recordings();
    let path = folder.path().join("training_step.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(folder.path().join("preprocess/cases.json"), "{\"cases\": [").unwrap();
    let report = checked(folder.path(), &["training_step", "preprocess", "diffusion_tables"]);
    let failed = disagreeing(&report);
    assert_eq!(quantities(&failed), ["training_step.safetensors", "preprocess/cases.json"]);
    assert!(failed[0].verdict.reason().unwrap().contains("copy or download it again"));
    assert!(report.checks.len() > 20);
}

#[test]
fn a_damaged_photo_concerns_its_own_crops_only() {
    let folder = recordings();
    let photo = folder.path().join("preprocess/chelsea.png");
    let bytes = fs::read(&photo).unwrap();
    fs::write(&photo, &bytes[..bytes.len() / 2]).unwrap();
    let report = checked(folder.path(), &["preprocess"]);
    let failed = disagreeing(&report);
    assert_eq!(quantities(&failed), ["chelsea.center64.png", "chelsea.center256.png"]);
    assert!(failed.iter().all(|check| matches!(check.verdict, Verdict::Unreadable(_))));
}

#[test]
fn a_missing_case_fails_unless_others_are_chosen() {
    let folder = recordings();
    fs::remove_file(folder.path().join("sampling.safetensors")).unwrap();
    let report =
        verify(folder.path(), None, semanticist::Precision::Float32, &Device::flex(), &mut |_| ()).unwrap();
    let failed = disagreeing(&report);
    assert_eq!(quantities(&failed), ["sampling.safetensors"]);
    assert!(matches!(failed[0].verdict, Verdict::Absent(_)) && !report.passed());
    assert!(checked(folder.path(), &["encoder", "preprocess"]).passed());
}

#[test]
fn what_is_not_known_is_listed() {
    let folder = recordings();
    fs::write(folder.path().join("generator.safetensors"), "").unwrap();
    fs::write(folder.path().join("checkpoints/other.pkl"), "").unwrap();
    fs::create_dir(folder.path().join("state_dicts")).unwrap();
    let path = folder.path().join("encoder.safetensors");
    let (mut tensors, metadata) = weights::load(&path).unwrap();
    tensors.insert("attention", HostTensor::from_f32(&[1], &[0.0]));
    let changed = folder.path().join("encoder.changed");
    weights::save(&changed, &tensors, &metadata, Precision::F32).unwrap();
    fs::rename(&changed, &path).unwrap();
    let report = checked(folder.path(), &["encoder"]);
    let expected =
        ["checkpoints/other.pkl", "encoder.safetensors: attention", "generator.safetensors", "state_dicts/"];
    assert_eq!(report.unknown, expected);
    assert!(report.passed());
}

#[test]
fn sizes_that_contradict_are_reported_and_never_panic() {
    let folder = recordings();
    for (case, from, to) in [
        ("encoder", "\"patch_size\": 16", "\"patch_size\": 0"),
        ("encoder", "\"patch_size\": 16", "\"patch_size\": 32"),
        ("encoder", "\"image_size\": 64", "\"image_size\": 1000000000000"),
        ("encoder", "\"image_size\": 64", "\"image_size\": \"64\""),
        ("encoder", "\"dim\": 96", "\"dim\": 65536"),
        ("encoder", "\"heads\": 3", "\"heads\": 5"),
        ("encoder", "\"depth\": 3", "\"depth\": 2"),
        ("encoder", "\"depth\": 3", "\"depth\": 60000"),
        ("encoder", "\"tokens\": 12", "\"tokens\": 11"),
        ("encoder", "\"token_dim\": 8", "\"token_dim\": 1"),
        ("decoder", "\"patch_size\": 2", "\"patch_size\": 0"),
        ("decoder", "\"latent_size\": 8", "\"latent_size\": 16"),
        ("decoder", "\"repa_layer\": 2", "\"repa_layer\": 5"),
        ("decoder", "\"repa_hidden\": 64, ", ""),
        ("decoder", "\"repa_dim\": 48", "\"repa_dim\": 49"),
        ("training_step", "\"latent_channels\": 4", "\"latent_channels\": 3"),
        ("training_run", "\"steps\": 10", "\"steps\": 11"),
        ("training_run", "\"steps\": 10", "\"steps\": 0"),
        ("training_run", "\"betas\": [0.9, 0.95]", "\"betas\": 0.9"),
        ("sampling", "\"heads\": 4", "\"heads\": 8"),
        ("autoencoder_ldm", "\"ch\": 32", "\"ch\": 65536"),
        ("autoencoder_ldm", "\"ch\": 32", "\"ch\": 31"),
        ("autoencoder_ldm", "[1, 1, 2]", "[1, 1, 2, 2]"),
        ("autoencoder_ldm", "[1, 1, 2]", "[]"),
        ("autoencoder_ldm", "[1, 1, 2]", "[1, 1, 1000000000000000000]"),
        ("autoencoder_ldm", "\"num_res_blocks\": 1", "\"num_res_blocks\": 60000"),
        ("autoencoder_ldm", "\"attn_resolutions\": [8]", "\"attn_resolutions\": [16]"),
        ("autoencoder_ldm", "\"z_channels\": 8", "\"z_channels\": 9"),
        ("autoencoder_diffusers", "\"AttnDown", "\"CrossAttnDown"),
        ("autoencoder_diffusers", "[32, 32, 64]", "[32, 32]"),
        ("autoencoder_diffusers", "[32, 32, 64]", "[32, 33, 64]"),
        ("autoencoder_diffusers", "\"norm_num_groups\": 32", "\"norm_num_groups\": 33"),
    ] {
        let path = folder.path().join(format!("{case}.safetensors"));
        let original = fs::read(&path).unwrap();
        reconfigure(&path, |config| {
            assert!(config.contains(from), "{from} is not in {config}");
            Some(config.replace(from, to))
        });
        assert_unreadable(folder.path(), case, &format!("{from} -> {to}"));
        fs::write(&path, original).unwrap();
    }
    reconfigure(&folder.path().join("encoder.safetensors"), |_| None);
    assert_unreadable(folder.path(), "encoder", "no config");
}

#[track_caller]
fn assert_unreadable(folder: &Path, case: &str, what: &str) {
    let report = checked(folder, &[case]);
    let failed = disagreeing(&report);
    assert_eq!(failed.len(), 1, "{what}:\n{}", report.table());
    let Verdict::Unreadable(reason) = &failed[0].verdict else {
        panic!("{what}:\n{}", report.table());
    };
    assert!(!reason.contains("the computation failed"), "{what}: {reason}");
}

#[test]
fn tensors_that_contradict_are_reported_and_never_panic() {
    let folder = recordings();
    let float = |shape: &[usize]| HostTensor::from_f32(shape, &vec![0.5; shape.iter().product()]);
    for (case, tensor, replacement) in [
        ("encoder", "image", Some(float(&[3, 3, 64, 32]))),
        ("encoder", "image", Some(float(&[0, 3, 64, 64]))),
        ("encoder", "image", None),
        ("encoder", "tokens", Some(float(&[3, 12, 7]))),
        ("encoder", "features", None),
        ("encoder", "weights.encoder.norm.bias", None),
        ("encoder", "weights.encoder.norm.bias", Some(float(&[95]))),
        ("encoder", "weights.encoder.pos_embed", Some(float(&[1, 30, 96]))),
        ("encoder", "weights.encoder.extra", Some(float(&[1]))),
        ("decoder", "keep", Some(float(&[3]))),
        ("decoder", "timestep", None),
        ("decoder", "weights.dit.pos_embed", Some(float(&[1, 64, 96]))),
        ("training_step", "teacher", None),
        ("training_step", "grads.dit.surprise", Some(float(&[1]))),
        ("training_step", "grad_norm", None),
        ("training_run", "image", Some(float(&[3, 3, 64, 64]))),
        ("training_run", "final.dit.surprise", Some(float(&[1]))),
        ("sampling", "10.cfg1.keep12.noise", Some(float(&[9, 3, 4, 8, 8]))),
        ("sampling", "1.cfg1.keep12.out", Some(float(&[3, 4, 8, 8]))),
        ("sampling", "10.cfg3.keep5.start", None),
        ("autoencoder_ldm", "image", Some(float(&[2, 3, 30, 32]))),
        ("autoencoder_ldm", "latent", Some(float(&[2, 4, 8, 8]))),
        ("autoencoder_ldm", "weights.quant_conv.bias", None),
        ("autoencoder_ldm", "weights.decoder.up.0.block.0.conv3.bias", Some(float(&[32]))),
        ("autoencoder_diffusers", "weights.encoder.mid_block.attentions.0.query.bias", Some(float(&[64]))),
        ("inception", "small.images", Some(float(&[2, 1, 24, 32]))),
        ("inception", "weights.fc.bias", None),
        ("dinov2", "images_16", Some(float(&[2, 3, 15, 16]))),
        ("dinov2", "weights.hub.norm.bias", None),
        ("lpips", "weights.alex.features.3.weight", Some(float(&[7, 6, 3, 3]))),
        ("lpips", "weights.vgg.lin4.model.1.weight", None),
        ("dists", "weights.alpha", Some(float(&[1, 4, 1, 1]))),
        ("inception", "weights.Mixed_5b.branch1x1.conv.weight", Some(float(&[4, 0, 1, 1]))),
        ("clip", "images", Some(float(&[2, 3, 32, 16]))),
        ("clip", "tokens", Some(float(&[3, 23]))),
        ("clip", "weights.visual_projection.weight", Some(float(&[0, 128]))),
        ("clip", "weights.text_model.embeddings.token_embedding.weight", Some(float(&[531, 64]))),
        ("diffusion_tables", "linear.2000.betas", Some(float(&[2000]))),
        ("diffusion_tables", "linear.ddim25.timesteps", Some(float(&[25]))),
    ] {
        let path = folder.path().join(format!("{case}.safetensors"));
        let original = fs::read(&path).unwrap();
        // Written again, tables would lose their double precision: only the one in question stays.
        let (mut tensors, metadata) = weights::load(&path).unwrap();
        if case == "diffusion_tables" {
            tensors.split_prefix("");
        }
        let what = format!("{tensor} -> {:?}", replacement.as_ref().map(HostTensor::shape));
        match replacement {
            Some(replacement) => tensors.insert(tensor, replacement),
            None => drop(tensors.remove(tensor).unwrap()),
        }
        let changed = path.with_extension("changed");
        weights::save(&changed, &tensors, &metadata, Precision::F32).unwrap();
        fs::rename(&changed, &path).unwrap();
        assert_unreadable(folder.path(), case, &what);
        fs::write(&path, original).unwrap();
    }
}

#[test]
fn integers_outside_their_range_are_reported() {
    let folder = recordings();
    let path = folder.path().join("decoder.safetensors");
    for (tensor, value) in [("keep", 13_i64), ("keep", -1), ("timestep", 1000)] {
        let original = fs::read(&path).unwrap();
        overwrite(&path, tensor, |bytes| bytes[..8].copy_from_slice(&value.to_le_bytes()));
        assert_unreadable(folder.path(), "decoder", tensor);
        fs::write(&path, original).unwrap();
    }
}

#[test]
fn unknown_cases_and_folders_are_refused() {
    let device = Device::flex();
    let message = |path: PathBuf, case: &str| {
        verify(&path, Some(&[case.to_string()]), semanticist::Precision::Float32, &device, &mut |_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(message(".".into(), "encode").contains("the cases are encoder, decoder, training_step"));
    assert!(message("/no/such/folder".into(), "encoder").contains("cannot read the folder"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    assert!(message(file, "encoder").contains("is not a folder"));
}

fn host<const D: usize>(tensor: Tensor<D>) -> HostTensor {
    let shape = tensor.dims();
    HostTensor::from_f32(&shape, &tensor.into_data().try_to_vec::<f32>().unwrap())
}

fn write(folder: &Path, case: &str, tensors: &Weights, config: &str) {
    let metadata = Metadata::from([("config".to_string(), config.to_string())]);
    let path = folder.join(format!("{case}.safetensors"));
    weights::save(&path, tensors, &metadata, Precision::F32).unwrap();
}
