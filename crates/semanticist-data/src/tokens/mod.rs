//! Files of tokens: one row per image with its path, its label and its tokens.
//!
//! The extension says which of two forms: `.parquet`, which any table tool reads and which may be
//! of any length, or `.safetensors`, which array libraries map directly. Both are written and read
//! one row at a time.

mod batches;
pub mod cache;
mod parquet;
mod partial;
mod safetensors;

use std::path::Path;

use semanticist::{Error, Result};

pub use batches::{TokenBatchOptions, TokenBatches, TokenExample};

/// What the tokens of a file have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFileInfo {
    /// The identity of the model that made them: [`semanticist::weights::hash`].
    pub model_hash: String,
    /// How many tokens each image has, K.
    pub tokens: usize,
    /// The width of a token, D.
    pub token_dim: usize,
}

impl TokenFileInfo {
    const MODEL: &str = "semanticist.model";
    const TOKENS: &str = "semanticist.tokens";
    const TOKEN_DIM: &str = "semanticist.token_dim";

    /// How many numbers each image has.
    fn values(&self) -> usize {
        self.tokens * self.token_dim
    }

    fn check(&self, path: &Path) -> Result<()> {
        // The arrow format counts the elements of a row in 32 bits.
        let values = self.tokens.checked_mul(self.token_dim).and_then(|values| i32::try_from(values).ok());
        if values.is_some_and(|values| values > 0) {
            return Ok(());
        }
        let Self { tokens, token_dim, .. } = self;
        Err(Error::file(
            path,
            format!("{tokens} tokens of width {token_dim} per image; expected 1 to 2^31 numbers"),
        ))
    }

    fn to_metadata(&self) -> [(&'static str, String); 3] {
        [
            (Self::MODEL, self.model_hash.clone()),
            (Self::TOKENS, self.tokens.to_string()),
            (Self::TOKEN_DIM, self.token_dim.to_string()),
        ]
    }

    fn from_metadata(path: &Path, get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let entry = |key: &str| {
            let advice = "expected a token file, as `encode` writes it";
            get(key).ok_or_else(|| Error::file(path, format!("has no metadata entry {key}; {advice}")))
        };
        let number = |key: &str| {
            let text = entry(key)?;
            let found =
                || Error::file(path, format!("metadata entry {key} is {text:?}; expected a whole number"));
            text.parse().map_err(|_| found())
        };
        let info = Self {
            model_hash: entry(Self::MODEL)?,
            tokens: number(Self::TOKENS)?,
            token_dim: number(Self::TOKEN_DIM)?,
        };
        info.check(path)?;
        Ok(info)
    }
}

/// One image of a token file.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenRecord {
    /// Where the image came from.
    pub path: String,
    /// Its class, if known.
    pub label: Option<i64>,
    /// Its tokens, one after the other: K × D numbers.
    pub tokens: Vec<f32>,
    /// Width and height of the image in pixels, if the tokens are of all of it with padding beside
    /// ([`semanticist::image::Fit::Pad`]).
    pub padded: Option<(u32, u32)>,
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Parquet,
    Safetensors,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("parquet") => Ok(Self::Parquet),
            Some("safetensors") => Ok(Self::Safetensors),
            _ => Err(Error::file(path, "is not a name for a token file; expected .parquet or .safetensors")),
        }
    }
}

/// Writes a token file, which appears under its name with [`TokenWriter::finish`] or not at all.
pub struct TokenWriter {
    info: TokenFileInfo,
    output: Output,
}

enum Output {
    Parquet(Box<parquet::Writer>),
    Safetensors(safetensors::Writer),
}

impl TokenWriter {
    /// Begins a file in the form that the extension of `path` names.
    pub fn create(path: &Path, info: TokenFileInfo) -> Result<Self> {
        info.check(path)?;
        let output = match Format::of(path)? {
            Format::Parquet => Output::Parquet(Box::new(parquet::Writer::create(path, &info)?)),
            Format::Safetensors => Output::Safetensors(safetensors::Writer::create(path)?),
        };
        Ok(Self { info, output })
    }

    /// Adds an image. A `.safetensors` file has room for 100 MB of paths and labels.
    ///
    /// # Panics
    /// If its tokens are not the K × D numbers that the file was created for.
    pub fn push(&mut self, record: &TokenRecord) -> Result<()> {
        assert_eq!(record.tokens.len(), self.info.values(), "numbers of one image");
        match &mut self.output {
            Output::Parquet(writer) => writer.push(record),
            Output::Safetensors(writer) => writer.push(record),
        }
    }

    /// Completes the file and gives it its name.
    pub fn finish(self) -> Result<()> {
        match self.output {
            Output::Parquet(writer) => writer.finish(),
            Output::Safetensors(writer) => writer.finish(&self.info),
        }
    }
}

/// Reads a token file image by image.
pub struct TokenReader {
    info: TokenFileInfo,
    len: usize,
    input: Input,
}

enum Input {
    Parquet(Box<parquet::Reader>),
    Safetensors(safetensors::Reader),
}

impl TokenReader {
    /// Opens a file and checks its form.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(match Format::of(path)? {
            Format::Parquet => {
                let (info, len, reader) = parquet::Reader::open(path)?;
                Self { info, len, input: Input::Parquet(Box::new(reader)) }
            }
            Format::Safetensors => {
                let (info, len, reader) = safetensors::Reader::open(path)?;
                Self { info, len, input: Input::Safetensors(reader) }
            }
        })
    }

    /// What all images of the file have in common.
    pub fn info(&self) -> &TokenFileInfo {
        &self.info
    }

    /// How many images the file holds, read or not.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the file holds no images.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Iterator for TokenReader {
    type Item = Result<TokenRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.input {
            Input::Parquet(reader) => reader.next_record(),
            Input::Safetensors(reader) => reader.next_record().map(Ok),
        }
    }
}

#[cfg(test)]
mod tests;
