//! The training of a generator: the head's loss of every token, given its class and the tokens before it.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use semanticist::diffusion::SampleOptions;
use semanticist::generator::{GenerateOptions, Generator, GeneratorConfig, GeneratorNetworks, TokenGuidance};
use semanticist::model::generator::GeneratorModel;
use semanticist::noise::derive_seed;
use semanticist::weights::Precision;
use semanticist::{Error, Noise, Result, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Batches, Loss, Objective, Trainable, Validation};
use crate::config::{Kind, RunConfig};
use semanticist_data::Position;
use semanticist_data::tokens::cache::TokenCache;
use semanticist_data::tokens::{TokenBatches, TokenExample};
use semanticist_eval::{generation, sheet};

/// A generator's training run, as its file has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GeneratorRun;

/// Cached tokens need no preparation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenData {}

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneratorLoss {
    /// How often the head's loss is drawn per token; the transformer is asked once.
    pub draws: usize,
    /// Probability that a number which half a layer adds is dropped.
    pub dropout: f64,
    /// Probability that an image loses its class, which trains the unguided half of guidance.
    pub class_dropout: f64,
}

impl Default for GeneratorLoss {
    fn default() -> Self {
        Self { draws: 4, dropout: 0.1, class_dropout: 0.1 }
    }
}

/// On what the averaged weights are measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneratorValidation {
    /// Images in the validation loss.
    pub images: usize,
    /// Classes on the sheet of samples, which needs the tokenizer.
    pub samples: usize,
    /// Guidance scale of the samples.
    pub guidance: f64,
}

impl Default for GeneratorValidation {
    fn default() -> Self {
        Self { images: 1000, samples: 8, guidance: GenerateOptions::usual(1).guidance.scale }
    }
}

impl Kind for GeneratorRun {
    type Model = GeneratorConfig;
    type Data = TokenData;
    type Objective = GeneratorLoss;
    type Validation = GeneratorValidation;

    fn validate(config: &RunConfig<Self>) -> Result<()> {
        config.model.validate()?;
        let GeneratorLoss { draws, dropout, class_dropout } = config.objective;
        let out_of_range = |share: f64| !(0.0..1.0).contains(&share);
        let problem = if draws == 0 {
            "objective.draws is 0; the loss is drawn at least once per token".to_string()
        } else if out_of_range(dropout) {
            format!("objective.dropout = {dropout} is not in [0, 1)")
        } else if out_of_range(class_dropout) {
            format!("objective.class_dropout = {class_dropout} is not in [0, 1)")
        } else {
            return Ok(());
        };
        Err(Error::Config(problem))
    }

    fn changed_data(_: &TokenData, _: &TokenData) -> Option<&'static str> {
        None
    }
}

impl Trainable for GeneratorModel {
    type Parameters = GeneratorNetworks;

    fn parameters(&self) -> &GeneratorNetworks {
        &self.generator.networks
    }

    fn parameters_mut(&mut self) -> &mut GeneratorNetworks {
        &mut self.generator.networks
    }

    fn save(&self, path: &Path) -> Result<()> {
        GeneratorModel::save(self, path, Precision::F32)
    }

    fn load(path: &Path, device: &Device) -> Result<Self> {
        GeneratorModel::load(path, None, device)
    }
}

/// A generator to train on the tokens of a cache, with random networks on the device of training.
///
/// # Errors
/// If the configuration is impossible.
pub fn untrained(
    config: &RunConfig<GeneratorRun>,
    cache: &TokenCache,
    device: &Device,
) -> Result<GeneratorModel> {
    let mut noise = Noise::seeded(derive_seed(config.seed, &[0]));
    let networks = GeneratorNetworks::init(&config.model, &mut noise, &device.clone().autodiff())?;
    Ok(GeneratorModel {
        generator: Generator { config: config.model.clone(), networks },
        classes: cache.classes().map(<[String]>::to_vec).unwrap_or_default(),
        tokenizer: Some(cache.info().model_hash.clone()),
        training: None,
    })
}

