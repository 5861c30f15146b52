//! A start for the linear parts of a tokenizer: the principal components of the training images.
//!
//! Token k begins with D - 2 components, whitened, and with a constant and minus the sum of all of them beside
//! them: without those two, the normalisation of tokens would take the strength of the components away, since
//! it brings every token to mean 0 and variance 1. The estimate of the latents begins as the least-squares
//! answer to these tokens. The encoder's own projection begins as 0 and adds to it from there.

use std::sync::Arc;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use nalgebra::{Cholesky, DMatrix, DVector};
use semanticist::encoder::{LINEAR_SIDE, normalise, reduced};
use semanticist::image::to_pixels;
use semanticist::nn::Linear;
use semanticist::{Error, Purpose, Result, Seed, TokenizerConfig, Tokens};
use semanticist_data::Source;
use semanticist_eval::PrincipalComponents;

use crate::autoencoder::for_first_images;
use crate::config::RunConfig;
use crate::objective::tokenizer::{LearningTokenizer, TokenizerRun};

/// The constant in every token, beside components of variance 1: the larger, the better a linear map reads the
/// components, and the smaller they are (docs/recipes.md).
const CONSTANT: f64 = 4.0;

/// How often each image is part of the least-squares problem, each time with another number of tokens.
pub(crate) const ROUNDS: usize = 4;

/// Added to the diagonal of the least-squares problem, per image.
const RIDGE: f64 = 1e-4;

/// How many components a model begins with: two less than the numbers of all its tokens.
fn wanted(model: &TokenizerConfig) -> usize {
    model.tokens * model.token_dim.saturating_sub(2)
}

/// Checks that reduced images have as many components as the tokens begin with.
///
/// # Errors
/// If a model with a linear projection asks for more, or for none.
pub fn validate(model: &TokenizerConfig) -> Result<()> {
    let (wanted, there) = (wanted(model), 3 * LINEAR_SIDE.pow(2));
    if !model.encoder.linear_projection || (1..=there).contains(&wanted) {
        return Ok(());
    }
    Err(Error::Config(format!(
        "model.encoder.linear_projection begins with {wanted} principal components, two less in each token than it has \
         numbers; there are {there}: use 1 to {there}, by model.tokens and model.token_dim"
    )))
}

/// The model with its linear parts set, if it has them.
///
/// # Errors
/// If images cannot be read, or are fewer than the components that the tokens begin with.
pub fn start(
    mut model: LearningTokenizer,
    config: &RunConfig<TokenizerRun>,
    source: Arc<Source>,
    device: &Device,
    note: &mut dyn FnMut(String),
) -> Result<LearningTokenizer> {
    let networks = &mut model.networks.tokenizer;
    let Some(linear) = &mut networks.encoder.linear else { return Ok(model) };
    let (count, dim) = (config.model.tokens, config.model.token_dim);
    let mut inputs = Vec::new();
    let mut latents = Vec::new();
    let seen = for_first_images(config, source, |images| {
        let pixels = to_pixels(images, device);
        let values = model.autoencoder.encode(&pixels).0;
        let [b, c, h, w] = values.dims();
        inputs.push(reduced(&pixels));
        latents.push(values.reshape([b, c * h * w]));
        Ok(())
    })?;
    let wanted = wanted(&config.model);
    if seen <= wanted {
        return Err(Error::Config(format!(
            "model.encoder.linear_projection begins with {wanted} principal components, for which {seen} images are too \
             few: use fewer tokens, or more images (data.fit_images)"
        )));
    }
    let components = PrincipalComponents::fit(Tensor::cat(inputs.clone(), 0), wanted)?;
    let learning = device.clone().autodiff();
    let (directions, mean) =
        (host_matrix(components.components().clone()), host_matrix(components.mean().clone()));
    linear.map = projection((&directions, &mean, components.variances()), [count, dim], &learning);
    let width = networks.encoder.projection.weight.dims()[1];
    networks.encoder.projection = Linear::init_zero(width, dim, &learning);
    let explained = components.variances().iter().sum::<f64>() / components.total_variance();
    note(format!(
        "linear projection begins with {wanted} principal components of {seen} reduced images: {:.1} % of their \
         variance",
        100.0 * explained
    ));
    if let Some(estimate) = &mut networks.decoder.estimate {
        let map = linear.map.clone();
        let weight = map.weight.val().inner().swap_dims(0, 1);
        let bias: Tensor<2> = map.bias.val().inner().unsqueeze();
        let epsilon = config.model.token_epsilon;
        let mut noise = Seed::new(config.seed).of(Purpose::Weights).noise();
        // As in training, some tokens are absent: the answer must be right for every number of them.
        let rounds = (0..ROUNDS).flat_map(|_| inputs.iter().zip(&latents));
        estimate.map = least_squares(
            rounds.map(|(inputs, latents)| {
                let b = inputs.dims()[0];
                let raw = inputs.clone().matmul(weight.clone()) + bias.clone();
                let tokens = Tokens(normalise(raw.reshape([b, count, dim]), epsilon));
                let kept = tokens.kept(&noise.below(b, count + 1));
                (kept.reshape([b, count * dim]), latents)
            }),
            &learning,
        );
    }
    Ok(model)
}

