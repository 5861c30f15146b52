//! Self-attention on packed queries, keys and values in bfloat16: the tiles of the float32 version, with
//! scores, weights before rounding and sums in float32.

use burn::tensor::bf16;
use rayon::prelude::*;

use super::Stored;
use super::product::{COLUMNS, Left, ROWS, Right, transposed};
use super::sums::{LANES, PairSums, Task, dispatch};
use crate::flex::attention::{Sizes, Tile};
use crate::flex::{Shared, numeric};

/// Query rows per tile: a multiple of the rows that vectors take at once, and of those of AMX.
const TILE: usize = 96;

/// A right matrix in panels, one after another.
struct Panels {
    packed: Vec<u32>,
    columns: usize,
    pairs: usize,
}

impl Panels {
    /// Room for `[depth, columns]`, of which less may be used.
    fn new(columns: usize, depth: usize) -> Self {
        let pairs = depth.div_ceil(2);
        Self { packed: vec![0; columns.next_multiple_of(LANES) * pairs], columns, pairs }
    }

    #[inline(always)]
    fn pack(&mut self, right: Right, depth: usize) {
        let pairs = self.pairs;
        for (i, panel) in self.packed.chunks_mut(COLUMNS * pairs).enumerate() {
            let columns = i * COLUMNS..self.columns.min((i + 1) * COLUMNS);
            let width = panel.len() / pairs;
            right.pack(&mut panel[..depth.div_ceil(2) * width], columns, [0, depth], width);
        }
    }

    /// The product of `rows` rows of `left` with the first `columns` columns, `depth` deep: `finish` gets
    /// the number of a row, that of a column, and the sums from there on.
    #[inline(always)]
    fn multiply<K: PairSums>(
        &self,
        k: K,
        left: Left,
        [rows, columns, depth]: [usize; 3],
        mut finish: impl FnMut(usize, usize, &mut [f32]),
    ) {
        for (i, panel) in self.packed.chunks(COLUMNS * self.pairs).enumerate() {
            let first = i * COLUMNS;
            if first >= columns {
                return;
            }
            let (width, count) = (panel.len() / self.pairs, COLUMNS.min(columns - first));
            let panel = &panel[..depth.div_ceil(2) * width];
            k.by_panel(
                left,
                0..rows,
                panel,
                width,
                #[inline(always)]
                |row, sums| {
                    for (r, sums) in sums.iter_mut().enumerate() {
                        finish(row + r, first, &mut sums[..count]);
                    }
                },
            );
        }
    }
}

/// The attention of every head of every sample, and the logarithm of each row's sum.
pub fn forward(qkv: &[bf16], sizes: Sizes) -> (Vec<bf16>, Vec<f32>) {
    let Sizes { batch, positions: n, heads, .. } = sizes;
    assert_eq!(qkv.len(), 3 * batch * n * sizes.width(), "one row for each position");
    let mut out = vec![bf16::default(); batch * n * sizes.width()];
    let mut log_sum = vec![0.0; batch * heads * n];
    let shared = Shared(out.as_mut_ptr());
    log_sum.par_chunks_mut(n).enumerate().for_each_init(
        || ForwardScratch::new(sizes),
        |scratch, (task, log_sum)| {
            let head = Head { qkv, sizes, sample: task / heads, head: task % heads };
            dispatch(Forward { head, scratch, log_sum, out: shared });
        },
    );
    (out, log_sum)
}

/// Memory of a thread.
struct ForwardScratch {
    keys: Panels,
    values: Panels,
    scores: Vec<f32>,
    weights: Vec<bf16>,
}

impl ForwardScratch {
    fn new(Sizes { positions: n, head, .. }: Sizes) -> Self {
        Self {
            keys: Panels::new(n, head),
            values: Panels::new(head, n),
            scores: vec![0.0; TILE * n],
            weights: vec![bf16::default(); TILE * n.next_multiple_of(2)],
        }
    }
}

