//! The numbers that make a KL autoencoder, and the published ones by name.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Everything that defines a KL autoencoder but its weights.
///
/// In a file, `preset = "NAME"` stands for all numbers of a published one; fields beside it replace
/// single numbers. Without a preset every field is needed, but for `decoder_attention` (none),
/// `groups` (32), `quant_conv` (true), `scale` (1, until training estimates it) and `shift` (0).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct KlConfig {
    /// How many channels latents have.
    pub channels: usize,
    /// Width of the first level.
    pub base_width: usize,
    /// Width of each level over the first, from the finest to the coarsest; each level has half the
    /// side of the one before.
    pub width_multipliers: Vec<usize>,
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub blocks: usize,
    /// Levels of the encoder, counted from 0 at the finest, with attention after each block.
    pub encoder_attention: Vec<usize>,
    /// The same of the decoder.
    pub decoder_attention: Vec<usize>,
    /// Groups of channels that are normalised together.
    pub groups: usize,
    /// Whether a linear layer on channels follows the encoder, and another precedes the decoder.
    pub quant_conv: bool,
    /// What latents are multiplied by, so that they have about unit variance.
    pub scale: f64,
    /// What is subtracted from them before.
    pub shift: f64,
}

/// [`KlConfig`] as a file may have it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    preset: Option<String>,
    channels: Option<usize>,
    base_width: Option<usize>,
    width_multipliers: Option<Vec<usize>>,
    blocks: Option<usize>,
    encoder_attention: Option<Vec<usize>>,
    decoder_attention: Option<Vec<usize>>,
    groups: Option<usize>,
    quant_conv: Option<bool>,
    scale: Option<f64>,
    shift: Option<f64>,
}

impl TryFrom<Fields> for KlConfig {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self> {
        let preset = fields.preset.as_deref().map(Self::preset).transpose()?;
        let preset = preset.as_ref();
        let missing = |name: &str| {
            let known = PRESETS.map(|preset| preset.0).join(", ");
            Error::Config(format!("the KL autoencoder has no {name}; give it, or a preset of {known}"))
        };
        let number = |given: Option<usize>, name: &str, of: fn(&Self) -> usize| {
            given.or(preset.map(of)).ok_or_else(|| missing(name))
        };
        let levels = |given: Option<Vec<usize>>, name: &str, of: fn(&Self) -> &Vec<usize>| {
            given.or(preset.map(|preset| of(preset).clone())).ok_or_else(|| missing(name))
        };
        Ok(Self {
            channels: number(fields.channels, "channels", |preset| preset.channels)?,
            base_width: number(fields.base_width, "base_width", |preset| preset.base_width)?,
            width_multipliers: levels(fields.width_multipliers, "width_multipliers", |preset| {
                &preset.width_multipliers
            })?,
            blocks: number(fields.blocks, "blocks", |preset| preset.blocks)?,
            encoder_attention: levels(fields.encoder_attention, "encoder_attention", |preset| {
                &preset.encoder_attention
            })?,
            decoder_attention: fields
                .decoder_attention
                .or(preset.map(|preset| preset.decoder_attention.clone()))
                .unwrap_or_default(),
            groups: fields.groups.or(preset.map(|preset| preset.groups)).unwrap_or(GROUPS),
            quant_conv: fields.quant_conv.or(preset.map(|preset| preset.quant_conv)).unwrap_or(true),
            scale: fields.scale.or(preset.map(|preset| preset.scale)).unwrap_or(1.0),
            shift: fields.shift.or(preset.map(|preset| preset.shift)).unwrap_or(0.0),
        })
    }
}

/// As latent diffusion has them.
const GROUPS: usize = 32;

