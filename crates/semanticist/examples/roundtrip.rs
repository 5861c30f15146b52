//! A photo to tokens and back: `roundtrip PHOTO OUT.png [MODEL.safetensors]`.

use semanticist::{DeviceSpec, Noise, Result, Tokenizer, image};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let photo = arguments.next().unwrap_or("assets/chelsea.png".into());
    let out = arguments.next().unwrap_or("roundtrip.png".into());
    let model = arguments.next().unwrap_or("models/tokenizer-tiny.safetensors".into());

    let device = DeviceSpec::Cpu.open()?;
    let tokenizer = Tokenizer::open(model, &device)?;
    let square = image::center_crop(&image::open(photo.as_ref())?, tokenizer.config.image_size);
    let count = tokenizer.config.tokens;

    let tokens = tokenizer.encode(&image::to_pixels(&[square], &device), count); // [1, K, D]
    let painted = tokenizer.decode(&tokens, &[count], &Default::default(), &mut Noise::seeded(0))?;
    image::save_png(&image::from_pixels(&painted)[0], out.as_ref())?;
    println!("{out}: painted from {count} tokens of {} numbers", tokenizer.config.token_dim);
    Ok(())
}
