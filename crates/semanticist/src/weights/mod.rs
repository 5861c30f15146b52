//! Model files: named tensors between modules, our own files and checkpoints published elsewhere.
//!
//! [`Weights`] is what flows: [`collect`] takes it out of a module and [`apply`] puts it back,
//! [`save`] and [`load`] keep it in a `.safetensors` file, [`published`] reads what others wrote,
//! whose names [`names`] translates; [`autoencoder`] is both for autoencoders.

mod module;

mod file;
pub mod header;

pub mod names;
pub mod published;
mod sources;

pub mod autoencoder;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
pub use safetensors::Dtype;

pub use file::{Metadata, Precision, from_bytes, hash, load, save};
pub use module::{Place, apply, collect, deferred, shapes};

// Values are kept as the little-endian bytes that files hold, so that a mapped file needs no copy.
const _: () = assert!(cfg!(target_endian = "little"), "weights assume a little-endian machine");

/// Tensors by name, in the order of their names.
///
/// [`apply`] takes out what a module needs and notes what does not fit; [`Weights::finish`] then
/// reports everything that was missing, misshapen or left over, at once.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    tensors: BTreeMap<String, HostTensor>,
    problems: module::Problems,
}

impl Weights {
    /// No tensors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor, replacing one of the same name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: HostTensor) {
        self.tensors.insert(name.into(), tensor);
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&HostTensor> {
        self.tensors.get(name)
    }

    /// Takes the tensor called `name` out.
    pub fn remove(&mut self, name: &str) -> Option<HostTensor> {
        self.tensors.remove(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// All names and tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HostTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// How many tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Adds all tensors of `other`, replacing those of the same name.
    pub fn extend(&mut self, other: Weights) {
        self.tensors.extend(other.tensors);
    }

    /// Takes out every tensor whose name starts with `prefix`, under the rest of its name.
    ///
    /// This is how to use a part of a file on purpose: `weights.split_prefix("encoder.")`.
    pub fn split_prefix(&mut self, prefix: &str) -> Weights {
        let mut part = Weights::new();
        self.tensors.retain(|name, tensor| match name.strip_prefix(prefix) {
            Some(rest) => {
                part.insert(rest, tensor.clone());
                false
            }
            None => true,
        });
        part
    }
}

/// A tensor in the memory of the host, or in a mapped file: shape, type of the elements, bytes.
///
/// Cloning is cheap: the bytes are shared.
#[derive(Debug, Clone)]
pub struct HostTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Bytes,
}

#[derive(Clone)]
enum Bytes {
    Owned(Arc<Vec<u8>>),
    Mapped(Arc<Mmap>, Range<usize>),
    Static(&'static [u8]),
    /// Read from a file or a device when they are needed, and not kept.
    Deferred(Arc<dyn Fn() -> io::Result<Vec<u8>> + Send + Sync>),
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owned(_) => "Owned",
            Self::Mapped(..) => "Mapped",
            Self::Static(_) => "Static",
            Self::Deferred(_) => "Deferred",
        })
    }
}

