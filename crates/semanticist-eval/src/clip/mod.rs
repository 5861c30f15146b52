//! CLIP (Radford et al., 2021): images and texts as vectors of one space, in which a picture lies near to what it shows. It
//! tells classes that it was never taught (`evaluate zero-shot`), and is a space to compare pictures in.
//!
//! The vision transformers (ViT-B/32, B/16, L/14 and those of OpenCLIP), from files under the names of OpenAI, OpenCLIP and
//! `transformers`. Only the forward pass: it does not learn here.

mod names;
mod prompts;
mod tokenizer;
mod tower;

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::str::FromStr;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use semanticist::image::{Filter, RgbImage, Window, resize_window};
use semanticist::nn::{Initial, LayerNorm, PatchEmbed};
use semanticist::weights::{self, Metadata, Weights};
use semanticist::{Error, Noise, Pixels, Result};
use semanticist_ops::Visibility;

pub use prompts::{TEMPLATES, class_embedding, fingerprint, names_of_data, read_names};
pub use tokenizer::ClipTokenizer;
use tower::{Tower, TowerSize, normal};

/// Of the photographs it was trained on, for pixels in `[0, 1]`.
const MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
const DEVIATION: [f32; 3] = [0.26862954, 0.2613026, 0.2757771];

/// The non-linearity of its blocks, which files of weights do not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClipActivation {
    /// `x σ(1.702 x)`: of all that OpenAI published, and of OpenCLIP's models called `quickgelu`.
    #[default]
    QuickGelu,
    /// `x Φ(x)`: of OpenCLIP's others (LAION, DataComp).
    Gelu,
}

impl ClipActivation {
    /// Both.
    pub const ALL: [Self; 2] = [Self::QuickGelu, Self::Gelu];

    /// What people type.
    pub fn name(self) -> &'static str {
        match self {
            Self::QuickGelu => "quick-gelu",
            Self::Gelu => "gelu",
        }
    }
}

impl fmt::Display for ClipActivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ClipActivation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|activation| activation.name() == text);
        found.ok_or_else(|| {
            format!(
                "there is no activation \"{text}\"; expected quick-gelu (OpenAI) or gelu (LAION, DataComp)"
            )
        })
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct Clip {
    image: ImageTower,
    text: TextTower,
    /// `[1]`: the logarithm of what cosines are multiplied with.
    logit_scale: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct ImageTower {
    /// `[B, 3, S, S]` to N vectors of width W. The published one has no bias: it is 0.
    patches: PatchEmbed,
    /// `[W]`
    class_token: Param<Tensor<1>>,
    /// `[1 + N, W]`: class token, patches
    positions: Param<Tensor<2>>,
    first_norm: LayerNorm,
    tower: Tower,
}

#[derive(Module, Debug)]
struct TextTower {
    /// `[V, W]`: a vector for every piece of the vocabulary.
    pieces: Param<Tensor<2>>,
    /// `[L, W]`
    positions: Param<Tensor<2>>,
    tower: Tower,
}

/// What the shapes of a file's weights say of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    image: TowerSize,
    patch: usize,
    /// Patches along a side.
    grid: usize,
    text: TowerSize,
    vocabulary: usize,
    /// Pieces of a text at most.
    context: usize,
    /// Numbers of the common space.
    embedding: usize,
}

impl Clip {
    /// Reads a file of `transformers` (`model.safetensors` or `pytorch_model.bin` of openai/clip-vit-base-patch32 and the
    /// like), of OpenCLIP, or OpenAI's as a state dictionary, whose names say which it is, and the SHA-256 of its weights in
    /// hexadecimal. How large the network is, their shapes say.
    ///
    /// # Errors
    /// If the file cannot be read, is a TorchScript archive, or does not hold a CLIP with a vision transformer.
    pub fn load(path: &Path, activation: ClipActivation, device: &Device) -> Result<(Self, String)> {
        if is_torchscript(path) {
            return Err(Error::file(
                path,
                "is a TorchScript archive, a program that only PyTorch runs, as OpenAI published CLIP; give model.safetensors \
                 of openai/clip-vit-base-patch32 (or the size of your file) from huggingface.co, or write its weights in \
                 Python: torch.save(torch.jit.load(FILE, map_location=\"cpu\").state_dict(), \"clip.pth\")",
            ));
        }
        let (found, _) = weights::published::read(path, names::known)?;
        let hash = weights::hash(&found, &Metadata::new()).map_err(|error| Error::io(path, "read", error))?;
        Ok((Self::from_weights(found, path, activation, device)?, hash))
    }

