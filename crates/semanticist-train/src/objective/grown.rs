//! More tokens for a trained tokenizer, behind those that it has.
//!
//! No token depends on those behind it, so the first may stay as they are while others are added: what was drawn, stored or
//! measured with them keeps its meaning. A new token begins as the tokens of [`crate::principal`] do, with the principal
//! components of what the ones before it leave out.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use semanticist::encoder::{Encoder, reduced};
use semanticist::image::to_pixels;
use semanticist::nn::Linear;
use semanticist::{Error, Purpose, Result, Seed, Tokenizer};
use semanticist_data::Source;
use semanticist_eval::PrincipalComponents;

use super::tokenizer::{TokenizerRun, untrained};
use crate::autoencoder::for_first_images;
use crate::config::RunConfig;
use crate::principal::{self, host_matrix, least_squares};

/// `origin` with as many tokens as the configuration has, the first of which are its own; as it is where that is not more, or
/// where its other numbers do not fit the configuration.
///
/// # Errors
/// If images cannot be read, or are fewer than the components that the new tokens begin with.
pub fn grown(
    mut origin: Tokenizer,
    config: &RunConfig<TokenizerRun>,
    source: Arc<Source>,
    device: &Device,
    note: &mut dyn FnMut(String),
) -> Result<Tokenizer> {
    let (had, count, dim) = (origin.config.tokens, config.model.tokens, config.model.token_dim);
    let fresh = untrained(config, origin.autoencoder.clone(), device)?.networks.tokenizer.valid();
    let behind = |own: &Param<Tensor<3>>| own.val().dims()[1] - had;
    let same_sizes = origin.config.token_dim == dim
        && origin.networks.encoder.blocks.len() == fresh.encoder.blocks.len()
        && fresh.encoder.positions.val().dims()
            == [1, behind(&origin.networks.encoder.positions) + count, origin.config.encoder.blocks.width];
    if count <= had || !same_sizes {
        return Ok(origin);
    }
    let left_out = LeftOut::of(&origin, config, source.clone(), device)?;
    let (encoder, decoder) = (&mut origin.networks.encoder, &mut origin.networks.decoder);
    encoder.positions = longer(&encoder.positions, &fresh.encoder.positions);
    encoder.concept_tokens = longer(&encoder.concept_tokens, &fresh.encoder.concept_tokens);
    decoder.null_tokens = longer(&decoder.null_tokens, &fresh.decoder.null_tokens);
    if let Some(linear) = &mut encoder.linear {
        let wanted = (count - had) * dim.saturating_sub(2);
        let (layer, explained) = left_out.projection([count - had, dim], wanted)?;
        linear.map = stacked(&linear.map, &layer);
        note(format!(
            "tokens {} to {count} begin with {wanted} principal components of what the first {had} leave out of {} reduced \
             images: {:.1} % of its variance",
            had + 1,
            left_out.seen(),
            100.0 * explained
        ));
    }
    if let Some(estimate) = &mut decoder.estimate {
        let mut noise = Seed::new(config.seed).of(Purpose::Weights).noise();
        let mut later = Vec::new();
        for_first_images(config, source, |images| {
            let tokens = encoder.forward(&to_pixels(images, device), count, None).tokens;
            later.push(tokens.0.narrow(1, had, count - had));
            Ok(())
        })?;
        // As in training, some tokens are absent: the answer must be right for every number of them.
        let rounds = (0..principal::ROUNDS).flat_map(|_| later.iter().zip(&left_out.latents));
        let layer = least_squares(
            rounds.map(|(later, latents)| {
                let b = later.dims()[0];
                let kept = semanticist::Tokens(later.clone()).kept(&noise.below(b, count - had + 1));
                (kept.reshape([b, (count - had) * dim]), latents)
            }),
            device,
        );
        // Where no new token is kept, nothing is added: so the constant is left out.
        let weight = Tensor::cat(vec![estimate.map.weight.val(), layer.weight.val()], 1);
        estimate.map.weight = Param::from_tensor(weight);
    }
    origin.config.tokens = count;
    Ok(origin)
}

/// What the tokens of a tokenizer leave out of some images, by the best linear reading of them.
struct LeftOut {
    /// Reduced images, `[n, 3 · 32 · 32]`, and what is left of them.
    images: Tensor<2>,
    rest: Tensor<2>,
    /// What the decoder's own estimate leaves of the latents, batch by batch `[b, C h w]`; nothing if it makes none.
    latents: Vec<Tensor<2>>,
}

