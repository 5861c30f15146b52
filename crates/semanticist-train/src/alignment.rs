//! Representation alignment: how far hidden states, projected, point away from a teacher's features.

use burn::tensor::Tensor;

/// Shorter vectors are not stretched to length 1 (torch.nn.functional.normalize).
const SHORTEST: f64 = 1e-12;

/// The mean over samples and positions of the negative cosine between projection and teacher:
/// `[1]`, from -1 (aligned) to 1.
///
/// Source: REPA (Yu et al., 2024), eq. 8.
///
/// # Shapes
/// `projection`, `teacher`: `[B, N, T]`
pub fn alignment_loss(projection: Tensor<3>, teacher: Tensor<3>) -> Tensor<1> {
    let cosine = (unit(projection) * unit(teacher)).sum_dim(2); // [B, N, 1]
    -cosine.mean()
}

/// Every vector over its length.
fn unit(x: Tensor<3>) -> Tensor<3> {
    let length = x.clone().square().sum_dim(2).sqrt().clamp_min(SHORTEST); // [B, N, 1]
    x / length
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn loss(projection: [f32; 4]) -> f32 {
        let of = |values: [f32; 4]| {
            Tensor::from_data(TensorData::new(values.to_vec(), [1, 2, 2]), &Device::flex())
        };
        alignment_loss(of(projection), of([3.0, 4.0, 0.0, 2.0])).into_scalar()
    }

    #[test]
    fn the_same_direction_costs_minus_one_and_the_opposite_one() {
        assert!((loss([0.3, 0.4, 0.0, 9.0]) + 1.0).abs() < 1e-6);
        assert!((loss([-0.3, -0.4, 0.0, -9.0]) - 1.0).abs() < 1e-6);
        assert!(loss([4.0, -3.0, 1.0, 0.0]).abs() < 1e-6);
    }
}
