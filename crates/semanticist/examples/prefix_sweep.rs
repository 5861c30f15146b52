//! An image from 1, 2, 4 … tokens, and how close each comes to it: `prefix_sweep IMAGE [MODEL.safetensors]`.

use semanticist::{DecodeOptions, DeviceSpec, Result, Tokenizer, image};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let original = arguments.next().unwrap_or("assets/chelsea.png".into());
    let model = arguments.next().unwrap_or("models/tokenizer-tiny.safetensors".into());

    let tokenizer = Tokenizer::open(model, &DeviceSpec::Cpu.open()?)?;
    let square = image::center_crop(&image::open(original.as_ref())?, tokenizer.config.image_size);
    let pixels = image::to_pixels(&[square], &DeviceSpec::Cpu.open()?);
    let tokens = tokenizer.encode(&pixels, tokenizer.config.tokens)?; // [1, K, D]

    let mut count = 1;
    while count <= tokenizer.config.tokens {
        // The same seed every time, so that only the tokens differ.
        let decoded = tokenizer.decode(&tokens.prefix(count), &DecodeOptions::default(), 0)?;
        let error: f32 = (decoded.0.clamp(0.0, 1.0) - pixels.0.clone()).square().mean().into_scalar();
        println!("{count:>4} tokens: PSNR {:.2} dB", -10.0 * error.log10());
        count *= 2;
    }
    Ok(())
}
