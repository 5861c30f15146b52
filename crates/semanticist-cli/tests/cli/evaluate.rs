//! `evaluate`: what it measures, on how many images, and what it refuses.

use super::Folder;

#[test]
fn every_count_has_its_row_and_none_is_one_of_them() {
    let folder = Folder::new();
    folder.photos(&["photos/a/1.png", "photos/a/2.png", "photos/b/3.png"]);
    let evaluate = "evaluate --data photos --model model.safetensors --steps 2 --json";
    let report = folder.run(&format!("{evaluate} --tokens 0,1,4")).json();
    assert_eq!(report["images"], 3);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["tokens"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 4]);
    for row in rows {
        assert!(row["psnr"].as_f64().unwrap() > 0.0 && row["diffusion_loss"].as_f64().unwrap() > 0.0);
    }
    // Fewer images are spread over the classes, and counts do not disturb each other.
    let two = folder.run(&format!("{evaluate} --tokens 4 --images 2")).json();
    assert_eq!(two["images"], 2);
    let alone = folder.run(&format!("{evaluate} --tokens 4")).json();
    assert_eq!(alone["rows"][0], report["rows"][2]);
    assert_ne!(alone["rows"][0], two["rows"][0]);
}

#[test]
fn what_cannot_be_measured_is_said() {
    let folder = Folder::new();
    folder.photo("photos/1.png", 1);
    folder.fails("evaluate --data photos --model model.safetensors --tokens 5", 2, "use 0 to 4");
    std::fs::create_dir(folder.path("empty")).unwrap();
    folder.fails("evaluate --data empty --model model.safetensors", 1, "no images in empty");
}

#[test]
fn without_tokens_an_image_is_reconstructed_all_the_same() {
    let folder = Folder::new();
    folder.photo("cat.png", 1);
    let report = folder.run("reconstruct cat.png --model model.safetensors --steps 2 --tokens 0,4 --json");
    assert_eq!(report.json()["images"][0]["rows"].as_array().unwrap().len(), 2);
    // Where there must be a token, 0 is refused.
    folder.fails("encode cat.png -o t.parquet --tokens 0", 2, "whole number from 1");
}
