//! Which data it is: a short text that is equal for equal data, to compare a resumed run's with its own.

use sha2::{Digest, Sha256};

/// How many items are read whole; of the others, what is known without reading them counts.
pub(crate) const SAMPLED: usize = 64;

/// Collects what data is told apart by.
#[derive(Default)]
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds a part. Its length goes first, so that no two lists of parts run together to the same bytes.
    pub fn add(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// 16 hexadecimal digits, preceded by the number of items, which helps whoever reads it.
    pub fn finish(self, items: usize) -> String {
        let digits: String = self.0.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{items}:{digits}")
    }
}

/// Up to `count` indices below `len`, spread evenly and ascending.
pub fn spread(count: usize, len: usize) -> impl Iterator<Item = usize> {
    let count = count.min(len);
    (0..count).map(move |i| (i as u128 * len as u128 / count.max(1) as u128) as usize)
}
