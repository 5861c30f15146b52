//! CLIP, opened, with the names of the classes that it is to tell.

use anyhow::Result;
use burn::tensor::Device;
use semanticist_data::Source;
use semanticist_eval::clip::{Clip, ClipTokenizer, fingerprint, names_of_data, read_names};
use semanticist_eval::features::file_hash;
use semanticist_eval::measure::Subject;
use semanticist_eval::measure::zero_shot::{self, ZeroShot};
use serde_json::{Value, json};

use crate::args::ClipChoice;
use crate::failure;

/// Who is asked for classes, and which there are.
pub struct Clipped {
    network: Clip,
    described: String,
    tokenizer: ClipTokenizer,
    names: Vec<String>,
    options: Value,
}

impl Clipped {
    /// What can be said before anything is read.
    pub fn check(choice: &ClipChoice) -> Result<()> {
        if choice.clip.is_some() {
            return Ok(());
        }
        Err(failure::usage(
            "which CLIP is asked? Give --clip FILE and --clip-tokenizer FILE, such as model.safetensors and tokenizer.json of \
             openai/clip-vit-base-patch32",
        ))
    }

    /// Reads the files, if any were asked for, and the names of the classes of the data.
    pub fn open(choice: &ClipChoice, data: &Source, device: &Device) -> Result<Option<Self>> {
        let ClipChoice { clip, clip_tokenizer, clip_activation: activation, class_names } = choice;
        let (Some(clip), Some(words)) = (clip, clip_tokenizer) else { return Ok(None) };
        // Asked before the large file is read.
        let names = match class_names {
            Some(path) => read_names(path)?,
            None => names_of_data(data.classes())?,
        };
        let tokenizer = ClipTokenizer::open(words)?;
        let (network, hash) = Clip::load(clip, *activation, device)?;
        tokenizer.check(&network)?;
        let described = format!(
            "CLIP of {} numbers, images of {} pixels and {activation} (weights {})",
            network.width(),
            network.image_size(),
            &hash[..12]
        );
        let options = json!({
            "hash": hash,
            "activation": activation.name(),
            "tokenizer": file_hash(words)?,
            "classes": names.len(),
            "names": fingerprint(&names),
        });
        Ok(Some(Self { network, described, tokenizer, names, options }))
    }

    /// What of it decides what is found.
    pub fn options(&self) -> Value {
        self.options.clone()
    }

    pub fn pieces(&self, subject: &Subject, steps: usize) -> usize {
        zero_shot::pieces(subject, steps, self.names.len())
    }

    pub fn zero_shot(&self) -> ZeroShot<'_> {
        let Self { network, described, tokenizer, names, .. } = self;
        ZeroShot { network, described, tokenizer, names }
    }
}
