use semanticist::weights;
use semanticist_data::Shown;

use super::*;
use crate::gradients::Gradients;

const CONFIG: &str = r#"
steps = 10
batch = 2
[model]
image_size = 16
[model.autoencoder]
kind = "kl"
channels = 2
base_width = 8
width_multipliers = [1, 2]
blocks = 1
encoder_attention = []
groups = 4
[model.discriminator]
width = 8
layers = 2
weight = 0.5
from_step = 4
[learning_rate]
peak = 1e-3
warmup_steps = 0
decay = "constant"
[data]
fit_images = 12
"#;

fn picture(seed: u32) -> RgbImage {
    RgbImage::from_fn(16, 16, |x, y| {
        image::Rgb([(x * 13 + seed * 31) as u8, (y * 11) as u8, (x * y + seed) as u8])
    })
}

struct Bench {
    config: RunConfig<AutoencoderRun>,
    objective: AutoencoderObjective,
    model: LearningAutoencoder,
    folder: tempfile::TempDir,
}

fn bench(settings: &[&str]) -> Bench {
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    let config = RunConfig::parse(CONFIG, &settings).unwrap();
    let folder = tempfile::tempdir().unwrap();
    (0..12).for_each(|seed| picture(seed).save(folder.path().join(format!("{seed:02}.png"))).unwrap());
    let source = Arc::new(Source::open(&[folder.path().to_path_buf()], data::Split::All).unwrap());
    let device = Device::flex();
    let objective = AutoencoderObjective::new(&config, source.clone(), &source, &device).unwrap();
    let model = untrained(&config, &device).unwrap();
    Bench { config, objective, model, folder }
}

impl Bench {
    fn loss(&self, step: u64) -> Loss {
        let example = |seed| ImageExample {
            image: picture(seed),
            shown: Shown { image: seed as usize, mirrored: false },
        };
        self.objective.loss(&self.model, &[example(1), example(2)], step, &mut Noise::seeded(3))
    }

    fn gradients(&self, step: u64) -> Gradients {
        Gradients::collect(&self.model.networks, &self.loss(step).total.backward())
    }
}

fn values(gradients: &Gradients, name: &str) -> Vec<f32> {
    gradients.get(name).unwrap().clone().into_data().try_to_vec().unwrap()
}

#[test]
fn the_total_is_the_weighted_sum_of_the_parts() {
    let bench = bench(&["objective.kl_weight=0.5", "objective.distance=l2"]);
    let loss = bench.loss(5);
    let part = |name: &str| loss.parts.iter().find(|(found, _)| *found == name).unwrap().1;
    let expected =
        part("pixels") + 0.5 / 768.0 * part("divergence") + 0.5 * part("judgement") + part("discriminator");
    let total = f64::from(loss.total.into_scalar::<f32>());
    assert!((total - expected).abs() < 1e-5 * total, "{total} {expected}");
}

#[test]
fn the_critic_learns_from_its_own_loss_only_and_from_its_first_step_on() {
    const CRITIC: &str = "discriminator.input.weight";
    const DECODER: &str = "autoencoder.decoder.output.weight";
    let before = bench(&[]).gradients(4);
    assert!(before.get(CRITIC).is_none() && before.get(DECODER).is_some());
    // Its judgement's weight moves the autoencoder and not the critic.
    let [half, double] =
        ["0.5", "2.0"].map(|weight| bench(&[&format!("model.discriminator.weight={weight}")]).gradients(5));
    assert_eq!(values(&half, CRITIC), values(&double, CRITIC));
    assert!(values(&half, CRITIC).iter().any(|&g| g != 0.0));
    assert_ne!(values(&half, DECODER), values(&double, DECODER));
}

#[test]
fn the_critic_is_listened_to_after_as_many_steps_as_configured() {
    for (from_step, first) in [(0, 1), (4, 5)] {
        let bench = bench(&[&format!("model.discriminator.from_step={from_step}")]);
        let judged = |step| bench.loss(step).parts.iter().any(|(name, _)| *name == "judgement");
        assert!(judged(first), "step {first} of from_step {from_step}");
        assert!(first == 1 || !judged(first - 1), "step {} of from_step {from_step}", first - 1);
    }
}

