//! The KL autoencoder of latent diffusion (Rombach et al., 2022): a convolutional network to a normal
//! distribution over latents, and another back.
//!
//! Ported from `ldm/modules/diffusionmodules/model.py` of CompVis/latent-diffusion, which MAR and
//! diffusers follow.

mod config;
mod posterior;

mod halves;
mod layers;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};

pub use config::KlConfig;
pub use halves::{KlDecoder, KlEncoder};
pub use posterior::Posterior;

use crate::nn::Linear;
use crate::noise::Noise;
use crate::spaces::{Latents, Pixels};

/// A KL autoencoder on a device.
#[derive(Module, Debug)]
pub struct KlAutoencoder {
    /// Images to moments of latents.
    pub encoder: KlEncoder,
    /// `[2 C, 2 C]`, behind the encoder (`quant_conv`), if the configuration has it.
    pub moments: Option<Linear>,
    /// `[C, C]`, before the decoder (`post_quant_conv`).
    pub latents: Option<Linear>,
    /// Latents to images.
    pub decoder: KlDecoder,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    shift: f64,
}

impl KlAutoencoder {
    /// Zeros everywhere but in the scales of norms: what weights are placed in.
    ///
    /// # Panics
    /// If the configuration is not valid.
    pub fn blank(config: &KlConfig, device: &Device) -> Self {
        let channels = config.channels;
        let linear = |width| config.quant_conv.then(|| layers::blank_linear(width, width, device));
        Self {
            encoder: KlEncoder::blank(config, device),
            moments: linear(2 * channels),
            latents: linear(channels),
            decoder: KlDecoder::blank(config, device),
            scale: config.scale,
            shift: config.shift,
        }
    }

    /// Random weights: uniform within `1 / √inputs`, as PyTorch draws them; no biases.
    ///
    /// # Panics
    /// If the configuration is not valid.
    pub fn init(config: &KlConfig, noise: &mut Noise, device: &Device) -> Self {
        Self::blank(config, device).map(&mut Initialiser { noise })
    }

    /// The distribution over an image's latents, before they are scaled.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` → `[B, C, H / stride, W / stride]`
    ///
    /// # Panics
    /// If the stride does not divide height and width.
    pub fn posterior(&self, pixels: &Pixels) -> Posterior {
        Posterior::new(self.moments(pixels))
    }

    /// The mean and log-variance as the encoder gives them.
    ///
    /// # Shapes
    /// `[B, 3, H, W]` → `[B, 2 C, h, w]`, the means first
    pub fn moments(&self, pixels: &Pixels) -> Tensor<4> {
        in_parts(&pixels.0, 1, |images| {
            let images = images.permute([0, 2, 3, 1]) * 2.0 - 1.0; // [B, H, W, 3]
            let moments = self.encoder.forward(images); // [B, h, w, 2 C]
            let moments = match &self.moments {
                Some(layer) => layer.forward(moments),
                None => moments,
            };
            moments.permute([0, 3, 1, 2])
        })
    }

    /// The likeliest latents.
    ///
    /// # Shapes
    /// As [`KlAutoencoder::posterior`].
    pub fn encode(&self, pixels: &Pixels) -> Latents {
        self.scaled(self.posterior(pixels).mean)
    }

    /// Latents drawn from the distribution.
    ///
    /// # Shapes
    /// As [`KlAutoencoder::posterior`].
    pub fn sample(&self, pixels: &Pixels, noise: &mut Noise) -> Latents {
        self.scaled(self.posterior(pixels).sample(noise))
    }

    /// The same networks with latents multiplied by another number.
    pub fn with_scale(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// Latents as the tokenizer's decoder denoises them, from those of the distribution.
    pub fn scaled(&self, latents: Tensor<4>) -> Latents {
        Latents((latents - self.shift) * self.scale)
    }

    /// # Shapes
    /// `[B, C, h, w]` → `[B, 3, h · stride, w · stride]`, not clamped to `[0, 1]`
    pub fn decode(&self, latents: &Latents) -> Pixels {
        let stride = 1 << (self.decoder.levels.len() - 1);
        Pixels(in_parts(&latents.0, stride, |latents| {
            let latents = (latents / self.scale + self.shift).permute([0, 2, 3, 1]); // [B, h, w, C]
            let latents = match &self.latents {
                Some(layer) => layer.forward(latents),
                None => latents,
            };
            (self.decoder.forward(latents).permute([0, 3, 1, 2]) + 1.0) / 2.0
        }))
    }
}

/// Passes a batch through a network a few images at a time: a level of 128 channels takes half a
/// kilobyte per pixel, several times over. `stride` is the pixels per position of `x`.
fn in_parts(x: &Tensor<4>, stride: usize, network: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    const PIXELS: usize = 4 * 256 * 256;
    let [_, _, height, width] = x.dims();
    let images = (PIXELS / (height * width * stride * stride).max(1)).max(1);
    let parts = x.clone().split(images, 0).into_iter().map(network).collect();
    Tensor::cat(parts, 0)
}

/// Draws every weight; what has one axis is a norm's or a bias and stays.
struct Initialiser<'a> {
    noise: &'a mut Noise,
}

