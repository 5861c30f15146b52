//! Matrix products of bfloat16 with sums in float32: linear layers and attention.
//!
//! The processor's instruction (`vdpbf16ps` of AVX512-BF16) multiplies pairs: two neighbours along the
//! depth of a product lie in one 32-bit number, on both sides. Where a processor lacks it, the same
//! sums are made in float32 (see [`sums`]), so that results are the same everywhere.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
pub mod attention;
pub mod linear;
mod product;
mod sums;
mod tiles;

pub use sums::{hardware, has_tiles};

use burn::tensor::{Element, bf16};
use rayon::prelude::*;

use super::numeric::vectorised;

/// A number as operators read and write it; they compute in float32.
pub trait Stored: Element {
    fn read(self) -> f32;
    fn write(x: f32) -> Self;
}

impl Stored for f32 {
    #[inline(always)]
    fn read(self) -> f32 {
        self
    }

    #[inline(always)]
    fn write(x: f32) -> Self {
        x
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn read(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// To the nearest, to even in the middle. Written without branches, so that loops become vectors.
    /// What is below the smallest normal number becomes 0, as the processor's instructions read it.
    #[inline(always)]
    fn write(x: f32) -> Self {
        let bits = x.to_bits();
        let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = bits >> 16 | 0x40;
        let magnitude = bits & 0x7fff_ffff;
        let rounded = if magnitude > 0x7f80_0000 { quiet } else { nearest };
        let rounded = if magnitude < 0x0080_0000 { bits >> 16 & 0x8000 } else { rounded };
        bf16::from_bits(rounded as u16)
    }
}

/// Elements per task.
const CHUNK: usize = 32 * 1024;

/// Every number rounded.
pub fn rounded(x: &[f32]) -> Vec<bf16> {
    let mut y = Vec::with_capacity(x.len());
    y.spare_capacity_mut()[..x.len()].par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (y, &x) in y.iter_mut().zip(x) {
                    y.write(bf16::write(x));
                }
            },
        )
    });
    // SAFETY: the chunks cover all of it.
    unsafe { y.set_len(x.len()) };
    y
}

/// Every number as it is, in float32.
pub fn widened(x: &[bf16]) -> Vec<f32> {
    x.iter().map(|x| x.read()).collect()
}

#[cfg(test)]
mod tests;