/// One head of one sample.
#[derive(Clone, Copy)]
struct Head<'a> {
    qkv: &'a [bf16],
    sizes: Sizes,
    sample: usize,
    head: usize,
}

impl<'a> Head<'a> {
    /// Where part 0, 1 or 2 (queries, keys, values) of row `row` starts.
    fn packed(&self, part: usize, row: usize) -> usize {
        let width = self.sizes.width();
        (self.sample * self.sizes.positions + row) * self.stride()
            + part * width
            + self.head * self.sizes.head
    }

    /// From one row of `qkv` to the next.
    fn stride(&self) -> usize {
        3 * self.sizes.width()
    }

    /// Part 0, 1 or 2 from `row` on.
    fn part(&self, part: usize, row: usize) -> &'a [bf16] {
        &self.qkv[self.packed(part, row)..]
    }

    /// Where this head's columns of row `row` start in `[B, N, W]`.
    fn place(&self, row: usize) -> usize {
        (self.sample * self.sizes.positions + row) * self.sizes.width() + self.head * self.sizes.head
    }
}

struct Forward<'a> {
    head: Head<'a>,
    scratch: &'a mut ForwardScratch,
    log_sum: &'a mut [f32],
    out: Shared<bf16>,
}

impl Task for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<K: PairSums>(self, k: K) {
        let Self { head, scratch, log_sum, out } = self;
        let Sizes { positions: n, head: d, .. } = head.sizes;
        let stride = head.stride();
        let ForwardScratch { keys, values, scores, weights } = scratch;
        keys.pack(Right::Transposed { values: head.part(1, 0), stride }, d);
        values.pack(Right::Plain { values: head.part(2, 0), stride }, n);
        for tile in head.sizes.tiles(TILE) {
            let queries = Left::rows(head.part(0, tile.start), stride);
            write_rows(k, keys, queries, [tile.rows, tile.keys, d], scores);
            let wide = tile.keys.next_multiple_of(2);
            let mut inverse = [0.0f32; TILE];
            let lines =
                scores.chunks_exact_mut(tile.keys).zip(weights.chunks_exact_mut(wide)).take(tile.rows);
            for (row, (scores, weights)) in lines.enumerate() {
                let scores = &mut scores[..tile.seen(row)];
                let (highest, sum) = exponentials(scores, head.sizes.scale());
                inverse[row] = 1.0 / sum;
                log_sum[tile.start + row] = highest + sum.ln();
                round_row(weights, scores);
            }
            values.multiply(
                k,
                Left::rows(weights, wide),
                [tile.rows, d, tile.keys],
                #[inline(always)]
                |row, first, sums| {
                    // SAFETY: inside the result; only this task writes this head's columns.
                    let out = unsafe { out.slice(head.place(tile.start + row) + first, sums.len()) };
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = bf16::write(*sum * inverse[row]);
                    }
                },
            );
        }
    }
}

/// `out [rows, columns] = left right`.
#[inline(always)]
fn write_rows<K: PairSums>(k: K, right: &Panels, left: Left, sizes: [usize; 3], out: &mut [f32]) {
    let columns = sizes[1];
    right.multiply(
        k,
        left,
        sizes,
        #[inline(always)]
        |row, first, sums| {
            out[row * columns + first..][..sums.len()].copy_from_slice(sums);
        },
    );
}

/// Raw scores become the exponentials of how far they lie below the highest; that, scaled, and their sum.
#[inline(always)]
fn exponentials(scores: &mut [f32], scale: f32) -> (f32, f32) {
    let highest = numeric::max(scores) * scale;
    for v in scores.iter_mut() {
        *v = numeric::exp(*v * scale - highest);
    }
    (highest, numeric::sum(scores, |v| v))
}

/// A vector rounded; a loop, because the compiler makes no vectors of `map`.
#[inline(always)]
fn rounded_lanes(x: [f32; LANES]) -> [bf16; LANES] {
    let mut y = [bf16::ZERO; LANES];
    for i in 0..LANES {
        y[i] = bf16::write(x[i]);
    }
    y
}

