//! Gradients by parameter name: collected from a backward pass, added up, measured.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients as Graph, Tensor};
use semanticist::weights::Place;
use semanticist_ops as ops;

/// The gradient of every parameter that got one, flattened, on the device without autodiff.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    by_name: BTreeMap<String, Tensor<1>>,
}

impl Gradients {
    /// The gradients of `module`'s parameters in a finished backward pass.
    pub fn collect<M: Module>(module: &M, graph: &Graph) -> Self {
        let mut collector = Collector { place: Place::default(), graph, gradients: Self::default() };
        module.visit(&mut collector);
        collector.gradients
    }

    /// Adds those of another pass.
    pub fn add(&mut self, other: Self) {
        for (name, gradient) in other.by_name {
            let sum = match self.by_name.remove(&name) {
                Some(present) => present + gradient,
                None => gradient,
            };
            self.by_name.insert(name, sum);
        }
    }

    /// Those of the parameters whose names begin with `prefix`.
    pub fn under(&self, prefix: &str) -> Self {
        let own = self.by_name.iter().filter(|(name, _)| name.starts_with(prefix));
        Self { by_name: own.map(|(name, gradient)| (name.clone(), gradient.clone())).collect() }
    }

    /// Whether no parameter got a gradient.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The gradient of one parameter, flattened.
    pub fn get(&self, name: &str) -> Option<&Tensor<1>> {
        self.by_name.get(name)
    }

    /// The Euclidean norm over all parameters; NaN or infinite if any gradient is.
    pub fn norm(&self) -> f64 {
        let squares: Vec<Tensor<1>> =
            self.by_name.values().map(|gradient| ops::square_sum(gradient.clone())).collect();
        if squares.is_empty() {
            return 0.0;
        }
        let squares = Tensor::cat(squares, 0).into_data();
        squares.iter::<f64>().sum::<f64>().sqrt()
    }
}

struct Collector<'a> {
    place: Place,
    graph: &'a Graph,
    gradients: Gradients,
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.place.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.place.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.graph) {
            let count = gradient.shape().num_elements();
            self.gradients.by_name.insert(self.place.name(), gradient.reshape([count]));
        }
    }
}
