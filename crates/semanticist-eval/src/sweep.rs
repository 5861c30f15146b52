//! One image from several numbers of its first tokens: what the command `reconstruct` and the page of `serve` show,
//! by the same code, so that their images are the same.

use burn::tensor::Device;
use semanticist::diffusion::DecodeOptions;
use semanticist::image::{Fit, RgbImage, Window, fit, from_pixels, to_pixels};
use semanticist::progress::Watcher;
use semanticist::{Noise, Pixels, Purpose, Result, Seed, Tokenizer, Tokens};

use crate::quality::{self, Quality};
use crate::quantised::{Decomposition, QuantisedTokenizer};
use crate::sheet::{self, Cell};

/// Reconstructions of an image that go through the network together.
pub const TOGETHER: usize = 8;

/// An image as a model looks at it.
#[derive(Debug, Clone)]
pub struct Subject {
    /// A square of the model's size.
    pub square: RgbImage,
    /// Which part of it is not padding.
    pub window: Window,
}

impl Subject {
    /// An image of any shape for a model of this size, in pixels.
    ///
    /// # Panics
    /// If a side is 0.
    pub fn of(image: &RgbImage, size: usize, how: Fit) -> Self {
        Self { square: fit(image, size, how), window: how.window(image.dimensions(), size) }
    }

    /// What the reconstructions are compared with.
    pub fn visible(&self) -> RgbImage {
        self.window.of(&self.square)
    }
}

/// An image from its first tokens.
#[derive(Debug, Clone)]
pub struct Reconstruction {
    /// From how many.
    pub tokens: usize,
    /// How close it is.
    pub quality: Quality,
    /// Without padding.
    pub picture: RgbImage,
}

/// An image whose tokens are known, ready to be reconstructed from any number of them.
#[derive(Debug)]
pub struct Sweep<'a> {
    tokenizer: &'a Tokenizer,
    /// `[1, most, D]`
    tokens: Tokens,
    /// `[1, 3, height, width]` of what is not padding.
    original: Pixels,
    window: Window,
}

impl<'a> Sweep<'a> {
    /// Computes the first `most` tokens, at least one.
    ///
    /// # Errors
    /// If the image is of another size than the model's, or there are not that many tokens.
    pub fn new(tokenizer: &'a Tokenizer, subject: &Subject, most: usize, device: &Device) -> Result<Self> {
        let square = to_pixels(std::slice::from_ref(&subject.square), device);
        let tokens = tokenizer.encode(&square, most.max(1))?;
        Ok(Self { tokenizer, tokens, original: visible(&square, subject.window), window: subject.window })
    }

    /// The tokens, `[1, most, D]`.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The image from each number of tokens, in one batch. All start from the noise of the same seed, so that
    /// they differ in what the tokens add. The watcher can ask for the images so far.
    ///
    /// Split longer lists by [`TOGETHER`]: how a list is split shows in the last digits of the numbers.
    ///
    /// # Errors
    /// If a count is more than the tokens there are, the sampler cannot run, or the watcher ends it.
    pub fn decode(
        &self,
        counts: &[usize],
        options: &DecodeOptions,
        seed: u64,
        watch: Watcher<Vec<RgbImage>>,
    ) -> Result<Vec<Reconstruction>> {
        let seed = Seed::new(seed).of(Purpose::Latents);
        let mut noise = Noise::per_sample(vec![seed; counts.len()]);
        let repeated = Tokens(self.tokens.0.clone().repeat_dim(0, counts.len()));
        let mut watch = |progress, so_far: &dyn Fn() -> Pixels| {
            watch(progress, &|| from_pixels(&visible(&so_far(), self.window)))
        };
        let decoded = self.tokenizer.decode_watched(&repeated, counts, options, &mut noise, &mut watch)?;
        Ok(compared(&self.original, &visible(&decoded, self.window), counts))
    }
}

/// The same of a tokenizer with a codebook, whose tokens are taken apart first.
///
/// # Panics
/// If the image is of another size than the tokenizer's, or a count is more than the tokens there are.
pub fn of_codes(
    tokenizer: &QuantisedTokenizer,
    decomposition: &Decomposition,
    subject: &Subject,
    counts: &[usize],
    device: &Device,
) -> Vec<Reconstruction> {
    let square = to_pixels(std::slice::from_ref(&subject.square), device);
    let vectors = tokenizer.encode(&square).vectors;
    let repeated = Tokens(vectors.0.repeat_dim(0, counts.len()));
    let decoded = tokenizer.decode(&decomposition.kept(&repeated, counts));
    compared(&visible(&square, subject.window), &visible(&decoded, subject.window), counts)
}

/// Pictures from each number of tokens beside the one image they are of.
fn compared(original: &Pixels, decoded: &Pixels, counts: &[usize]) -> Vec<Reconstruction> {
    let originals = Pixels(original.0.clone().repeat_dim(0, counts.len()));
    let qualities = quality::compare(&originals, decoded);
    let rows = counts.iter().zip(qualities).zip(from_pixels(decoded));
    rows.map(|((&tokens, quality), picture)| Reconstruction { tokens, quality, picture }).collect()
}

/// The contact sheet: the image, then its reconstructions.
pub fn contact_sheet(original: RgbImage, reconstructions: &[Reconstruction]) -> RgbImage {
    let decoded = reconstructions.iter().map(|Reconstruction { tokens, quality, picture }| {
        Cell::decoded(picture.clone(), *tokens).with_detail(format!("{:.2} dB", quality.psnr))
    });
    sheet::draw(&[std::iter::once(Cell::original(original)).chain(decoded).collect::<Vec<_>>()])
}

/// The part of each image that is not padding.
fn visible(images: &Pixels, window: Window) -> Pixels {
    let Window { x, y, width, height } = window;
    Pixels(images.0.clone().narrow(2, y, height).narrow(3, x, width))
}
