//! Between Burn modules and named tensors: a parameter's name is its path through the structs.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};

use super::{Dtype, HostTensor, Weights};
use crate::{Error, Result};

/// How many names of each kind an error lists.
const LISTED: usize = 20;

/// Copies every float parameter of `module` to the host, in 32 bits, under `prefix.path`.
///
/// # Panics
/// If the device cannot hand its tensors over.
pub fn collect<M: Module>(module: &M, prefix: &str) -> Weights {
    let mut collector = Collector { place: Place::new(prefix), weights: Weights::new() };
    module.visit(&mut collector);
    collector.weights
}

/// What [`collect`] gives, but each parameter is copied only when it is read: to write a model to a file
/// takes no second copy of it in memory. [`HostTensor::bytes`] must not be asked of these.
pub fn deferred<M: Module>(module: &M, prefix: &str) -> Weights {
    let mut deferrer = Deferrer { place: Place::new(prefix), weights: Weights::new() };
    module.visit(&mut deferrer);
    deferrer.weights
}

/// The shape of every float parameter of `module`, by the name that [`collect`] gives it; nothing that
/// was never used is drawn for it.
pub fn shapes<M: Module>(module: &M, prefix: &str) -> BTreeMap<String, Vec<usize>> {
    let mut surveyor = Surveyor { place: Place::new(prefix), shapes: BTreeMap::new() };
    module.visit(&mut surveyor);
    surveyor.shapes
}

/// Gives every float parameter of `module` its value from `weights`, taking it out of there.
///
/// Parameters stay on their device and keep their need of gradients. What is missing or has another
/// shape is noted in `weights`; nothing is known to have fitted until [`Weights::finish`] says so.
pub fn apply<M: Module>(module: M, prefix: &str, weights: &mut Weights) -> M {
    module.map(&mut Applier { place: Place::new(prefix), weights })
}

/// What [`apply`] found wrong.
#[derive(Debug, Clone, Default)]
pub(super) struct Problems {
    missing: Vec<String>,
    misfits: Vec<String>,
}

impl Weights {
    /// Fails with one message about all weights that were missing, misshapen or not used.
    pub fn finish(self, source: &Path) -> Result<()> {
        let Problems { missing, misfits } = &self.problems;
        let unused: Vec<&str> = self.names().collect();
        let missing: Vec<String> = missing.iter().map(|name| with_hint(name, &unused)).collect();
        let complaints: Vec<String> =
            [list("missing", &missing), list("of another shape or type", misfits), list("not used", &unused)]
                .into_iter()
                .flatten()
                .collect();
        if complaints.is_empty() {
            return Ok(());
        }
        let found = complaints.join("; ");
        Err(Error::file(
            source,
            format!(
                "does not hold the weights of this model. {found}. Use the configuration it was made with"
            ),
        ))
    }
}

fn list<S: AsRef<str>>(what: &str, names: &[S]) -> Option<String> {
    let shown: Vec<&str> = names.iter().take(LISTED).map(AsRef::as_ref).collect();
    let more = match names.len() - shown.len() {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    (!names.is_empty()).then(|| format!("{} {what}: {}{more}", names.len(), shown.join(", ")))
}

/// `missing (did you mean …?)` if a left-over name differs by little.
fn with_hint(missing: &str, unused: &[&str]) -> String {
    // Bounded, because the file decides how many and how long the names are.
    const COMPARED: usize = 200;
    const LENGTH: usize = 200;
    let candidates = unused.iter().take(COMPARED).filter(|name| name.len() <= LENGTH);
    let nearest = candidates.map(|name| (strsim::levenshtein(missing, name), *name)).min();
    match nearest {
        Some((distance, name)) if distance * 4 <= missing.len() => {
            format!("{missing} (the unused {name} is similar)")
        }
        _ => missing.to_owned(),
    }
}

/// Where in a module a visitor or mapper is; the path there is the name of a parameter.
#[derive(Debug, Clone, Default)]
pub struct Place(Vec<String>);

impl Place {
    /// At the root of a module whose names begin with `prefix`.
    pub fn new(prefix: &str) -> Self {
        Self(prefix.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }

    /// Into a child.
    pub fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    /// Back to the parent.
    pub fn exit(&mut self) {
        self.0.pop();
    }

    /// Such as `encoder.blocks.0.norm1.weight`.
    pub fn name(&self) -> String {
        self.0.join(".")
    }
}

struct Collector {
    place: Place,
    weights: Weights,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.place.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.place.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let shape = tensor.dims();
        let data = tensor.into_data().convert_dtype(DType::F32);
        let values = data.as_slice::<f32>().expect("the data was just converted to f32");
        self.weights.insert(self.place.name(), HostTensor::from_f32(&shape, values));
    }
}

struct Deferrer {
    place: Place,
    weights: Weights,
}

impl ModuleVisitor for Deferrer {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.place.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.place.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let shape = tensor.dims().to_vec();
        let read = move || {
            let data = tensor.clone().into_data().convert_dtype(DType::F32);
            let values = data.as_slice::<f32>().expect("the data was just converted to f32");
            Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect())
        };
        self.weights.insert(self.place.name(), HostTensor::deferred(Dtype::F32, shape, read));
    }
}

struct Surveyor {
    place: Place,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl ModuleVisitor for Surveyor {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.place.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.place.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.shapes.insert(self.place.name(), param.lazy_shape().as_slice().to_vec());
    }
}

struct Applier<'a> {
    place: Place,
    weights: &'a mut Weights,
}

