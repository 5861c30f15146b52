use semanticist::weights::Precision;

use super::*;

/// Recorded by `scripts/record_inception.py` with pytorch-fid: a sixteenth of the channels, random weights.
pub(crate) fn recording() -> Weights {
    let file = "../semanticist-verify/tests/data/reference/inception.safetensors";
    weights::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap().0
}

fn tensor<const D: usize>(weights: &Weights, name: &str) -> Tensor<D> {
    let found = weights.get(name).unwrap_or_else(|| panic!("{name} in the recording"));
    Tensor::from_data(TensorData::new(found.to_f32().unwrap(), found.shape().to_vec()), &Device::flex())
}

fn saved(weights: &Weights, folder: &Path) -> std::path::PathBuf {
    let path = folder.join("inception.safetensors");
    weights::save(&path, weights, &Metadata::new(), Precision::F32).unwrap();
    path
}

fn refused(weights: &Weights) -> String {
    let folder = tempfile::tempdir().unwrap();
    Inception::load(&saved(weights, folder.path()), &Device::flex()).unwrap_err().to_string()
}

#[test]
fn features_are_those_of_pytorch_fid() {
    let mut recorded = recording();
    let folder = tempfile::tempdir().unwrap();
    let path = saved(&recorded.split_prefix("weights."), folder.path());
    let (network, hash) = Inception::load(&path, &Device::flex()).unwrap();
    assert_eq!((network.widths(), hash.len()), ([4, 12, 48, 128], 64));
    for kind in ["small", "tall"] {
        let images = Pixels(tensor(&recorded, &format!("{kind}.images")));
        let found = network.forward(&images, InputResize::PytorchFid);
        let apart = |found: Tensor<2>, name: &str| {
            let expected: Tensor<2> = tensor(&recorded, &format!("{kind}.{name}"));
            assert_eq!(found.dims(), expected.dims(), "{name}");
            let largest: f32 = (found - expected.clone()).abs().max().into_scalar();
            let scale: f32 = expected.abs().max().into_scalar();
            assert!(largest < 1e-5 * scale, "{kind} {name}: {largest} of {scale}");
        };
        for (number, features) in found.features.iter().enumerate() {
            apart(features.clone(), &format!("features_{number}"));
        }
        apart(found.spatial, "spatial");
        let [.., features] = found.features;
        apart(network.logits(features.clone()).unwrap(), "logits");
        let bias: Tensor<1> = network.classes.clone().unwrap().1;
        apart(network.unbiased_logits(features).unwrap() + bias.unsqueeze(), "logits");
    }
}

#[test]
fn a_file_of_the_wrapper_is_the_same_network_without_classes() {
    let weights = recording().split_prefix("weights.");
    let mut wrapped = Weights::new();
    for (name, tensor) in weights.iter() {
        // Spelled independently of the product's table.
        let place = [
            ("Conv2d_1a_3x3", "0.0"),
            ("Conv2d_2a_3x3", "0.1"),
            ("Conv2d_2b_3x3", "0.2"),
            ("Conv2d_3b_1x1", "1.0"),
            ("Conv2d_4a_3x3", "1.1"),
            ("Mixed_5b", "2.0"),
            ("Mixed_5c", "2.1"),
            ("Mixed_5d", "2.2"),
            ("Mixed_6a", "2.3"),
            ("Mixed_6b", "2.4"),
            ("Mixed_6c", "2.5"),
            ("Mixed_6d", "2.6"),
            ("Mixed_6e", "2.7"),
            ("Mixed_7a", "3.0"),
            ("Mixed_7b", "3.1"),
            ("Mixed_7c", "3.2"),
        ];
        let (top, rest) = name.split_once('.').unwrap();
        if let Some((_, place)) = place.iter().find(|(name, _)| *name == top) {
            wrapped.insert(format!("blocks.{place}.{rest}"), tensor.clone());
        }
    }
    let load = |weights| Inception::from_weights(weights, Path::new("x"), &Device::flex()).unwrap();
    let (whole, wrapped) = (load(weights), load(wrapped));
    assert!(whole.has_classes() && !wrapped.has_classes());
    let images = Pixels(Tensor::ones([1, 3, 8, 8], &Device::flex()));
    let [a, b] = [&whole, &wrapped].map(|network| network.forward(&images, InputResize::PytorchFid));
    assert_eq!(a.features[3].to_data(), b.features[3].to_data());
    assert!(wrapped.logits(b.features[3].clone()).is_none());
}