/// The layer that gives tokens before they are normalised: from the images' directions, one in each row, their mean, and their
/// variances in these directions.
pub(crate) fn projection(
    (directions, mean, variances): (&DMatrix<f64>, &DMatrix<f64>, &[f64]),
    [count, dim]: [usize; 2],
    learning: &Device,
) -> Linear {
    // A direction in which images do not differ must not be blown up without bound.
    let floor = variances.iter().copied().fold(0.0, f64::max) * 1e-9;
    let (width, each) = (mean.ncols(), dim - 2);
    let mut weight = DMatrix::<f64>::zeros(count * dim, width);
    let mut bias = DVector::<f64>::zeros(count * dim);
    for token in 0..count {
        let (constant, balance) = (token * dim + each, token * dim + each + 1);
        (bias[constant], bias[balance]) = (CONSTANT, -CONSTANT);
        for i in 0..each {
            let component = token * each + i;
            let row = directions.row(component) / variances[component].max(floor).sqrt();
            let shift = -row.dot(mean);
            weight.row_mut(token * dim + i).copy_from(&row);
            bias[token * dim + i] = shift;
            let mut rest = weight.row_mut(balance);
            rest -= row;
            bias[balance] -= shift;
        }
    }
    layer(&weight, &bias, learning)
}

/// The linear layer whose answers to the first of each pair come closest to the second.
pub(crate) fn least_squares<'a>(
    pairs: impl Iterator<Item = (Tensor<2>, &'a Tensor<2>)>,
    learning: &Device,
) -> Linear {
    let (mut left, mut right, mut rows) = (DMatrix::zeros(0, 0), DMatrix::zeros(0, 0), 0);
    for (x, y) in pairs {
        let b = x.dims()[0];
        let here = x.device();
        let x = Tensor::cat(vec![x, Tensor::ones([b, 1], &here)], 1);
        let turned = x.clone().swap_dims(0, 1);
        let [a, c] = [turned.clone().matmul(x), turned.matmul(y.clone())].map(host_matrix);
        if rows == 0 {
            (left, right) = (a, c);
        } else {
            left += a;
            right += c;
        }
        rows += b;
    }
    for i in 0..left.nrows() {
        left[(i, i)] += RIDGE * rows as f64;
    }
    let solved = Cholesky::new(left).expect("a Gram matrix with a positive diagonal added").solve(&right);
    let inputs = solved.nrows() - 1;
    let weight = solved.rows(0, inputs).transpose();
    let bias = solved.row(inputs).transpose();
    layer(&weight, &bias, learning)
}

