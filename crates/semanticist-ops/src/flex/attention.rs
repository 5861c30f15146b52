//! Self-attention on packed queries, keys and values. A tile of query rows at a time meets the keys
//! it may see, so that no whole score matrix is ever in memory; the backward pass computes the
//! tiles again from the logarithm of each row's sum (Dao et al., 2022, Algorithm 4).

use burn::tensor::Shape;
use rayon::prelude::*;

use super::Shared;
use super::linear::{Strided, product};
use super::numeric::{self, vectorised};

/// Query rows per tile.
const TILE: usize = 64;

#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub batch: usize,
    pub positions: usize,
    pub heads: usize,
    /// Width of one head.
    pub head: usize,
    /// Positions outside the order; see [`crate::Visibility`].
    pub open: usize,
}

impl Sizes {
    pub fn new(qkv: &Shape, heads: usize, open: usize) -> Self {
        let [batch, positions, packed] = qkv.dims();
        assert!(packed.is_multiple_of(3 * heads) && open <= positions, "{heads} heads of {qkv:?}");
        Self { batch, positions, heads, head: packed / 3 / heads, open }
    }

    pub fn width(&self) -> usize {
        self.heads * self.head
    }

    /// What scores are multiplied by.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head as f32).sqrt()
    }

    /// Tiles of at most `most` query rows, none of them across the border between open and ordered
    /// positions.
    pub fn tiles(self, most: usize) -> impl Iterator<Item = Tile> {
        let cut = move |from: usize, to: usize| {
            (from..to).step_by(most).map(move |start| (start, most.min(to - start)))
        };
        cut(0, self.open).chain(cut(self.open, self.positions)).map(move |(start, rows)| Tile {
            start,
            rows,
            keys: if start < self.open { self.open } else { start + rows },
            ordered: start >= self.open,
        })
    }
}

/// Some query rows and how many keys, from the first on, any of them sees.
#[derive(Debug, Clone, Copy)]
pub struct Tile {
    pub start: usize,
    pub rows: usize,
    pub keys: usize,
    ordered: bool,
}

impl Tile {
    /// How many keys row `row` of the tile sees.
    pub fn seen(&self, row: usize) -> usize {
        if self.ordered { self.start + row + 1 } else { self.keys }
    }
}

pub fn forward(qkv: &[f32], sizes: Sizes) -> (Vec<f32>, Vec<f32>) {
    let Sizes { positions: n, heads, head, .. } = sizes;
    let width = sizes.width();
    let mut out = vec![0.0; sizes.batch * n * width];
    let mut log_sum = vec![0.0; sizes.batch * heads * n];
    let shared = Shared(out.as_mut_ptr());
    log_sum.par_chunks_mut(n).enumerate().for_each_init(
        || vec![0.0f32; TILE * n],
        |scores, (task, log_sum)| {
            let (sample, h) = (task / heads, task % heads);
            let part =
                |part: usize, row: usize| &qkv[(sample * n + row) * 3 * width + part * width + h * head..];
            let at = |p, row| Strided { start: part(p, row).as_ptr(), rows: 3 * width as isize, columns: 1 };
            for tile in sizes.tiles(TILE) {
                let scores = &mut scores[..tile.rows * tile.keys];
                score_tile(scores, at(0, tile.start), at(1, 0), tile, head);
                softmax_tile(scores, &mut log_sum[tile.start..tile.start + tile.rows], tile, sizes.scale());
                let out = Strided {
                    start: shared.at((sample * n + tile.start) * width + h * head),
                    rows: width as isize,
                    columns: 1,
                };
                let weights = Strided { start: scores.as_ptr(), rows: tile.keys as isize, columns: 1 };
                let shape = [tile.rows, head, tile.keys];
                // SAFETY: rows and columns are those of the tile, inside the buffers.
                unsafe { product(shape, out, None, weights, at(2, 0), 1.0, gemm::Parallelism::None) };
            }
        },
    );
    (out, log_sum)
}

/// `scores [rows, keys] = left rightᵀ`, both with `head` columns.
fn score_tile(
    scores: &mut [f32],
    left: Strided<*const f32>,
    right: Strided<*const f32>,
    tile: Tile,
    head: usize,
) {
    let out = Strided { start: scores.as_mut_ptr(), rows: tile.keys as isize, columns: 1 };
    let right = Strided { start: right.start, rows: right.columns, columns: right.rows };
    let shape = [tile.rows, tile.keys, head];
    // SAFETY: the callers' matrices have as many rows as the tile, and `head` columns.
    unsafe { product(shape, out, None, left, right, 1.0, gemm::Parallelism::None) };
}

/// Turns raw scores into attention weights in place; keys a row does not see get weight 0.
fn softmax_tile(scores: &mut [f32], log_sum: &mut [f32], tile: Tile, scale: f32) {
    vectorised(
        #[inline(always)]
        || {
            for (row, (line, log_sum)) in scores.chunks_exact_mut(tile.keys).zip(log_sum).enumerate() {
                let (seen, hidden) = line.split_at_mut(tile.seen(row));
                let highest = numeric::max(seen) * scale;
                for v in seen.iter_mut() {
                    *v = numeric::exp(*v * scale - highest);
                }
                let sum = numeric::sum(seen, |v| v);
                let inverse = 1.0 / sum;
                for v in seen.iter_mut() {
                    *v *= inverse;
                }
                hidden.fill(0.0);
                *log_sum = highest + sum.ln();
            }
        },
    )
}

