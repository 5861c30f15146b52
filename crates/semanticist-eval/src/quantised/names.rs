//! From the names of a published file to ours, and what the shapes of its weights say of the network.

use std::path::Path;

use semanticist::weights::names::{captures, fill};
use semanticist::weights::{HostTensor, Weights};
use semanticist::{Error, Result};

/// Names that an error lists.
const LISTED: usize = 5;

/// How a file calls its weights.
pub(super) struct Convention {
    /// Our name and the published one, with `{…}` for numbers and `{p}` for `weight` or `bias`.
    pub names: Vec<(String, String)>,
    /// Published names of what training alone needs.
    pub unused: &'static [&'static str],
    /// The network, and the files that have it.
    pub expected: [&'static str; 2],
}

impl Convention {
    pub fn known(&self, name: &str) -> bool {
        self.ours(name).is_some()
    }

    fn ours(&self, name: &str) -> Option<String> {
        self.names.iter().find_map(|(ours, theirs)| Some(fill(ours, &captures(name, theirs)?)))
    }

    fn theirs(&self, name: &str) -> String {
        let found = self.names.iter().find_map(|(ours, theirs)| Some(fill(theirs, &captures(name, ours)?)));
        found.unwrap_or_else(|| name.to_string())
    }

    /// All weights under our names; kernels of one position become matrices.
    ///
    /// # Errors
    /// If there are others.
    pub fn translated(&self, found: &Weights, source: &Path) -> Result<Weights> {
        let (mut weights, mut foreign) = (Weights::new(), Vec::new());
        for (name, tensor) in found.iter() {
            match self.ours(name) {
                Some(ours) => weights.insert(ours, without_kernel(tensor.clone())),
                None if self.unused.contains(&name) => {}
                None => foreign.push(name),
            }
        }
        if foreign.is_empty() {
            return Ok(weights);
        }
        foreign.truncate(LISTED);
        Err(self.refusal(source, &format!("it has {}", foreign.join(", "))))
    }

    pub fn refusal(&self, source: &Path, problem: &str) -> Error {
        let [network, files] = self.expected;
        Error::file(source, format!("is not {network}: {problem}; expected {files}"))
    }
}

/// A convolution of 1×1 positions is a linear layer.
fn without_kernel(tensor: HostTensor) -> HostTensor {
    match *tensor.shape() {
        [outputs, inputs, 1, 1] => tensor.reshaped(&[outputs, inputs]),
        _ => tensor,
    }
}

/// Shapes by our names.
pub(super) struct Shapes<'a> {
    pub weights: &'a Weights,
    pub convention: &'a Convention,
    pub source: &'a Path,
}

impl Shapes<'_> {
    /// The shape of a weight, none of whose sides is 0.
    ///
    /// # Errors
    /// If there is none of that name, or it has another number of axes.
    pub fn of<const D: usize>(&self, name: &str) -> Result<[usize; D]> {
        let theirs = || self.convention.theirs(name);
        let Some(tensor) = self.weights.get(name) else {
            return Err(self.refusal(&format!("{} is missing", theirs())));
        };
        match <[usize; D]>::try_from(tensor.shape()) {
            Ok(shape) if !shape.contains(&0) => Ok(shape),
            _ => {
                let found = tensor.shape();
                Err(self.refusal(&format!("{} is {found:?}; expected {D} axes, none of length 0", theirs())))
            }
        }
    }

    /// How many there are in a row: `{}` of the name stands for their numbers.
    pub fn count(&self, name: &str) -> usize {
        (0..)
            .take_while(|number| self.weights.get(&name.replace("{}", &number.to_string())).is_some())
            .count()
    }

    pub fn refusal(&self, problem: &str) -> Error {
        self.convention.refusal(self.source, problem)
    }
}

/// As the published networks normalise channels: in 32 groups. Narrower networks have as many as their narrowest layer has
/// channels.
///
/// # Errors
/// If that does not divide all of `widths`.
pub(super) fn groups(widths: &[usize], shapes: &Shapes) -> Result<usize> {
    let groups = widths.iter().copied().min().unwrap_or(1).min(32);
    match widths.iter().find(|width| !width.is_multiple_of(groups)) {
        Some(width) => Err(shapes.refusal(&format!("{groups} groups do not divide {width} channels"))),
        None => Ok(groups),
    }
}
