//! Inception-v3 as FID, sFID and the Inception score have it: the network of 2015 with 1008 classes (Szegedy et al., 2015;
//! Heusel et al., 2017), which is not torchvision's.
//!
//! Ported from `pytorch-fid` 0.3.0 (PyPI, pytorch_fid/inception.py). Only the forward pass, in float32. A convolution's norm
//! (with statistics from training) is multiplied into its weights when they are read.

mod layers;
mod score;

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData, activation};
use semanticist::weights::{self, HostTensor, Metadata, Weights};
use semanticist::{Error, Pixels, Result};
use semanticist_ops::{self as ops, Pooling};

use layers::{BLOCKS, Padding, Part, SPATIAL, Step};
pub use score::{InceptionScore, inception_score};

/// Side of the images that the network sees, in pixels.
pub const SIDE: usize = 299;

/// Of the features with places, how many channels sFID takes.
pub const SPATIAL_CHANNELS: usize = 7;

/// Places along a side of the features that sFID takes.
pub const SPATIAL_SIDE: usize = 17;

/// What a norm adds to the variance.
const EPSILON: f64 = 1e-3;

/// How images become those of [`SIDE`] pixels that the network sees. Fréchet distances differ in their second digit or so
/// between the two: compare like with like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InputResize {
    /// `F.interpolate(mode="bilinear", align_corners=False)`, as pytorch-fid does it: pixels are squares around their
    /// middles, and nothing is smoothed when images become smaller.
    #[default]
    PytorchFid,
    /// `tf.image.resize_bilinear` of TensorFlow 1, inside of the published graph, which ADM's evaluator and torch-fidelity
    /// follow: pixels are at their upper left corners.
    TensorFlow,
}

/// The network.
#[derive(Debug, Clone)]
pub struct Inception {
    /// The parts of the four blocks.
    blocks: Vec<Vec<Block>>,
    /// Weight `[classes, width]` and bias `[classes]`, if the file has them.
    classes: Option<(Tensor<2>, Tensor<1>)>,
    widths: [usize; 4],
}

#[derive(Debug, Clone)]
struct Block {
    branches: Vec<Vec<Layer>>,
    /// Whether its first branch has the features of sFID.
    spatial: bool,
}

#[derive(Debug, Clone)]
enum Layer {
    Convolution(Box<Convolution>),
    AveragePool,
    MaxPool { stride: usize, padding: usize },
    Fork(Vec<Layer>),
}

#[derive(Debug, Clone)]
struct Convolution {
    /// `[O, h, w, I]`
    weight: Tensor<4>,
    /// `[O]`
    bias: Tensor<1>,
    stride: usize,
    padding: [usize; 2],
}

/// What the network makes of images.
#[derive(Debug, Clone)]
pub struct Activations {
    /// The outputs of the four blocks, each the mean over its places: `[B, 64]`, `[B, 192]`, `[B, 768]`, and those of FID,
    /// `[B, 2048]`.
    pub features: [Tensor<2>; 4],
    /// `[B, 17 · 17 · 7]`, places before channels, as ADM's evaluator compares them (sFID).
    pub spatial: Tensor<2>,
}

impl Inception {
    /// Reads the file of pytorch-fid (`pt_inception-2015-12-05-6726825d.pth`) or that of torch-fidelity, or the same as
    /// safetensors, and the SHA-256 of its weights in hexadecimal. How wide layers are, their weights say.
    ///
    /// # Errors
    /// If the file cannot be read, or does not hold this network.
    pub fn load(path: &Path, device: &Device) -> Result<(Self, String)> {
        let (found, _) = weights::published::read(path, |name| published(name).is_some())?;
        let hash = weights::hash(&found, &Metadata::new()).map_err(|error| Error::io(path, "read", error))?;
        Ok((Self::from_weights(found, path, device)?, hash))
    }

