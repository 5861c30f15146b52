//! DINOv2 (Oquab et al., 2023; with registers, Darcet et al., 2023): a vision transformer whose features of patches are what
//! decoders are aligned with (REPA), and a space to compare images in.
//!
//! All published sizes, with and without registers, from the files of `torch.hub` (facebookresearch/dinov2) and of
//! `transformers`. Only the forward pass: it does not learn here.

mod names;

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use semanticist::nn::{
    Attention, BlockSize, GridResize, Initial, LayerNorm, Linear, Mlp, PatchEmbed, resize_grid_as,
};
use semanticist::weights::{self, Metadata, Weights};
use semanticist::{Error, Noise, Pixels, Precision, Result};
use semanticist_ops::{self as ops, Activation, Visibility};

/// The mean and deviation of ImageNet's photographs, for pixels in `[0, 1]`.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// The width of an attention head, in every size.
const HEAD: usize = 64;

/// The network.
#[derive(Module, Debug)]
pub struct DinoV2 {
    /// `[B, 3, H, W]` to N vectors of width W.
    patches: PatchEmbed,
    /// `[1, 1, W]`
    class_token: Param<Tensor<3>>,
    /// `[1, R, W]`, if it has registers.
    registers: Option<Param<Tensor<3>>>,
    /// `[1, 1 + n², W]`: class token, patches of the size it was trained at
    positions: Param<Tensor<3>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    #[module(skip)]
    resize: GridResize,
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    /// In all sizes but the largest.
    mlp: Option<Mlp>,
    /// In the largest.
    gated: Option<GatedMlp>,
}

/// `down (silu(gate x) · up x)`.
#[derive(Module, Debug)]
struct GatedMlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// What the shapes of a file's weights say of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    width: usize,
    depth: usize,
    patch: usize,
    /// Patches and class token of the size it was trained at.
    positions: usize,
    registers: usize,
    /// Hidden width of the MLP.
    hidden: usize,
    gated: bool,
}

impl DinoV2 {
    /// Reads a file of `torch.hub` or of `transformers`, whose names say which it is, and the SHA-256 of its weights in
    /// hexadecimal.
    ///
    /// # Errors
    /// If the file cannot be read, or does not hold a DINOv2.
    pub fn load(path: &Path, device: &Device) -> Result<(Self, String)> {
        let (found, _) = weights::published::read(path, names::known)?;
        let hash = weights::hash(&found, &Metadata::new()).map_err(|error| Error::io(path, "read", error))?;
        Ok((Self::from_weights(found, path, device)?, hash))
    }

    /// The network of weights that were read already; `source` is what errors call their origin.
    ///
    /// # Errors
    /// If they are not those of a DINOv2.
    pub fn from_weights(found: Weights, source: &Path, device: &Device) -> Result<Self> {
        let names::Translated { mut weights, sizes, resize } = names::translate(found, source)?;
        let network = weights::apply(Self::blank(sizes, resize, device), "", &mut weights);
        weights.finish(source)?;
        Ok(network)
    }

    fn blank(sizes: Sizes, resize: GridResize, device: &Device) -> Self {
        let Sizes { width, depth, patch, positions, registers, hidden, gated } = sizes;
        let noise = &mut Noise::seeded(0);
        let size = BlockSize { width, depth, heads: width / HEAD, mlp_ratio: hidden.div_ceil(width).max(1) };
        let vectors = |n, noise: &mut Noise| Initial::Normal(0.02).parameter([1, n, width], noise, device);
        let blocks = (0..depth).map(|_| Block {
            norm1: LayerNorm::init(width, device),
            attention: Attention::init(&size, noise, device),
            norm2: LayerNorm::init(width, device),
            mlp: (!gated).then(|| Mlp {
                up: Linear::init(width, hidden, noise, device),
                down: Linear::init(hidden, width, noise, device),
            }),
            gated: gated.then(|| GatedMlp {
                gate: Linear::init(width, hidden, noise, device),
                up: Linear::init(width, hidden, noise, device),
                down: Linear::init(hidden, width, noise, device),
            }),
        });
        let blocks = blocks.collect();
        Self {
            patches: PatchEmbed::init(3, patch, width, noise, device),
            class_token: vectors(1, noise),
            registers: (registers > 0).then(|| vectors(registers, noise)),
            positions: vectors(positions, noise),
            blocks,
            norm: LayerNorm::init(width, device),
            resize,
        }
    }

