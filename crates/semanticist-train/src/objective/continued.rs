//! A run that begins with a trained tokenizer.

use std::iter;

use burn::tensor::Device;
use semanticist::model::{SharedTokens, TokenizerModel};
use semanticist::{Error, Result, Tokenizer, weights};

use super::tokenizer::{LearningTokenizer, TokenizerRun, untrained};
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
    let mut model = untrained(config, autoencoder, device)?;
    let mut given = weights::deferred(&networks, "");
    let (mut lacking, mut misfits) = (Vec::new(), Vec::new());
    for (name, own) in weights::deferred(&model.networks.tokenizer, "").iter() {
        match given.get(name) {
            None => {
                lacking.push(name.to_string());
                given.insert(name, own.clone());
            }
            Some(tensor) if tensor.shape() != own.shape() => misfits.push(format!(
                "{name} is {:?} there, and {:?} in the configuration",
                tensor.shape(),
                own.shape()
            )),
            Some(_) => {}
        }
    }
    let own = weights::deferred(&model.networks.tokenizer, "");
    misfits.extend(
        given
            .names()
            .filter(|name| own.get(name).is_none())
            .map(|name| format!("{name} has no place in the configuration")),
    );
    if let Some(first) = misfits.first() {
        return Err(Error::Config(format!(
            "the tokenizer to begin with does not fit the configuration's [model]: {first}{}",
            if misfits.len() > 1 { format!(", and {} more", misfits.len() - 1) } else { String::new() }
        )));
    }
    if !lacking.is_empty() {
        say(format!("not in the tokenizer to begin with, and new: {}", lacking.join(", ")));
    }
    model.networks.tokenizer = weights::apply(model.networks.tokenizer, "", &mut given);
    Ok(model)
}
