//! Runs that begin with a trained model.

use std::iter;

use burn::module::Module;
use burn::tensor::Device;
use semanticist::generator::Generator;
use semanticist::model::{GeneratorModel, SharedTokens, TokenizerModel};
use semanticist::{Error, Result, Tokenizer, weights};
use semanticist_data::tokens::cache::TokenCache;

use super::generator::{self, GeneratorRun};
use super::tokenizer::{self, LearningTokenizer, TokenizerRun};
use crate::config::RunConfig;

/// Whose first tokens the run's tokenizer will give, because they stay as they are in `origin`.
///
/// # Errors
/// If the file of `origin` cannot be read.
pub fn shared_tokens(config: &RunConfig<TokenizerRun>, origin: &TokenizerModel) -> Result<Vec<SharedTokens>> {
    let had = origin.tokenizer.config.tokens;
    let stay = match config.objective.frozen_encoder {
        true => had,
        false => config.objective.frozen_tokens.min(had),
    };
    if stay == 0 {
        return Ok(Vec::new());
    }
    let own = SharedTokens { model: origin.hash()?.to_string(), tokens: stay };
    let earlier = origin.shared_tokens()?.into_iter();
    let earlier = earlier.map(|other| SharedTokens { tokens: other.tokens.min(stay), ..other });
    Ok(iter::once(own).chain(earlier).collect())
}

/// A tokenizer to train that begins with the weights of `origin`, whose autoencoder the configuration has, on the device of
/// training. What `origin` lacks keeps its first values, and `say` is told of it.
///
/// # Errors
/// If the configuration is impossible, or a weight of `origin` has no place in it or is of another shape.
pub fn continued(
    config: &RunConfig<TokenizerRun>,
    origin: Tokenizer,
    device: &Device,
    say: &mut dyn FnMut(String),
) -> Result<LearningTokenizer> {
    let Tokenizer { networks, autoencoder, .. } = origin;
    let mut model = tokenizer::untrained(config, autoencoder, device)?;
    model.networks.tokenizer = with_weights_of("tokenizer", networks, model.networks.tokenizer, say)?;
    Ok(model)
}

/// A generator to train on the tokens of `cache` that begins with the weights of `origin`; likewise. It may be of fewer tokens.
///
/// # Errors
/// As [`continued`], or if its numbers are of other classes than those of the cache.
pub fn continued_generator(
    config: &RunConfig<GeneratorRun>,
    origin: GeneratorModel,
    cache: &TokenCache,
    device: &Device,
    say: &mut dyn FnMut(String),
) -> Result<GeneratorModel> {
    let mut model = generator::untrained(config, cache, device)?;
    let (own, named) = (&model.classes, &origin.classes);
    if let Some(class) = own.iter().zip(named).position(|(own, named)| own != named) {
        return Err(Error::Config(format!(
            "class {class} of the tokens is \"{}\", of the generator to begin with \"{}\"; begin with one of the same \
             classes, in the same order",
            own[class], named[class]
        )));
    }
    let Generator { config: had, networks: mut given } = origin.generator;
    let tokens = config.model.tokens;
    if tokens < had.tokens {
        given.transformer = given.transformer.of_first_tokens(tokens);
        say(format!(
            "the first {tokens} of the {} tokens that the generator to begin with draws",
            had.tokens
        ));
    }
    model.generator.networks = with_weights_of("generator", given, model.generator.networks, say)?;
    Ok(model)
}

/// `own` with the weights of `origin`, and its own where that has none.
fn with_weights_of<M: Module>(kind: &str, origin: M, own: M, say: &mut dyn FnMut(String)) -> Result<M> {
    let mut given = weights::deferred(&origin, "");
    let places = weights::deferred(&own, "");
    let had = given.names().map(str::to_string).collect::<Vec<_>>();
    let (mut lacking, mut misfits) = (Vec::new(), Vec::new());
    for (name, place) in places.iter() {
        match given.get(name) {
            None => {
                lacking.push(name.to_string());
                given.insert(name, place.clone());
            }
            Some(tensor) if tensor.shape() != place.shape() => misfits.push(format!(
                "{name} is {:?} there, and {:?} in the configuration",
                tensor.shape(),
                place.shape()
            )),
            Some(_) => {}
        }
    }
    misfits.extend(
        given
            .names()
            .filter(|name| places.get(name).is_none())
            .map(|name| format!("{name} has no place in the configuration")),
    );
    if let Some(first) = misfits.first() {
        return Err(Error::Config(format!(
            "the {kind} to begin with does not fit the configuration's [model]: {first}{}",
            if misfits.len() > 1 { format!(", and {} more", misfits.len() - 1) } else { String::new() }
        )));
    }
    if !lacking.is_empty() {
        say(format!("not in the {kind} to begin with, and new: {}", parts(&lacking, &had).join(", ")));
    }
    Ok(weights::apply(own, "", &mut given))
}

/// The parts that `names` belong to, each by the shortest name under which none of `others` is.
fn parts(names: &[String], others: &[String]) -> Vec<String> {
    let part = |name: &String| {
        let ends = name.match_indices('.').map(|(end, _)| end).chain([name.len()]);
        let taken = |part: &str| others.iter().any(|other| other.starts_with(&format!("{part}.")));
        ends.map(|end| &name[..end]).find(|part| !taken(part)).unwrap_or(name).to_string()
    };
    let mut parts = names.iter().map(part).collect::<Vec<_>>();
    parts.dedup();
    parts
}
