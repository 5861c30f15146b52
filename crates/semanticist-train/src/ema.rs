//! The moving average of the weights, which is what gets used after training.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use semanticist::weights::Place;
use semanticist_ops as ops;

/// `average + (1 - decay) (module - average)`, parameter by parameter of the same name.
///
/// `average` is a module of the same structure without autodiff.
pub fn average<M: Module>(average: M, module: &M, decay: f64) -> M {
    let mut collector = Collector { place: Place::default(), values: BTreeMap::new() };
    module.visit(&mut collector);
    average.map(&mut Blender { place: Place::default(), current: collector.values, weight: 1.0 - decay })
}

struct Collector {
    place: Place,
    values: BTreeMap<String, Tensor<1>>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.place.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.place.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val().inner();
        let count = value.shape().num_elements();
        self.values.insert(self.place.name(), value.reshape([count]));
    }
}

struct Blender {
    place: Place,
    current: BTreeMap<String, Tensor<1>>,
    weight: f64,
}

impl ModuleMapper for Blender {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.place.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.place.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let current =
            self.current.remove(&self.place.name()).expect("an average has the parameters of its module");
        param.map(|value| {
            let shape = value.dims();
            let count = value.shape().num_elements();
            ops::blend(value.reshape([count]), current, self.weight).reshape(shape)
        })
    }
}
