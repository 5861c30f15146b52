//! The product of a linear layer, `x weightᵀ + bias`, in blocks.
//!
//! x is packed once, in panels of a few rows. Each task packs the weights of one panel of outputs,
//! which stay in its second-level cache while all rows pass by, and keeps the sums of a tile in
//! registers (Goto and van de Geijn, 2008; here the weights take the place of the cached block,
//! because they lie transposed and a turned panel is used for all rows).

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::Shared;

/// Vectors per row of a tile.
const VECTORS: usize = 3;

/// Rows of a tile: with [`VECTORS`] vectors each, what the registers hold beside the operands.
const fn tile_rows(lanes: usize) -> usize {
    if lanes == 8 { 4 } else { 8 }
}

/// Inputs that a packed panel of weights spans at most.
const DEPTH: usize = 2048;

/// x `[rows, inputs]`, weight `[outputs, inputs]`, bias `[outputs]` -> `[rows, outputs]`.
pub fn product(x: &[f32], weight: &[f32], bias: Option<&[f32]>, inputs: usize) -> Vec<f32> {
    let [rows, outputs] = [x, weight].map(|matrix| matrix.len() / inputs);
    Arch::new().dispatch(Product { x, weight, bias, rows, inputs, outputs })
}

struct Product<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl WithSimd for Product<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        match tile_rows(S::F32_LANES) {
            4 => self.run::<S, 4>(simd),
            _ => self.run::<S, 8>(simd),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) -> Vec<f32> {
        let packed = self.packed_rows::<R>();
        let lengths = [self.x.len(), self.weight.len()];
        assert_eq!(lengths, [self.rows, self.outputs].map(|count| count * self.inputs), "whole rows");
        // Not zeroed: that would be one more pass over memory, by one thread.
        let mut y = Vec::with_capacity(self.rows * self.outputs);
        let out = Shared(y.as_mut_ptr());
        let width = VECTORS * S::F32_LANES;
        (0..self.outputs.div_ceil(width)).into_par_iter().for_each_init(
            || vec![0.0; width * self.inputs.min(DEPTH)],
            |panel, index| {
                let first = index * width;
                let count = width.min(self.outputs - first);
                let task = Panel { product: &self, packed: &packed, out, panel, first, count };
                match count.div_ceil(S::F32_LANES) {
                    1 => simd.vectorize(Wide::<R, 1>(task)),
                    2 => simd.vectorize(Wide::<R, 2>(task)),
                    _ => simd.vectorize(Wide::<R, 3>(task)),
                }
            },
        );
        // SAFETY: the panels cover all outputs, and each writes all rows of its own.
        unsafe { y.set_len(self.rows * self.outputs) };
        y
    }

    /// x in panels of `R` rows, each `[inputs, R]`; rows that are not there are 0.
    fn packed_rows<const R: usize>(&self) -> Vec<f32> {
        let mut packed = vec![0.0; self.rows.div_ceil(R) * R * self.inputs];
        packed.par_chunks_mut(R * self.inputs).zip(self.x.par_chunks(R * self.inputs)).for_each(
            |(panel, rows)| {
                for (row, values) in rows.chunks_exact(self.inputs).enumerate() {
                    for (step, &value) in panel.chunks_exact_mut(R).zip(values) {
                        step[row] = value;
                    }
                }
            },
        );
        packed
    }

    /// The weights of `count` outputs from `first` on, of inputs `from..from + depth`, turned:
    /// `[depth, width]`. Outputs that are not there have what stood there, which nobody reads.
    #[inline(always)]
    fn pack_weights(&self, panel: &mut [f32], [first, count]: [usize; 2], [from, depth]: [usize; 2]) {
        /// A square that is turned within a few cache lines.
        const SIDE: usize = 16;
        let width = panel.len() / depth;
        for c in (0..count).step_by(SIDE) {
            for d in (0..depth).step_by(SIDE) {
                let row = |i: usize| &self.weight[(first + c + i) * self.inputs + from + d..];
                if count - c >= SIDE && depth - d >= SIDE {
                    let square: [[f32; SIDE]; SIDE] =
                        std::array::from_fn(|i| row(i)[..SIDE].try_into().expect("the length is SIDE"));
                    for j in 0..SIDE {
                        let line = &mut panel[(d + j) * width + c..][..SIDE];
                        for i in 0..SIDE {
                            line[i] = square[i][j];
                        }
                    }
                } else {
                    for i in 0..SIDE.min(count - c) {
                        for (j, &value) in row(i)[..SIDE.min(depth - d)].iter().enumerate() {
                            panel[(d + j) * width + c + i] = value;
                        }
                    }
                }
            }
        }
    }
}

