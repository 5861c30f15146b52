//! A new image of a class: `generate CLASS OUT.png [GENERATOR.safetensors [TOKENIZER.safetensors]]`.

use semanticist::generator::{GenerateOptions, TokenGuidance};
use semanticist::{DeviceSpec, Generator, Noise, Result, Tokenizer, image};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let class = arguments.next().and_then(|class| class.parse().ok()).unwrap_or(0);
    let out = arguments.next().unwrap_or("generated.png".into());
    let model = arguments.next().unwrap_or("models/generator-tiny.safetensors".into());
    let painter = arguments.next().unwrap_or("models/tokenizer-tiny.safetensors".into());

    let device = DeviceSpec::Cpu.open()?;
    let (generator, tokenizer) = (Generator::open(model, &device)?, Tokenizer::open(painter, &device)?);
    let count = generator.config.tokens;
    let options = GenerateOptions {
        tokens: count,
        guidance: TokenGuidance { scale: 6.0, schedule: Default::default() },
        steps: 100,
        sampler: Default::default(),
        temperature: 1.0,
    };

    let mut noise = Noise::seeded(0);
    let tokens = generator.generate(&[class], &options, &mut noise, |_| ())?; // [1, K, D]
    let painted = tokenizer.decode(&tokens, &[count], &Default::default(), &mut noise)?;
    image::save_png(&image::from_pixels(&painted)[0], out.as_ref())?;
    println!("{out}: class {class}, painted from {count} tokens");
    Ok(())
}
