//! How different two images look to a network trained on photographs: LPIPS (Zhang et al., 2018).
//!
//! Ported from `lpips` 0.1.4 (PyPI), with VGG-16 in the layout of torchvision.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData, activation};
use semanticist::weights::{HostTensor, Weights, published};
use semanticist::{Error, Result};
use semanticist_ops::{self as ops, Stride};

/// For each of the five depths at which features are compared, the numbers of its layers in
/// torchvision's `features`.
const LAYERS: [&[usize]; 5] = [&[0, 2], &[5, 7], &[10, 12, 14], &[17, 19, 21], &[24, 26, 28]];

/// The mean and deviation of ImageNet's photographs, for pixels in `[-1, 1]`.
const MEAN: [f32; 3] = [-0.030, -0.088, -0.188];
const DEVIATION: [f32; 3] = [0.458, 0.448, 0.450];

/// Added to the length of a feature.
const EPSILON: f64 = 1e-10;

/// The measure; it does not learn.
#[derive(Debug, Clone)]
pub struct PerceptualLoss {
    depths: Vec<Depth>,
}

#[derive(Debug, Clone)]
struct Depth {
    /// Weight `[outputs, inputs, 3, 3]` and bias `[outputs]` of each convolution.
    convolutions: Vec<(Tensor<4>, Tensor<1>)>,
    /// How much each feature counts: `[1, 1, 1, outputs]`.
    importance: Tensor<4>,
}

impl PerceptualLoss {
    /// Reads the weights of VGG-16 (`features.0.weight` …, classifiers are left alone) and of LPIPS
    /// (`lin0.model.1.weight` …), each from one file or both from one.
    ///
    /// # Errors
    /// If a file cannot be read, or a weight is missing or misshapen.
    pub fn load(files: &[PathBuf], device: &Device) -> Result<Self> {
        let known = |name: &str| name.starts_with("features.") || name.starts_with("lin");
        let mut weights = Weights::new();
        for file in files {
            weights.extend(published::read(file, known)?.0);
        }
        let source = files.first().map_or(Path::new("LPIPS"), PathBuf::as_path);
        let mut inputs = 3;
        let mut depths = Vec::new();
        for (depth, layers) in LAYERS.iter().enumerate() {
            let mut convolutions = Vec::new();
            for layer in *layers {
                let name = format!("features.{layer}.weight");
                let weight = take(&mut weights, &name, source)?;
                let outputs = weight.shape().first().copied().unwrap_or_default();
                let weight = placed(weight, [outputs, inputs, 3, 3], &name, source, device)?;
                let name = format!("features.{layer}.bias");
                let bias = placed(take(&mut weights, &name, source)?, [outputs], &name, source, device)?;
                convolutions.push((weight, bias));
                inputs = outputs;
            }
            let name = format!("lin{depth}.model.1.weight");
            let importance = take(&mut weights, &name, source)?;
            let importance: Tensor<4> = placed(importance, [1, inputs, 1, 1], &name, source, device)?;
            depths.push(Depth { convolutions, importance: importance.permute([0, 2, 3, 1]) });
        }
        Ok(Self { depths })
    }

    /// The distance of every reconstruction from its original.
    ///
    /// # Shapes
    /// `originals`, `reconstructions`: `[B, 3, H, W]` in `[0, 1]`, sides of at least 16 and even at every halving
    /// → `[B]`
    pub fn distances(&self, originals: Tensor<4>, reconstructions: Tensor<4>) -> Tensor<1> {
        let batch = originals.dims()[0];
        let mut x = standardised(Tensor::cat(vec![originals, reconstructions], 0)); // [2 B, H, W, 3]
        let mut total: Option<Tensor<1>> = None;
        for (number, depth) in self.depths.iter().enumerate() {
            if number > 0 {
                x = halved(x);
            }
            for (weight, bias) in &depth.convolutions {
                x = activation::relu(ops::convolve(x, weight.clone(), Some(bias.clone()), Stride::One));
            }
            let length = x.clone().square().sum_dim(3).sqrt() + EPSILON;
            let unit = x.clone() / length;
            let difference = unit.clone().narrow(0, 0, batch) - unit.narrow(0, batch, batch);
            let [_, h, w, _] = x.dims();
            let weighted = (difference.square() * depth.importance.clone()).sum_dim(3);
            let distance = weighted.reshape([batch, h * w]).mean_dim(1).reshape([batch]);
            total = Some(match total {
                Some(total) => total + distance,
                None => distance,
            });
        }
        total.expect("there are five depths")
    }
}