/// A published autoencoder as data: name, latent channels, width multipliers, levels of the encoder
/// with attention, scale. All have 128 channels in their first level and 2 blocks per level.
type Preset = (&'static str, usize, &'static [usize], &'static [usize], f64);

const PRESETS: [Preset; 2] = [
    // KL-16 of MAR (github.com/LTH14/mar/blob/e0cccf8341aa3276069a5bf2eb4bcb83bebafa4e/models/vae.py):
    // attention at 16×16 positions of a 256×256 image, in the encoder only.
    ("kl-f16-c16", 16, &[1, 1, 2, 2, 4], &[4], 0.2325),
    // Stable Diffusion 1 and 2 (CompVis/stable-diffusion, configs/stable-diffusion/v1-inference.yaml).
    ("kl-f8-c4", 4, &[1, 2, 4, 4], &[], 0.18215),
];

impl KlConfig {
    /// The names that [`KlConfig::preset`] knows.
    pub fn preset_names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|preset| preset.0)
    }

    /// A published autoencoder.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn preset(name: &str) -> Result<Self> {
        let Some(&(_, channels, multipliers, attention, scale)) = PRESETS.iter().find(|p| p.0 == name) else {
            let known = PRESETS.map(|preset| preset.0).join(", ");
            return Err(Error::Config(format!(
                "there is no autoencoder preset \"{name}\"; use one of {known}"
            )));
        };
        Ok(Self {
            channels,
            base_width: 128,
            width_multipliers: multipliers.to_vec(),
            blocks: 2,
            encoder_attention: attention.to_vec(),
            decoder_attention: Vec::new(),
            groups: GROUPS,
            quant_conv: true,
            scale,
            shift: 0.0,
        })
    }

    /// How many levels there are; each but the last halves the side.
    pub fn levels(&self) -> usize {
        self.width_multipliers.len()
    }

    /// The width of a level.
    pub(super) fn width(&self, level: usize) -> usize {
        self.base_width * self.width_multipliers[level]
    }

    /// How many pixels one latent position spans in each direction.
    pub fn stride(&self) -> usize {
        1 << self.levels().saturating_sub(1)
    }

    /// # Errors
    /// Names the first field that does not fit.
    pub fn validate(&self) -> Result<()> {
        const MOST_LEVELS: usize = 16;
        let levels = self.levels();
        let positive = [self.channels, self.base_width, self.blocks, self.groups];
        let misplaced = self.encoder_attention.iter().chain(&self.decoder_attention).find(|&&l| l >= levels);
        let uneven = self
            .width_multipliers
            .iter()
            .map(|&multiplier| self.base_width.saturating_mul(multiplier))
            .find(|&width| width == 0 || self.groups == 0 || !width.is_multiple_of(self.groups));
        let problem = if positive.contains(&0) {
            "channels, base_width, blocks and groups must be positive".to_string()
        } else if !(1..=MOST_LEVELS).contains(&levels) {
            format!("width_multipliers has {levels} levels; use 1 to {MOST_LEVELS}")
        } else if let Some(width) = uneven {
            format!("{} groups do not divide a width of {width}", self.groups)
        } else if let Some(level) = misplaced {
            format!("attention is asked for on level {level}, but the last of {levels} is {}", levels - 1)
        } else if !(self.scale.is_finite() && self.scale > 0.0 && self.shift.is_finite()) {
            format!("scale {} or shift {} is not a number of use", self.scale, self.shift)
        } else {
            return Ok(());
        };
        Err(Error::Config(format!("the KL autoencoder: {problem}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<KlConfig, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn presets_have_the_published_strides_and_are_valid() {
        let strides = KlConfig::preset_names().map(|name| {
            let preset = KlConfig::preset(name).unwrap();
            preset.validate().unwrap();
            (name, preset.stride(), preset.channels)
        });
        assert_eq!(strides.collect::<Vec<_>>(), [("kl-f16-c16", 16, 16), ("kl-f8-c4", 8, 4)]);
        assert!(KlConfig::preset("kl-f4").unwrap_err().to_string().contains("kl-f16-c16, kl-f8-c4"));
    }

    #[test]
    fn a_preset_stands_for_its_numbers_and_fields_replace_them() {
        let preset = KlConfig::preset("kl-f8-c4").unwrap();
        assert_eq!(read(r#"{"preset": "kl-f8-c4"}"#).unwrap(), preset);
        let changed = read(r#"{"preset": "kl-f8-c4", "scale": 0.5, "groups": 16}"#).unwrap();
        assert_eq!(changed, KlConfig { scale: 0.5, groups: 16, ..preset.clone() });
        let written = serde_json::to_string(&preset).unwrap();
        assert!(!written.contains("preset"), "{written}");
        assert_eq!(read(&written).unwrap(), preset);
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        for (text, part) in [
            (r#"{"channels": 4}"#, "no base_width"),
            (r#"{"preset": "kl"}"#, "\"kl\""),
            (r#"{"preset": "kl-f8-c4", "width": 3}"#, "width"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let preset = || KlConfig::preset("kl-f8-c4").unwrap();
        for (config, part) in [
            (KlConfig { groups: 48, ..preset() }, "48 groups"),
            (KlConfig { decoder_attention: vec![4], ..preset() }, "level 4"),
            (KlConfig { width_multipliers: vec![], ..preset() }, "0 levels"),
            (KlConfig { width_multipliers: vec![1, 0], ..preset() }, "width of 0"),
            (KlConfig { scale: f64::NAN, ..preset() }, "scale"),
            (KlConfig { blocks: 0, ..preset() }, "blocks"),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