/// One task: all rows of some outputs.
struct Panel<'a> {
    product: &'a Product<'a>,
    packed: &'a [f32],
    out: Shared<f32>,
    /// Room for the packed weights.
    panel: &'a mut [f32],
    first: usize,
    count: usize,
}

/// A task whose tiles have `R` rows of `V` vectors.
struct Wide<'a, const R: usize, const V: usize>(Panel<'a>);

impl<const R: usize, const V: usize> WithSimd for Wide<'_, R, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Panel { product, packed, out, panel, first, count } = self.0;
        let Product { rows, inputs, outputs, bias, .. } = *product;
        let part = |v: usize| v * S::F32_LANES..count.min((v + 1) * S::F32_LANES);
        let bias = bias.map(|bias| &bias[first..first + count]);
        let bias: [S::f32s; V] = std::array::from_fn(|v| match bias {
            Some(bias) => simd.partial_load_f32s(&bias[part(v)]),
            None => simd.splat_f32s(0.0),
        });
        for from in (0..inputs).step_by(DEPTH) {
            let depth = DEPTH.min(inputs - from);
            let panel = &mut panel[..depth * V * S::F32_LANES];
            product.pack_weights(panel, [first, count], [from, depth]);
            let (weights, _) = S::as_simd_f32s(panel);
            for row in (0..rows).step_by(R) {
                let tile = R.min(rows - row);
                let line = |r: usize| out.at((row + r) * outputs + first);
                let mut sums = [bias; R];
                if from > 0 {
                    for (r, sums) in sums[..tile].iter_mut().enumerate() {
                        // SAFETY: inside the result, this task's own, and written before.
                        let line = unsafe { std::slice::from_raw_parts(line(r), count) };
                        *sums = std::array::from_fn(|v| simd.partial_load_f32s(&line[part(v)]));
                    }
                }
                let x = &packed[row * inputs + from * R..][..depth * R];
                sums = accumulate(simd, sums, x, weights);
                for (r, sums) in sums[..tile].iter().enumerate() {
                    for (v, sum) in sums.iter().enumerate() {
                        let part = part(v);
                        // SAFETY: inside the result, and this task's own; a vector has at least as many
                        // numbers as its part of the line.
                        unsafe {
                            let sum = std::ptr::from_ref(sum).cast::<f32>();
                            line(r).add(part.start).copy_from_nonoverlapping(sum, part.len());
                        }
                    }
                }
            }
        }
    }
}

/// Adds the products of a tile: `x` `[depth, R]`, `weights` `[depth, V]` vectors. The sums come and go
/// by value, so that they stay in registers.
#[inline(always)]
fn accumulate<S: Simd, const R: usize, const V: usize>(
    simd: S,
    mut sums: [[S::f32s; V]; R],
    x: &[f32],
    weights: &[S::f32s],
) -> [[S::f32s; V]; R] {
    for (x, weights) in x.chunks_exact(R).zip(weights.chunks_exact(V)) {
        for r in 0..R {
            let x = simd.splat_f32s(x[r]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(x, weights[v], sums[r][v]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes that leave part of a tile, a panel and a square over.
    const SIZES: [usize; 3] = [13, 2100, 71];

    #[test]
    fn every_width_of_vectors_gives_the_product() {
        let [rows, inputs, outputs] = SIZES;
        let values = |count: usize, seed: f32| -> Vec<f32> {
            (0..count).map(|i| ((i as f32 + seed) * 12.9898).sin()).collect()
        };
        let (x, weight, bias) =
            (values(rows * inputs, 1.0), values(outputs * inputs, 2.0), values(outputs, 3.0));
        let product = || Product { x: &x, weight: &weight, bias: Some(&bias), rows, inputs, outputs };
        let mut found =
            vec![Simd::vectorize(pulp::Scalar::new(), product()), Arch::new().dispatch(product())];
        #[cfg(target_arch = "x86_64")]
        found.extend(pulp::x86::V3::try_new().map(|simd| Simd::vectorize(simd, product())));
        for row in 0..rows {
            for output in 0..outputs {
                let exact = f64::from(bias[output])
                    + (0..inputs)
                        .map(|i| f64::from(x[row * inputs + i]) * f64::from(weight[output * inputs + i]))
                        .sum::<f64>();
                for found in &found {
                    // The values of a row and of an output rise and fall together: sums reach 1000.
                    let error = (f64::from(found[row * outputs + output]) - exact).abs();
                    assert!(error < 5e-3, "row {row}, output {output}: {error}");
                }
            }
        }
    }
}
