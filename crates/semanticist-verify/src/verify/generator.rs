//! ϵLlamaGen: the transformer's answers, the head's output, loss and gradients, and tokens generated with
//! recorded draws, without and with guidance.

use burn::module::Module;
use burn::tensor::Device;
use semanticist::generator::{
    DrawOptions, GenerateOptions, Generator, GeneratorConfig, GeneratorNetworks, GuidanceSchedule,
    HeadConditioning, HeadConfig, HeadDraws, HeadProcess, TokenGuidance,
};
use semanticist::progress::unobserved;
use semanticist::weights::{self, names, published};
use semanticist::{Noise, Result};
use semanticist_train::gradients::Gradients;
use serde::Deserialize;

use super::checkpoints::compare_stored;
use super::comparison::{Comparison, Values};
use super::recording::Recording;
use super::sizes::{bounded, fit, in_config};
use super::tolerance::Kind;

pub(super) const SI_CONCAT: &str = "generator_si_concat.safetensors";
pub(super) const SI_ADALN: &str = "generator_si_adaln.safetensors";
pub(super) const DDPM_ADALN: &str = "generator_ddpm_adaln.safetensors";

pub(super) const CHECKPOINT: &str = "checkpoints/generator_ema.pkl";

/// Timesteps of the head's Gaussian diffusion.
const LAST_TIMESTEP: f32 = 999.0;

/// As the files have them.
#[derive(Debug, Deserialize)]
struct Sizes {
    dim: usize,
    layers: usize,
    heads: usize,
    tokens: usize,
    token_dim: usize,
    classes: usize,
    head_depth: usize,
    head_width: usize,
    use_si: bool,
    cond_method: String,
    /// Draws per token in the loss.
    batch_mul: usize,
}

impl Sizes {
    fn config(&self, recording: &Recording) -> Result<GeneratorConfig> {
        let Self {
            dim, layers, heads, tokens, token_dim, classes, head_depth, head_width, batch_mul, ..
        } = *self;
        let all = [dim, layers, heads, tokens, token_dim, classes, head_depth, head_width, batch_mul];
        bounded(recording, &all)?;
        let condition = match self.cond_method.as_str() {
            "concat" => HeadConditioning::Concat,
            "adaln" => HeadConditioning::Add,
            other => {
                let problem = format!("config: cond_method \"{other}\" is neither \"concat\" nor \"adaln\"");
                return Err(recording.error(problem));
            }
        };
        let process = if self.use_si { HeadProcess::Flow } else { HeadProcess::Ddpm };
        let head = HeadConfig { width: head_width, depth: head_depth, condition, process };
        let config = GeneratorConfig {
            tokens,
            token_dim,
            classes,
            width: dim,
            depth: layers,
            heads,
            head,
            drawn_tokens: None,
            drawing: None,
            decoding: None,
        };
        config.validate().map_err(|error| in_config(recording.path(), &error))?;
        Ok(config)
    }
}

pub(super) fn run_si_concat(comparison: &mut Comparison) -> Result<()> {
    run(comparison, SI_CONCAT)
}

pub(super) fn run_si_adaln(comparison: &mut Comparison) -> Result<()> {
    run(comparison, SI_ADALN)
}

pub(super) fn run_ddpm_adaln(comparison: &mut Comparison) -> Result<()> {
    run(comparison, DDPM_ADALN)
}

/// A published checkpoint: it holds the weights of the recorded generator with the published settings.
pub(super) fn run_checkpoint(comparison: &mut Comparison) -> Result<()> {
    let found = published::load(&comparison.folder.join(CHECKPOINT))?.weights;
    let recorded = comparison.open(SI_CONCAT)?.parameters()?.weights;
    compare_stored(comparison, &recorded, &found);
    Ok(())
}

fn run(comparison: &mut Comparison, file: &str) -> Result<()> {
    let mut recording = comparison.open(file)?;
    let sizes: Sizes = recording.config()?;
    let config = sizes.config(&recording)?;
    let device = comparison.device.clone().autodiff();
    let mut generator = build(&config, &mut recording, &device)?;
    generator.networks = comparison.precision.train(generator.networks);
    let [batch] = recording.dims::<1>("class")?;
    let labels = recording.integers("class", &[batch], config.classes)?;
    compare_training(comparison, &mut recording, &generator, &labels, sizes.batch_mul)?;

    let plain = Generator { networks: generator.networks.valid(), ..generator };
    let plain = plain.with_precision(comparison.precision);
    for name in ["cfg1", "cfg4"] {
        compare_generation(comparison, &mut recording, &plain, &labels, name)?;
    }
    comparison.close(&recording);
    Ok(())
}

fn build(config: &GeneratorConfig, recording: &mut Recording, device: &Device) -> Result<Generator> {
    let mut parameters = recording.parameters()?.weights;
    let GeneratorConfig { tokens, token_dim, classes, width, depth, head, .. } = *config;
    let (last_layer, last_block) = (depth - 1, head.depth - 1);
    let expected: [(&str, &[usize]); 6] = [
        ("transformer.classes", &[classes + 1, width]),
        ("transformer.tokens.weight", &[width, token_dim]),
        ("transformer.positions", &[1, tokens + 1, width]),
        (&format!("transformer.layers.{last_layer}.mlp.up.weight"), &[config.hidden(), width]),
        (&format!("head.blocks.{last_block}.down.weight"), &[head.width, head.width]),
        ("head.condition.weight", &[head.width, width]),
    ];
    fit(recording.path(), &parameters, &expected)?;
    let blank = GeneratorNetworks::init(config, &mut Noise::seeded(0), device)?;
    let networks = weights::apply(blank, "", &mut parameters);
    parameters.finish(recording.path())?;
    Ok(Generator { config: config.clone(), networks })
}

