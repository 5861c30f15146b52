//! Initial values of parameters, drawn when they are first needed: a network whose weights come from
//! a file never draws them, and one that is only asked for its names and shapes takes no memory.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Shape, Tensor, TensorData};

use crate::noise::Noise;

/// A parameter that starts as `value` everywhere.
pub fn constant<const D: usize>(value: f32, shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    lazy(shape, device, move |device| Tensor::full(shape, value, device))
}

/// How a random parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform in `[-bound, bound)`.
    Uniform(f64),
}

impl Initial {
    /// Uniform with variance 2 / (inputs + outputs) (Glorot and Bengio, 2010).
    pub fn glorot(inputs: usize, outputs: usize) -> Self {
        Self::Uniform((6.0 / (inputs + outputs) as f64).sqrt())
    }

    /// A parameter that starts like this; what is random is settled by the state of `noise` now.
    pub fn parameter<const D: usize>(
        self,
        shape: [usize; D],
        noise: &mut Noise,
        device: &Device,
    ) -> Param<Tensor<D>> {
        let mut noise = noise.fork();
        lazy(shape, device, move |device| match self {
            Self::Normal(deviation) => noise.normal(shape, device) * deviation,
            Self::Uniform(bound) => {
                let values = noise.uniform(shape.iter().product()).into_iter();
                let values = values.map(|v| (2.0 * v - 1.0) * bound as f32).collect::<Vec<_>>();
                Tensor::from_data(TensorData::new(values, shape), device)
            }
        })
    }
}

fn lazy<const D: usize>(
    shape: [usize; D],
    device: &Device,
    values: impl FnOnce(&Device) -> Tensor<D> + Send + Sync + 'static,
) -> Param<Tensor<D>> {
    let init = |device: &Device, learns: bool| values(device).set_require_grad(learns);
    Param::uninitialized(ParamId::new(), init, device.clone(), true, Shape::new(shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_depend_on_the_order_of_parameters_not_on_the_order_of_use() {
        let device = Device::flex();
        let pair = || {
            let mut noise = Noise::seeded(1);
            [0, 1].map(|_| Initial::Normal(1.0).parameter([8], &mut noise, &device))
        };
        let ([first, second], [other_first, other_second]) = (pair(), pair());
        let in_order = [first.val().into_data(), second.val().into_data()];
        let second = other_second.val().into_data();
        assert_eq!(in_order, [other_first.val().into_data(), second]);
        assert_ne!(in_order[0], in_order[1]);
    }

    #[test]
    fn nothing_is_drawn_before_it_is_needed_and_what_is_needed_learns() {
        let parameter =
            Initial::Uniform(0.5).parameter([1 << 20, 1 << 20], &mut Noise::seeded(1), &Device::flex());
        assert!(!parameter.is_initialized());
        assert_eq!(parameter.lazy_shape(), Shape::new([1 << 20, 1 << 20]));
        let device = Device::flex().autodiff();
        let parameter = constant(2.0, [2], &device);
        let gradients = (parameter.val() * 3.0).sum().backward();
        let gradient = parameter.val().grad(&gradients).unwrap();
        assert_eq!(gradient.into_data().try_to_vec::<f32>().unwrap(), [3.0, 3.0]);
    }
}
