//! A tokenizer while it learns, and what of it a checkpoint keeps.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use semanticist::autoencoder::Autoencoder;
use semanticist::decoder::Decoder;
use semanticist::model::SharedTokens;
use semanticist::nn::Activations;
use semanticist::tokenizer::Networks;
use semanticist::{Noise, Result, Tokenizer, TokenizerConfig, weights};
use serde::{Deserialize, Serialize};

use super::readout::{LinearReadout, ReadoutConfig};
use super::{Trainable, frozen};

/// The networks of a run: the readout is of no use afterwards.
#[derive(Module, Debug)]
pub struct LearningNetworks {
    /// What users get.
    pub tokenizer: Networks,
    /// If `objective.linear_readout` asks for one.
    pub readout: Option<LinearReadout>,
}

/// A tokenizer while it learns.
#[derive(Debug, Clone)]
pub struct LearningTokenizer {
    /// Of the tokenizer.
    pub config: TokenizerConfig,
    /// What learns.
    pub networks: LearningNetworks,
    /// What does not.
    pub autoencoder: Autoencoder,
    /// The decoder that is imitated, without autodiff, if the run is a distillation.
    teacher: Option<Decoder>,
    /// Whose tokens its first ones are.
    pub(super) shared: Vec<SharedTokens>,
}

impl LearningTokenizer {
    pub(super) fn init(
        config: &TokenizerConfig,
        readout: Option<ReadoutConfig>,
        autoencoder: Autoencoder,
        noise: &mut Noise,
        device: &Device,
    ) -> Result<Self> {
        let tokenizer = Networks::init(config, noise, device)?;
        // A decoder with an estimate of its own is read out by that.
        let readout = readout.filter(|_| !config.decoder.linear_estimate);
        let readout = readout.map(|_| LinearReadout::init(config, noise, device)).transpose()?;
        let networks = LearningNetworks { tokenizer, readout };
        Ok(Self { config: config.clone(), networks, autoencoder, teacher: None, shared: Vec::new() })
    }

    /// The same, with first tokens that are those of other tokenizers, which its file will say.
    pub fn sharing(self, shared: Vec<SharedTokens>) -> Self {
        Self { shared, ..self }
    }

    /// A student with the weights of its teacher, whose configuration is `config` but for how it is decoded.
    pub(super) fn from_teacher(config: TokenizerConfig, teacher: Tokenizer, device: &Device) -> Result<Self> {
        let Tokenizer { networks, autoencoder, .. } = teacher;
        let mut student = Self::init(&config, None, autoencoder, &mut Noise::seeded(0), device)?;
        let mut stored = weights::deferred(&networks, "");
        student.networks.tokenizer = weights::apply(student.networks.tokenizer, "", &mut stored);
        Ok(Self { teacher: Some(networks.decoder), ..student })
    }

    /// Whom the student imitates; the encoder is the student's own, which does not learn.
    ///
    /// # Panics
    /// If the run is no distillation.
    pub(super) fn teacher(&self) -> Tokenizer {
        let decoder = self.teacher.clone().expect("the run of a distillation has a teacher");
        let encoder = self.networks.tokenizer.encoder.valid();
        let autoencoder = self.autoencoder.clone();
        Tokenizer { config: self.config.clone(), networks: Networks { encoder, decoder }, autoencoder }
    }

    /// The tokenizer at this step, as users get it; it shares the weights.
    pub fn tokenizer(&self) -> Tokenizer {
        let Self { config, networks, autoencoder, .. } = self.clone();
        Tokenizer { config, networks: networks.tokenizer, autoencoder }
    }
}

/// What does not learn, beside the autoencoder's weights.
#[derive(Serialize, Deserialize)]
struct Frozen {
    model: TokenizerConfig,
    /// Whether there is a readout; its weight may change.
    readout: Option<ReadoutConfig>,
    /// Whether a teacher's decoder is among the weights, below [`TEACHER`].
    #[serde(default)]
    distillation: bool,
    /// Whose tokens the first ones are.
    #[serde(default)]
    shared: Vec<SharedTokens>,
}

/// Before the names of a teacher's weights.
const TEACHER: &str = "teacher";

impl Trainable for LearningTokenizer {
    type Parameters = LearningNetworks;

    fn parameters(&self) -> &LearningNetworks {
        &self.networks
    }

    fn parameters_mut(&mut self) -> &mut LearningNetworks {
        &mut self.networks
    }

    fn frozen_bytes(&self) -> u64 {
        let shapes = self.config.autoencoder.shapes(&Device::flex());
        shapes.values().map(|shape| (shape.iter().product::<usize>() * size_of::<f32>()) as u64).sum()
    }

    fn imitated_bytes(&self) -> u64 {
        self.teacher.as_ref().map_or(0, |teacher| (teacher.num_params() * size_of::<f32>()) as u64)
    }

    fn set_activations(&mut self, activations: Activations) {
        let Networks { encoder, decoder } = &mut self.networks.tokenizer;
        encoder.set_activations(activations);
        decoder.set_activations(activations);
    }

    fn save_frozen(&self, path: &Path) -> Result<()> {
        let readout = self.networks.readout.as_ref().map(|_| ReadoutConfig { weight: 1.0 });
        let distillation = self.teacher.is_some();
        let frozen =
            Frozen { model: self.config.clone(), readout, distillation, shared: self.shared.clone() };
        let mut stored = self.autoencoder.to_weights();
        if let Some(teacher) = &self.teacher {
            stored.extend(weights::deferred(teacher, TEACHER));
        }
        frozen::save(path, &frozen, &stored)
    }

    fn load_frozen(path: &Path, device: &Device) -> Result<Self> {
        let (Frozen { model, readout, distillation, shared }, mut stored) = frozen::load(path)?;
        let plain = device.clone().without_autodiff();
        let autoencoder = Autoencoder::from_weights(&model.autoencoder, &mut stored, &plain)?;
        let mut noise = Noise::seeded(0);
        let teacher = match distillation {
            true => {
                let shape = model.latent_shape()?;
                let blank = Decoder::init(&model.decoder, shape, model.token_shape(), &mut noise, &plain);
                Some(weights::apply(blank, TEACHER, &mut stored))
            }
            false => None,
        };
        stored.finish(path)?;
        Ok(Self { teacher, shared, ..Self::init(&model, readout, autoencoder, &mut noise, device)? })
    }
}
