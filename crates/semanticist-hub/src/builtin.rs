//! What is compiled into the program, so that it works on its own: small models and an image.
//!
//! The bytes are statics: of a constant, every crate that names it gets a copy of its own.

/// A built-in model: the bytes of its file.
#[derive(Debug)]
pub struct Builtin {
    /// What it is called where a model is named.
    pub name: &'static str,
    /// Its file, in our format.
    pub bytes: &'static [u8],
}

/// The small tokenizer, trained on 64×64 images.
pub static TOKENIZER: Builtin =
    Builtin { name: "tiny", bytes: include_bytes!("../../../models/tokenizer-tiny.safetensors") };

/// The small generator of its tokens.
pub static GENERATOR: Builtin =
    Builtin { name: "tiny-generator", bytes: include_bytes!("../../../models/generator-tiny.safetensors") };

/// The built-in models.
pub static ALL: [&Builtin; 2] = [&TOKENIZER, &GENERATOR];

/// What the built-in image is called.
pub const IMAGE_NAME: &str = "chelsea.png (built in)";

/// Chelsea, from scikit-image's `data.chelsea`: by Stéfan van der Walt, CC0. Cropped and reduced; a PNG file.
pub static IMAGE: &[u8] = include_bytes!("../../../assets/chelsea.png");