#[test]
fn published_latents_have_variance_one() {
    let bench = bench(&[]);
    let path = bench.folder.path().join("kl.safetensors");
    let average = LearningAutoencoder { networks: bench.model.networks.valid(), ..bench.model.clone() };
    bench.objective.publish(&average, &path, &json!({"steps": 3}), Stage::Complete).unwrap();
    let device = Device::flex();
    let (config, autoencoder) =
        semanticist::model::load_autoencoder(&path, &bench.config.model.autoencoder, &device).unwrap();
    let AutoencoderConfig::Kl(config) = config else { panic!("it was a KL autoencoder") };
    assert!(config.scale > 0.0 && (config.scale - 1.0).abs() > 0.02, "{}", config.scale);
    let photos: Vec<_> = (0..12).map(picture).collect();
    let draw = |seed| autoencoder.sample(&to_pixels(&photos, &device), &mut Noise::seeded(seed)).0;
    let all: Vec<f64> = (0..8).flat_map(|seed| draw(seed).into_data().iter().collect::<Vec<_>>()).collect();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let total = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64;
    assert!((total - 1.0).abs() < 0.15, "{total}");
}

#[test]
fn what_cannot_be_trained_is_refused() {
    for (setting, part) in [
        ("model.autoencoder={kind=\"pixel\"}", "kind = \"kl\""),
        ("model.discriminator.width=12", "multiple of 8"),
        ("model.discriminator.layers=5", "halved 5 times"),
        ("objective.kl_weight=-1", "kl_weight"),
        ("objective.distance=l3", "l3"),
        ("precision=bfloat16", "convolutions"),
    ] {
        let error = RunConfig::<AutoencoderRun>::parse(CONFIG, &[setting.into()]).unwrap_err().to_string();
        assert!(error.contains(part), "{setting}: {error}");
    }
}

#[test]
fn before_the_end_the_scale_is_that_of_the_validation_images() {
    // One image to validate on, and other ones to fit: two different deviations.
    let bench = bench(&["validation.images=1", "validation.samples=1"]);
    let autoencoder = bench.model.networks.valid().autoencoder;
    let scale = |stage| bench.objective.scale(&autoencoder, stage).unwrap();
    let alone = autoencoder.posterior(&to_pixels(&bench.objective.validation_images, &Device::flex()));
    let mut noise = Seed::new(bench.config.seed).of(Purpose::LatentScale).at(0).noise();
    let mut moments = Moments::default();
    moments.add(alone.sample(&mut noise));
    assert_eq!(bench.objective.validation_images.len(), 1);
    assert_eq!(scale(Stage::Underway), moments.variance().sqrt().recip());
    assert_ne!(scale(Stage::Complete), scale(Stage::Underway));
}

#[test]
fn the_critic_has_an_optimiser_of_its_own() {
    use crate::checkpoint::fresh_optimizers;
    use crate::optimizer::AdamWConfig;
    let mut bench = bench(&["model.discriminator.from_step=2"]);
    let config = AdamWConfig { clip_norm: 1e-3, ..AdamWConfig::default() };
    let mut optimizers = fresh_optimizers::<LearningAutoencoder>(config);
    let weights = |bench: &Bench| weights::collect(&bench.model.networks.clone().valid(), "");
    let before = weights(&bench);
    for step in 1..=3 {
        let gradients = bench.gradients(step);
        for optimizer in &mut optimizers {
            let own = gradients.under(optimizer.prefix());
            if !own.is_empty() {
                let networks = bench.model.networks.clone();
                bench.model.networks = optimizer.step(networks, &gradients, own.norm(), 1e-2);
            }
        }
    }
    // Its first step is the third of the run, and as long as a first step of Adam is: the learning rate,
    // whatever the norm of the autoencoder's gradients.
    assert_eq!([optimizers[0].steps(), optimizers[1].steps()], [3, 1]);
    let after = weights(&bench);
    let name = "discriminator.output.weight";
    let [before, after] = [before, after].map(|weights| weights.get(name).unwrap().to_f32().unwrap());
    let moved = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!((moved - 1e-2).abs() < 1e-3, "{moved}");
}
