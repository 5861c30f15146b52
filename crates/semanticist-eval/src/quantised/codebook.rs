//! Directions, of which the nearest one stands for a vector.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use semanticist::nn::constant;

/// The entries as a file has them, whose lengths say nothing: both tokenizers compare and use their directions
/// (`use_l2_norm`, `codebook_l2_norm`).
#[derive(Module, Debug)]
pub(super) struct Codebook {
    /// `[C, D]`
    weight: Param<Tensor<2>>,
}

impl Codebook {
    pub fn blank([codes, dim]: [usize; 2], device: &Device) -> Self {
        Self { weight: constant(0.0, [codes, dim], device) }
    }

    /// C and D.
    pub fn size(&self) -> [usize; 2] {
        let shape = self.weight.lazy_shape();
        [shape[0], shape[1]]
    }

    /// The entries nearest in direction.
    ///
    /// # Shapes
    /// `[B, K, D]` -> `[B, K]`
    pub fn nearest(&self, latents: Tensor<3>) -> Tensor<2, Int> {
        let [b, k, dim] = latents.dims();
        let latents = unit(latents.reshape([b * k, dim]));
        // Of unit vectors, the nearest has the largest product.
        let products = latents.matmul(self.unit_vectors().transpose()); // [B K, C]
        products.argmax(1).reshape([b, k])
    }

    /// # Shapes
    /// `[B, K]` -> `[B, K, D]`, of length 1
    pub fn vectors(&self, codes: Tensor<2, Int>) -> Tensor<3> {
        let [b, k] = codes.dims();
        self.unit_vectors().select(0, codes.reshape([b * k])).reshape([b, k, self.size()[1]])
    }

    fn unit_vectors(&self) -> Tensor<2> {
        unit(self.weight.val())
    }
}

/// Rows of length 1, as `torch.nn.functional.normalize` makes them.
fn unit(rows: Tensor<2>) -> Tensor<2> {
    let lengths = rows.clone().square().sum_dim(1).sqrt();
    rows / lengths.clamp_min(1e-12)
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    #[test]
    fn directions_decide_and_lengths_do_not() {
        let device = Device::flex();
        let weight = Tensor::from_data(TensorData::new(vec![3.0f32, 0.0, 0.0, 0.1], [2, 2]), &device);
        let book = Codebook { weight: Param::from_tensor(weight) };
        let latents = TensorData::new(vec![0.2f32, 0.1, 5.0, 9.0, 0.0, 0.0], [1, 3, 2]);
        let codes = book.nearest(Tensor::from_data(latents, &device));
        let found: Vec<i64> = codes.to_data().iter().collect();
        assert_eq!(found[..2], [0, 1]);
        let vectors = book.vectors(codes).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(vectors[..4], [1.0, 0.0, 0.0, 1.0]);
    }
}