/// The loss of a generator on cached tokens.
pub struct GeneratorObjective {
    training: Arc<TokenCache>,
    validation: Arc<TokenCache>,
    /// Paints the samples.
    tokenizer: Option<Tokenizer>,
    config: RunConfig<GeneratorRun>,
}

impl GeneratorObjective {
    /// Trains and validates on caches; with the tokenizer that made them, samples are painted.
    ///
    /// # Errors
    /// If a cache has too few or other tokens, images without label, or other classes.
    pub fn new(
        config: &RunConfig<GeneratorRun>,
        [training, validation]: [Arc<TokenCache>; 2],
        tokenizer: Option<Tokenizer>,
    ) -> Result<Self> {
        for cache in [&training, &validation] {
            check(&config.model, cache)?;
        }
        if training.info().model_hash != validation.info().model_hash {
            return Err(Error::Data(
                "the tokens to train on and to validate on are of different tokenizers; make both with one"
                    .into(),
            ));
        }
        Ok(Self { training, validation, tokenizer, config: config.clone() })
    }

    /// The mean loss of some images; `training` says whether something is dropped.
    fn loss_of(
        &self,
        generator: &Generator,
        examples: &[TokenExample],
        training: bool,
        noise: &mut Noise,
    ) -> Tensor<1> {
        let GeneratorLoss { draws, dropout, class_dropout } = self.config.objective;
        let GeneratorConfig { tokens: k, token_dim: d, width, .. } = generator.config;
        let device = generator.networks.transformer.classes.device();
        let batch = examples.len();
        let values: Vec<f32> = examples.iter().flat_map(|example| example.tokens.iter().copied()).collect();
        let tokens: Tensor<3> = Tensor::from_data(TensorData::new(values, [batch, k, d]), &device);
        let labels = examples.iter().map(|example| example.label);
        let (labels, dropout): (Vec<usize>, f64) = match training {
            false => (labels.collect(), 0.0),
            true => {
                let none = generator.config.no_class();
                let kept = labels.zip(noise.uniform(batch));
                let drop = |(label, u): (usize, f32)| if f64::from(u) < class_dropout { none } else { label };
                (kept.map(drop).collect(), dropout)
            }
        };
        let answers =
            generator.networks.transformer.forward(tokens.clone(), &labels, |x| dropped(x, dropout, noise));
        let repeated = |x: Tensor<3>, last: usize| x.reshape([batch * k, last]).repeat_dim(0, draws);
        let head_draws = generator.draws(draws * batch * k, noise, &device);
        generator.head_loss(repeated(tokens, d), repeated(answers, width), head_draws).mean()
    }

    /// Classes as they are drawn, from their first tokens, one row each.
    fn sample(&self, model: &GeneratorModel, tokenizer: &Tokenizer, path: &Path) -> Result<()> {
        let GeneratorValidation { samples, guidance: scale, .. } = self.config.validation;
        let GeneratorConfig { tokens, classes, .. } = model.generator.config;
        let shown = samples.min(classes);
        let labels: Vec<usize> = (0..shown).map(|row| row * classes / shown).collect();
        let usual = GenerateOptions::usual(tokens);
        let options = GenerateOptions { guidance: TokenGuidance { scale, ..usual.guidance }, ..usual };
        let seeds: Vec<u64> = (0..labels.len() as u64).collect();
        let drawn = model.generator.generate(&labels, &options, &mut Noise::per_sample(&seeds), |_| ())?;
        let painting = generation::Painting { options: SampleOptions::default(), seeds };
        let names: Vec<String> = labels.iter().map(|&label| generation::class_name(model, label)).collect();
        let rows = painting.progressive(tokenizer, &drawn, &names, |_| ())?;
        semanticist::image::save_png(&sheet::draw(&rows), path)
    }
}

impl Objective for GeneratorObjective {
    type Kind = GeneratorRun;
    type Model = GeneratorModel;
    type Example = TokenExample;

    fn examples(&self) -> usize {
        self.training.len()
    }

    fn batches(&self, start: Position) -> Box<dyn Batches<Example = TokenExample>> {
        let sizes = (self.config.batch, self.config.model.tokens);
        Box::new(TokenBatches::new(self.training.clone(), self.config.seed, sizes, start))
    }

