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
    /// The heading of its card.
    heading: &'static str,
}

/// What the built-in models were trained on and how good they are, in Markdown.
static CARDS: &str = include_str!("../../../models/README.md");

impl Builtin {
    /// Its card in Markdown, without a heading.
    pub fn card(&self) -> &'static str {
        let card = CARDS.split_once(self.heading).map_or("", |(_, rest)| rest);
        card.split("\n## ").next().unwrap_or_default().trim()
    }
}

/// The small tokenizer, trained on 64×64 images.
pub static TOKENIZER: Builtin = Builtin {
    name: "tiny",
    bytes: include_bytes!("../../../models/tokenizer-tiny.safetensors"),
    heading: "## `tokenizer-tiny.safetensors`",
};

/// The small generator of its tokens.
pub static GENERATOR: Builtin = Builtin {
    name: "tiny-generator",
    bytes: include_bytes!("../../../models/generator-tiny.safetensors"),
    heading: "## `generator-tiny.safetensors`",
};

/// The built-in models.
pub static ALL: [&Builtin; 2] = [&TOKENIZER, &GENERATOR];

/// What the built-in image is called.
pub const IMAGE_NAME: &str = "chelsea.png (built in)";

/// Chelsea, from scikit-image's `data.chelsea`: by Stéfan van der Walt, CC0. Cropped and reduced; a PNG file.
pub static IMAGE: &[u8] = include_bytes!("../../../assets/chelsea.png");

/// Photos to try models on, and their names: the built-in image, and three more from scikit-image's `data`, cropped and reduced:
/// coffee (Rachel Michetti, CC0), astronaut (Eileen Collins; NASA) and rocket (SpaceX), both in the public domain.
pub static PHOTOS: &[(&str, &[u8])] = &[
    ("chelsea.png", IMAGE),
    ("coffee.jpg", include_bytes!("../../../assets/coffee.jpg")),
    ("astronaut.jpg", include_bytes!("../../../assets/astronaut.jpg")),
    ("rocket.jpg", include_bytes!("../../../assets/rocket.jpg")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_model_has_a_card() {
        for model in ALL {
            let card = model.card();
            assert!(card.contains("| data |") && !card.contains("\n## "), "{}: {card}", model.name);
        }
    }
}
