//! A recorded file, read without trust: every shape, type and range is checked before it is used.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use semanticist::weights::published::{self, PublishedWeights};
use semanticist::weights::{self, Dtype, HostTensor, Metadata, Weights};
use semanticist::{Error, Result};
use serde::de::DeserializeOwned;

/// Recorded tensors. Taking one removes it, so that what is left in the end was not known.
#[derive(Debug)]
pub(super) struct Recording {
    path: PathBuf,
    file: String,
    tensors: Weights,
    metadata: Metadata,
}

impl Recording {
    pub fn open(folder: &Path, file: &str) -> Result<Self> {
        let path = folder.join(file);
        let (tensors, metadata) = weights::load(&path)?;
        Ok(Self { path, file: file.to_string(), tensors, metadata })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the file in its folder.
    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.names()
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.get(name).is_some()
    }

    /// The entry `config` of the metadata; fields that `T` does not have, such as notes, are ignored.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        let text = self.metadata.get("config").ok_or_else(|| {
            self.error("has no \"config\" entry in its metadata; expected a JSON object with the sizes")
        })?;
        serde_json::from_str(text).map_err(|error| self.error(format!("config in the metadata: {error}")))
    }

    /// The lengths of a tensor's axes, none of which is 0.
    pub fn dims<const D: usize>(&self, name: &str) -> Result<[usize; D]> {
        let shape = self.tensors.get(name).ok_or_else(|| self.no_such(name))?.shape();
        match <[usize; D]>::try_from(shape) {
            Ok(dims) if !dims.contains(&0) => Ok(dims),
            _ => Err(self.error(format!("{name} is {shape:?}, expected {D} axes, none of length 0"))),
        }
    }

    /// Takes floats of 32 or 64 bits.
    pub fn floats(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
        let tensor = self.take(name, shape)?;
        if tensor.dtype() == Dtype::F64 {
            let chunks = tensor.bytes().as_chunks::<8>().0;
            return Ok(chunks.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect());
        }
        match tensor.to_f32().filter(|_| tensor.dtype() == Dtype::F32) {
            Some(values) => Ok(values.into_iter().map(f64::from).collect()),
            None => Err(self.error(format!("{name} holds {}, expected F32 or F64", tensor.dtype()))),
        }
    }

    /// Takes floats as a tensor.
    pub fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        device: &Device,
    ) -> Result<Tensor<D>> {
        let values = self.floats(name, &shape)?.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }

    /// Takes integers from 0 to `last`.
    pub fn integers(&mut self, name: &str, shape: &[usize], last: usize) -> Result<Vec<usize>> {
        let tensor = self.take(name, shape)?;
        let values = tensor
            .to_i64()
            .ok_or_else(|| self.error(format!("{name} holds {}, expected I64", tensor.dtype())))?;
        let checked = values.iter().map(|&value| usize::try_from(value).ok().filter(|v| *v <= last));
        let checked: Option<Vec<usize>> = checked.collect();
        checked.ok_or_else(|| self.error(format!("{name} has a number outside 0..={last}")))
    }

    /// Takes the parameters, which are under their published names with `weights.` before them.
    pub fn parameters(&mut self) -> Result<PublishedWeights> {
        published::translate(self.raw_parameters()?, &self.path)
    }

    /// The same without our names for them.
    pub fn raw_parameters(&mut self) -> Result<Weights> {
        let parameters = self.tensors.split_prefix("weights.");
        if parameters.is_empty() {
            return Err(self.error("holds no tensors whose names begin with \"weights.\""));
        }
        Ok(parameters)
    }

    /// [`Recording::parameters`] of an autoencoder with `levels` levels.
    pub fn autoencoder_parameters(&mut self, levels: usize) -> Result<Weights> {
        let parameters = self.tensors.split_prefix("weights.");
        weights::autoencoder::translate_all(parameters, levels, &self.path)
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        let tensor = self.tensors.remove(name).ok_or_else(|| self.no_such(name))?;
        // PyTorch records a number as a tensor without axes.
        if tensor.shape() == shape || (shape == [1] && tensor.shape().is_empty()) {
            return Ok(tensor);
        }
        Err(self
            .error(format!("{name} is {:?}, expected {shape:?} by the sizes in its config", tensor.shape())))
    }

    fn no_such(&self, name: &str) -> Error {
        self.error(format!("holds no tensor called {name}"))
    }

    /// An error about this file.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::file(&self.path, problem)
    }
}