    /// The same network with its products computed in `precision`; see [`Precision::store`].
    pub fn with_precision(self, precision: Precision) -> Self {
        precision.store(self)
    }

    /// Numbers per feature.
    pub fn width(&self) -> usize {
        self.class_token.lazy_shape()[2]
    }

    /// Side of a patch in pixels.
    pub fn patch_size(&self) -> usize {
        self.patches.weight.lazy_shape()[2]
    }

    /// The features of every patch, row by row, behind the last norm (`x_norm_patchtokens`).
    ///
    /// # Shapes
    /// `[B, 3, H, H]` in `[0, 1]`, H a multiple of the patch size -> `[B, (H / patch)², width]`
    ///
    /// # Panics
    /// If the images are not square, or H is no such multiple.
    pub fn patch_features(&self, images: &Pixels) -> Tensor<3> {
        let x = self.run(images);
        let special = 1 + self.registers.as_ref().map_or(0, |registers| registers.dims()[1]);
        let count = x.dims()[1] - special;
        x.narrow(1, special, count)
    }

    /// The feature of whole images, that of the class token behind the last norm (`x_norm_clstoken`).
    ///
    /// # Shapes
    /// As [`DinoV2::patch_features`], -> `[B, width]`
    ///
    /// # Panics
    /// As [`DinoV2::patch_features`].
    pub fn features(&self, images: &Pixels) -> Tensor<2> {
        self.run(images).narrow(1, 0, 1).squeeze_dim(1)
    }

    /// `[B, 1 + R + N, W]`: class token, registers, patches.
    fn run(&self, images: &Pixels) -> Tensor<3> {
        let ([b, _, height, width], patch) = (images.0.dims(), self.patch_size());
        assert!(
            height == width && height.is_multiple_of(patch),
            "images of {height}×{width}, patches of {patch}"
        );
        let patches = self.patches.forward(standardised(images.0.clone())); // [B, N, W]
        let [_, count, width] = patches.dims();
        let positions = self.positions.val();
        let trained = positions.dims()[1] - 1;
        let of_patches = positions.clone().narrow(1, 1, trained);
        let of_patches = resize_grid_as(of_patches, trained.isqrt(), count.isqrt(), self.resize);
        let class_token = (self.class_token.val() + positions.narrow(1, 0, 1)).expand([b, 1, width]);
        let mut parts = vec![class_token, patches + of_patches];
        if let Some(registers) = &self.registers {
            let [_, many, _] = registers.dims();
            parts.insert(1, registers.val().expand([b, many, width]));
        }
        let mut x = Tensor::cat(parts, 1);
        for block in &self.blocks {
            x = block.forward(x);
        }
        self.norm.forward(x)
    }
}

impl Block {
    /// Each branch ends in a scale per channel, which the weights of its last layer hold ([`names`]).
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let branch = self.attention.forward(self.norm1.forward(x.clone()), Visibility::All);
        let x = x + branch;
        let normal = self.norm2.forward(x.clone());
        x + match (&self.mlp, &self.gated) {
            (Some(mlp), _) => mlp.forward(normal, Activation::Gelu),
            (None, Some(gated)) => gated.forward(normal),
            (None, None) => unreachable!("a block has one of the two"),
        }
    }
}

impl GatedMlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = self.gate.forward_as_weight(x.clone());
        self.down.forward(ops::swiglu(gate, self.up.forward_as_weight(x)))
    }
}