/// `x` rounded, and 0 behind it.
#[inline(always)]
fn round_row(to: &mut [bf16], x: &[f32]) {
    let (to, rest) = to.split_at_mut(x.len());
    for (to, x) in to.chunks_mut(LANES).zip(x.chunks(LANES)) {
        numeric::put(to, rounded_lanes(numeric::lanes(x)));
    }
    rest.fill(bf16::default());
}

/// The gradient of `qkv`; `grad` and `out` are `[B, N, W]`.
pub fn backward(qkv: &[bf16], out: &[bf16], log_sum: &[f32], grad: &[bf16], sizes: Sizes) -> Vec<bf16> {
    let Sizes { batch, positions: n, heads, .. } = sizes;
    let whole = batch * n * sizes.width();
    assert_eq!([qkv.len(), out.len(), grad.len()], [3 * whole, whole, whole], "one row for each position");
    let mut d_qkv = vec![bf16::default(); qkv.len()];
    let shared = Shared(d_qkv.as_mut_ptr());
    (0..batch * heads).into_par_iter().for_each_init(
        || BackwardScratch::new(sizes),
        |scratch, task| {
            let head = Head { qkv, sizes, sample: task / heads, head: task % heads };
            let log_sum = &log_sum[task * n..(task + 1) * n];
            dispatch(Backward { head, out, grad, log_sum, scratch, d_qkv: shared });
        },
    );
    d_qkv
}

/// Memory of a thread.
struct BackwardScratch {
    /// Keys and values as columns, `[d, n]`.
    columns: [Panels; 2],
    /// Keys as rows, `[n, d]`.
    keys: Panels,
    /// Queries and gradients of a tile as rows, `[tile, d]`.
    rows: [Panels; 2],
    /// Attention weights and the gradients of scores of a tile.
    wide: [Vec<f32>; 2],
    /// The same rounded.
    narrow: [Vec<bf16>; 2],
    transposed: Vec<bf16>,
    /// The gradients of keys and values, `[n, d]`.
    sums: [Vec<f32>; 2],
}

impl BackwardScratch {
    fn new(Sizes { positions: n, head: d, .. }: Sizes) -> Self {
        Self {
            columns: [(); 2].map(|()| Panels::new(n, d)),
            keys: Panels::new(d, n),
            rows: [(); 2].map(|()| Panels::new(d, TILE)),
            wide: [(); 2].map(|()| vec![0.0; TILE * n]),
            narrow: [(); 2].map(|()| vec![bf16::default(); TILE * n.next_multiple_of(2)]),
            transposed: vec![bf16::default(); n.next_multiple_of(ROWS) * TILE],
            sums: [(); 2].map(|()| vec![0.0; n * d]),
        }
    }
}

struct Backward<'a> {
    head: Head<'a>,
    out: &'a [bf16],
    grad: &'a [bf16],
    log_sum: &'a [f32],
    scratch: &'a mut BackwardScratch,
    d_qkv: Shared<bf16>,
}