/// Pixels in `[0, 1]` as the network expects them: `[B, 3, H, W]` → `[B, H, W, 3]`.
fn standardised(pixels: Tensor<4>) -> Tensor<4> {
    let device = pixels.device();
    let row =
        |values: [f32; 3]| Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 1, 1, 3]), &device);
    (pixels.permute([0, 2, 3, 1]) * 2.0 - 1.0 - row(MEAN)) / row(DEVIATION)
}

/// The largest of every 2×2 positions.
fn halved(x: Tensor<4>) -> Tensor<4> {
    let [b, h, w, c] = x.dims();
    let rows = x.reshape([b * (h / 2), 2, w, c]).max_dim(1); // [B H / 2, 1, W, C]
    rows.reshape([b * (h / 2) * (w / 2), 2, c]).max_dim(1).reshape([b, h / 2, w / 2, c])
}

fn take(weights: &mut Weights, name: &str, source: &Path) -> Result<HostTensor> {
    weights.remove(name).ok_or_else(|| {
        let expected = "expected those of torchvision's vgg16 and of lpips, in one file or two";
        Error::file(source, format!("the weights of LPIPS have no {name}; {expected}"))
    })
}

fn placed<const D: usize>(
    tensor: HostTensor,
    shape: [usize; D],
    name: &str,
    source: &Path,
    device: &Device,
) -> Result<Tensor<D>> {
    let values = tensor.to_f32().filter(|_| tensor.shape() == shape);
    let values = values.ok_or_else(|| {
        let (dtype, found) = (tensor.dtype(), tensor.shape());
        Error::file(source, format!("{name} is {dtype} {found:?}, expected floats {shape:?}"))
    })?;
    Ok(Tensor::from_data(TensorData::new(values, shape), device))
}

#[cfg(test)]
mod tests {
    use semanticist::weights;

    use super::*;

    /// Recorded by scripts/record_lpips.py from PyTorch, with a narrow VGG of random weights.
    #[test]
    fn distances_equal_those_of_the_published_code() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/lpips.safetensors");
        let device = Device::flex();
        let loss = PerceptualLoss::load(std::slice::from_ref(&path), &device).unwrap();
        let (recorded, _) = weights::load(&path).unwrap();
        let images = |name: &str| {
            let values = recorded.get(name).unwrap().to_f32().unwrap();
            Tensor::<4>::from_data(TensorData::new(values, [2, 3, 32, 48]), &device)
        };
        let found = loss.distances(images("photos"), images("pictures"));
        let found = found.into_data().try_to_vec::<f32>().unwrap();
        let expected = recorded.get("distances").unwrap().to_f32().unwrap();
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 2e-6 * b.abs().max(1e-3);
        assert!(found.iter().zip(&expected).all(near), "{found:?} {expected:?}");
        let same = loss.distances(images("photos"), images("photos"));
        assert_eq!(same.into_data().try_to_vec::<f32>().unwrap(), [0.0, 0.0]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vgg.safetensors");
        let mut weights = Weights::new();
        weights.insert("features.0.weight", HostTensor::from_f32(&[2, 3, 3, 3], &[0.0; 54]));
        weights::save(&path, &weights, &Default::default(), weights::Precision::F32).unwrap();
        let error = PerceptualLoss::load(&[path], &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("features.0.bias") && error.contains("torchvision"), "{error}");
    }
}
