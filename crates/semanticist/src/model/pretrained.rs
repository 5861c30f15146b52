//! Models by name: built in, in a file, or on the Hugging Face hub, from where they are fetched once.

use std::path::Path;

use burn::tensor::Device;
use semanticist_hub::{Hub, Kind, Known, Location, Remote, Transfer};

use super::{GeneratorModel, ModelFile, PublishedTokenizer, TokenizerFile};
use crate::error::Result;
use crate::generator::Generator;
use crate::presets;
use crate::tokenizer::Tokenizer;

impl Tokenizer {
    /// Loads the tokenizer of this name: `tiny`, which is built in; a name of
    /// [`semanticist_hub::KNOWN`]; `hf:OWNER/REPOSITORY/FILE`; or the path of a file.
    ///
    /// What is not in the cache of the Hugging Face libraries is fetched into it.
    ///
    /// ```
    /// use semanticist::{Device, Tokenizer};
    /// let tokenizer = Tokenizer::from_pretrained("tiny", &Device::flex())?;
    /// assert_eq!(tokenizer.config.image_size, 64);
    /// # Ok::<(), semanticist::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there is none of that name, it cannot be fetched, or it is not a tokenizer.
    pub fn from_pretrained(name: &str, device: &Device) -> Result<Self> {
        let file = match locate(name)? {
            Located::File(file) => file.into_tokenizer()?,
            Located::Known(known) => published(known)?,
        };
        Ok(file.load(device)?.tokenizer)
    }
}

impl Generator {
    /// Loads the generator of this name, `tiny-generator` or else as [`Tokenizer::from_pretrained`].
    ///
    /// # Errors
    /// If there is none of that name, it cannot be fetched, or it is not a generator.
    pub fn from_pretrained(name: &str, device: &Device) -> Result<Self> {
        match locate(name)? {
            Located::File(file) => Ok(file.into_generator()?.load(device)?.generator),
            Located::Known(known) => {
                let Kind::Generator { preset } = known.kind else {
                    return Err(another_kind(known, "generator"));
                };
                let config = presets::generator(preset)?;
                Ok(GeneratorModel::published(&find(&known.remote())?, &config, device)?.generator)
            }
        }
    }
}

enum Located {
    /// One of our files.
    File(Box<ModelFile>),
    /// A published checkpoint, of which is known what it holds.
    Known(&'static Known),
}

fn locate(name: &str) -> Result<Located> {
    Ok(Located::File(Box::new(match Location::of(Path::new(name))? {
        Location::Builtin(builtin) => ModelFile::from_bytes(builtin.name, builtin.bytes)?,
        Location::File(path) => ModelFile::open(&path)?,
        Location::Remote(remote) => ModelFile::open(&find(&remote)?)?,
        Location::Known(known) => return Ok(Located::Known(known)),
    })))
}

fn published(known: &Known) -> Result<TokenizerFile> {
    let Kind::Tokenizer { preset, autoencoder } = known.kind else {
        return Err(another_kind(known, "tokenizer"));
    };
    let autoencoder = Known::find(autoencoder).expect("a known tokenizer's autoencoder is known");
    let (path, autoencoder) = (find(&known.remote())?, find(&autoencoder.remote())?);
    let config = presets::tokenizer(preset)?;
    TokenizerFile::published(&path, PublishedTokenizer { config: &config, autoencoder: Some(&autoencoder) })
}

fn another_kind(known: &Known, expected: &str) -> crate::Error {
    crate::Error::Config(format!("{} is not a {expected}: {}", known.name, known.about))
}

/// The copy in the cache, fetched in silence if there is none.
fn find(remote: &Remote) -> Result<std::path::PathBuf> {
    Ok(Hub::from_env()?.find(remote, &mut |_: Transfer| ())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_models_are_found_by_name_and_told_apart() {
        let device = Device::flex();
        assert_eq!(Tokenizer::from_pretrained("tiny", &device).unwrap().config.image_size, 64);
        let generator = Generator::from_pretrained("tiny-generator", &device).unwrap();
        assert_eq!(generator.config.classes, 100);
        let error = Tokenizer::from_pretrained("tiny-generator", &device).unwrap_err().to_string();
        assert!(error.contains("holds one generator, expected one tokenizer"), "{error}");
        let error = Tokenizer::from_pretrained("semanticist-generator-l", &device).unwrap_err().to_string();
        assert!(error.contains("is not a tokenizer"), "{error}");
        assert!(Tokenizer::from_pretrained("tinier", &device).unwrap_err().to_string().contains("tiny,"));
    }
}
