//! Token files as safetensors: `tokens` `[n, K, D]`, paths and labels as JSON in the metadata.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;

use semanticist::weights::header::{self, Entry, MAX_HEADER};
use semanticist::weights::{self, Dtype, HostTensor, Metadata};
use semanticist::{Error, Result};

use super::partial::Partial;
use super::{TokenFileInfo, TokenRecord};

const TENSOR: &str = "tokens";
const PATHS: &str = "paths";
const LABELS: &str = "labels";
/// Sizes of padded images; files of earlier versions, and of cropped images only, do not have them.
const PADDED: &str = "padded";

/// The header comes first in the file but is known last, so the tokens wait in a file of their own.
/// Paths and labels wait in memory, which the format's limit on the header bounds.
pub(super) struct Writer {
    payload: BufWriter<File>,
    partial: Partial,
    paths: Vec<String>,
    labels: Vec<Option<i64>>,
    padded: Vec<Option<(u32, u32)>>,
    /// At least as many bytes as all of these take in the header.
    header_bytes: usize,
}

impl Writer {
    pub fn create(path: &Path) -> Result<Self> {
        let (partial, file) = Partial::create(path)?;
        let payload = BufWriter::with_capacity(1 << 20, file);
        Ok(Self {
            payload,
            partial,
            paths: Vec::new(),
            labels: Vec::new(),
            padded: Vec::new(),
            header_bytes: 4096,
        })
    }

    pub fn push(&mut self, record: &TokenRecord) -> Result<()> {
        let TokenRecord { path, label, tokens, padded } = record;
        // JSON inside JSON: quotes and backslashes are escaped twice. A label takes at most 21 bytes, a
        // size 24.
        let escaped = serde_json::Value::from(serde_json::Value::from(path.as_str()).to_string()).to_string();
        self.header_bytes += escaped.len() + 48;
        if self.header_bytes > MAX_HEADER {
            let count = self.paths.len();
            let problem =
                format!("the paths of {count} images fill the header of a .safetensors file; use .parquet");
            return Err(Error::file(self.partial.target(), problem));
        }
        self.paths.push(path.clone());
        self.labels.push(*label);
        self.padded.push(*padded);
        tokens
            .iter()
            .try_for_each(|value| self.payload.write_all(&value.to_le_bytes()))
            .map_err(|error| self.partial.failed(error))
    }

    pub fn finish(self, info: &TokenFileInfo) -> Result<()> {
        let shape = vec![self.paths.len(), info.tokens, info.token_dim];
        let mut metadata: Metadata =
            info.to_metadata().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        metadata.insert(PATHS.into(), serde_json::json!(self.paths).to_string());
        metadata.insert(LABELS.into(), serde_json::json!(self.labels).to_string());
        if self.padded.iter().any(Option::is_some) {
            metadata.insert(PADDED.into(), serde_json::json!(self.padded).to_string());
        }
        let entry = Entry { name: TENSOR.to_owned(), dtype: Dtype::F32, shape };
        let header = header::write(&[entry], &metadata, 0);

        let failed = |error| self.partial.failed(error);
        let mut payload = self.payload.into_inner().map_err(|error| failed(error.into_error()))?;
        let (whole, mut file) = Partial::create(self.partial.target())?;
        file.write_all(&header)
            .and_then(|()| payload.rewind())
            .and_then(|()| io::copy(&mut payload, &mut file))
            .map_err(failed)?;
        whole.complete(&file)
    }
}

/// What is in the header of an image: its path, its label, and its size if it was padded.
type Row = ((String, Option<i64>), Option<(u32, u32)>);

pub(super) struct Reader {
    rows: std::vec::IntoIter<Row>,
    tokens: HostTensor,
    /// The first byte of the next image.
    place: usize,
    row_bytes: usize,
}

impl Reader {
    pub fn open(path: &Path) -> Result<(TokenFileInfo, usize, Self)> {
        let (mut weights, metadata) = weights::load(path)?;
        let info = TokenFileInfo::from_metadata(path, |key| metadata.get(key).cloned())?;
        let tokens = weights.remove(TENSOR).ok_or_else(|| {
            let found: Vec<&str> = weights.names().take(20).collect();
            Error::file(
                path,
                format!("has no tensor {TENSOR}, only [{}]; expected a token file", found.join(", ")),
            )
        })?;
        let paths: Vec<String> = list(path, &metadata, PATHS)?;
        let labels: Vec<Option<i64>> = list(path, &metadata, LABELS)?;
        let n = paths.len();
        let padded: Vec<Option<(u32, u32)>> = match metadata.contains_key(PADDED) {
            true => list(path, &metadata, PADDED)?,
            false => vec![None; n],
        };
        let expected = [n, info.tokens, info.token_dim];
        if tokens.shape() != expected
            || tokens.dtype() != Dtype::F32
            || labels.len() != n
            || padded.len() != n
        {
            let (dtype, shape, count) = (tokens.dtype(), tokens.shape(), labels.len());
            let problem = format!(
                "has tokens {dtype} {shape:?} and {count} labels; its metadata and {n} paths ask for F32 {expected:?}"
            );
            return Err(Error::file(path, problem));
        }
        let rows = paths.into_iter().zip(labels).zip(padded).collect::<Vec<_>>().into_iter();
        let row_bytes = info.values() * size_of::<f32>();
        Ok((info, n, Self { rows, tokens, place: 0, row_bytes }))
    }

    pub fn next_record(&mut self) -> Option<TokenRecord> {
        let ((path, label), padded) = self.rows.next()?;
        let row = &self.tokens.bytes()[self.place..self.place + self.row_bytes];
        self.place += self.row_bytes;
        let tokens = row.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
        Some(TokenRecord { path, label, tokens, padded })
    }
}

fn list<T: serde::de::DeserializeOwned>(path: &Path, metadata: &Metadata, key: &str) -> Result<Vec<T>> {
    let text = metadata.get(key).map_or("", String::as_str);
    serde_json::from_str(text).map_err(|error| {
        Error::file(path, format!("metadata entry {key} is not a JSON list of one entry per image ({error})"))
    })
}
