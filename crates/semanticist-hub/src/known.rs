//! Published models that can be asked for by name.
//!
//! Only what is known: the repositories and files are those that the published code names; a licence is
//! stated where the authors state one for the weights.

use crate::Remote;

/// A published file and what it needs to be used.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// What users call it.
    pub name: &'static str,
    /// What it holds, and what else it needs.
    pub kind: Kind,
    /// Owner, repository and file.
    location: [&'static str; 3],
    /// Of the weights.
    pub licence: &'static str,
    /// One line for a list of models.
    pub about: &'static str,
}

/// What a published file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A tokenizer's networks.
    Tokenizer {
        /// The name of its configuration.
        preset: &'static str,
        /// The known autoencoder that it was trained with.
        autoencoder: &'static str,
    },
    /// A KL autoencoder.
    Autoencoder {
        /// The name of its configuration.
        preset: &'static str,
    },
    /// A generator of tokens.
    Generator {
        /// The name of its configuration.
        preset: &'static str,
    },
}

/// The code of Semanticist is under the MIT licence; what its weights are under is not stated.
const UNSTATED: &str = "unknown";

/// All of them: networks first, then the autoencoders they were trained with.
pub const KNOWN: [Known; 5] = [
    Known {
        name: "semanticist-l",
        kind: Kind::Tokenizer { preset: "l-256x16-published", autoencoder: "mar-kl16" },
        location: ["tennant", "semanticist", "semanticist_tok_L.pkl"],
        licence: UNSTATED,
        about: "the paper's tokenizer with DiT-L, 256 tokens of 16",
    },
    Known {
        name: "semanticist-xl",
        kind: Kind::Tokenizer { preset: "xl-256x16-published", autoencoder: "mar-kl16" },
        location: ["tennant", "semanticist", "semanticist_tok_XL.pkl"],
        licence: UNSTATED,
        about: "the paper's tokenizer with DiT-XL, 256 tokens of 16",
    },
    Known {
        name: "semanticist-generator-l",
        kind: Kind::Generator { preset: "gpt-l" },
        location: ["tennant", "semanticist", "semanticist_ar_gen_L.pkl"],
        licence: UNSTATED,
        about: "the paper's generator of 32 tokens",
    },
    Known {
        name: "mar-kl16",
        kind: Kind::Autoencoder { preset: "kl-f16-c16" },
        location: ["xwen99", "mar-vae-kl16", "kl16.ckpt"],
        licence: UNSTATED,
        about: "MAR's KL-16 autoencoder, below the paper's tokenizers",
    },
    Known {
        name: "sd-kl8",
        kind: Kind::Autoencoder { preset: "kl-f8-c4" },
        location: ["stabilityai", "sd-vae-ft-mse", "diffusion_pytorch_model.safetensors"],
        licence: "MIT",
        about: "Stable Diffusion's autoencoder, its decoder tuned for squared error",
    },
];

impl Known {
    /// The one of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.name == name)
    }

    /// Where it is.
    pub fn remote(&self) -> Remote {
        let [owner, repository, file] = self.location;
        Remote::new(owner, repository, file)
    }
}

#[cfg(test)]
mod tests {
    use semanticist::autoencoder::AutoencoderConfig;
    use semanticist::presets;

    use super::*;

    #[test]
    fn every_known_model_can_be_built_and_has_a_form_of_its_own() {
        for known in &KNOWN {
            assert_eq!(Remote::parse(&known.remote().to_string()).unwrap(), Some(known.remote()));
            assert_eq!(Known::find(known.name).unwrap().location, known.location);
            match known.kind {
                Kind::Tokenizer { preset, autoencoder } => {
                    let tokenizer = presets::tokenizer(preset).unwrap();
                    let Some(Kind::Autoencoder { preset }) = Known::find(autoencoder).map(|known| known.kind)
                    else {
                        panic!("{} has no autoencoder", known.name);
                    };
                    assert_eq!(tokenizer.autoencoder, AutoencoderConfig::preset(preset).unwrap());
                }
                Kind::Autoencoder { preset } => drop(AutoencoderConfig::preset(preset).unwrap()),
                Kind::Generator { preset } => drop(presets::generator(preset).unwrap()),
            }
        }
        assert!(Known::find("semanticist").is_none());
    }
}