    /// The network of weights that were read already; `source` is what errors call their origin.
    ///
    /// # Errors
    /// If they are not those of this network.
    pub fn from_weights(found: Weights, source: &Path, device: &Device) -> Result<Self> {
        let mut reader = Reader { weights: Weights::new(), source, device };
        let mut foreign = Vec::new();
        for (name, tensor) in found.iter() {
            match published(name) {
                Some(name) if name.ends_with(".num_batches_tracked") => {}
                Some(name) => reader.weights.insert(name, tensor.clone()),
                None => foreign.push(name),
            }
        }
        if !foreign.is_empty() {
            foreign.truncate(3);
            let problem = format!("it has {}; {EXPECTED}", foreign.join(", "));
            return Err(Error::file(source, format!("is not the Inception-v3 of FID: {problem}")));
        }
        let (mut width, mut widths) = (3, [0; 4]);
        let mut blocks = Vec::new();
        for (parts, of_block) in BLOCKS.iter().zip(&mut widths) {
            let parts = parts.iter().map(|part| {
                let (block, outputs) = reader.block(part, width)?;
                width = outputs;
                Ok(block)
            });
            blocks.push(parts.collect::<Result<Vec<_>>>()?);
            *of_block = width;
        }
        let classes = reader.classes(width)?;
        reader.weights.finish(source)?;
        Ok(Self { blocks, classes, widths })
    }

    /// Numbers per feature of each block; 64, 192, 768 and 2048 in the published network.
    pub fn widths(&self) -> [usize; 4] {
        self.widths
    }

    /// Whether the file has the last layer, without which there are no classes.
    pub fn has_classes(&self) -> bool {
        self.classes.is_some()
    }

    /// The features of images of any size.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` in `[0, 1]`
    pub fn forward(&self, images: &Pixels, resize: InputResize) -> Activations {
        let mut x = input(&images.0, resize); // [B, 299, 299, 3]
        let (mut features, mut spatial) = (Vec::new(), None);
        for parts in &self.blocks {
            for block in parts {
                let branches: Vec<_> = block
                    .branches
                    .iter()
                    .map(|branch| branch.iter().fold(x.clone(), |x, layer| layer.forward(x)))
                    .collect();
                if block.spatial {
                    spatial = Some(branches[0].clone().narrow(3, 0, SPATIAL_CHANNELS).flatten(1, 3));
                }
                x = Tensor::cat(branches, 3);
            }
            let [b, height, width, channels] = x.dims();
            features.push(x.clone().reshape([b, height * width, channels]).mean_dim(1).squeeze_dim(1));
        }
        let features = features.try_into().expect("there are four blocks");
        Activations { features, spatial: spatial.expect("one block has them") }
    }

    /// The logits of the 1008 classes, if the file has the last layer.
    ///
    /// # Shapes
    /// `[B, 2048]` -> `[B, 1008]`
    pub fn logits(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        let (_, bias) = self.classes.as_ref()?;
        Some(self.unbiased_logits(features)? + bias.clone().unsqueeze())
    }

    /// The same without the bias of the last layer: what the Inception score has always been computed from (the published
    /// code multiplies by the weights alone: openai/improved-gan, `inception_score/model.py`; ADM's evaluator and
    /// torch-fidelity, `logits_unbiased`, repeat it).
    ///
    /// # Shapes
    /// `[B, 2048]` -> `[B, 1008]`
    pub fn unbiased_logits(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        let (weight, _) = self.classes.as_ref()?;
        Some(features.matmul(weight.clone().transpose()))
    }
}

const EXPECTED: &str = "expected pt_inception-2015-12-05-6726825d.pth of pytorch-fid, or weights-inception-2015-12-05-6726825d.pth \
                        of torch-fidelity (torchvision's inception_v3 is another network)";

/// The name of a weight in the published files; none if they have no such weight.
fn published(name: &str) -> Option<String> {
    let name = layers::unwrapped(name).unwrap_or_else(|| name.to_string());
    let top = name.split('.').next()?;
    let of_block = |part: &Part| match part {
        Part::Step(Step::Convolution { name, .. }) | Part::Mixed { name, .. } => *name == top,
        Part::Step(_) => false,
    };
    let known = top == "fc" || BLOCKS.iter().any(|block| block.iter().any(of_block));
    known.then_some(name)
}

/// Makes layers of weights.
struct Reader<'a> {
    weights: Weights,
    source: &'a Path,
    device: &'a Device,
}

