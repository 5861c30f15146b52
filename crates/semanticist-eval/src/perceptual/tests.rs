use burn::tensor::{Device, Tensor, TensorData};
use semanticist::Pixels;
use semanticist::weights::{self, HostTensor, Metadata};

use super::*;

/// Networks with few channels and their distances, recorded by `scripts/record_perceptual.py` from the published packages.
fn recording(file: &str) -> Weights {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../semanticist-verify/tests/data/reference");
    weights::load(&folder.join(file)).unwrap().0
}

/// The weights of a network.
fn recorded(file: &str, prefix: &str) -> Weights {
    recording(file).split_prefix(prefix)
}

fn images(recording: &Weights, name: &str) -> Tensor<4> {
    let found = recording.get(name).unwrap();
    Tensor::from_data(TensorData::new(found.to_f32().unwrap(), found.shape().to_vec()), &Device::flex())
}

#[test]
fn distances_equal_those_of_the_published_code() {
    let (device, source) = (Device::flex(), Path::new("recorded"));
    let (lpips, dists) = (recording("lpips.safetensors"), recording("dists.safetensors"));
    let near = |found: Tensor<1>, recording: &Weights, name: &str| {
        let found = found.into_data().try_to_vec::<f32>().unwrap();
        let expected = recording.get(name).unwrap().to_f32().unwrap();
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 2e-6 * b.abs().max(1e-3);
        assert!(found.iter().zip(&expected).all(near), "{name}: {found:?} {expected:?}");
    };
    for network in ["vgg", "alex"] {
        let mut weights = recorded("lpips.safetensors", &format!("weights.{network}."));
        let measure = Lpips::take(&mut weights, source, &device).unwrap();
        let found = measure.distances(images(&lpips, "photos"), images(&lpips, "pictures"));
        near(found, &lpips, &format!("{network}.distances"));
    }
    let measure = Dists::take(&mut recorded("dists.safetensors", "weights."), source, &device).unwrap();
    near(measure.distances(images(&dists, "photos"), images(&dists, "pictures")), &dists, "distances");
}

fn picture(batch: usize, brightness: f32) -> Pixels {
    let values = (0..batch * 3 * 33 * 35).map(|i| (i * i % 97) as f32 / 97.0 * brightness);
    Pixels(Tensor::from_data(
        TensorData::new(values.collect::<Vec<_>>(), [batch, 3, 33, 35]),
        &Device::flex(),
    ))
}

#[test]
fn equal_images_have_no_distance_and_each_is_compared_with_its_own() {
    let (device, source) = (Device::flex(), Path::new("recorded"));
    let lpips = Lpips::take(&mut recorded("lpips.safetensors", "weights.alex."), source, &device).unwrap();
    assert_eq!(lpips.network(), "alexnet");
    let dists = Dists::take(&mut recorded("dists.safetensors", "weights."), source, &device).unwrap();
    let measures = PerceptualMeasures { lpips: Some(lpips), dists: Some(dists) };
    // More than go through the networks together.
    let originals = picture(TOGETHER + 2, 1.0);
    let both = Tensor::cat(vec![originals.0.clone().narrow(0, 0, TOGETHER + 1), picture(1, 0.5).0], 0);
    let found = measures.compare(&originals, &Pixels(both));
    assert_eq!(found.len(), TOGETHER + 2);
    for (number, distance) in found.iter().enumerate() {
        let [lpips, dists] = [distance.lpips.unwrap(), distance.dists.unwrap()];
        if number <= TOGETHER {
            assert!(lpips == 0.0 && dists.abs() < 1e-5, "{number}: {distance:?}");
        } else {
            assert!(lpips > 1e-3 && dists > 1e-3, "{number}: {distance:?}");
        }
    }
    let none = PerceptualMeasures::default().compare(&originals, &originals);
    assert_eq!(none, vec![PerceptualDistance::default(); TOGETHER + 2]);
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vgg.safetensors");
    let mut weights = Weights::new();
    weights.insert("features.0.weight", HostTensor::from_f32(&[2, 3, 3, 3], &[0.0; 54]));
    weights::save(&path, &weights, &Metadata::new(), weights::Precision::F32).unwrap();
    let error = Lpips::load(std::slice::from_ref(&path), &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("features.0.bias") && error.contains("vgg16"), "{error}");
    let mut without = recorded("dists.safetensors", "weights.");
    without.remove("beta").unwrap();
    let error = Dists::take(&mut without, &path, &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("no beta") && error.contains("of the measure"), "{error}");
}