/// Pixels in `[0, 1]` less ImageNet's mean, over its deviation.
fn standardised(pixels: Tensor<4>) -> Tensor<4> {
    let device = pixels.device();
    let channels =
        |values: [f32; 3]| Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), &device);
    (pixels - channels(MEAN)) / channels(DEVIATION)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use semanticist::weights::{HostTensor, Precision};

    use super::*;

    /// Small networks with random weights, recorded by `scripts/record_dinov2.py` with `transformers`: without registers,
    /// with them, and with the gated MLP of the largest, each under both kinds of names.
    fn recording() -> Weights {
        let file = "../semanticist-verify/tests/data/reference/dinov2.safetensors";
        weights::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap().0
    }

    /// The weights of one network, in a file of their own.
    pub(crate) fn file(case: &str, folder: &Path) -> PathBuf {
        let weights = recording().split_prefix(&format!("weights.{case}."));
        let path = folder.join(format!("{case}.safetensors"));
        weights::save(&path, &weights, &Metadata::new(), Precision::F32).unwrap();
        path
    }

    fn tensor<const D: usize>(weights: &Weights, name: &str) -> Tensor<D> {
        let found = weights.get(name).unwrap_or_else(|| panic!("{name} in the recording"));
        Tensor::from_data(TensorData::new(found.to_f32().unwrap(), found.shape().to_vec()), &Device::flex())
    }

    #[test]
    fn features_are_those_of_transformers_and_of_torch_hub() {
        let folder = tempfile::tempdir().unwrap();
        let recorded = recording();
        for case in ["plain", "registers", "gated", "hub", "hub_registers", "hub_gated"] {
            let (network, _) = DinoV2::load(&file(case, folder.path()), &Device::flex()).unwrap();
            // Of a grid of 4×4: smaller, the same, larger.
            for side in [12, 16, 28] {
                let images = Pixels(tensor(&recorded, &format!("images_{side}")));
                let apart = |found: Tensor<3>, name: &str| {
                    let expected: Tensor<3> = tensor(&recorded, &format!("{case}.{name}_{side}"));
                    assert_eq!(found.dims(), expected.dims());
                    (found - expected).abs().max().into_scalar::<f32>()
                };
                let patches = apart(network.patch_features(&images), "patches");
                let class = apart(network.features(&images).unsqueeze_dim(1), "class");
                assert!(patches < 2e-5 && class < 2e-5, "{case}, {side}: {patches}, {class}");
            }
        }
    }

    #[test]
    fn another_networks_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut weights = recording().split_prefix("weights.plain.");
        let path = folder.path().join("other.safetensors");
        weights.remove("layernorm.weight");
        weights::save(&path, &weights, &Metadata::new(), Precision::F32).unwrap();
        let error = DinoV2::load(&path, &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("layernorm.weight"), "{error}");
        let mut other = Weights::new();
        other.insert("conv1.weight", HostTensor::from_f32(&[1], &[0.0]));
        weights::save(&path, &other, &Metadata::new(), Precision::F32).unwrap();
        let error = DinoV2::load(&path, &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("DINOv2") && error.contains("conv1.weight"), "{error}");
    }

    #[test]
    fn misshapen_weights_are_refused() {
        let recorded = recording();
        for case in ["registers", "hub_gated"] {
            let whole = recorded.clone().split_prefix(&format!("weights.{case}."));
            let names: Vec<String> = whole.names().map(String::from).collect();
            // What only training needs is not looked at.
            for name in names.iter().filter(|name| !name.ends_with("mask_token")) {
                for shape in [vec![], vec![0], vec![3], vec![0; 4], vec![3; 4]] {
                    let mut weights = whole.clone();
                    let values = vec![0.5; shape.iter().product()];
                    weights.insert(name.as_str(), HostTensor::from_f32(&shape, &values));
                    let found = DinoV2::from_weights(weights, Path::new("changed"), &Device::flex());
                    assert!(found.is_err(), "{case}: {name} {shape:?}");
                }
            }
        }
    }
}
