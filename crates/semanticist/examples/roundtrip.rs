//! An image to tokens and back: `roundtrip IMAGE OUT.png [MODEL.safetensors]`.

use semanticist::{DecodeOptions, DeviceSpec, Result, Tokenizer, image};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let original = arguments.next().unwrap_or("assets/chelsea.png".into());
    let out = arguments.next().unwrap_or("roundtrip.png".into());
    let model = arguments.next().unwrap_or("models/tokenizer-tiny.safetensors".into());

    let device = DeviceSpec::Cpu.open()?;
    let tokenizer = Tokenizer::open(model, &device)?;
    let square = image::center_crop(&image::open(original.as_ref())?, tokenizer.config.image_size);
    let count = tokenizer.config.tokens;

    let tokens = tokenizer.encode(&image::to_pixels(&[square], &device), count)?; // [1, K, D]
    let decoded = tokenizer.decode(&tokens, &DecodeOptions::default(), 0)?;
    image::save_png(&image::from_pixels(&decoded)[0], out.as_ref())?;
    println!("{out}: decoded from {count} tokens of {} numbers", tokenizer.config.token_dim);
    Ok(())
}