impl LeftOut {
    fn of(
        tokenizer: &Tokenizer,
        config: &RunConfig<TokenizerRun>,
        source: Arc<Source>,
        device: &Device,
    ) -> Result<Self> {
        let (mut inputs, mut codes, mut latents) = (Vec::new(), Vec::new(), Vec::new());
        let networks = &tokenizer.networks;
        for_first_images(config, source, |images| {
            let pixels = to_pixels(images, device);
            let tokens = networks.encoder.forward(&pixels, tokenizer.config.tokens, None).tokens;
            let [b, count, dim] = tokens.0.dims();
            if let Some(estimate) = networks.decoder.estimate(&tokens, &vec![count; b]) {
                let missed = tokenizer.autoencoder.encode(&pixels).0 - estimate;
                let [b, c, h, w] = missed.dims();
                latents.push(missed.reshape([b, c * h * w]));
            }
            inputs.push(reduced(&pixels));
            codes.push(tokens.0.reshape([b, count * dim]));
            Ok(())
        })?;
        let reading = least_squares(codes.iter().cloned().zip(&inputs), device);
        let images = Tensor::cat(inputs, 0);
        let rest = images.clone() - reading.forward(Tensor::cat(codes, 0));
        Ok(Self { images, rest, latents })
    }

    fn seen(&self) -> usize {
        self.images.dims()[0]
    }

    /// The layer that gives `count` tokens of `dim` numbers before they are normalised, from `wanted` components; and the share
    /// of the variance that these have.
    fn projection(&self, [count, dim]: [usize; 2], wanted: usize) -> Result<(Linear, f64)> {
        let seen = self.seen();
        if seen <= wanted {
            return Err(Error::Config(format!(
                "the new tokens begin with {wanted} principal components, for which {seen} images are too few: use fewer \
                 tokens, or more images (data.fit_images)"
            )));
        }
        let components = PrincipalComponents::fit(self.rest.clone(), wanted)?;
        let explained = components.variances().iter().sum::<f64>() / components.total_variance();
        // A token sees images, not what is left of them, so the strengths are those of images in these directions.
        let mean = self.images.clone().mean_dim(0);
        let along = (self.images.clone() - mean.clone())
            .matmul(components.components().clone().swap_dims(0, 1))
            .square()
            .mean_dim(0);
        let variances: Vec<f64> = host_matrix(along).iter().copied().collect();
        let directions = host_matrix(components.components().clone());
        let device = self.images.device();
        Ok((
            principal::projection((&directions, &host_matrix(mean), &variances), [count, dim], &device),
            explained,
        ))
    }
}

/// The encoder with only what belongs to the tokens behind the first `still` learning.
pub(super) fn with_still_tokens(encoder: &Encoder, still: usize) -> Encoder {
    let mut partly = encoder.clone().no_grad();
    let count = encoder.concept_tokens.val().dims()[1];
    let open = encoder.positions.val().dims()[1] - count;
    partly.concept_tokens = learning_from(&partly.concept_tokens, &encoder.concept_tokens, 1, still);
    partly.positions = learning_from(&partly.positions, &encoder.positions, 1, open + still);
    if let (Some(linear), Some(learning)) = (&mut partly.linear, &encoder.linear) {
        let rows = learning.map.weight.val().dims()[0] / count * still;
        linear.map.weight = learning_from(&linear.map.weight, &learning.map.weight, 0, rows);
        linear.map.bias = learning_from(&linear.map.bias, &learning.map.bias, 0, rows);
    }
    partly
}

/// The first entries of `still` and those of `learning` behind them, along `axis`.
fn learning_from<const D: usize>(
    still: &Param<Tensor<D>>,
    learning: &Param<Tensor<D>>,
    axis: usize,
    first: usize,
) -> Param<Tensor<D>> {
    let (still, learning) = (still.val(), learning.val());
    let rest = learning.dims()[axis] - first;
    let parts = vec![still.narrow(axis, 0, first), learning.narrow(axis, first, rest)];
    Param::initialized(burn::module::ParamId::new(), Tensor::cat(parts, axis))
}

/// `own` and what of `fresh` lies behind it, along the second axis.
fn longer(own: &Param<Tensor<3>>, fresh: &Param<Tensor<3>>) -> Param<Tensor<3>> {
    let (own, fresh) = (own.val(), fresh.val());
    let have = own.dims()[1];
    let rest = fresh.dims()[1] - have;
    Param::from_tensor(Tensor::cat(vec![own, fresh.narrow(1, have, rest)], 1))
}

/// One layer with the answers of both.
fn stacked(first: &Linear, second: &Linear) -> Linear {
    Linear {
        weight: Param::from_tensor(Tensor::cat(vec![first.weight.val(), second.weight.val()], 0)),
        bias: Param::from_tensor(Tensor::cat(vec![first.bias.val(), second.bias.val()], 0)),
    }
}
