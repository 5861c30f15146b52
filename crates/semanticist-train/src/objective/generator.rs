//! The training of a generator: the head's loss of every token, given its class and the tokens before it.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use semanticist::generator::{GenerateOptions, Generator, GeneratorConfig, GeneratorNetworks};
use semanticist::model::GeneratorModel;
use semanticist::nn::Activations;
use semanticist::weights::{Precision, Weights};
use semanticist::{Error, Noise, Purpose, Result, Seed, Tokenizer};
use semanticist_data::tokens::cache::TokenCache;
use semanticist_data::tokens::{TokenBatchOptions, TokenBatches, TokenExample};
use semanticist_data::{Position, Share, spread};
use semanticist_eval::{generation, sheet};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::frozen;
use super::{Batches, Loss, Objective, Stage, Trainable, Validation};
use crate::config::{Kind, RunConfig};

/// A generator's training run, as its file has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GeneratorRun;

/// How batches of cached tokens are made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenData {
    /// How often images come from each of the caches, in proportion; one number per cache in the order of `--tokens`. Without any,
    /// all images come equally often.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
}

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
    /// Guidance scale of the samples, if not that of [`GeneratorConfig::draw_options`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
}

impl Default for GeneratorValidation {
    fn default() -> Self {
        Self { images: 1000, samples: 8, guidance: None }
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
}

impl Trainable for GeneratorModel {
    type Parameters = GeneratorNetworks;

    fn parameters(&self) -> &GeneratorNetworks {
        &self.generator.networks
    }

    fn parameters_mut(&mut self) -> &mut GeneratorNetworks {
        &mut self.generator.networks
    }

    fn set_activations(&mut self, activations: Activations) {
        self.generator.networks.transformer.set_activations(activations);
    }

    fn save_frozen(&self, path: &Path) -> Result<()> {
        let Self { generator, classes, tokenizer, .. } = self;
        let frozen = Frozen {
            config: generator.config.clone(),
            classes: classes.clone(),
            tokenizer: tokenizer.clone(),
        };
        frozen::save(path, &frozen, &Weights::new())
    }

    fn load_frozen(path: &Path, device: &Device) -> Result<Self> {
        let (Frozen { config, classes, tokenizer }, _) = frozen::load(path)?;
        let networks = GeneratorNetworks::init(&config, &mut Noise::seeded(0), device)?;
        Ok(Self { generator: Generator { config, networks }, classes, tokenizer, training: None })
    }
}

/// What does not learn.
#[derive(Serialize, Deserialize)]
struct Frozen {
    config: GeneratorConfig,
    classes: Vec<String>,
    /// The hash of the tokenizer whose tokens it draws.
    tokenizer: Option<String>,
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
    let mut noise = Seed::new(config.seed).of(Purpose::Weights).noise();
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
    /// Decodes the samples.
    tokenizer: Option<Tokenizer>,
    config: RunConfig<GeneratorRun>,
}

impl GeneratorObjective {
    /// Trains and validates on caches; with the tokenizer that made them, samples are decoded.
    ///
    /// # Errors
    /// If a cache has too few or other tokens, images without label, or other classes, or the tokenizer cannot decode as the
    /// configuration says.
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
        if let Some(tokenizer) = &tokenizer {
            let tokenizer = &tokenizer.config;
            let decoding = config.model.decode_options(tokenizer.decode_options());
            decoding.plan(&tokenizer.process()?)?;
        }
        Ok(Self { training, validation, tokenizer, config: config.clone() })
    }

    /// The mean loss of some images, given their classes.
    fn loss_of(
        &self,
        generator: &Generator,
        examples: &[TokenExample],
        labels: &[usize],
        dropout: f64,
        noise: &mut Noise,
    ) -> Tensor<1> {
        let GeneratorLoss { draws, .. } = self.config.objective;
        let GeneratorConfig { tokens: k, token_dim: d, .. } = generator.config;
        let device = generator.networks.transformer.classes.device();
        let batch = examples.len();
        let values: Vec<f32> = examples.iter().flat_map(|example| example.tokens.iter().copied()).collect();
        let tokens: Tensor<3> = Tensor::from_data(TensorData::new(values, [batch, k, d]), &device);
        let answers = generator.networks.transformer.forward(tokens.clone(), labels, dropout, Some(noise));
        // What belongs to an image lies together: [batch, draws, k].
        let head_draws = generator.draws(batch * draws * k, noise, &device);
        generator.head_loss(tokens, answers, head_draws).mean()
    }