impl Task for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<K: PairSums>(self, k: K) {
        let Self { head, out, grad, log_sum, scratch, d_qkv } = self;
        let Sizes { positions: n, head: d, .. } = head.sizes;
        let (stride, width) = (head.stride(), head.sizes.width());
        let BackwardScratch { columns, keys, rows, wide, narrow, transposed: turned, sums } = scratch;
        for (panels, part) in columns.iter_mut().zip([1, 2]) {
            panels.pack(Right::Transposed { values: head.part(part, 0), stride }, d);
        }
        keys.pack(Right::Plain { values: head.part(1, 0), stride }, n);
        sums.iter_mut().for_each(|sums| sums.fill(0.0));
        for tile in head.sizes.tiles(TILE) {
            let place = head.place(tile.start);
            let (queries, grads) = (head.part(0, tile.start), &grad[place..]);
            // Raw scores and the gradients of weights.
            write_rows(k, &columns[0], Left::rows(queries, stride), [tile.rows, tile.keys, d], &mut wide[0]);
            write_rows(k, &columns[1], Left::rows(grads, width), [tile.rows, tile.keys, d], &mut wide[1]);
            softmax_backward(head, [out, grad], log_sum, tile, wide, narrow);
            let even = tile.keys.next_multiple_of(2);
            let scores = Left::rows(&narrow[1], even);
            keys.multiply(
                k,
                scores,
                [tile.rows, d, tile.keys],
                #[inline(always)]
                |row, first, sums| {
                    // SAFETY: inside the result; only this task writes this head's columns.
                    let d_q = unsafe { d_qkv.slice(head.packed(0, tile.start + row) + first, sums.len()) };
                    round_row(d_q, sums);
                },
            );
            // The gradients of scores meet the queries, weights the gradients of the answer.
            let right = [(queries, stride), (grads, width)];
            for i in 0..2 {
                rows[i].pack(Right::Plain { values: right[i].0, stride: right[i].1 }, tile.rows);
                let pairs = tile.rows.div_ceil(2);
                let turned = &mut turned[..tile.keys.next_multiple_of(ROWS) * 2 * pairs];
                transposed(&narrow[1 - i], even, [tile.keys, tile.rows], K::ORDER, turned);
                let left = Left::transposed(turned, pairs, K::ORDER);
                let sums = &mut sums[i];
                rows[i].multiply(
                    k,
                    left,
                    [tile.keys, d, tile.rows],
                    #[inline(always)]
                    |row, first, more| {
                        for (sum, more) in sums[row * d + first..].chunks_mut(LANES).zip(more.chunks(LANES)) {
                            let (mut total, more) = (numeric::lanes(sum), numeric::lanes(more));
                            for i in 0..LANES {
                                total[i] += more[i];
                            }
                            numeric::put(sum, total);
                        }
                    },
                );
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (row, sums) in sums.chunks_exact(d).enumerate() {
                // SAFETY: as above.
                round_row(unsafe { d_qkv.slice(head.packed(1 + i, row), d) }, sums);
            }
        }
    }
}

/// Raw scores become weights, and the weights' gradients become the scores' gradients, both rounded.
#[inline(always)]
fn softmax_backward(
    head: Head,
    [out, grad]: [&[bf16]; 2],
    log_sum: &[f32],
    tile: Tile,
    wide: &mut [Vec<f32>; 2],
    narrow: &mut [Vec<bf16>; 2],
) {
    let (scale, d, even) = (head.sizes.scale(), head.sizes.head, tile.keys.next_multiple_of(2));
    for row in 0..tile.rows {
        let place = head.place(tile.start + row);
        let along = dot(&out[place..place + d], &grad[place..place + d]);
        let log_sum = log_sum[tile.start + row];
        let [scores, d_weights] = wide.each_ref().map(|x| &x[row * tile.keys..][..tile.seen(row)]);
        let [weights, d_scores] = narrow.each_mut().map(|x| {
            let line = &mut x[row * even..][..even];
            line[scores.len()..].fill(bf16::default());
            &mut line[..scores.len()]
        });
        // Vectors to the end: a loop that the compiler makes of single numbers ends with up to 63 of those.
        let read = scores.chunks(LANES).zip(d_weights.chunks(LANES));
        let written = weights.chunks_mut(LANES).zip(d_scores.chunks_mut(LANES));
        for ((scores, d_weights), (weights, d_scores)) in read.zip(written) {
            let (mut weight, mut d_score) = (numeric::lanes(scores), numeric::lanes(d_weights));
            for i in 0..LANES {
                weight[i] = numeric::exp(weight[i] * scale - log_sum);
                d_score[i] = weight[i] * (d_score[i] - along) * scale;
            }
            numeric::put(weights, rounded_lanes(weight));
            numeric::put(d_scores, rounded_lanes(d_score));
        }
    }
}

/// The inner product of two rows, in as many sums as a vector has.
#[inline(always)]
fn dot(a: &[bf16], b: &[bf16]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a.read() * b.read();
        }
    }
    numeric::total(sums)
}