    /// The network of weights that were read already; `source` is what errors call their origin.
    ///
    /// # Errors
    /// If they are not those of this network.
    pub fn from_weights(
        found: Weights,
        source: &Path,
        activation: ClipActivation,
        device: &Device,
    ) -> Result<Self> {
        let (mut weights, sizes) = names::translate(found, activation, source)?;
        let network = Self::blank(sizes, activation, device);
        let network = weights::apply(network, "", &mut weights);
        weights.finish(source)?;
        Ok(network)
    }

    fn blank(sizes: Sizes, activation: ClipActivation, device: &Device) -> Self {
        let Sizes { image, patch, grid, text, vocabulary, context, embedding } = sizes;
        let noise = &mut Noise::seeded(0);
        let table =
            |rows, width, noise: &mut Noise| Initial::Normal(0.02).parameter([rows, width], noise, device);
        Self {
            image: ImageTower {
                patches: PatchEmbed::init(3, patch, image.width, noise, device),
                class_token: Initial::Normal(0.02).parameter([image.width], noise, device),
                positions: table(1 + grid * grid, image.width, noise),
                first_norm: LayerNorm::init(image.width, device),
                tower: Tower::blank(image, embedding, activation, noise, device),
            },
            text: TextTower {
                pieces: table(vocabulary, text.width, noise),
                positions: table(context, text.width, noise),
                tower: Tower::blank(text, embedding, activation, noise, device),
            },
            logit_scale: Initial::Normal(0.02).parameter([1], noise, device),
        }
    }

    /// Numbers of the common space.
    pub fn width(&self) -> usize {
        self.image.tower.projection.lazy_shape()[0]
    }

    /// Side of the images it takes, in pixels: that of its table of positions.
    pub fn image_size(&self) -> usize {
        let grid = (self.image.positions.lazy_shape()[0] - 1).isqrt();
        grid * self.image.patches.weight.lazy_shape()[2]
    }

    /// How many pieces its vocabulary has.
    pub fn vocabulary(&self) -> usize {
        self.text.pieces.lazy_shape()[0]
    }

    /// How many pieces a text has at most, its start and end among them.
    pub fn context(&self) -> usize {
        self.text.positions.lazy_shape()[0]
    }

    /// The square of an image that it sees: the shorter side resized to [`Clip::image_size`] (bicubic as Pillow), then the
    /// middle (openai/CLIP, clip/clip.py, `_transform`).
    ///
    /// # Panics
    /// If a side of the image is 0.
    pub fn prepared(&self, image: &RgbImage) -> RgbImage {
        let side = self.image_size();
        let (width, height) = (image.width() as usize, image.height() as usize);
        let full =
            if width <= height { (side, side * height / width) } else { (side * width / height, side) };
        let window = Window { x: middle(full.0 - side), y: middle(full.1 - side), width: side, height: side };
        resize_window(image, full, window, Filter::Bicubic)
    }

    /// Images in the common space, of any length (`encode_image`).
    ///
    /// # Shapes
    /// `[B, 3, S, S]` in `[0, 1]`, S that of [`Clip::image_size`] -> `[B, E]`
    ///
    /// # Panics
    /// If they are of another size.
    pub fn image_features(&self, images: &Pixels) -> Tensor<2> {
        self.image_features_observed(images, &mut |_| ())
    }

    /// [`Clip::image_features`]; `after_block` sees what each block gives, `[B, 1 + N, W]`.
    ///
    /// # Panics
    /// As [`Clip::image_features`].
    pub fn image_features_observed(
        &self,
        images: &Pixels,
        after_block: &mut dyn FnMut(&Tensor<3>),
    ) -> Tensor<2> {
        let ([b, _, height, width], side) = (images.0.dims(), self.image_size());
        assert!(height == side && width == side, "images of {height}×{width}, expected {side}×{side}");
        let ImageTower { patches, class_token, positions, first_norm, tower } = &self.image;
        let patches = patches.forward(standardised(images.0.clone())); // [B, N, W]
        let class_token = class_token.val().unsqueeze::<3>();
        let class_token = class_token.expand([b, 1, patches.dims()[2]]);
        let x = Tensor::cat(vec![class_token, patches], 1) + positions.val().unsqueeze::<3>();
        let x = tower.run(normal(first_norm, x), Visibility::All, after_block);
        tower.projected(x.narrow(1, 0, 1).squeeze_dim(1))
    }