fn layer(weight: &DMatrix<f64>, bias: &DVector<f64>, learning: &Device) -> Linear {
    let [rows, columns] = [weight.nrows(), weight.ncols()];
    // nalgebra goes down columns.
    let values: Vec<f32> = weight.transpose().iter().map(|&v| v as f32).collect();
    let bias: Vec<f32> = bias.iter().map(|&v| v as f32).collect();
    Linear {
        weight: Param::from_tensor(Tensor::from_data(TensorData::new(values, [rows, columns]), learning)),
        bias: Param::from_tensor(Tensor::from_data(TensorData::new(bias, [rows]), learning)),
    }
}

pub(crate) fn host_matrix(x: Tensor<2>) -> DMatrix<f64> {
    let [rows, columns] = x.dims();
    let values: Vec<f32> = x.into_data().try_to_vec().expect("a tensor in float32");
    DMatrix::from_row_iterator(rows, columns, values.into_iter().map(f64::from))
}

#[cfg(test)]
mod tests {
    use semanticist::Noise;

    use super::*;

    fn values(x: Tensor<2>) -> Vec<f32> {
        x.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn tokens_hold_whitened_components_a_constant_and_their_balance() {
        let device = Device::flex();
        let mut noise = Noise::seeded(0);
        // Six directions of falling strength, mixed, around a mean that is not 0.
        let strengths = Tensor::from_data([[4.0f32, 3.0, 2.0, 1.0, 0.5, 0.25]], &device);
        let mixing = noise.normal([6, 6], &device);
        let x = (noise.normal([4000, 6], &device) * strengths).matmul(mixing) + 0.7;
        let components = PrincipalComponents::fit(x.clone(), 4).unwrap();
        let (directions, mean) =
            [components.components(), components.mean()].map(|it| host_matrix(it.clone())).into();
        let layer = projection((&directions, &mean, components.variances()), [2, 4], &device);
        let raw = x.matmul(layer.weight.val().swap_dims(0, 1)) + layer.bias.val().unsqueeze();
        let second = host_matrix(raw.clone().swap_dims(0, 1).matmul(raw)) / 4000.0;
        let components = [0, 1, 4, 5];
        for (i, &a) in components.iter().enumerate() {
            for &b in &components[..=i] {
                let expected = f64::from(u8::from(a == b));
                assert!((second[(a, b)] - expected).abs() < 1e-3, "{a}, {b}: {}", second[(a, b)]);
            }
        }
        // Each token sums to 0, and its constant is one.
        assert!((second[(2, 2)] - CONSTANT.powi(2)).abs() < 1e-2 && second[(2, 0)].abs() < 1e-2);
        let sums: f64 = (0..4).flat_map(|a| (0..4).map(move |b| (a, b))).map(|place| second[place]).sum();
        assert!(sums.abs() < 1e-2, "{sums}");
    }

    #[test]
    fn no_more_components_are_asked_for_than_there_are() {
        let text = include_str!("../../../configs/tokenizer-tiny.toml");
        let parse = |tokens: &str| {
            let settings = ["model.encoder.linear_projection=true", tokens].map(String::from);
            RunConfig::<TokenizerRun>::parse(text, &settings)
        };
        assert!(parse("model.tokens=32").is_ok());
        let refused = parse("model.tokens=320").unwrap_err().to_string();
        assert!(refused.contains("4480") && refused.contains("use 1 to 3072"), "{refused}");
        assert!(parse("model.token_dim=2").unwrap_err().to_string().contains("use 1 to 3072"));
    }

    #[test]
    fn least_squares_finds_the_layer_that_made_the_answers() {
        let device = Device::flex();
        let mut noise = Noise::seeded(1);
        let (x, weight) = (noise.normal([500, 5], &device), noise.normal([3, 5], &device));
        let y = x.clone().matmul(weight.clone().swap_dims(0, 1)) + 2.0;
        let layer = least_squares([(x, &y)].into_iter(), &device);
        let difference = (layer.weight.val() - weight).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-3, "{difference}");
        let bias = values(layer.bias.val().unsqueeze());
        assert!(bias.iter().all(|b| (b - 2.0).abs() < 1e-3), "{bias:?}");
    }
}