    fn loss(&self, model: &GeneratorModel, examples: &[TokenExample], _: u64, noise: &mut Noise) -> Loss {
        Loss { total: self.loss_of(&model.generator, examples, true, noise), parts: Vec::new() }
    }

    fn validate(&self, average: &GeneratorModel, sheet: &Path) -> Result<Validation> {
        const BATCH: usize = 50;
        let count = self.config.validation.images.min(self.validation.len()).max(1);
        // Spread over the data, which may be sorted by class.
        let images: Vec<usize> = (0..count).map(|i| i * self.validation.len() / count).collect();
        let mut total = 0.0;
        for (number, images) in images.chunks(BATCH).enumerate() {
            let example = |&image: &usize| TokenExample {
                tokens: self.validation.tokens(image, 0, average.generator.config.tokens),
                label: self.validation.label(image).expect("labels were checked") as usize,
            };
            let examples: Vec<TokenExample> = images.iter().map(example).collect();
            // The same draws in every validation.
            let mut noise = Noise::seeded(derive_seed(1, &[number as u64]));
            let loss = self.loss_of(&average.generator, &examples, false, &mut noise);
            total += f64::from(loss.into_scalar::<f32>()) * images.len() as f64;
        }
        if let Some(tokenizer) = self.tokenizer.as_ref().filter(|_| self.config.validation.samples > 0) {
            self.sample(average, tokenizer, sheet)?;
        }
        let loss = total / count as f64;
        let measures = json!({ "validation_loss": loss, "images": count });
        Ok(Validation {
            measures: measures.as_object().expect("it is one").clone(),
            summary: format!("validation loss {loss:.4}"),
        })
    }

    fn publish(&self, average: &GeneratorModel, path: &Path, history: &serde_json::Value) -> Result<()> {
        let model = GeneratorModel { training: Some(history.clone()), ..average.clone() };
        GeneratorModel::save(&model, path, Precision::F16)
    }
}

impl Batches for TokenBatches {
    type Example = TokenExample;

    fn next(&mut self) -> Result<(Vec<TokenExample>, Position)> {
        Ok(self.next_batch())
    }

    fn take_warnings(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Fails unless a generator of this configuration can learn from the cache.
fn check(config: &GeneratorConfig, cache: &TokenCache) -> Result<()> {
    let info = cache.info();
    let unlabelled = (0..cache.len())
        .find(|&image| !cache.label(image).is_some_and(|label| (0..config.classes as i64).contains(&label)));
    let problem = if info.tokens < config.tokens || info.token_dim != config.token_dim {
        format!(
            "the cache has {} tokens of {} numbers, the configuration asks for {} of {}; change \
             model.tokens and model.token_dim, or give another cache",
            info.tokens, info.token_dim, config.tokens, config.token_dim
        )
    } else if let Some(classes) = cache.classes().filter(|names| names.len() != config.classes) {
        let (found, expected) = (classes.len(), config.classes);
        format!("the cache has {found} classes, the configuration {expected}; change model.classes")
    } else if let Some(image) = unlabelled {
        let (label, last) = (cache.label(image), config.classes - 1);
        let found = label.map_or("no label".to_string(), |label| format!("the label {label}"));
        format!("image {image} of the cache has {found}; a generator learns from labels from 0 to {last}")
    } else {
        return Ok(());
    };
    Err(Error::Data(problem))
}

/// Sets a share of the numbers to 0 and makes up for it in the others.
fn dropped(x: Tensor<3>, share: f64, noise: &mut Noise) -> Tensor<3> {
    if share == 0.0 {
        return x;
    }
    let kept = (1.0 / (1.0 - share)) as f32;
    let draws = noise.uniform(x.shape().num_elements()).into_iter();
    let factors: Vec<f32> = draws.map(|u| if f64::from(u) < share { 0.0 } else { kept }).collect();
    let factors = Tensor::from_data(TensorData::new(factors, x.dims()), &x.device());
    x * factors
}

#[cfg(test)]
mod tests;
