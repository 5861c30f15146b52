//! The product of two matrices of bfloat16 in blocks, as the float32 one: columns of the right matrix are
//! packed in panels that stay in the second-level cache while all rows pass by, and the sums of a tile
//! stay in registers (Goto and van de Geijn, 2008).

use std::ops::Range;

use burn::tensor::bf16;
use rayon::prelude::*;

use super::sums::{LANES, PairSums, Task, dispatch, rows_together};
use crate::flex::numeric::vectorised;

/// Rows of a tile; with [`VECTORS`] vectors each, what 32 registers hold beside the operands.
pub const ROWS: usize = 6;

/// Vectors per row of a tile.
const VECTORS: usize = 4;

/// Columns of a panel.
pub const COLUMNS: usize = VECTORS * LANES;

/// Pairs that a packed panel is deep at most: it then takes half of a second-level cache of 1 MiB.
const DEPTH: usize = 2048;

/// How a transposed matrix lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Tiles of [`ROWS`] rows, in each the pairs of all rows one after another: for vectors, which meet one
    /// pair at a time.
    Interleaved,
    /// Row after row, for the tiles of AMX.
    Rows,
}

/// The left matrix, `[rows, depth]`.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    values: &'a [bf16],
    /// From the first row of a tile to that of the next, in values; likewise below.
    tile: usize,
    row: usize,
    pair: usize,
}

impl<'a> Left<'a> {
    /// Rows of `depth` values, `stride` apart; the depth is even.
    pub fn rows(values: &'a [bf16], stride: usize) -> Self {
        Self { values, tile: ROWS * stride, row: stride, pair: 2 }
    }

    /// What [`transposed`] made of a matrix of so many pairs of rows.
    pub fn transposed(values: &'a [bf16], pairs: usize, order: Order) -> Self {
        match order {
            Order::Interleaved => Self { values, tile: 2 * ROWS * pairs, row: 2, pair: 2 * ROWS },
            Order::Rows => Self::rows(values, 2 * pairs),
        }
    }

    /// The values from row `first` on, and how far apart rows begin, of a matrix whose pairs lie one beside
    /// the other.
    ///
    /// # Panics
    /// If they do not, or there are no `pairs` pairs in each of `count` rows.
    #[inline(always)]
    pub fn row_major(&self, first: usize, count: usize, pairs: usize) -> (&'a [bf16], usize) {
        assert_eq!(self.pair, 2, "pairs one beside the other");
        let values = &self.values[first * self.row..];
        assert!((count - 1) * self.row + 2 * pairs <= values.len(), "rows of the left matrix");
        (values, self.row)
    }
}