    /// Classes as they are drawn, from their first tokens, one row each.
    fn sample(&self, model: &GeneratorModel, tokenizer: &Tokenizer, path: &Path) -> Result<()> {
        let GeneratorValidation { samples, guidance, .. } = self.config.validation;
        let config = &model.generator.config;
        let classes = config.classes;
        let shown = samples.min(classes);
        let labels: Vec<usize> = (0..shown).map(|row| row * classes / shown).collect();
        let mut options = GenerateOptions { tokens: config.tokens, drawing: config.draw_options() };
        options.drawing.guidance.scale = guidance.unwrap_or(options.drawing.guidance.scale);
        let seeds: Vec<u64> = (0..labels.len() as u64).collect();
        let drawn = model.generator.generate(&labels, &options, 0)?;
        let decoding = generation::ImageDecoding {
            options: config.decode_options(tokenizer.config.decode_options()),
            seeds,
        };
        let names: Vec<String> = labels.iter().map(|&label| generation::class_name(model, label)).collect();
        let rows = decoding.progressive(tokenizer, &drawn, &names, |_| ())?;
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

    fn fingerprint(&self) -> Result<String> {
        Ok(self.training.fingerprint())
    }

    fn batches(&self, start: Position, share: Share) -> Box<dyn Batches<Example = TokenExample>> {
        let (seed, batch) = (Seed::new(self.config.seed), self.config.batch);
        let options = TokenBatchOptions { seed, batch, share, tokens: self.config.model.tokens };
        Box::new(TokenBatches::new(self.training.clone(), options, start))
    }

    fn loss(&self, model: &GeneratorModel, examples: &[TokenExample], _: u64, noise: &mut Noise) -> Loss {
        let GeneratorLoss { dropout, class_dropout, .. } = self.config.objective;
        let none = model.generator.config.no_class();
        let lost = noise.uniform(examples.len()).into_iter().map(|u| f64::from(u) < class_dropout);
        let class = |(example, lost): (&TokenExample, bool)| if lost { none } else { example.label };
        let classes: Vec<usize> = examples.iter().zip(lost).map(class).collect();
        let total = self.loss_of(&model.generator, examples, &classes, dropout, noise);
        Loss { total, parts: Vec::new() }
    }

    fn activations(&self) -> Option<u64> {
        Some(self.config.how_computed().generator(&self.config.model, &self.config.objective))
    }

    /// Of the tokenizer, which decodes samples.
    fn teacher_bytes(&self) -> u64 {
        self.tokenizer.as_ref().map_or(0, |it| (it.networks.num_params() * size_of::<f32>()) as u64)
    }

    fn validate(&self, average: &GeneratorModel, sheet: &Path) -> Result<Validation> {
        const BATCH: usize = 50;
        let count = self.config.validation.images.min(self.validation.len()).max(1);
        // Spread over the data, which may be sorted by class.
        let images: Vec<usize> = spread(count, self.validation.len()).collect();
        let mut total = 0.0;
        let seed = Seed::new(1).of(Purpose::Validation);
        for images in images.chunks(BATCH) {
            let example = |&image: &usize| TokenExample {
                tokens: self.validation.tokens(image, 0, average.generator.config.tokens),
                label: self.validation.label(image).expect("labels were checked") as usize,
            };
            let examples: Vec<TokenExample> = images.iter().map(example).collect();
            // The same draws in every validation.
            let mut noise = Noise::per_sample(images.iter().map(|&image| seed.at(image as u64)));
            let classes: Vec<usize> = examples.iter().map(|example| example.label).collect();
            let loss = self.loss_of(&average.generator, &examples, &classes, 0.0, &mut noise);
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

    fn publish(
        &self,
        average: &GeneratorModel,
        path: &Path,
        history: &serde_json::Value,
        _: Stage,
    ) -> Result<()> {
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

#[cfg(test)]
mod tests;
