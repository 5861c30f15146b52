//! A recorded training step whose teacher has another grid than the decoder's patches.

use std::fs;
use std::path::Path;

use semanticist::weights::{self, HostTensor, Precision, Weights};
use semanticist_verify::verify::Verdict;
use tempfile::TempDir;

use crate::{checked, copy, disagreeing, quantities};

const FILE: &str = "training_step.safetensors";

/// Recorded by `scripts/record_alignment.py`: 9 patches, a teacher of 16 positions.
fn recordings() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/alignment"), folder.path());
    folder
}

/// Writes the training step again with other tensors; its integers are kept as they are.
fn change(folder: &Path, change: impl FnOnce(&mut Weights)) {
    let path = folder.join(FILE);
    let (mut tensors, metadata) = weights::load(&path).unwrap();
    change(&mut tensors);
    let changed = path.with_extension("changed");
    weights::save(&changed, &tensors, &metadata, Precision::F32).unwrap();
    fs::rename(&changed, &path).unwrap();
}

#[test]
fn a_teacher_of_another_grid_agrees_in_losses_and_gradients() {
    let folder = recordings();
    let report = checked(folder.path(), &["decoder", "training_step"]);
    assert!(report.passed(), "{}", report.table());
    assert_eq!(report.unknown, Vec::<String>::new());
    let found: Vec<&str> = report.checks.iter().map(|check| check.quantity.as_str()).collect();
    for quantity in ["loss_mse", "loss_vb", "loss_diffusion", "loss_repa", "loss_total", "grad_norm"] {
        assert!(found.contains(&quantity), "{quantity} in {found:?}");
    }
    for parameter in ["projector.0.weight", "projector.4.bias", "blocks.0.attn.qkv.weight", "null_cond"] {
        assert!(found.contains(&format!("grads.dit.{parameter}").as_str()), "{parameter} in {found:?}");
    }
}

#[test]
fn a_teacher_of_no_square_grid_is_refused_in_words() {
    for positions in [6, 12] {
        let folder = recordings();
        change(folder.path(), |tensors| {
            let teacher = HostTensor::from_f32(&[2, positions, 6], &vec![0.5; 2 * positions * 6]);
            tensors.insert("teacher", teacher);
        });
        let report = checked(folder.path(), &["training_step"]);
        let failed = disagreeing(&report);
        let Verdict::Unreadable(reason) = &failed[0].verdict else { panic!("{}", report.table()) };
        let expected = format!("teacher has {positions} positions, which make no square grid; expected 9");
        assert!(reason.contains(&expected) && failed.len() == 1, "{reason}");
    }
}

/// Another width or batch is no matter of grids.
#[test]
fn a_teacher_that_is_misshapen_otherwise_is_refused_too() {
    for shape in [[2, 16, 5], [1, 16, 6]] {
        let folder = recordings();
        change(folder.path(), |tensors| {
            let teacher = HostTensor::from_f32(&shape, &vec![0.5; shape.iter().product()]);
            tensors.insert("teacher", teacher);
        });
        let report = checked(folder.path(), &["training_step"]);
        let Verdict::Unreadable(reason) = &disagreeing(&report)[0].verdict else {
            panic!("{}", report.table())
        };
        assert!(reason.contains("expected [2, 16, 6]"), "{reason}");
    }
}

#[test]
fn another_teacher_fails_the_alignment_and_what_follows_from_it() {
    let folder = recordings();
    change(folder.path(), |tensors| {
        let teacher = tensors.remove("teacher").unwrap().to_f32().unwrap();
        let opposite: Vec<f32> = teacher.iter().map(|value| -value).collect();
        tensors.insert("teacher", HostTensor::from_f32(&[2, 16, 6], &opposite));
    });
    let report = checked(folder.path(), &["training_step"]);
    let failed = disagreeing(&report);
    let failed = quantities(&failed);
    assert!(failed.contains(&"loss_repa") && failed.contains(&"grads.dit.projector.4.weight"), "{failed:?}");
    assert!(!failed.contains(&"loss_diffusion"), "{failed:?}");
    assert!(!failed.contains(&"grads.dit.final_layer.linear.weight"), "{failed:?}");
}