/// The right matrix, `[depth, columns]`.
#[derive(Clone, Copy)]
pub enum Right<'a> {
    /// Row after row: depth after depth, `stride` values apart.
    Plain { values: &'a [bf16], stride: usize },
    /// Its transpose row after row: column after column, `stride` values apart.
    Transposed { values: &'a [bf16], stride: usize },
}

impl Right<'_> {
    /// Some columns, of depth `from..from + 2 pairs` (of `depth` in all), as `[pairs, width]`; what is not
    /// there is 0.
    #[inline(always)]
    pub fn pack(&self, panel: &mut [u32], columns: Range<usize>, [from, depth]: [usize; 2], width: usize) {
        let (first, count) = (columns.start, columns.len());
        match *self {
            Right::Plain { values, stride } => {
                for (pair, line) in panel.chunks_exact_mut(width).enumerate() {
                    let start = (from + 2 * pair) * stride + first;
                    let low = &values[start..start + count];
                    let high = if from + 2 * pair + 1 < depth {
                        &values[start + stride..start + stride + count]
                    } else {
                        &[]
                    };
                    interleave(line, low, high);
                }
            }
            Right::Transposed { values, stride } => {
                let pairs = panel.len() / width;
                let row = |column: usize, pair: usize| (first + column) * stride + from + 2 * pair;
                for c in (0..width).step_by(LANES) {
                    for p in (0..pairs).step_by(LANES) {
                        let whole =
                            c + LANES <= count && p + LANES <= pairs && from + 2 * (p + LANES) <= depth;
                        if whole {
                            let mut square = [[0; LANES]; LANES];
                            for i in 0..LANES {
                                square[i] = pairs_of(&values[row(c + i, p)..]);
                            }
                            for j in 0..LANES {
                                let line = &mut panel[(p + j) * width + c..][..LANES];
                                for i in 0..LANES {
                                    line[i] = square[i][j];
                                }
                            }
                            continue;
                        }
                        for pair in p..pairs.min(p + LANES) {
                            for column in c..c + LANES {
                                let at = |k: usize| {
                                    let there = column < count && from + 2 * pair + k < depth;
                                    if there { values[row(column, pair) + k].to_bits() } else { 0 }
                                };
                                panel[pair * width + column] = u32::from(at(0)) | u32::from(at(1)) << 16;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// [`LANES`] pairs of neighbours.
#[inline(always)]
fn pairs_of(values: &[bf16]) -> [u32; LANES] {
    let values = &values[..2 * LANES];
    // SAFETY: as many bytes as there are; a bf16 is two of them, and any bits are a number.
    unsafe { values.as_ptr().cast::<[u32; LANES]>().read_unaligned() }
}

/// Pairs of what stands in the same place of two rows; where there is none, 0.
#[inline(always)]
fn interleave(line: &mut [u32], low: &[bf16], high: &[bf16]) {
    if low.len() == COLUMNS && high.len() == COLUMNS && line.len() == COLUMNS {
        for i in 0..COLUMNS {
            line[i] = u32::from(low[i].to_bits()) | u32::from(high[i].to_bits()) << 16;
        }
        return;
    }
    let bits = |row: &[bf16], i: usize| row.get(i).map_or(0, |value| u32::from(value.to_bits()));
    for (i, pair) in line.iter_mut().enumerate() {
        *pair = bits(low, i) | bits(high, i) << 16;
    }
}

/// The transpose of `x` `[depth, rows]`, `stride` values from row to row, as a left matrix of a multiple of
/// [`ROWS`] rows and an even depth.
#[inline(always)]
pub fn transposed(x: &[bf16], stride: usize, [rows, depth]: [usize; 2], order: Order, packed: &mut [bf16]) {
    let pairs = depth.div_ceil(2);
    match order {
        Order::Interleaved => {
            for (tile, packed) in packed.chunks_exact_mut(2 * ROWS * pairs).enumerate() {
                transpose_tile(x, stride, [tile * ROWS, rows, depth], packed);
            }
        }
        Order::Rows => {
            for (block, packed) in packed.chunks_mut(2 * LANES * pairs).enumerate() {
                transpose_rows(x, stride, [block * LANES, rows, depth], packed);
            }
        }
    }
}

/// Rows from `first` on, as many as there is room for, at most [`LANES`].
#[inline(always)]
fn transpose_rows(x: &[bf16], stride: usize, [first, rows, depth]: [usize; 3], packed: &mut [bf16]) {
    let width = depth.next_multiple_of(2);
    let count = LANES.min(rows.saturating_sub(first));
    for from in (0..depth).step_by(LANES) {
        if count == LANES && from + LANES <= depth {
            // A square at a time, which the compiler keeps in registers.
            let mut square = [[bf16::ZERO; LANES]; LANES];
            for (i, line) in square.iter_mut().enumerate() {
                line.copy_from_slice(&x[(from + i) * stride + first..][..LANES]);
            }
            for (row, packed) in packed.chunks_exact_mut(width).enumerate() {
                for (i, value) in packed[from..from + LANES].iter_mut().enumerate() {
                    *value = square[i][row];
                }
            }
            continue;
        }
        for (row, packed) in packed.chunks_exact_mut(width).enumerate() {
            for (i, value) in packed[from..width.min(from + LANES)].iter_mut().enumerate() {
                let there = row < count && from + i < depth;
                *value = if there { x[(from + i) * stride + first + row] } else { bf16::ZERO };
            }
        }
    }
}

#[inline(always)]
fn transpose_tile(x: &[bf16], stride: usize, [first, rows, depth]: [usize; 3], packed: &mut [bf16]) {
    /// What is read of a row at once, more than a tile has: with that the compiler makes vectors.
    const READ: usize = 8;
    let count = ROWS.min(rows - first);
    for (pair, out) in packed.chunks_exact_mut(2 * ROWS).enumerate() {
        let at = 2 * pair * stride + first;
        let last = 2 * pair + 1 == depth;
        if count == ROWS && !last && at + stride + READ <= x.len() {
            let (low, high) = (&x[at..at + READ], &x[at + stride..at + stride + READ]);
            let mut mixed = [bf16::ZERO; 2 * READ];
            for i in 0..READ {
                mixed[2 * i] = low[i];
                mixed[2 * i + 1] = high[i];
            }
            out.copy_from_slice(&mixed[..2 * ROWS]);
            continue;
        }
        let low = &x[at..at + count];
        let high = if last { &[] } else { &x[at + stride..at + stride + count] };
        for i in 0..ROWS {
            out[2 * i] = low.get(i).copied().unwrap_or_default();
            out[2 * i + 1] = high.get(i).copied().unwrap_or_default();
        }
    }
}

/// What [`transposed`] makes, by all threads.
pub fn par_transposed(x: &[bf16], stride: usize, [rows, depth]: [usize; 2], order: Order) -> Vec<bf16> {
    let width = depth.next_multiple_of(2);
    let mut packed = vec![bf16::default(); rows.next_multiple_of(ROWS) * width];
    let together = match order {
        Order::Interleaved => ROWS,
        Order::Rows => LANES,
    };
    packed.par_chunks_mut(together * width).enumerate().for_each(|(part, packed)| {
        let sizes = [part * together, rows, depth];
        vectorised(
            #[inline(always)]
            || match order {
                Order::Interleaved => transpose_tile(x, stride, sizes, packed),
                Order::Rows => transpose_rows(x, stride, sizes, packed),
            },
        )
    });
    packed
}

/// The sums of some rows with the columns of a panel; of a narrower panel, the first of each row.
pub type Sums = [[f32; COLUMNS]];

/// Rows `rows` of the left matrix times a packed panel, by vectors: `finish` gets the number of the first of
/// some rows, no more than [`ROWS`], and their sums.
///
/// # Panics
/// If the left matrix ends before the last row.
#[inline(always)]
pub fn by_panel<K: PairSums>(
    k: K,
    left: Left,
    rows: Range<usize>,
    panel: &[u32],
    width: usize,
    finish: impl FnMut(usize, &mut Sums),
) {
    match width / LANES {
        1 => tiles::<K, 1>(k, left, rows, panel, finish),
        2 => tiles::<K, 2>(k, left, rows, panel, finish),
        3 => tiles::<K, 3>(k, left, rows, panel, finish),
        _ => tiles::<K, VECTORS>(k, left, rows, panel, finish),
    }
}

#[inline(always)]
fn tiles<K: PairSums, const V: usize>(
    k: K,
    left: Left,
    rows: Range<usize>,
    panel: &[u32],
    mut finish: impl FnMut(usize, &mut Sums),
) {
    debug_assert!(rows.start.is_multiple_of(ROWS));
    let pairs = panel.len() / (V * LANES);
    let mut sums = [[0.0f32; COLUMNS]; ROWS];
    for first in rows.clone().step_by(ROWS) {
        let count = ROWS.min(rows.end - first);
        let start = first / ROWS * left.tile;
        // Rows that are not there repeat the last one; nobody reads their sums.
        let mut places = [start; ROWS];
        for (r, place) in places.iter_mut().enumerate() {
            *place += r.min(count - 1) * left.row;
        }
        assert!(
            places[ROWS - 1] + (pairs - 1) * left.pair + 2 <= left.values.len(),
            "rows of the left matrix"
        );
        // SAFETY: the assertion covers the last row's last pair, and those before lie before it; the
        // panel has so many pairs of V vectors; a row of sums has room for V vectors.
        unsafe {
            tile::<K, V>(
                k,
                places.map(|at| left.values.as_ptr().add(at)),
                left.pair,
                panel.as_ptr(),
                pairs,
                &mut sums,
            )
        };
        finish(first, &mut sums[..count]);
    }
}

/// # Safety
/// `pairs` pairs can be read at each of `left`, `step` values apart, and `[pairs, V]` vectors at `right`.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "rows and columns of three arrays, which stay in registers")]
unsafe fn tile<K: PairSums, const V: usize>(
    k: K,
    left: [*const bf16; ROWS],
    step: usize,
    right: *const u32,
    pairs: usize,
    out: &mut [[f32; COLUMNS]; ROWS],
) {
    let mut sums = [[k.zero(); V]; ROWS];
    for p in 0..pairs {
        let mut columns = [k.splat(0); V];
        for v in 0..V {
            // SAFETY: inside the panel.
            columns[v] = unsafe { k.load(right.add((p * V + v) * LANES)) };
        }
        for r in 0..ROWS {
            // SAFETY: inside the left matrix.
            let x = k.splat(unsafe { left[r].add(p * step).cast::<u32>().read_unaligned() });
            for v in 0..V {
                sums[r][v] = k.add(sums[r][v], x, columns[v]);
            }
        }
    }
    for r in 0..ROWS {
        for v in 0..V {
            // SAFETY: V is at most VECTORS.
            unsafe { k.store(out[r].as_mut_ptr().add(v * LANES), sums[r][v]) };
        }
    }
}

/// The product of `[rows, depth]` and `[depth, columns]`, by all threads: `finish` gets the number of the
/// first row of some, the range of columns, and their sums. Each place is finished once.
///
/// # Panics
/// If the matrices are smaller than they should be.
pub fn product<F>(sizes: [usize; 3], left: Left, right: Right, finish: F)
where
    F: Fn(usize, Range<usize>, &mut Sums) + Sync + Send + Copy,
{
    let [rows, columns, depth] = sizes;
    let panels = columns.div_ceil(COLUMNS);
    let parts = row_parts(rows, panels, depth);
    let part = rows.div_ceil(parts).next_multiple_of(rows_together());
    let task = |scratch: &mut Scratch, index: usize| {
        let (panel, first) = (index / parts * COLUMNS, index % parts * part);
        if first < rows {
            let columns = panel..columns.min(panel + COLUMNS);
            let rows = first..rows.min(first + part);
            dispatch(Panel { left, right, rows, columns, depth, scratch, finish });
        }
    };
    let tasks = panels * parts;
    if tasks == 1 {
        task(&mut Scratch::default(), 0);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each_init(Scratch::default, task);
    }
}

/// In how many parts the rows of a panel are worked on: so many that each thread has several tasks, and
/// none where handing them over would take longer than they do.
fn row_parts(rows: usize, panels: usize, depth: usize) -> usize {
    const WORTH_SHARING: usize = 64 * 64 * 64;
    const TASKS_PER_THREAD: usize = 3;
    let wanted = (TASKS_PER_THREAD * rayon::current_num_threads()).div_ceil(panels);
    wanted.min(rows * COLUMNS * depth / WORTH_SHARING).clamp(1, rows.div_ceil(ROWS).max(1))
}

/// Memory of a thread, for one task after another.
#[derive(Default)]
struct Scratch {
    panel: Vec<u32>,
    /// Sums of the depth so far, where it takes more than one panel.
    sums: Vec<[f32; COLUMNS]>,
}

/// One task: some rows, and the columns of one panel.
struct Panel<'a, F> {
    left: Left<'a>,
    right: Right<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    depth: usize,
    scratch: &'a mut Scratch,
    finish: F,
}

impl<F: Fn(usize, Range<usize>, &mut Sums)> Task for Panel<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<K: PairSums>(self, k: K) {
        let Panel { left, right, rows, columns, depth, scratch, finish } = self;
        let width = columns.len().next_multiple_of(LANES);
        let Scratch { panel, sums } = scratch;
        let whole = depth <= 2 * DEPTH;
        if !whole {
            sums.clear();
            sums.resize(rows.len(), [0.0; COLUMNS]);
        }
        for from in (0..depth).step_by(2 * DEPTH) {
            let pairs = DEPTH.min((depth - from).div_ceil(2));
            panel.resize(pairs * width, 0);
            right.pack(panel, columns.clone(), [from, depth], width);
            let left = Left { values: &left.values[from / 2 * left.pair..], ..left };
            if whole {
                return k.by_panel(
                    left,
                    rows,
                    panel,
                    width,
                    #[inline(always)]
                    |row, sums| finish(row, columns.clone(), sums),
                );
            }
            k.by_panel(
                left,
                rows.clone(),
                panel,
                width,
                #[inline(always)]
                |row, more| {
                    let sums = &mut sums[row - rows.start..][..more.len()];
                    for (sum, more) in sums.as_flattened_mut().iter_mut().zip(more.as_flattened()) {
                        *sum += *more;
                    }
                },
            );
        }
        for (tile, sums) in sums.chunks_mut(ROWS).enumerate() {
            finish(rows.start + tile * ROWS, columns.clone(), sums);
        }
    }
}
