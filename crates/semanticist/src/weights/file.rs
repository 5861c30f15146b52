//! Our model files: one `.safetensors` with the tensors under our names and a `config` entry.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::header::{self, Entry, Header};
use super::{Bytes, Dtype, HostTensor, Weights};
use crate::files::write_atomically;
use crate::{Error, Result};

/// The text entries of a file: `config` holds the model's configuration.
pub type Metadata = BTreeMap<String, String>;

/// How exactly floats are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Exactly as the model has them.
    F32,
    /// In half the space. What 16 bits cannot hold stays in 32, and so does the autoencoder, whose
    /// errors would be seen in every image.
    F16,
}

impl Precision {
    fn of(self, name: &str) -> Self {
        if name.starts_with("autoencoder.") { Self::F32 } else { self }
    }
}

/// Writes a file that appears under its name only when it is complete. Each tensor is read once.
pub fn save(path: &Path, weights: &Weights, metadata: &Metadata, precision: Precision) -> Result<()> {
    let entry = |(name, tensor): (&str, &HostTensor)| Entry {
        name: name.to_owned(),
        dtype: tensor.usual_dtype(precision.of(name)),
        shape: tensor.shape().to_vec(),
    };
    let mut entries: Vec<Entry> = weights.iter().map(entry).collect();
    // Wider elements first, as the format recommends, keeps every tensor aligned.
    entries.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    write_atomically(path, |file| {
        // Whether 16 bits can hold a tensor is known when it is read; the header has room for 32.
        let room = header::write(&in_32_bits(&entries), metadata, 0).len();
        file.write_all(&header::write(&entries, metadata, room))?;
        let mut wider = false;
        for entry in &mut entries {
            let tensor = weights.get(&entry.name).expect("the entries are of these weights");
            let (dtype, bytes) = tensor.stored(precision.of(&entry.name))?;
            file.write_all(&bytes)?;
            wider |= dtype != entry.dtype;
            entry.dtype = dtype;
        }
        if wider {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header::write(&entries, metadata, room))?;
        }
        Ok(())
    })
}

fn in_32_bits(entries: &[Entry]) -> Vec<Entry> {
    let wide = |entry: &Entry| Entry {
        name: entry.name.clone(),
        dtype: if entry.dtype == Dtype::F16 { Dtype::F32 } else { entry.dtype },
        shape: entry.shape.clone(),
    };
    entries.iter().map(wide).collect()
}

/// Opens a file; its tensors are read from the disk as they are used.
///
/// The file must not be changed in place while its weights are in use. ([`save`] never does that.)
pub fn load(path: &Path) -> Result<(Weights, Metadata)> {
    let map = Arc::new(map(path)?);
    let header = header::read(&map).map_err(|problem| Error::file(path, problem))?;
    Ok(split(header, |range| Bytes::Mapped(map.clone(), range)))
}

/// Opens a file that is compiled into the program; `name` is what errors call it.
pub fn from_bytes(name: &str, bytes: &'static [u8]) -> Result<(Weights, Metadata)> {
    let header = header::read(bytes).map_err(|problem| Error::file(name, problem))?;
    Ok(split(header, |range| Bytes::Static(&bytes[range])))
}

/// The identity of a model: SHA-256, in hexadecimal, of its tensors and its `config` entry.
///
/// Other metadata and the order of tensors in the file do not matter; the precision does.
///
/// # Errors
/// If a tensor is on the disk and cannot be read.
pub fn hash(weights: &Weights, metadata: &Metadata) -> io::Result<String> {
    let mut sha = Sha256::new();
    // Every part is preceded by its length, so that no two models run together to the same bytes.
    let mut part = |bytes: &[u8]| {
        sha.update((bytes.len() as u64).to_le_bytes());
        sha.update(bytes);
    };
    part(metadata.get("config").map_or("", String::as_str).as_bytes());
    for (name, tensor) in weights.iter() {
        part(name.as_bytes());
        part(format!("{}{:?}", tensor.dtype(), tensor.shape()).as_bytes());
        part(&tensor.read()?);
        tensor.release();
    }
    Ok(sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[expect(unsafe_code, reason = "a map of a file that somebody else may change")]
fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|source| Error::io(path, "read", source))?;
    let kind = file.metadata().map_err(|source| Error::io(path, "read", source))?;
    if kind.is_dir() {
        return Err(Error::file(path, "is a folder; give the .safetensors file itself"));
    }
    if !kind.is_file() {
        return Err(Error::file(path, "is not a regular file; copy its content into a .safetensors file"));
    }
    // SAFETY: the map is read-only; `load` asks that nobody changes the file in place meanwhile.
    unsafe { Mmap::map(&file) }.map_err(|source| Error::io(path, "map into memory", source))
}