#[test]
fn another_networks_file_is_refused() {
    let whole = recording().split_prefix("weights.");
    let mut weights = whole.clone();
    weights.remove("Mixed_7c.branch_pool.bn.running_var");
    let error = refused(&weights);
    assert!(error.contains("Mixed_7c.branch_pool.bn.running_var is missing"), "{error}");
    let mut weights = whole.clone();
    weights.insert("AuxLogits.fc.weight", HostTensor::from_f32(&[1], &[0.0]));
    let error = refused(&weights);
    assert!(error.contains("AuxLogits.fc.weight") && error.contains("torchvision's"), "{error}");
    let mut weights = whole.clone();
    weights.insert("Conv2d_2a_3x3.conv.weight", HostTensor::from_f32(&[2, 2, 1, 1], &[0.0; 4]));
    let error = refused(&weights);
    assert!(error.contains("F32 [2, 2, 1, 1], expected floats [2, 2, 3, 3]"), "{error}");
    let mut weights = whole;
    weights.insert("Mixed_5b.branch9x9.conv.weight", HostTensor::from_f32(&[1], &[0.0]));
    let error = refused(&weights);
    assert!(error.contains("not used") && error.contains("branch9x9"), "{error}");
}

#[test]
fn resizing_takes_the_places_of_either_program() {
    let row = |resize, new: usize| interpolation(2, resize)[2 * new..2 * new + 2].to_vec();
    // Of two pixels: half a pixel of each end is constant where pixels are squares, the whole last one where they are points.
    assert_eq!(row(InputResize::PytorchFid, 0), [1.0, 0.0]);
    assert_eq!(row(InputResize::PytorchFid, SIDE / 2), [0.5, 0.5]);
    assert_eq!(row(InputResize::PytorchFid, SIDE - 1), [0.0, 1.0]);
    assert_eq!(row(InputResize::TensorFlow, 0), [1.0, 0.0]);
    assert_eq!(row(InputResize::TensorFlow, SIDE - 1), [0.0, 1.0]);
    let middle = row(InputResize::TensorFlow, SIDE / 2)[1];
    assert!((middle - 298.0 / 299.0).abs() < 1e-6, "{middle}");
    // What has the size already stays as it is.
    let same = interpolation(SIDE, InputResize::PytorchFid);
    assert!(same.chunks(SIDE).enumerate().all(|(at, row)| row[at] == 1.0));
}

#[test]
#[ignore = "measures the network at its published size: half a minute"]
fn published_size() {
    let mut noise = semanticist::Noise::seeded(1);
    let mut weights = Weights::new();
    for (name, tensor) in recording().split_prefix("weights.").iter() {
        let wider = |(axis, side): (usize, &usize)| if axis < 2 && *side != 3 { 16 * side } else { *side };
        // 3 inputs of the first layer stay; 3 outputs are some elsewhere.
        let mut shape: Vec<usize> = tensor.shape().iter().enumerate().map(wider).collect();
        if shape.first() == Some(&3) {
            shape[0] = 48;
        }
        if shape.get(1) == Some(&3) && !name.starts_with("Conv2d_1a") {
            shape[1] = 48;
        }
        let (count, inputs) = (shape.iter().product::<usize>(), shape.iter().skip(1).product::<usize>());
        let values = noise.uniform(count).into_iter();
        let values: Vec<f32> = match name.ends_with("conv.weight") {
            true => values.map(|value| (value - 0.5) * (6.0 / inputs as f32).sqrt()).collect(),
            false => values.collect(),
        };
        weights.insert(name, HostTensor::from_f32(&shape, &values));
    }
    let network = Inception::from_weights(weights, Path::new("random"), &Device::flex()).unwrap();
    assert_eq!(network.widths(), [64, 192, 768, 2048]);
    for batch in [1, 16] {
        let images = Pixels(Tensor::ones([batch, 3, 64, 64], &Device::flex()));
        let begun = std::time::Instant::now();
        let found = network.forward(&images, InputResize::PytorchFid);
        let sum: f32 = found.features[3].clone().sum().into_scalar();
        assert!(sum.is_finite());
        println!("{batch} at once: {:.3} s an image", begun.elapsed().as_secs_f64() / batch as f64);
    }
}
