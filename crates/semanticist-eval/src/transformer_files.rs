//! What published files of vision transformers have in common, whatever they call it.

use std::path::Path;

use semanticist::weights::{HostTensor, Weights};
use semanticist::{Error, Result};

/// Puts queries, keys and values of a block that a file has apart (`query`, `key`, `value`) into one layer (`attention.qkv`); what
/// does not fit is left out, and then missed.
///
/// # Errors
/// If they are not floats.
pub(crate) fn join_attention(weights: &mut Weights, block: &str, width: usize, source: &Path) -> Result<()> {
    for (kind, rest) in [("weight", &[width][..]), ("bias", &[][..])] {
        let parts = ["query", "key", "value"].map(|part| weights.remove(&format!("{block}.{part}.{kind}")));
        if let [Some(query), Some(key), Some(value)] = parts {
            let mut all = Vec::new();
            for part in [query, key, value] {
                all.extend(floats(&part, source)?);
            }
            let shape = [&[3 * width], rest].concat();
            if all.len() == shape.iter().product::<usize>() {
                weights.insert(format!("{block}.attention.qkv.{kind}"), HostTensor::from_f32(&shape, &all));
            }
        }
    }
    Ok(())
}

/// The numbers of a weight.
///
/// # Errors
/// If they are not floats.
pub(crate) fn floats(tensor: &HostTensor, source: &Path) -> Result<Vec<f32>> {
    tensor.to_f32().ok_or_else(|| Error::file(source, "holds weights that are not floating-point numbers"))
}
