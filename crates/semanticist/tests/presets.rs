//! The presets beside the published models' own lists of names and shapes; no weights are allocated.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use semanticist::generator::GeneratorNetworks;
use semanticist::tokenizer::Networks;
use semanticist::weights::{Place, names};
use semanticist::{Noise, presets};

type Shapes = BTreeMap<String, Vec<usize>>;

/// Published names and shapes of a module's parameters.
fn shapes(module: &impl Module) -> Shapes {
    struct Reader {
        place: Place,
        shapes: Shapes,
    }
    impl ModuleVisitor for Reader {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.place.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.place.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            assert!(!param.is_initialized(), "{} was drawn", self.place.name());
            let name = names::to_published(&self.place.name()).expect("every parameter has a published name");
            self.shapes.insert(name, param.lazy_shape().as_slice().to_vec());
        }
    }
    let mut reader = Reader { place: Place::default(), shapes: Shapes::new() };
    module.visit(&mut reader);
    reader.shapes
}

fn blank(preset: &str) -> Networks {
    let config = presets::tokenizer(preset).unwrap();
    Networks::init(&config, &mut Noise::seeded(0), &Device::flex()).unwrap()
}

#[test]
fn full_size_presets_have_the_published_names_and_shapes() {
    for (preset, published) in [
        ("b-256x16", include_str!("data/weights/tokenizer-DiT-B-2.json")),
        ("l-256x16", include_str!("data/weights/tokenizer-DiT-L-2.json")),
        ("xl-256x16-published", include_str!("data/weights/tokenizer-DiT-XL-2.json")),
    ] {
        let networks = blank(preset);
        let mut found = shapes(&networks);
        found.insert(names::FROZEN_POSITIONS.into(), networks.decoder.positions().dims().to_vec());
        let published: Shapes = serde_json::from_str(published).unwrap();
        assert_eq!(found, published, "{preset}");
    }
}

#[test]
fn every_preset_is_possible_and_has_its_token_shape() {
    let all: Vec<String> = presets::tokenizer_names().collect();
    assert_eq!(all.len(), 3 * 4 * 2);
    for name in all {
        let config = presets::tokenizer(&name).unwrap();
        config.validate().unwrap();
        assert_eq!(config.tokens * config.token_dim, 4096, "{name}");
        assert!(name.contains(&format!("-{}x{}", config.tokens, config.token_dim)), "{name}");
        assert_eq!(config.token_epsilon == 0.0, name.ends_with("-published"));
    }
}

#[test]
fn an_unknown_preset_is_answered_with_the_known_ones() {
    for name in ["l", "l-256", "m-256x16", "l-256x17", ""] {
        let error = presets::tokenizer(name).unwrap_err().to_string();
        assert!(error.contains("l-256x16") && error.contains("-published"), "{error}");
    }
}

#[test]
fn the_generator_has_the_published_names_and_shapes() {
    let config = presets::generator("gpt-l").unwrap();
    let networks = GeneratorNetworks::init(&config, &mut Noise::seeded(0), &Device::flex()).unwrap();
    let published: Shapes = serde_json::from_str(include_str!("data/weights/generator-GPT-L.json")).unwrap();
    assert_eq!(shapes(&networks), published);
    for name in presets::generator_names() {
        presets::generator(name).unwrap().validate().unwrap();
    }
    assert!(presets::generator("gpt-s").unwrap_err().to_string().contains("gpt-xxl"));
}