/// Answers, the head's output, the loss and its gradients on recorded tokens and draws.
fn compare_training(
    comparison: &mut Comparison,
    recording: &mut Recording,
    generator: &Generator,
    labels: &[usize],
    draws: usize,
) -> Result<()> {
    let GeneratorConfig { tokens: k, token_dim: d, width, head, .. } = generator.config;
    let device = generator.networks.transformer.classes.device();
    let batch = labels.len();
    let tokens = recording.tensor("tokens", [batch, k, d], &device)?;
    let answers = generator.networks.transformer.forward(tokens.clone(), labels, 0.0, None);
    comparison.compare(recording, "train.hidden", answers.clone().into(), Kind::Output);

    let n = draws * batch * k;
    let times: Vec<f32> = recording.floats("train.t", &[n])?.into_iter().map(|t| t as f32).collect();
    let (last, known): (f32, fn(f32) -> bool) = match head.process {
        HeadProcess::Flow => (1.0, |_| true),
        HeadProcess::Ddpm => (LAST_TIMESTEP, |t| t.fract() == 0.0),
    };
    if !times.iter().all(|&t| (0.0..=last).contains(&t) && known(t)) {
        return Err(recording.error(format!("train.t has a number that is no time in 0..={last}")));
    }
    let noise = recording.tensor("train.noise", [n, d], &device)?;
    let noisy = recording.tensor("train.x_t", [n, d], &device)?;
    // All images once, then all of them again.
    let (tokens, answers) = (tokens.reshape([1, batch * k, d]), answers.reshape([1, batch * k, width]));
    let output = generator.networks.head.forward(noisy, &times, answers.clone());
    comparison.compare(recording, "train.head_out", output.into(), Kind::Output);

    let loss = generator.head_loss(tokens, answers, HeadDraws { times, noise }).mean();
    comparison.compare(recording, "train.loss", loss.clone().into(), Kind::Loss);
    let gradients = Gradients::collect(&generator.networks, &loss.backward());
    compare_gradients(comparison, recording, generator, &gradients);
    Ok(())
}

fn compare_gradients(
    comparison: &mut Comparison,
    recording: &mut Recording,
    generator: &Generator,
    found: &Gradients,
) {
    let parameters = weights::collect(&generator.networks, "");
    let recorded: Vec<String> =
        recording.names().filter(|name| name.starts_with("grad.")).map(str::to_string).collect();
    for name in recorded {
        let published = name["grad.".len()..].replacen("head.", "diffloss.net.", 1);
        let ours = names::from_published(&published);
        let shape = ours.as_deref().and_then(|name| Some(parameters.get(name)?.shape().to_vec()));
        match shape.zip(ours.as_deref().and_then(|name| found.get(name))) {
            Some((shape, gradient)) => {
                let found = Values { shape, ..gradient.clone().into() };
                comparison.compare(recording, &name, found, Kind::Gradient);
            }
            None => comparison.unreadable(&name, "the networks have no such parameter".into()),
        }
    }
}

/// All tokens of the recorded classes; `name` is `cfg` and the scale at the last token.
fn compare_generation(
    comparison: &mut Comparison,
    recording: &mut Recording,
    generator: &Generator,
    labels: &[usize],
    name: &str,
) -> Result<()> {
    let GeneratorConfig { tokens: k, token_dim: d, head, .. } = generator.config;
    let (batch, part) = (labels.len(), |part: &str| format!("gen.{name}.{part}"));
    let scale = name["cfg".len()..].parse().expect("names are given above");
    let guidance = TokenGuidance { scale, schedule: GuidanceSchedule::Linear };
    let scales: Vec<f64> = (0..k).map(|i| guidance.scale_of(i, k)).collect();
    comparison.compare(recording, &part("scales"), Values::vector(scales), Kind::Unrounded);

    // Of the stochastic equation the last step has no noise, of Gaussian diffusion every one has.
    let (noise, missing) = match head.process {
        HeadProcess::Flow => (part("increments"), 1),
        HeadProcess::Ddpm => (part("noise"), 0),
    };
    let [_, drawn, ..] = recording.dims::<4>(&noise)?;
    let steps = drawn + missing;
    if missing == 1 {
        let recorded = recording.integers(&part("steps"), &[1], 1 << 16)?[0];
        comparison.record(&part("steps"), &[recorded as f64], &[steps as f64], Kind::Exact);
    }
    let floats = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
    let starts = floats(recording.floats(&part("init"), &[k, batch, d])?);
    let noise = floats(recording.floats(&noise, &[k, drawn, batch, d])?);
    let each = batch * d;
    let of_token = |i: usize| {
        let start = starts[i * each..][..each].to_vec();
        let steps = noise[i * drawn * each..][..drawn * each].chunks(each).map(<[f32]>::to_vec);
        std::iter::once(start).chain(steps).collect::<Vec<_>>()
    };
    let mut draws = Noise::recorded((0..k).flat_map(of_token));
    let drawing = DrawOptions { guidance, steps, sampler: None, temperature: 1.0 };
    let options = GenerateOptions { tokens: k, drawing };
    let tokens = generator.generate_observed(labels, &options, &mut draws, &mut unobserved)?;
    comparison.compare(recording, &part("tokens"), tokens.0.into(), Kind::Guided(scale));
    Ok(())
}
