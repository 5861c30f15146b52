//! A new image of a class: `generate CLASS OUT.png [GENERATOR.safetensors [TOKENIZER.safetensors]]`.

use semanticist::{DeviceSpec, GenerateOptions, Generator, Result, Tokenizer, image};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let class = arguments.next().and_then(|class| class.parse().ok()).unwrap_or(0);
    let out = arguments.next().unwrap_or("generated.png".into());
    let generator = arguments.next().unwrap_or("models/generator-tiny.safetensors".into());
    let tokenizer = arguments.next().unwrap_or("models/tokenizer-tiny.safetensors".into());

    let device = DeviceSpec::Cpu.open()?;
    let (generator, tokenizer) = (Generator::open(generator, &device)?, Tokenizer::open(tokenizer, &device)?);
    let options = GenerateOptions::usual(&generator.config);
    let tokens = generator.generate(&[class], &options, 0)?; // [1, K, D]
    let decoding = generator.config.decode_options(tokenizer.config.decode_options());
    let decoded = tokenizer.decode(&tokens, &decoding, 0)?;
    image::save_png(&image::from_pixels(&decoded)[0], out.as_ref())?;
    println!("{out}: class {class}, decoded from {} tokens", options.tokens);
    Ok(())
}
