//! Products of matrix tiles: the instructions of AMX, and the same sums made by others.
//!
//! `tdpbf16ps` multiplies 16 rows of 16 pairs with 16 pairs of 16 columns. The products of the pairs'
//! low halves and those of their high halves are summed apart, and both sums then added to what is
//! there (Intel's Software Developer's Manual, volume 2, TDPBF16PS): sums are rounded otherwise than
//! by `vdpbf16ps`, so that results differ in the last bits from those of processors without AMX.

use std::ops::Range;

use super::product::{COLUMNS, Left, ROWS, Sums};
use super::sums::LANES;

/// Rows of a tile, and pairs that one of the left matrix is deep; it has [`LANES`] columns.
pub const TILE: usize = 16;

/// Rows that are multiplied at once: with as many columns, four tiles of sums beside two of each factor.
pub const BLOCK: usize = 2 * TILE;

/// A block of sums, and what it is the sum of; all in elements, strides from row to row.
#[derive(Clone, Copy)]
pub struct Block {
    /// At most [`BLOCK`] rows and columns, columns a multiple of [`LANES`], and any number of pairs.
    pub rows: usize,
    pub columns: usize,
    pub pairs: usize,
    /// Rows of pairs, `left_stride` values apart.
    pub left: *const u16,
    pub left_stride: usize,
    /// Pairs of rows.
    pub right: *const u32,
    pub right_stride: usize,
    /// Rows of sums, [`COLUMNS`] apart.
    pub sums: *mut f32,
}

/// What multiplies tiles.
pub trait Tiles {
    /// Writes the block's sums.
    ///
    /// # Safety
    /// The block's pointers are valid for what it says.
    unsafe fn multiply(&mut self, block: Block);
}

/// Rows `rows` of the left matrix times a packed panel, as [`super::product::by_panel`] says.
///
/// # Panics
/// If the left matrix ends before the last row, or its pairs are not one beside the other.
#[inline(always)]
pub fn by_panel(
    mut tiles: impl Tiles,
    left: Left,
    rows: Range<usize>,
    panel: &[u32],
    width: usize,
    mut finish: impl FnMut(usize, &mut Sums),
) {
    let pairs = panel.len() / width;
    assert!(width <= COLUMNS && width.is_multiple_of(LANES), "columns of a panel");
    let mut sums = [[0.0f32; COLUMNS]; BLOCK];
    for first in rows.clone().step_by(BLOCK) {
        let count = BLOCK.min(rows.end - first);
        let (values, stride) = left.row_major(first, count, pairs);
        for column in (0..width).step_by(BLOCK) {
            let block = Block {
                rows: count,
                columns: BLOCK.min(width - column),
                pairs,
                left: values.as_ptr().cast(),
                left_stride: stride,
                right: panel[column..].as_ptr(),
                right_stride: width,
                sums: sums[0][column..].as_mut_ptr(),
            };
            // SAFETY: `row_major` answers for the rows of the left matrix; the panel has `pairs` lines of
            // `width` pairs, the sums BLOCK rows of COLUMNS.
            unsafe { tiles.multiply(block) };
        }
        for (part, sums) in sums[..count].chunks_mut(ROWS).enumerate() {
            finish(first + part * ROWS, sums);
        }
    }
}

/// Sums as AMX makes them, by other instructions: bit for bit, as far as they are numbers.
#[cfg(test)]
#[derive(Clone, Copy, Default)]
pub struct EmulatedTiles;

#[cfg(test)]
impl Tiles for EmulatedTiles {
    #[inline(always)]
    unsafe fn multiply(&mut self, block: Block) {
        let Block { rows, columns, pairs, left, left_stride, right, right_stride, sums } = block;
        for row in 0..rows {
            for column in 0..columns {
                let mut total = 0.0f32;
                for first in (0..pairs).step_by(TILE) {
                    let (mut low, mut high) = (0.0f32, 0.0f32);
                    for pair in first..pairs.min(first + TILE) {
                        // SAFETY: inside both matrices, as the caller vouches.
                        let (x, y) = unsafe {
                            let x = left.add(row * left_stride + 2 * pair).cast::<u32>().read_unaligned();
                            (x, right.add(pair * right_stride + column).read())
                        };
                        low = normal(normal_half(x << 16).mul_add(normal_half(y << 16), low));
                        high = normal(normal_half(x).mul_add(normal_half(y), high));
                    }
                    total = normal(total + normal(low + high));
                }
                // SAFETY: inside the sums.
                unsafe { sums.add(row * COLUMNS + column).write(total) };
            }
        }
    }
}

/// The bfloat16 in the high half of some bits; what is below the smallest normal number is 0.
#[cfg(test)]
fn normal_half(bits: u32) -> f32 {
    normal(f32::from_bits(bits & 0xffff_0000))
}

/// What is below the smallest normal number is 0.
#[cfg(test)]
fn normal(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}
