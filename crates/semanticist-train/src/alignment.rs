//! Representation alignment: how far hidden states, projected, point away from a teacher's features.

use burn::tensor::Tensor;
use semanticist::nn::resize_grid;

/// Shorter vectors are not stretched to length 1 (torch.nn.functional.normalize).
const SHORTEST: f64 = 1e-12;

/// The mean over samples and positions of the negative cosine between projection and teacher:
/// `[1]`, from -1 (aligned) to 1.
///
/// Source: REPA (Yu et al., 2024), eq. 8. Where the teacher has another grid than the projection, the
/// projection is resized to it, bicubically, as the published code does.
///
/// # Shapes
/// `projection`: `[B, N, T]`, `teacher`: `[B, M, T]`
///
/// # Panics
/// If N and M differ and one of them is no square, or the other axes differ.
pub fn alignment_loss(projection: Tensor<3>, teacher: Tensor<3>) -> Tensor<1> {
    let projection = on_grid(projection, teacher.dims()[1]); // [B, M, T]
    assert_eq!(projection.dims(), teacher.dims(), "projection and teacher of one shape");
    let cosine = (unit(projection) * unit(teacher)).sum_dim(2); // [B, N, 1]
    -cosine.mean()
}

/// The side of a square grid of so many positions, if there is one.
pub fn side(positions: usize) -> Option<usize> {
    Some(positions.isqrt()).filter(|side| side * side == positions)
}

/// The projection where the `wanted` positions of the teacher are.
fn on_grid(projection: Tensor<3>, wanted: usize) -> Tensor<3> {
    let found = projection.dims()[1];
    if found == wanted {
        return projection;
    }
    let [from, to] = [found, wanted].map(|positions| {
        side(positions).unwrap_or_else(|| panic!("{positions} positions are no square grid"))
    });
    resize_grid(projection, from, to)
}

/// Every vector over its length.
fn unit(x: Tensor<3>) -> Tensor<3> {
    let length = x.clone().square().sum_dim(2).sqrt().clamp_min(SHORTEST); // [B, N, 1]
    x / length
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use semanticist::Noise;

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

    #[test]
    fn the_projection_is_resized_to_the_teachers_grid() {
        let mut noise = Noise::seeded(0);
        let device = Device::flex();
        let (projection, teacher) = (noise.normal([2, 9, 4], &device), noise.normal([2, 16, 4], &device));
        let found = alignment_loss(projection.clone(), teacher.clone());
        let expected = alignment_loss(resize_grid(projection, 3, 4), teacher);
        assert_eq!(found.into_data(), expected.into_data());
        // A constant is the same on every grid.
        let constant = noise.normal([1, 1, 4], &device);
        let aligned = alignment_loss(constant.clone().expand([1, 9, 4]), constant.expand([1, 25, 4]));
        assert!((aligned.into_scalar::<f32>() + 1.0).abs() < 1e-6);
    }

    #[test]
    fn equal_counts_of_positions_need_no_grid() {
        let x = Noise::seeded(1).normal([1, 6, 4], &Device::flex());
        assert!((alignment_loss(x.clone(), x).into_scalar::<f32>() + 1.0).abs() < 1e-6);
        assert_eq!([side(16), side(6), side(1)], [Some(4), None, Some(1)]);
    }
}
