//! The moving average of the weights, which is what gets used after training.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use semanticist_ops as ops;

/// `average + (1 - decay) (module - average)`, parameter by parameter.
///
/// `average` is a copy of `module` without autodiff.
pub fn average<M: Module>(average: M, module: &M, decay: f64) -> M {
    let mut collector = Collector(BTreeMap::new());
    module.visit(&mut collector);
    average.map(&mut Blender { current: collector.0, weight: 1.0 - decay })
}

struct Collector(BTreeMap<ParamId, Tensor<1>>);

impl ModuleVisitor for Collector {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val().inner();
        let count = value.shape().num_elements();
        self.0.insert(param.id, value.reshape([count]));
    }
}

struct Blender {
    current: BTreeMap<ParamId, Tensor<1>>,
    weight: f64,
}

impl ModuleMapper for Blender {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let current = self.current.remove(&param.id).expect("an average keeps the ids of its module");
        param.map(|value| {
            let shape = value.dims();
            let count = value.shape().num_elements();
            ops::blend(value.reshape([count]), current, self.weight).reshape(shape)
        })
    }
}