impl Reader<'_> {
    /// A part, and how many channels it gives.
    fn block(&mut self, part: &Part, inputs: usize) -> Result<(Block, usize)> {
        let (prefix, branches): (_, &[&[Step]]) = match part {
            Part::Step(step) => (None, &[std::slice::from_ref(step)]),
            Part::Mixed { name, branches } => (Some(*name), branches),
        };
        let (mut made, mut outputs, mut first) = (Vec::new(), 0, 0);
        for (number, branch) in branches.iter().enumerate() {
            let (mut layers, mut width) = (Vec::new(), inputs);
            for step in *branch {
                let (layer, outputs) = self.layer(step, prefix, width)?;
                layers.push(layer);
                width = outputs;
            }
            if number == 0 {
                first = width;
            }
            outputs += width;
            made.push(layers);
        }
        let spatial = prefix == Some(SPATIAL);
        if spatial && first < SPATIAL_CHANNELS {
            let problem =
                format!("{SPATIAL}.branch1x1 gives {first} channels, sFID takes {SPATIAL_CHANNELS}");
            return Err(Error::file(self.source, problem));
        }
        Ok((Block { branches: made, spatial }, outputs))
    }

    fn layer(&mut self, step: &Step, prefix: Option<&str>, inputs: usize) -> Result<(Layer, usize)> {
        Ok(match *step {
            Step::AveragePool => (Layer::AveragePool, inputs),
            Step::MaxPool { stride, padding } => {
                let [padding, _] = zeros(padding, [3, 3]);
                (Layer::MaxPool { stride, padding }, inputs)
            }
            Step::Fork(steps) => {
                let (mut layers, mut outputs) = (Vec::new(), 0);
                for step in steps {
                    let (layer, width) = self.layer(step, prefix, inputs)?;
                    layers.push(layer);
                    outputs += width;
                }
                (Layer::Fork(layers), outputs)
            }
            Step::Convolution { name, kernel, stride, padding } => {
                let name = prefix.map_or_else(|| name.to_string(), |prefix| format!("{prefix}.{name}"));
                let (weight, bias) = self.normalised(&name, inputs, kernel)?;
                let outputs = bias.dims()[0];
                let convolution = Convolution { weight, bias, stride, padding: zeros(padding, kernel) };
                (Layer::Convolution(Box::new(convolution)), outputs)
            }
        })
    }

    /// The weight and bias of a convolution and of the norm behind it in one.
    fn normalised(
        &mut self,
        name: &str,
        inputs: usize,
        [h, w]: [usize; 2],
    ) -> Result<(Tensor<4>, Tensor<1>)> {
        let weight = self.take(&format!("{name}.conv.weight"))?;
        let outputs = weight.shape().first().copied().unwrap_or_default();
        let mut weight = self.floats(&weight, &[outputs, inputs, h, w], &format!("{name}.conv.weight"))?;
        let mut of_norm = |part: &str| {
            let name = format!("{name}.bn.{part}");
            let tensor = self.take(&name)?;
            self.floats(&tensor, &[outputs], &name)
        };
        let [scale, shift] = [of_norm("weight")?, of_norm("bias")?];
        let [mean, variance] = [of_norm("running_mean")?, of_norm("running_var")?];
        let mut bias = Vec::with_capacity(outputs);
        for (output, kernel) in weight.chunks_mut((inputs * h * w).max(1)).enumerate() {
            let scale = f64::from(scale[output]) / (f64::from(variance[output]) + EPSILON).sqrt();
            kernel.iter_mut().for_each(|value| *value = (f64::from(*value) * scale) as f32);
            bias.push((f64::from(shift[output]) - f64::from(mean[output]) * scale) as f32);
        }
        let weight = TensorData::new(weight, [outputs, inputs, h, w]);
        let weight = Tensor::<4>::from_data(weight, self.device).permute([0, 2, 3, 1]);
        let bias = TensorData::new(bias, [outputs]);
        // Laid out anew once, and not at every use.
        Ok((Tensor::from_data(weight.into_data(), self.device), Tensor::from_data(bias, self.device)))
    }

    /// The last layer: pytorch-fid's wrapper (`InceptionV3.state_dict()`) has none.
    fn classes(&mut self, width: usize) -> Result<Option<(Tensor<2>, Tensor<1>)>> {
        if self.weights.get("fc.weight").is_none() && self.weights.get("fc.bias").is_none() {
            return Ok(None);
        }
        let weight = self.take("fc.weight")?;
        let classes = weight.shape().first().copied().unwrap_or_default();
        let weight = TensorData::new(self.floats(&weight, &[classes, width], "fc.weight")?, [classes, width]);
        let bias = self.take("fc.bias")?;
        let bias = TensorData::new(self.floats(&bias, &[classes], "fc.bias")?, [classes]);
        Ok(Some((Tensor::from_data(weight, self.device), Tensor::from_data(bias, self.device))))
    }

    fn take(&mut self, name: &str) -> Result<HostTensor> {
        self.weights.remove(name).ok_or_else(|| {
            Error::file(
                self.source,
                format!("is not the whole Inception-v3 of FID: {name} is missing; {EXPECTED}"),
            )
        })
    }

    fn floats(&self, tensor: &HostTensor, shape: &[usize], name: &str) -> Result<Vec<f32>> {
        tensor.to_f32().filter(|_| tensor.shape() == shape && !shape.contains(&0)).ok_or_else(|| {
            let (dtype, found) = (tensor.dtype(), tensor.shape());
            Error::file(
                self.source,
                format!("{name} is {dtype} {found:?}, expected floats {shape:?}; {EXPECTED}"),
            )
        })
    }
}

