//! A photo from 1, 2, 4 … tokens, and how far each picture is from it: `prefix_sweep PHOTO [MODEL.safetensors]`.

use semanticist::{DeviceSpec, Noise, Result, Tokenizer, image};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let photo = arguments.next().unwrap_or("assets/chelsea.png".into());
    let model = arguments.next().unwrap_or("models/tokenizer-tiny.safetensors".into());

    let device = DeviceSpec::Cpu.open()?;
    let tokenizer = Tokenizer::open(model, &device)?;
    let square = image::center_crop(&image::open(photo.as_ref())?, tokenizer.config.image_size);
    let pixels = image::to_pixels(&[square], &device);
    let tokens = tokenizer.encode(&pixels, tokenizer.config.tokens); // [1, K, D]

    let mut count = 1;
    while count <= tokenizer.config.tokens {
        // The same noise every time, so that only the tokens differ.
        let mut noise = Noise::seeded(0);
        let painted = tokenizer.decode(&tokens.prefix(count), &[count], &Default::default(), &mut noise)?;
        let error: f32 = (painted.0.clamp(0.0, 1.0) - pixels.0.clone()).square().mean().into_scalar();
        println!("{count:>4} tokens: PSNR {:.2} dB", -10.0 * error.log10());
        count *= 2;
    }
    Ok(())
}
