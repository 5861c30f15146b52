//! What must hold of any generator, whatever its weights.

use burn::tensor::{Device, Tensor};
use semanticist::diffusion::Sampler;
use semanticist::generator::{
    DrawOptions, GenerateOptions, Generator, GeneratorConfig, GeneratorNetworks, GuidanceSchedule,
    HeadConditioning, HeadConfig, HeadProcess, TokenGuidance,
};
use semanticist::weights::{self, HostTensor, Weights};
use semanticist::{Noise, Tokens};

fn config(condition: HeadConditioning, process: HeadProcess) -> GeneratorConfig {
    let head = HeadConfig { width: 24, depth: 2, condition, process };
    GeneratorConfig {
        tokens: 5,
        token_dim: 6,
        classes: 3,
        width: 32,
        depth: 2,
        heads: 4,
        head,
        drawn_tokens: None,
        drawing: None,
        decoding: None,
    }
}

/// Every parameter is drawn: an initialised head would answer 0 to everything.
fn generator(config: GeneratorConfig) -> Generator {
    let mut noise = Noise::seeded(4);
    let networks = GeneratorNetworks::init(&config, &mut noise, &Device::flex()).unwrap();
    let mut drawn = Weights::new();
    for (name, tensor) in weights::collect(&networks, "").iter() {
        let values = noise.uniform(tensor.shape().iter().product());
        let values: Vec<f32> = values.into_iter().map(|value| (value - 0.5) * 0.6).collect();
        drawn.insert(name, HostTensor::from_f32(tensor.shape(), &values));
    }
    Generator { networks: weights::apply(networks, "", &mut drawn), config }
}

fn flow() -> Generator {
    generator(config(HeadConditioning::Concat, HeadProcess::Flow))
}

fn options(tokens: usize, scale: f64) -> GenerateOptions {
    let guidance = TokenGuidance { scale, schedule: GuidanceSchedule::Linear };
    GenerateOptions { tokens, drawing: DrawOptions { guidance, steps: 4, sampler: None, temperature: 1.0 } }
}

/// The first tokens without guidance, drawn otherwise.
fn otherwise(tokens: usize, change: impl Fn(&mut DrawOptions)) -> GenerateOptions {
    let mut options = options(tokens, 1.0);
    change(&mut options.drawing);
    options
}

fn generate(generator: &Generator, labels: &[usize], options: &GenerateOptions) -> Tokens {
    generator.generate(labels, options, 0).unwrap()
}

fn difference(a: Tensor<3>, b: Tensor<3>) -> f32 {
    (a - b).abs().max().into_scalar()
}

#[test]
fn cached_steps_equal_the_forward_pass_at_every_position() {
    let transformer = flow().networks.transformer;
    let tokens = Noise::seeded(1).normal([2, 5, 6], &Device::flex());
    let whole = transformer.forward(tokens.clone(), &[2, 0], 0.0, None);
    let mut cache = transformer.empty_cache();
    let mut input = transformer.class(&[2, 0]);
    for position in 0..5 {
        let answer = transformer.step(input, position, &mut cache);
        assert!(difference(answer, whole.clone().narrow(1, position, 1)) < 2e-5, "position {position}");
        input = transformer.token(tokens.clone().narrow(1, position, 1));
    }
}

#[test]
fn an_answer_knows_no_later_token() {
    let transformer = flow().networks.transformer;
    let tokens = Noise::seeded(1).normal([1, 5, 6], &Device::flex());
    let changed = Tensor::cat(vec![tokens.clone().narrow(1, 0, 3), tokens.clone().narrow(1, 3, 2) * 2.0], 1);
    let [before, after] = [tokens, changed].map(|tokens| transformer.forward(tokens, &[1], 0.0, None));
    let at = |answers: &Tensor<3>, position| answers.clone().narrow(1, position, 1);
    // The answer at position 4 is the first to have seen token 3.
    assert!((0..4).all(|position| difference(at(&before, position), at(&after, position)) < 1e-6));
    assert!(difference(at(&before, 4), at(&after, 4)) > 1e-3);
}

#[test]
fn guidance_one_is_no_guidance_bit_for_bit() {
    let generator = flow();
    let none = otherwise(5, |drawing| drawing.guidance = TokenGuidance::NONE);
    let [one, none] = [options(5, 1.0), none].map(|options| generate(&generator, &[0, 2], &options));
    assert_eq!(one.0.into_data(), none.0.into_data());
    // With the same rows on both sides any scale changes nothing but rounding.
    let [one, four] = [1.0, 4.0].map(|scale| generate(&generator, &[3, 3], &options(5, scale)));
    assert!(difference(one.0, four.0) < 1e-4);
}

#[test]
fn fewer_tokens_are_the_first_of_more_and_neighbours_do_not_matter() {
    for (condition, process) in [
        (HeadConditioning::Concat, HeadProcess::Flow),
        (HeadConditioning::Add, HeadProcess::Flow),
        (HeadConditioning::Add, HeadProcess::Ddpm),
        (HeadConditioning::Concat, HeadProcess::Ddpm),
    ] {
        let generator = generator(config(condition, process));
        let all = generate(&generator, &[1, 2], &options(5, 3.0)).0;
        let two = generate(&generator, &[1, 2], &options(2, 3.0)).0;
        assert!(difference(all.clone().narrow(1, 0, 2), two) < 1e-5);
        let alone = generate(&generator, &[1], &options(5, 3.0)).0;
        assert!(difference(all.narrow(0, 0, 1), alone) < 1e-4, "{condition:?} {process:?}");
    }
}

#[test]
fn no_class_has_a_row_of_its_own() {
    let generator = flow();
    assert_eq!(generator.config.no_class(), 3);
    let drawn = |label| generate(&generator, &[label], &options(1, 1.0)).0;
    assert!((0..3).all(|class| difference(drawn(class), drawn(3)) > 1e-4));
    // Guidance away from it: at scale 0 of a constant schedule, only it is left.
    let zero = TokenGuidance { scale: 0.0, schedule: GuidanceSchedule::Constant };
    let unguided = generate(&generator, &[0], &otherwise(1, |drawing| drawing.guidance = zero)).0;
    assert!(difference(unguided, drawn(3)) < 1e-5);
}

#[test]
fn temperature_scales_the_noise_on_the_way() {
    let generator = flow();
    let with = |temperature, sampler| {
        let options = otherwise(3, |drawing| {
            drawing.temperature = temperature;
            drawing.sampler = sampler;
        });
        generate(&generator, &[0], &options).0
    };
    let [cold, warm] = [0.0, 1.0].map(|temperature| with(temperature, None));
    assert!(difference(cold, warm) > 1e-2);
    let [cold, warm] = [0.0, 1.0].map(|temperature| with(temperature, Some(Sampler::Heun)));
    assert_eq!(cold.into_data(), warm.into_data());
}

#[test]
fn impossible_wishes_are_named() {
    let generator = flow();
    for (options, part) in [
        (options(6, 1.0), "6 tokens asked of a generator that draws 1 to 5"),
        (options(0, 1.0), "0 tokens"),
        (options(1, f64::NAN), "guidance scale NaN"),
        (otherwise(1, |drawing| drawing.steps = 1), "use at least 2"),
        (otherwise(1, |drawing| drawing.sampler = Some(Sampler::Ddpm)), "use \"sde\", \"euler\""),
        (otherwise(1, |drawing| drawing.temperature = -1.0), "temperature -1"),
    ] {
        let error = generator.generate(&[0], &options, 0).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}