pub fn backward(qkv: &[f32], out: &[f32], log_sum: &[f32], grad: &[f32], sizes: Sizes) -> Vec<f32> {
    let Sizes { batch, positions: n, heads, .. } = sizes;
    let whole = batch * n * sizes.width();
    assert_eq!([qkv.len(), out.len(), grad.len()], [3 * whole, whole, whole], "one row for each position");
    let mut d_qkv = vec![0.0; qkv.len()];
    let shared = Shared(d_qkv.as_mut_ptr());
    (0..batch * heads).into_par_iter().for_each_init(
        || (vec![0.0f32; TILE * n], vec![0.0f32; TILE * n]),
        |(weights, d_scores), task| {
            let head = Head { qkv, out, grad, sizes, sample: task / heads, head: task % heads };
            let log_sum = &log_sum[task * n..(task + 1) * n];
            for tile in sizes.tiles(TILE) {
                let size = tile.rows * tile.keys;
                head.backward_tile(shared, log_sum, &mut weights[..size], &mut d_scores[..size], tile);
            }
        },
    );
    d_qkv
}

/// One head of one sample in the backward pass.
struct Head<'a> {
    qkv: &'a [f32],
    out: &'a [f32],
    grad: &'a [f32],
    sizes: Sizes,
    sample: usize,
    head: usize,
}

impl Head<'_> {
    fn packed(&self, part: usize, row: usize) -> usize {
        let width = self.sizes.width();
        (self.sample * self.sizes.positions + row) * 3 * width + part * width + self.head * self.sizes.head
    }

    /// Part 0, 1 or 2 (queries, keys, values) from `row` on.
    fn read(&self, part: usize, row: usize) -> Strided<*const f32> {
        let start = self.qkv[self.packed(part, row)..].as_ptr();
        Strided { start, rows: 3 * self.sizes.width() as isize, columns: 1 }
    }

    fn write(&self, d_qkv: Shared<f32>, part: usize, row: usize) -> Strided<*mut f32> {
        let start = d_qkv.at(self.packed(part, row));
        Strided { start, rows: 3 * self.sizes.width() as isize, columns: 1 }
    }

    /// Where this head's columns of row `row` start in `[B, N, W]`.
    fn place(&self, row: usize) -> usize {
        (self.sample * self.sizes.positions + row) * self.sizes.width() + self.head * self.sizes.head
    }

    /// This head's columns of row `row` in `[B, N, W]`.
    fn row<'a>(&self, x: &'a [f32], row: usize) -> &'a [f32] {
        &x[self.place(row)..][..self.sizes.head]
    }

    fn backward_tile(
        &self,
        d_qkv: Shared<f32>,
        log_sum: &[f32],
        weights: &mut [f32],
        d_scores: &mut [f32],
        tile: Tile,
    ) {
        let head = self.sizes.head;
        let grad = Strided {
            start: self.grad[self.place(tile.start)..].as_ptr(),
            rows: self.sizes.width() as isize,
            columns: 1,
        };
        score_tile(weights, self.read(0, tile.start), self.read(1, 0), tile, head);
        score_tile(d_scores, grad, self.read(2, 0), tile, head);
        self.softmax_backward(log_sum, weights, d_scores, tile);
        let across = |start| Strided { start, rows: tile.keys as isize, columns: 1 };
        let down = |start| Strided { start, rows: 1, columns: tile.keys as isize };
        let (weights, d_scores) = (weights.as_ptr(), d_scores.as_ptr());
        let (by_query, by_key) = ([tile.rows, head, tile.keys], [tile.keys, head, tile.rows]);
        let none = gemm::Parallelism::None;
        // SAFETY: rows and columns are those of the tile; only this task writes this head's columns.
        unsafe {
            let d_q = self.write(d_qkv, 0, tile.start);
            product(by_query, d_q, None, across(d_scores), self.read(1, 0), 1.0, none);
            let d_k = self.write(d_qkv, 1, 0);
            product(by_key, d_k, Some(1.0), down(d_scores), self.read(0, tile.start), 1.0, none);
            let d_v = self.write(d_qkv, 2, 0);
            product(by_key, d_v, Some(1.0), down(weights), grad, 1.0, none);
        }
    }

    /// Raw scores become weights, and the weights' gradients become the scores' gradients.
    fn softmax_backward(&self, log_sum: &[f32], weights: &mut [f32], d_scores: &mut [f32], tile: Tile) {
        let scale = self.sizes.scale();
        vectorised(
            #[inline(always)]
            || {
                let lines = weights.chunks_exact_mut(tile.keys).zip(d_scores.chunks_exact_mut(tile.keys));
                for (row, (weights, d_scores)) in lines.enumerate() {
                    let position = tile.start + row;
                    let along = numeric::dot(self.row(self.out, position), self.row(self.grad, position));
                    let seen = tile.seen(row);
                    for (weight, d_score) in weights[..seen].iter_mut().zip(&mut d_scores[..seen]) {
                        *weight = numeric::exp(*weight * scale - log_sum[position]);
                        *d_score = *weight * (*d_score - along) * scale;
                    }
                    weights[seen..].fill(0.0);
                    d_scores[seen..].fill(0.0);
                }
            },
        )
    }
}
