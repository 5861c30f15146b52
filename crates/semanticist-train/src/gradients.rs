//! Gradients by parameter name: collected from a backward pass, added up, measured.

use std::collections::BTreeMap;
use std::iter;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients as Graph, Tensor, TensorData};
use semanticist::weights::Place;
use semanticist::{Precision, Result};
use semanticist_ops as ops;

use crate::collective::Collective;

/// Numbers that travel together: 4 MiB of float32. A longer gradient travels alone.
const BUCKET: usize = 1 << 20;

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

    /// The sums over all ranks, which have gradients of the same parameters.
    ///
    /// # Errors
    /// If a rank has ended.
    pub fn summed(self, ranks: &dyn Collective, wire: Precision) -> Result<Self> {
        let mut groups: Vec<Vec<(String, Tensor<1>)>> = Vec::new();
        let mut room = 0;
        for (name, gradient) in self.by_name {
            let count = gradient.shape().num_elements();
            match groups.last_mut() {
                Some(open) if count <= room => open.push((name, gradient)),
                _ => {
                    groups.push(vec![(name, gradient)]);
                    room = BUCKET;
                }
            }
            room = room.saturating_sub(count);
        }
        let mut buckets = groups.iter().map(|group| {
            let gradients = group.iter().map(|(_, gradient)| gradient.clone()).collect();
            Tensor::cat(gradients, 0).into_data().iter::<f32>().collect()
        });
        let sums = ranks.sum(&mut buckets, wire)?;
        let placed = iter::zip(&groups, sums).flat_map(|(group, sums)| {
            let device = group[0].1.device();
            let sizes: Vec<usize> =
                group.iter().map(|(_, gradient)| gradient.shape().num_elements()).collect();
            let count = sums.len();
            let sums = Tensor::<1>::from_data(TensorData::new(sums, [count]), &device);
            let names = group.iter().map(|(name, _)| name.clone());
            names.zip(sums.split_with_sizes(sizes, 0)).collect::<Vec<_>>()
        });
        Ok(Self { by_name: placed.collect() })
    }

    /// A number that tells gradients of other parameters, or of other sizes, from these.
    pub fn layout(&self) -> u32 {
        let entries = self.by_name.iter().map(|(name, gradient)| (name, gradient.shape().num_elements()));
        entries
            .fold(0, |sum, (name, count)| crc32c::crc32c_append(sum, format!("{name} {count}\n").as_bytes()))
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