    /// Texts in the common space, of any length (`encode_text`): what the last block makes of the end of each, which is its
    /// first piece of the highest number. What follows it does not count.
    ///
    /// # Shapes
    /// B rows of pieces, as [`ClipTokenizer::pieces`] gives them -> `[B, E]`
    ///
    /// # Panics
    /// If a row is empty, longer than [`Clip::context`], or has a piece that is not in the vocabulary.
    pub fn text_features(&self, rows: &[Vec<u32>]) -> Tensor<2> {
        self.text_features_observed(rows, &mut |_| ())
    }

    /// [`Clip::text_features`]; `after_block` sees what each block gives, `[B, L, W]`, L the longest row.
    ///
    /// # Panics
    /// As [`Clip::text_features`].
    pub fn text_features_observed(
        &self,
        rows: &[Vec<u32>],
        after_block: &mut dyn FnMut(&Tensor<3>),
    ) -> Tensor<2> {
        let longest = rows.iter().map(Vec::len).max().expect("there are texts");
        assert!(longest <= self.context(), "a text of {longest} pieces, more than {}", self.context());
        let TextTower { pieces, positions, tower } = &self.text;
        let (b, device, vocabulary) = (rows.len(), pieces.device(), self.vocabulary());
        // Positions see what is before them alone, so shorter rows may go on with anything.
        let (mut numbers, mut ends) = (Vec::with_capacity(b * longest), Vec::with_capacity(b));
        for (at, row) in rows.iter().enumerate() {
            let highest = *row.iter().max().expect("a text has an end");
            assert!((highest as usize) < vocabulary, "piece {highest} of a vocabulary of {vocabulary}");
            let end = row.iter().position(|piece| *piece == highest).expect("it is in the row");
            ends.push((at * longest + end) as i32);
            numbers.extend(row.iter().map(|piece| *piece as i32));
            numbers.resize((at + 1) * longest, 0);
        }
        let integers = |values: Vec<i32>| {
            let count = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [count]), &device)
        };
        let x = pieces.val().select(0, integers(numbers)); // [B L, W]
        let width = x.dims()[1];
        let positions = positions.val().narrow(0, 0, longest).unsqueeze::<3>();
        let x = x.reshape([b, longest, width]) + positions;
        let x = tower.run(x, Visibility::Ordered { open: 0 }, after_block);
        tower.projected(x.reshape([b * longest, width]).select(0, integers(ends)))
    }

    /// Cosines of every image with every text, times the learned scale.
    ///
    /// # Shapes
    /// `[B, E]`, `[T, E]` -> `[B, T]`
    pub fn logits(&self, images: Tensor<2>, texts: Tensor<2>) -> Tensor<2> {
        let scale = self.logit_scale.val().exp().unsqueeze::<2>();
        unit(images).matmul(unit(texts).transpose()) * scale
    }
}

/// Rows of length 1.
fn unit(rows: Tensor<2>) -> Tensor<2> {
    let length = rows.clone().square().sum_dim(1).sqrt();
    rows / length
}

/// Half of what is left over, as Python's `round` has it: from the middle between two to the even one.
fn middle(over: usize) -> usize {
    over / 2 + usize::from(over % 4 == 3)
}

/// Pixels in `[0, 1]` less the mean, over the deviation.
fn standardised(pixels: Tensor<4>) -> Tensor<4> {
    let device = pixels.device();
    let channels =
        |values: [f32; 3]| Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), &device);
    (pixels - channels(MEAN)) / channels(DEVIATION)
}

/// Whether a file is what `torch.jit.save` writes: an archive with constants of a program.
fn is_torchscript(path: &Path) -> bool {
    let archive = File::open(path).ok().and_then(|file| zip::ZipArchive::new(file).ok());
    archive.is_some_and(|archive| archive.file_names().flatten().any(|name| name.ends_with("constants.pkl")))
}

#[cfg(test)]
pub(crate) mod tests;