impl ModuleMapper for Initialiser<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.dims();
        let Some(inputs) = (D > 1).then(|| shape[1..].iter().product::<usize>()) else {
            return param;
        };
        let bound = (inputs as f32).sqrt().recip();
        let draws = self.noise.uniform(shape.iter().product());
        let values: Vec<f32> = draws.into_iter().map(|v| (2.0 * v - 1.0) * bound).collect();
        let device = param.device();
        let tensor = Tensor::from_data(TensorData::new(values, shape), &device);
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> KlConfig {
        KlConfig {
            channels: 3,
            base_width: 8,
            width_multipliers: vec![1, 2],
            blocks: 1,
            encoder_attention: vec![1],
            decoder_attention: vec![0],
            groups: 4,
            quant_conv: true,
            scale: 0.5,
            shift: 0.25,
        }
    }

    fn autoencoder(config: &KlConfig) -> KlAutoencoder {
        KlAutoencoder::init(config, &mut Noise::seeded(3), &Device::flex())
    }

    fn pixels() -> Pixels {
        Pixels(Noise::seeded(4).normal([2, 3, 6, 10], &Device::flex()))
    }

    fn largest(x: Tensor<4>) -> f32 {
        x.abs().max().into_scalar()
    }

    #[test]
    fn sizes_follow_from_the_stride_in_each_direction() {
        let autoencoder = autoencoder(&small());
        let latents = autoencoder.encode(&pixels());
        assert_eq!(latents.0.dims(), [2, 3, 3, 5]);
        assert_eq!(autoencoder.decode(&latents).0.dims(), [2, 3, 6, 10]);
    }

    #[test]
    fn scale_and_shift_change_latents_and_not_images() {
        let plain = KlConfig { scale: 1.0, shift: 0.0, ..small() };
        let (one, other) = (autoencoder(&plain), autoencoder(&small()));
        let (a, b) = (one.encode(&pixels()), other.encode(&pixels()));
        assert!(largest((a.0.clone() - 0.25) * 0.5 - b.0.clone()) < 1e-6);
        assert!(largest(one.decode(&a).0 - other.decode(&b).0) < 1e-4);
    }

    #[test]
    fn samples_come_from_the_noise_alone_and_lie_around_the_mean() {
        let autoencoder = autoencoder(&small());
        let draw = |seed| autoencoder.sample(&pixels(), &mut Noise::seeded(seed)).0;
        assert_eq!(draw(1).into_data(), draw(1).into_data());
        let quiet = Noise::recorded([vec![0.0; 2 * 3 * 3 * 5]]);
        let difference = autoencoder.sample(&pixels(), &mut { quiet }).0 - autoencoder.encode(&pixels()).0;
        assert_eq!(largest(difference), 0.0);
    }

    #[test]
    fn images_of_a_batch_do_not_touch() {
        let (autoencoder, pixels) = (autoencoder(&small()), pixels());
        let both = autoencoder.encode(&pixels).0.narrow(0, 1, 1);
        let alone = autoencoder.encode(&Pixels(pixels.0.narrow(0, 1, 1))).0;
        assert!(largest(both - alone) < 1e-5);
    }

    #[test]
    fn parts_of_a_batch_come_back_in_order() {
        let x = Noise::seeded(1).normal([5, 1, 2, 3], &Device::flex());
        let sizes = std::cell::RefCell::new(Vec::new());
        let halved = in_parts(&x, 200, |part| {
            sizes.borrow_mut().push(part.dims()[0]);
            part / 2.0
        });
        assert_eq!(largest(halved * 2.0 - x), 0.0);
        assert_eq!(sizes.into_inner(), [1; 5]);
    }

    /// As `sum(p.numel() for p in AutoencoderKL.parameters())` of Stable Diffusion 1.
    #[test]
    fn the_preset_of_stable_diffusion_has_its_number_of_parameters() {
        let config = KlConfig::preset("kl-f8-c4").unwrap();
        assert_eq!(KlAutoencoder::blank(&config, &Device::flex()).num_params(), 83_653_863);
    }

    #[test]
    fn every_weight_gets_a_gradient() {
        let device = Device::flex().autodiff();
        let autoencoder = KlAutoencoder::init(&small(), &mut Noise::seeded(3), &device);
        let pixels = Pixels(Tensor::from_inner(pixels().0));
        let posterior = autoencoder.posterior(&pixels);
        let latents = autoencoder.scaled(posterior.sample(&mut Noise::seeded(5)));
        let loss = autoencoder.decode(&latents).0.square().mean() + posterior.divergence().mean();
        let mut counter = Counter { gradients: loss.backward(), without: 0, with: 0 };
        autoencoder.visit(&mut counter);
        // The mean of keys changes no attention, so that their bias has none but rounding; it counts.
        assert_eq!(counter.without, 0);
        assert!(counter.with > 100, "{}", counter.with);
    }

    struct Counter {
        gradients: burn::tensor::Gradients,
        with: usize,
        without: usize,
    }

    impl burn::module::ModuleVisitor for Counter {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(&self.gradients);
            let found = gradient.is_some_and(|g| g.abs().max().into_scalar::<f32>() > 0.0);
            *(if found { &mut self.with } else { &mut self.without }) += 1;
        }
    }
}