impl Applier<'_> {
    /// The values for the parameter here, or `None` with the reason noted.
    fn take(&mut self, expected: &[usize]) -> Option<Vec<f32>> {
        let name = self.place.name();
        let Some(tensor) = self.weights.remove(&name) else {
            self.weights.problems.missing.push(name);
            return None;
        };
        if tensor.shape() != expected {
            let found = tensor.shape();
            self.weights.problems.misfits.push(format!("{name} is {found:?}, expected {expected:?}"));
            return None;
        }
        let problem = match tensor.read_f32() {
            Ok(Some(values)) => return Some(values),
            Ok(None) => format!("{name} holds {}, expected floats", tensor.dtype()),
            Err(error) => format!("{name} cannot be read ({error}); copy or download the file again"),
        };
        self.weights.problems.misfits.push(problem);
        None
    }
}

impl ModuleMapper for Applier<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.place.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.place.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // The lazy accessors spare a parameter that was never used its random initialisation.
        let shape = param.lazy_shape();
        let Some(values) = self.take(shape.as_slice()) else { return param };
        let data = TensorData::new(values, shape);
        let tensor = Tensor::from_data(data, (&param.lazy_device(), DType::F32));
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[derive(Module, Debug)]
    struct Layer {
        weight: Param<Tensor<2>>,
        bias: Option<Param<Tensor<1>>>,
    }

    #[derive(Module, Debug)]
    struct Net {
        blocks: Vec<Layer>,
        positions: Param<Tensor<3>>,
    }

    fn net(device: &Device) -> Net {
        let layer = |value: f32| Layer {
            weight: Param::from_tensor(Tensor::full([2, 3], value, device)),
            bias: (value > 1.0).then(|| Param::from_tensor(Tensor::full([2], -value, device))),
        };
        Net {
            blocks: vec![layer(1.0), layer(2.0)],
            positions: Param::from_tensor(Tensor::ones([1, 2, 3], device)),
        }
    }

    fn counted(shape: &[usize]) -> HostTensor {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32).collect();
        HostTensor::from_f32(shape, &values)
    }

    fn source() -> &'static Path {
        Path::new("m.safetensors")
    }

    #[test]
    fn names_are_paths_and_values_come_back() {
        let device = Device::flex();
        let mut weights = collect(&net(&device), "encoder");
        let names: Vec<_> = weights.names().collect();
        let expected = ["blocks.0.weight", "blocks.1.bias", "blocks.1.weight", "positions"];
        assert_eq!(names, expected.map(|name| format!("encoder.{name}")));

        weights.insert("encoder.blocks.0.weight", counted(&[2, 3]));
        let loaded = apply(net(&device), "encoder", &mut weights);
        weights.finish(source()).unwrap();
        let again = collect(&loaded, "");
        assert_eq!(again.get("blocks.0.weight").unwrap().to_f32().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(again.get("blocks.1.bias").unwrap().to_f32().unwrap(), [-2.0, -2.0]);
    }

    #[test]
    fn what_is_deferred_is_what_is_collected() {
        let net = net(&Device::flex());
        let (collected, deferred) = (collect(&net, "encoder"), deferred(&net, "encoder"));
        assert_eq!(deferred.names().collect::<Vec<_>>(), collected.names().collect::<Vec<_>>());
        for (name, tensor) in collected.iter() {
            let found = deferred.get(name).unwrap();
            assert_eq!((found.shape(), found.dtype()), (tensor.shape(), tensor.dtype()));
            assert_eq!(found.read().unwrap(), tensor.bytes(), "{name}");
        }
    }

    #[test]
    fn shapes_are_those_of_what_is_collected() {
        let net = net(&Device::flex());
        let collected = collect(&net, "encoder");
        let expected: BTreeMap<_, _> =
            collected.iter().map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec())).collect();
        assert_eq!(shapes(&net, "encoder"), expected);
    }

    #[test]
    fn every_kind_of_misfit_is_named_in_one_error() {
        let device = Device::flex();
        let mut weights = collect(&net(&device), "");
        let renamed = weights.remove("blocks.0.weight").unwrap();
        weights.insert("blocks.0.weights", renamed);
        weights.insert("positions", counted(&[3, 2, 1]));
        weights.insert("zebra", counted(&[1]));
        apply(net(&device), "", &mut weights);
        let message = weights.finish(source()).unwrap_err().to_string();
        for part in [
            "1 missing: blocks.0.weight (the unused blocks.0.weights is similar)",
            "positions is [3, 2, 1], expected [1, 2, 3]",
            "2 not used: blocks.0.weights, zebra",
        ] {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let mut weights = Weights::new();
        (0..30).for_each(|i| weights.insert(format!("w{i:02}"), counted(&[1])));
        let message = weights.finish(source()).unwrap_err().to_string();
        assert!(message.contains("30 not used: w00") && message.contains("w19 and 10 more"), "{message}");
    }

    #[test]
    fn a_loaded_parameter_gets_gradients_unless_frozen() {
        let device = Device::flex().autodiff();
        let mut template = net(&device);
        template.positions = template.positions.set_require_grad(false);
        let ids = [template.blocks[0].weight.id, template.positions.id];
        let mut weights = collect(&template, "");
        let loaded = apply(template, "", &mut weights);
        weights.finish(source()).unwrap();

        let weight = loaded.blocks[0].weight.val();
        let loss = (weight.clone() * weight.clone()).sum() + loaded.positions.val().sum();
        let gradients = loss.backward();
        let gradient = weight.grad(&gradients).expect("a loaded weight has a gradient");
        assert_eq!(gradient.into_data().try_to_vec::<f32>().unwrap(), [2.0; 6]);
        assert!(loaded.positions.val().grad(&gradients).is_none());
        assert_eq!([loaded.blocks[0].weight.id, loaded.positions.id], ids);
    }
}