fn split(header: Header, bytes: impl Fn(std::ops::Range<usize>) -> Bytes) -> (Weights, Metadata) {
    let mut weights = Weights::new();
    for (name, info) in header.tensors {
        let (start, end) = info.data_offsets;
        let bytes = bytes(header.data_start + start..header.data_start + end);
        weights.insert(name, HostTensor::new(info.dtype, info.shape, bytes));
    }
    (weights, header.metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> (Weights, Metadata) {
        let mut weights = Weights::new();
        weights.insert("decoder.a", HostTensor::from_f32(&[2, 2], &[1.0, -0.5, 0.1, 3.0]));
        weights.insert("decoder.large", HostTensor::from_f32(&[2], &[1e6, f32::NAN]));
        weights.insert("autoencoder.b", HostTensor::from_f32(&[1], &[0.1]));
        weights.insert("odd", HostTensor::from_f32(&[0, 3], &[]));
        (weights, Metadata::from([("config".into(), "{\"depth\":2}".into()), ("by".into(), "a test".into())]))
    }

    fn saved(precision: Precision) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let (weights, metadata) = small();
        save(&path, &weights, &metadata, precision).unwrap();
        (folder, path)
    }

    #[test]
    fn a_file_gives_back_what_it_was_given_and_nothing_else_is_left() {
        let (folder, path) = saved(Precision::F32);
        let (weights, metadata) = load(&path).unwrap();
        let (expected, expected_metadata) = small();
        assert_eq!(metadata, expected_metadata);
        let names: Vec<&str> = weights.names().collect();
        assert_eq!(names, expected.names().collect::<Vec<_>>());
        for (name, tensor) in expected.iter() {
            let found = weights.get(name).unwrap();
            assert_eq!((found.shape(), found.bytes()), (tensor.shape(), tensor.bytes()), "{name}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn half_precision_spares_the_autoencoder_and_what_would_overflow() {
        let (_folder, path) = saved(Precision::F16);
        let (weights, _) = load(&path).unwrap();
        let dtype = |name: &str| weights.get(name).unwrap().dtype();
        assert_eq!(
            ["decoder.a", "decoder.large", "autoencoder.b"].map(dtype),
            [Dtype::F16, Dtype::F32, Dtype::F32]
        );
        assert_eq!(weights.get("decoder.a").unwrap().to_f32().unwrap(), [1.0, -0.5, 0.099975586, 3.0]);
        let again = path.with_file_name("again.safetensors");
        save(&again, &weights, &small().1, Precision::F16).unwrap();
        assert_eq!(
            std::fs::read(&path).unwrap(),
            std::fs::read(&again).unwrap(),
            "bytes are not deterministic"
        );
    }

    #[test]
    fn a_tensor_is_read_once() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        for precision in [Precision::F32, Precision::F16] {
            let reads = Arc::new(AtomicUsize::new(0));
            let mut weights = Weights::new();
            for (name, value) in [("a", 1.0f32), ("large", 1e6)] {
                let reads = reads.clone();
                let read = move || {
                    reads.fetch_add(1, Ordering::Relaxed);
                    Ok(value.to_le_bytes().to_vec())
                };
                weights.insert(name, HostTensor::deferred(Dtype::F32, vec![1], read));
            }
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("m.safetensors");
            save(&path, &weights, &Metadata::new(), precision).unwrap();
            assert_eq!(reads.load(Ordering::Relaxed), 2);
            let (loaded, _) = load(&path).unwrap();
            let value = |name: &str| loaded.get(name).unwrap().to_f32().unwrap();
            assert_eq!((value("a"), value("large")), (vec![1.0], vec![1e6]));
        }
    }

    #[test]
    fn the_hash_is_of_the_model_only() {
        let (weights, metadata) = small();
        let hash = |weights: &Weights, metadata: &Metadata| hash(weights, metadata).unwrap();
        let expected = hash(&weights, &metadata);
        let (_folder, path) = saved(Precision::F32);
        let (loaded, mut loaded_metadata) = load(&path).unwrap();
        loaded_metadata.remove("by");
        assert_eq!(hash(&loaded, &loaded_metadata), expected);
        loaded_metadata.insert("config".into(), "{}".into());
        assert_ne!(hash(&loaded, &loaded_metadata), expected);
        let (_folder, path) = saved(Precision::F16);
        let (half, _) = load(&path).unwrap();
        assert_ne!(hash(&half, &metadata), expected);
        assert_eq!(expected.len(), 64);
    }

    #[test]
    fn a_failed_save_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        let (weights, metadata) = small();
        assert!(save(&path, &weights, &metadata, Precision::F32).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn no_truncation_is_accepted() {
        let (_folder, path) = saved(Precision::F32);
        let whole: &'static [u8] = std::fs::read(&path).unwrap().leak();
        assert!(from_bytes("built in", whole).is_ok());
        for length in 0..whole.len() {
            assert!(from_bytes("built in", &whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn no_changed_byte_of_the_header_panics() {
        let (_folder, path) = saved(Precision::F32);
        let whole = std::fs::read(&path).unwrap();
        let end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        for place in 0..end {
            for flip in [0x01, 0x02, 0x10, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[place] ^= flip;
                // A changed digit or letter may still make a valid file: reading it must then work.
                if let Ok(read) = header::read(&changed) {
                    split(read, |range| Bytes::Owned(Arc::new(changed[range].to_vec())));
                }
            }
        }
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let tensor = |shape: &str, start: u64, end: u64| {
            format!(r#"{{"dtype":"U8","shape":{shape},"data_offsets":[{start},{end}]}}"#)
        };
        // Eight tensors whose sizes add up to 2^64 - 1: a sum that wraps must not look like a fit.
        let eighth = 1_u64 << 61;
        let wrapping: Vec<String> = (0..8)
            .map(|i| {
                let size = if i == 7 { eighth - 1 } else { eighth };
                format!(r#""{i}":{}"#, tensor(&format!("[{size}]"), i * eighth, i * eighth + size))
            })
            .collect();
        let cases = [
            ("beyond the end", format!(r#"{{"a":{}}}"#, tensor("[9]", 0, 9))),
            ("backwards", format!(r#"{{"a":{}}}"#, tensor("[2]", 2, 0))),
            ("a gap", format!(r#"{{"a":{}}}"#, tensor("[2]", 2, 4))),
            ("overlapping", format!(r#"{{"a":{},"b":{}}}"#, tensor("[3]", 0, 3), tensor("[3]", 1, 4))),
            ("another shape", format!(r#"{{"a":{}}}"#, tensor("[3]", 0, 4))),
            ("an overflowing shape", format!(r#"{{"a":{}}}"#, tensor("[4294967296,4294967296]", 0, 4))),
            ("too little", "{}".to_owned()),
            ("a wrapping sum", format!("{{{}}}", wrapping.join(","))),
            ("no JSON", "{".repeat(1000)),
        ];
        for (what, header) in cases {
            let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
            assert!(header::read(&file).is_err(), "{what}");
        }
    }

    #[test]
    fn what_is_no_model_file_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let message = |content: &[u8]| {
            let path = folder.path().join("m.safetensors");
            std::fs::write(&path, content).unwrap();
            load(&path).unwrap_err().to_string()
        };
        assert!(message(b"").contains("is empty"));
        assert!(message(b"hello, world").contains(r#"begins with "hello, w""#));
        assert!(message(b"PK\x03\x04......").contains("import it first"));
        assert!(message(b"\x00\x00\x00\x00\x00\xff\xff\xff{").contains("is not a safetensors file"));
        assert!(
            message(b"\xff\x00\x00\x00\x00\x00\x00\x00{}").contains("ends after 10 of at least 263 bytes")
        );
        assert!(load(folder.path()).unwrap_err().to_string().contains("is a folder"));
        assert!(load(&folder.path().join("no")).unwrap_err().to_string().contains("cannot read"));
    }
}