impl HostTensor {
    /// A tensor of the given values.
    ///
    /// # Panics
    /// If the number of values is not the product of `shape`.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(Dtype::F32, shape.to_vec(), Bytes::Owned(Arc::new(bytes)))
    }

    /// A row of integers.
    pub fn from_i64(values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(Dtype::I64, vec![values.len()], Bytes::Owned(Arc::new(bytes)))
    }

    /// A tensor whose bytes `read` gives when they are needed.
    fn deferred(
        dtype: Dtype,
        shape: Vec<usize>,
        read: impl Fn() -> io::Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self::new(dtype, shape, Bytes::Deferred(Arc::new(read)))
    }

    /// # Panics
    /// If the bytes do not have the size that shape and type ask for: readers check before.
    fn new(dtype: Dtype, shape: Vec<usize>, bytes: Bytes) -> Self {
        let tensor = Self { dtype, shape, bytes };
        if let Some(bytes) = tensor.resident() {
            assert_eq!(bytes.len(), tensor.size(), "bytes of a {dtype} tensor {:?}", tensor.shape);
        }
        tensor
    }

    /// In bytes.
    fn size(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }

    /// The same elements under another shape.
    ///
    /// # Panics
    /// If it holds another number of elements.
    pub fn reshaped(self, shape: &[usize]) -> Self {
        Self::new(self.dtype, shape.to_vec(), self.bytes)
    }

    /// The length of every axis, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The type of the elements as stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The elements as stored: row-major, little-endian.
    ///
    /// # Panics
    /// If they are read from a pickle or a device only when needed: use [`HostTensor::read`].
    pub fn bytes(&self) -> &[u8] {
        self.resident().expect("the bytes are in memory or mapped")
    }

    /// The elements as stored, from wherever they are.
    ///
    /// # Errors
    /// If they are in a file that cannot be read, or are not as many as there should be.
    pub fn read(&self) -> io::Result<Cow<'_, [u8]>> {
        match (&self.bytes, self.resident()) {
            (_, Some(bytes)) => Ok(Cow::Borrowed(bytes)),
            (Bytes::Deferred(read), None) => {
                let (bytes, expected) = (read()?, self.size());
                if bytes.len() == expected {
                    return Ok(Cow::Owned(bytes));
                }
                let problem = format!("has {} bytes instead of {expected}", bytes.len());
                Err(io::Error::new(io::ErrorKind::InvalidData, problem))
            }
            (_, None) => unreachable!("only what is deferred is not resident"),
        }
    }

    fn resident(&self) -> Option<&[u8]> {
        match &self.bytes {
            Bytes::Owned(bytes) => Some(bytes),
            Bytes::Mapped(map, range) => Some(&map[range.clone()]),
            Bytes::Static(bytes) => Some(bytes),
            Bytes::Deferred(_) => None,
        }
    }

    /// The elements as 32-bit floats; `None` if they are not floats of 16, 32 or 64 bits, or cannot be
    /// read.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        self.read_f32().ok().flatten()
    }

    /// The same, but for what cannot be read.
    ///
    /// # Errors
    /// As [`HostTensor::read`].
    fn read_f32(&self) -> io::Result<Option<Vec<f32>>> {
        let values = self.decoded(&self.read()?);
        self.release();
        Ok(values)
    }

    /// Some of the elements, by their place in row-major order; else as [`HostTensor::to_f32`].
    ///
    /// # Panics
    /// If there are no such elements.
    pub fn values(&self, elements: Range<usize>) -> Option<Vec<f32>> {
        let width = self.dtype.bitsize() / 8;
        self.decoded(&self.read().ok()?[elements.start * width..elements.end * width])
    }

    fn decoded(&self, bytes: &[u8]) -> Option<Vec<f32>> {
        Some(match self.dtype {
            Dtype::F32 => decode(bytes, f32::from_le_bytes),
            Dtype::F16 => decode(bytes, |value| f16::from_le_bytes(value).to_f32()),
            Dtype::BF16 => decode(bytes, |value| bf16::from_le_bytes(value).to_f32()),
            // Rounding to the nearest is what a model in single precision would have stored.
            Dtype::F64 => decode(bytes, |value| f64::from_le_bytes(value) as f32),
            _ => return None,
        })
    }

    /// Gives back the memory of a mapped file's pages, so that a model that is loaded from one is not
    /// in memory twice. Who reads them again gets them from the file.
    #[cfg_attr(unix, expect(unsafe_code, reason = "advice that only a system call gives"))]
    fn release(&self) {
        #[cfg(unix)]
        if let Bytes::Mapped(map, range) = &self.bytes {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is a shared, read-only one of a file, whose pages lose nothing. Where the
            // system refuses, they simply stay.
            let _ = unsafe { map.unchecked_advise_range(advice, range.start, range.len()) };
        }
    }

    /// The elements as integers; `None` unless they are stored as 64-bit integers.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        let bytes = self.read().ok().filter(|_| self.dtype == Dtype::I64)?;
        Some(decode(&bytes, i64::from_le_bytes))
    }

    /// The type under which this tensor is stored at `precision`, unless its values do not fit.
    fn usual_dtype(&self, precision: Precision) -> Dtype {
        match (self.dtype, precision) {
            (Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64, Precision::F32) => Dtype::F32,
            (Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64, Precision::F16) => Dtype::F16,
            (other, _) => other,
        }
    }

    /// The type and bytes under which this tensor is stored at `precision`.
    fn stored(&self, precision: Precision) -> io::Result<(Dtype, Cow<'_, [u8]>)> {
        let already = match precision {
            Precision::F32 => self.dtype == Dtype::F32,
            Precision::F16 => self.dtype == Dtype::F16,
        };
        let values = if already { None } else { self.read_f32()? };
        // Without values to convert, which is also the case for integers, the bytes stay.
        match values {
            Some(values) => Ok(encode(&values, precision)),
            None => Ok((self.dtype, self.read()?)),
        }
    }
}

/// With all threads: fresh memory costs more than the conversion, and is given to each of them at once.
fn decode<T: Send, const N: usize>(bytes: &[u8], element: impl Fn([u8; N]) -> T + Sync) -> Vec<T> {
    const WORTH_A_THREAD: usize = 1 << 16;
    let elements = bytes.as_chunks::<N>().0.par_iter().with_min_len(WORTH_A_THREAD);
    elements.map(|chunk| element(*chunk)).collect()
}

/// Bytes at `precision`; values beyond the range of 16 bits are kept in 32.
fn encode(values: &[f32], precision: Precision) -> (Dtype, Cow<'static, [u8]>) {
    let fits = |value: &f32| !value.is_finite() || f16::from_f32(*value).is_finite();
    if precision == Precision::F16 && values.iter().all(fits) {
        let bytes = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
        (Dtype::F16, Cow::Owned(bytes))
    } else {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (Dtype::F32, Cow::Owned(bytes))
    }
}
