//! The arguments that choose a tokenizer with a codebook instead of one of ours.

use std::path::PathBuf;

use clap::Args;
use semanticist_eval::quantised::{DecompositionKind, QuantisedKind};

/// Which tokenizer with a codebook.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Other tokenizers")]
pub struct QuantisedChoice {
    /// Another tokenizer and its published file, instead of --model: titok (TiTok S-128, B-64, L-32), vq (the VQ-16 of LlamaGen)
    #[arg(long, value_name = "NAME=FILE", value_parser = tokenizer, conflicts_with = "model")]
    pub tokenizer: Option<(QuantisedKind, PathBuf)>,
}

/// How its tokens, which are in no order, are taken apart.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Other tokenizers")]
pub struct Decomposing {
    #[command(flatten)]
    pub choice: QuantisedChoice,
    /// What the first k tokens of another tokenizer are: first-k (the others are 0), pca (as many principal components of all
    /// tokens) [default: first-k, of evaluate both]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', requires = "tokenizer")]
    pub decomposition: Vec<DecompositionKind>,
}

fn tokenizer(text: &str) -> Result<(QuantisedKind, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !path.is_empty() => Ok((name.parse()?, path.into())),
        _ => Err("expected NAME=FILE, such as titok=tokenizer_titok_l32.safetensors".into()),
    }
}
