//! The convolutions of VGG-16 and AlexNet, in the layout of torchvision, whose features perceptual measures compare.

use std::path::Path;

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData, activation};
use semanticist::weights::{HostTensor, Weights};
use semanticist::{Error, Result};
use semanticist_ops::{self as ops, Pooling};

/// Added under the root of [`Pool::Root`].
const EPSILON: f64 = 1e-12;

/// What stands before the convolutions of a depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    /// Nothing.
    None,
    /// The largest of every 2×2 positions; a last odd row or column is left out.
    Two,
    /// The largest of 3×3 positions, every second one.
    Three,
    /// The root of the weighted mean square of 3×3 positions, every second one, between zeros (DISTS, eq. 4: `L2pooling`).
    Root,
}

/// Which convolutions there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    /// VGG-16.
    Vgg16,
    /// VGG-16 with [`Pool::Root`].
    SmoothVgg16,
    /// AlexNet (Krizhevsky 2014).
    AlexNet,
}

/// A depth at which features are compared: what stands before it, and the numbers of its layers in torchvision's `features`.
type Layout = [(Pool, &'static [usize]); 5];

impl Architecture {
    fn layout(self) -> Layout {
        let vgg: fn(Pool) -> Layout = |pool| {
            [
                (Pool::None, &[0, 2]),
                (pool, &[5, 7]),
                (pool, &[10, 12, 14]),
                (pool, &[17, 19, 21]),
                (pool, &[24, 26, 28]),
            ]
        };
        match self {
            Self::Vgg16 => vgg(Pool::Two),
            Self::SmoothVgg16 => vgg(Pool::Root),
            Self::AlexNet => [
                (Pool::None, &[0]),
                (Pool::Three, &[3]),
                (Pool::Three, &[6]),
                (Pool::None, &[8]),
                (Pool::None, &[10]),
            ],
        }
    }

    /// Side, stride and zeros on either side of the kernel of a layer.
    fn kernel(self, layer: usize) -> [usize; 3] {
        match (self, layer) {
            (Self::AlexNet, 0) => [11, 4, 2],
            (Self::AlexNet, 3) => [5, 1, 2],
            _ => [3, 1, 1],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Vgg16 | Self::SmoothVgg16 => "vgg16",
            Self::AlexNet => "alexnet",
        }
    }
}

/// The convolutions with their weights.
#[derive(Debug, Clone)]
pub(super) struct Trunk {
    depths: Vec<(Pool, Vec<Convolution>)>,
}

#[derive(Debug, Clone)]
struct Convolution {
    /// `[outputs, side, side, inputs]`
    weight: Tensor<4>,
    /// `[outputs]`
    bias: Tensor<1>,
    stride: usize,
    padding: usize,
}

impl Trunk {
    /// Takes `features.0.weight` … from `weights`, which were read from `source`.
    ///
    /// # Errors
    /// If a weight is missing or misshapen.
    pub fn take(
        architecture: Architecture,
        weights: &mut Weights,
        source: &Path,
        device: &Device,
    ) -> Result<Self> {
        let mut inputs = 3;
        let mut depths = Vec::new();
        for (pool, layers) in architecture.layout() {
            let mut convolutions = Vec::new();
            for &layer in layers {
                let [side, stride, padding] = architecture.kernel(layer);
                let mut named = |part: &str| {
                    let name = format!("features.{layer}.{part}");
                    let tensor = take(weights, &name, architecture.name(), source)?;
                    Ok::<_, Error>((name, tensor))
                };
                let (name, weight) = named("weight")?;
                let outputs = weight.shape().first().copied().unwrap_or_default();
                let weight = placed(&weight, [outputs, inputs, side, side], &name, source, device)?;
                // Laid out anew once, and not at every use.
                let weight = Tensor::from_data(channels_last(weight).into_data(), device);
                let (name, bias) = named("bias")?;
                let bias = placed(&bias, [outputs], &name, source, device)?;
                convolutions.push(Convolution { weight, bias, stride, padding });
                inputs = outputs;
            }
            depths.push((pool, convolutions));
        }
        Ok(Self { depths })
    }

    /// Channels at each depth.
    pub fn widths(&self) -> Vec<usize> {
        let last = |convolutions: &Vec<Convolution>| convolutions.last().map_or(0, |it| it.bias.dims()[0]);
        self.depths.iter().map(|(_, convolutions)| last(convolutions)).collect()
    }

    /// Shows `visit` the features at each depth, in order: `[B, H, W, 3]` → `[B, H', W', C]`.
    pub fn features(&self, mut x: Tensor<4>, mut visit: impl FnMut(usize, &Tensor<4>)) {
        for (depth, (pool, convolutions)) in self.depths.iter().enumerate() {
            x = pool.forward(x);
            for convolution in convolutions {
                x = activation::relu(convolution.forward(x));
            }
            visit(depth, &x);
        }
    }
}

impl Convolution {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let Self { weight, bias, stride, padding } = self;
        ops::convolve_any(x, weight.clone(), bias.clone(), *stride, [*padding; 2])
    }
}

impl Pool {
    fn forward(self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::None => x,
            Self::Two => ops::pool(x, Pooling::Max, 2, 2, 0),
            Self::Three => ops::pool(x, Pooling::Max, 3, 2, 0),
            Self::Root => {
                let (channels, device) = (x.dims()[3], x.device());
                let row = [0.25, 0.5, 0.25f32];
                let window: Vec<f32> = row.iter().flat_map(|a| row.map(|b| a * b)).collect();
                let window = Tensor::<4>::from_data(TensorData::new(window, [1, 1, 3, 3]), &device);
                let options = ConvOptions::new([2, 2], [1, 1], [1, 1], channels);
                let squares = channels_first(x.square());
                let means = conv2d(squares, window.repeat_dim(0, channels), None, options);
                channels_last((means + EPSILON).sqrt())
            }
        }
    }
}

fn channels_first(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 3, 1, 2])
}

fn channels_last(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 2, 3, 1])
}

/// A row of three channels, to be computed with `[B, H, W, 3]`.
pub(super) fn colours(values: [f32; 3], device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values.to_vec(), [1, 1, 1, 3]), device)
}

/// A weight by its name, of a network with this name in torchvision.
pub(super) fn take(weights: &mut Weights, name: &str, network: &str, source: &Path) -> Result<HostTensor> {
    weights.remove(name).ok_or_else(|| {
        Error::file(
            source,
            format!("there is no {name}; expected the weights of torchvision's {network} and those of the measure, in one file or two"),
        )
    })
}

pub(super) fn placed<const D: usize>(
    tensor: &HostTensor,
    shape: [usize; D],
    name: &str,
    source: &Path,
    device: &Device,
) -> Result<Tensor<D>> {
    let values = tensor.to_f32().filter(|_| tensor.shape() == shape && !shape.contains(&0));
    let values = values.ok_or_else(|| {
        let (dtype, found) = (tensor.dtype(), tensor.shape());
        Error::file(source, format!("{name} is {dtype} {found:?}, expected floats {shape:?}"))
    })?;
    Ok(Tensor::from_data(TensorData::new(values, shape), device))
}
