//! What is compiled into the binary, so that it works on its own: a small model and a photo.

use burn::tensor::Device;
use semanticist::model::ModelFile;
use semanticist::model::generator::GeneratorModel;
use semanticist::{Model, Result};

const MODEL: &[u8] = include_bytes!("../../../models/tokenizer-tiny.safetensors");

const GENERATOR: &[u8] = include_bytes!("../../../models/generator-tiny.safetensors");

/// Chelsea, from scikit-image's `data.chelsea`: by Stéfan van der Walt, CC0. Cropped and reduced.
const PHOTO: &[u8] = include_bytes!("../../../assets/chelsea.png");

/// What the model in the box is called.
pub const MODEL_NAME: &str = "the model in the box";

/// What the photo in the box is called.
pub const PHOTO_NAME: &str = "chelsea.png (in the box)";

/// What to call it where a model is named.
pub const MODEL_ALIAS: &str = "tiny";

/// The small tokenizer, trained on 64×64 photos, not yet on a device.
pub fn model_file() -> Result<ModelFile> {
    ModelFile::from_bytes(MODEL_NAME, MODEL)
}

/// The same on a device.
pub fn model(device: &Device) -> Result<Model> {
    Model::from_bytes(MODEL_NAME, MODEL, device)
}

/// What lists call the generator in the box.
pub const GENERATOR_ALIAS: &str = "tiny-generator";

/// The size of the generator's file, in bytes.
pub fn generator_bytes() -> usize {
    GENERATOR.len()
}

/// The small generator of its tokens.
pub fn generator(device: &Device) -> Result<GeneratorModel> {
    GeneratorModel::from_bytes("the generator in the box", GENERATOR, device)
}

/// The size of its file, in bytes.
pub fn model_bytes() -> usize {
    MODEL.len()
}

/// An image file to try things on.
pub fn photo() -> &'static [u8] {
    PHOTO
}