/// Rows and columns beyond each edge.
fn zeros(padding: Padding, kernel: [usize; 2]) -> [usize; 2] {
    match padding {
        Padding::Valid => [0, 0],
        Padding::Same => kernel.map(|side| side / 2),
    }
}

impl Layer {
    /// `[B, H, W, I]` -> `[B, H', W', O]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Convolution(convolution) => {
                let Convolution { weight, bias, stride, padding } = &**convolution;
                activation::relu(ops::convolve_any(x, weight.clone(), bias.clone(), *stride, *padding))
            }
            Self::AveragePool => ops::pool(x, Pooling::Average, 3, 1, 1),
            Self::MaxPool { stride, padding } => ops::pool(x, Pooling::Max, 3, *stride, *padding),
            Self::Fork(layers) => {
                Tensor::cat(layers.iter().map(|layer| layer.forward(x.clone())).collect(), 3)
            }
        }
    }
}

/// Images as the network expects them: `[B, 3, H, W]` in `[0, 1]` -> `[B, 299, 299, 3]` in `[-1, 1]`.
fn input(images: &Tensor<4>, resize: InputResize) -> Tensor<4> {
    let [b, channels, height, width] = images.dims();
    let device = images.device();
    let matrix = |from: usize| {
        let values = interpolation(from, resize);
        Tensor::<2>::from_data(TensorData::new(values, [SIDE, from]), &device)
    };
    let mut x = images.clone();
    if width != SIDE {
        let rows = x.reshape([b * channels * height, width]);
        x = rows.matmul(matrix(width).transpose()).reshape([b, channels, height, SIDE]);
    }
    if height != SIDE {
        x = matrix(height).unsqueeze::<4>().expand([b, channels, SIDE, height]).matmul(x);
    }
    let x = match resize {
        InputResize::PytorchFid => x * 2.0 - 1.0,
        // The graph takes bytes, less 128, over 128.
        InputResize::TensorFlow => x * (255.0 / 128.0) - 1.0,
    };
    x.permute([0, 2, 3, 1])
}

/// What each of the new pixels takes of the old, row by row: `[SIDE, from]`.
fn interpolation(from: usize, resize: InputResize) -> Vec<f32> {
    let scale = from as f64 / SIDE as f64;
    let mut values = vec![0.0; SIDE * from];
    for (new, row) in values.chunks_mut(from).enumerate() {
        let place = match resize {
            InputResize::PytorchFid => ((new as f64 + 0.5) * scale - 0.5).max(0.0),
            InputResize::TensorFlow => new as f64 * scale,
        };
        let before = (place as usize).min(from - 1);
        let share = place - before as f64;
        row[before] += (1.0 - share) as f32;
        row[(before + 1).min(from - 1)] += share as f32;
    }
    values
}

#[cfg(test)]
pub(crate) mod tests;
