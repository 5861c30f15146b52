//! The header of a safetensors file: read without trust, written the same every time.
//!
//! The `safetensors` crate's own reader is not used for the outer frame, because offsets near the
//! largest integer wrap around in its check against the length of the file.

use safetensors::tensor::Metadata as Layout;
use safetensors::{Dtype, tensor::TensorInfo};

use super::Metadata;

/// The format's own limit, in bytes.
pub const MAX_HEADER: usize = 100_000_000;

const LENGTH: usize = size_of::<u64>();

/// What a header says: the tensors in the order of their offsets, which start at `data_start`.
pub(super) struct Header {
    pub tensors: Vec<(String, TensorInfo)>,
    pub metadata: Metadata,
    pub data_start: usize,
}

/// Whether a file that begins like this can be a safetensors file at all.
pub(super) fn looks_like_safetensors(start: &[u8]) -> bool {
    let length = start.first_chunk::<LENGTH>().map(|length| u64::from_le_bytes(*length));
    length.is_some_and(|length| length <= MAX_HEADER as u64) && start.get(LENGTH) == Some(&b'{')
}

/// Reads and checks the header of a whole file; the error says what is wrong.
pub(super) fn read(file: &[u8]) -> Result<Header, String> {
    if file.is_empty() {
        return Err("is empty; expected a .safetensors file, so copy or download it again".into());
    }
    if !looks_like_safetensors(file) {
        return Err(foreign(file));
    }
    let length = file.first_chunk::<LENGTH>().map_or(0, |length| u64::from_le_bytes(*length)) as usize;
    let data_start = LENGTH + length;
    let json = file.get(LENGTH..data_start).ok_or_else(|| {
        let found = file.len();
        format!("ends after {found} of at least {data_start} bytes; copy or download it again")
    })?;
    let layout: Layout = serde_json::from_slice(json)
        .map_err(|error| format!("has a damaged safetensors header ({error}); copy or download it again"))?;
    let (promised, found) = (layout.data_len(), file.len() - data_start);
    if promised != found {
        return Err(format!(
            "holds {found} bytes of tensors where its header promises {promised}; copy or download it again"
        ));
    }
    let metadata = layout.metadata().clone().unwrap_or_default().into_iter().collect();
    let names = layout.offset_keys().into_iter();
    let tensors = names.filter_map(|name| layout.info(&name).cloned().map(|info| (name, info))).collect();
    Ok(Header { tensors, metadata, data_start })
}

fn foreign(file: &[u8]) -> String {
    let pickle = file.starts_with(b"PK") || file.starts_with(&[0x80]);
    let advice = if pickle {
        "looks like a PyTorch checkpoint; import it first, which writes a .safetensors file"
    } else {
        "expected a .safetensors file, which begins with the length of its JSON header"
    };
    let start = file[..file.len().min(8)].escape_ascii();
    format!("is not a safetensors file (it begins with \"{start}\"); {advice}")
}

/// One tensor of a file to write.
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// The length of every axis.
    pub shape: Vec<usize>,
}

/// The length and the JSON of a header for `entries`, whose bytes must follow in the same order; `room` bytes
/// long, if it would be shorter.
///
/// # Panics
/// If the tensors are together larger than any memory.
pub fn write(entries: &[Entry], metadata: &Metadata, room: usize) -> Vec<u8> {
    let mut json = serde_json::Map::new();
    json.insert("__metadata__".into(), serde_json::json!(metadata));
    let mut start = 0;
    for Entry { name, dtype, shape } in entries {
        let end = start + shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let info = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        json.insert(name.clone(), info);
        start = end;
    }
    let mut text = serde_json::Value::Object(json).to_string().into_bytes();
    // Spaces align the tensors, so that readers may map them in place.
    let length = text.len().max(room.saturating_sub(LENGTH));
    text.resize(length.next_multiple_of(LENGTH), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}
