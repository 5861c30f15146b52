use super::*;
use crate::gradients::Gradients;
use crate::optimizer::{AdamW, AdamWConfig};
use semanticist::generator::{DrawOptions, TokenGuidance};
use semanticist::weights::{self, HostTensor};
use semanticist_data::tokens::{TokenFileInfo, TokenRecord, TokenWriter};

const CONFIG: &str = r#"
steps = 10
batch = 6
[model]
tokens = 3
token_dim = 2
classes = 2
width = 16
depth = 1
heads = 2
head = { width = 16, depth = 1 }
[learning_rate]
peak = 1e-3
warmup_steps = 0
decay = "constant"
"#;

/// Twelve images of two classes: tokens of class 1 are those of class 0 with the other sign.
fn cache(folder: &Path, label: impl Fn(i64) -> Option<i64>) -> Arc<TokenCache> {
    let path = folder.join("tokens.parquet");
    let info = TokenFileInfo { model_hash: "abc".into(), tokens: 3, token_dim: 2 };
    let mut writer = TokenWriter::create(&path, info).unwrap();
    for image in 0..12i64 {
        let sign = if image % 2 == 0 { 1.0 } else { -1.0 };
        let tokens = [0.5f32, 1.5, -1.0, 1.0, 0.2, -0.7].map(|v| v * sign);
        let tokens = tokens.to_vec();
        let record = TokenRecord { path: image.to_string(), label: label(image), tokens, padded: None };
        writer.push(&record).unwrap();
    }
    writer.finish().unwrap();
    Arc::new(TokenCache::open(&[path]).unwrap())
}

fn objective(settings: &[&str]) -> semanticist::Result<(GeneratorObjective, GeneratorModel)> {
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    let config = RunConfig::parse(CONFIG, &settings)?;
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path(), |image| Some(image % 2));
    let device = Device::flex();
    let model = untrained(&config, &cache, &device)?;
    Ok((GeneratorObjective::new(&config, [cache.clone(), cache], None)?, model))
}

fn batch(objective: &GeneratorObjective) -> Vec<TokenExample> {
    objective.batches(Position::default(), Share::WHOLE).next().unwrap().0
}

#[test]
fn an_untrained_head_misses_the_velocity_by_its_own_size() {
    let (objective, model) = objective(&["objective.draws=64"]).unwrap();
    // It answers 0, so the loss is the mean square of token minus noise: that of tokens, plus 1.
    let tokens = [0.5f64, 1.5, -1.0, 1.0, 0.2, -0.7].map(|v| v * v).iter().sum::<f64>() / 6.0;
    let loss = objective.loss(&model, &batch(&objective), 1, &mut Noise::seeded(1)).total;
    let loss = f64::from(loss.into_scalar::<f32>());
    assert!((loss - tokens - 1.0).abs() < 0.15, "{loss} {tokens}");
}

#[test]
fn without_dropout_training_and_validation_agree() {
    let off = ["objective.dropout=0", "objective.class_dropout=0"];
    let (objective, model) = objective(&off).unwrap();
    let examples = batch(&objective);
    let training = objective.loss(&model, &examples, 1, &mut Noise::seeded(1)).total;
    let classes: Vec<usize> = examples.iter().map(|example| example.label).collect();
    let mut noise = Noise::seeded(1);
    // In training, the classes to drop are drawn first.
    noise.uniform(examples.len());
    let validation = objective.loss_of(&model.generator, &examples, &classes, 0.0, &mut noise);
    assert_eq!(training.into_scalar::<f32>(), validation.into_scalar::<f32>());
}

#[test]
fn in_bfloat16_loss_and_gradients_are_near_those_in_float32() {
    let (objective, model) = objective(&["objective.dropout=0"]).unwrap();
    let mut drawn = Weights::new();
    let mut noise = Noise::seeded(5);
    for (name, tensor) in weights::collect(model.parameters(), "").iter() {
        let values: Vec<f32> = noise.uniform(tensor.shape().iter().product());
        let values: Vec<f32> = values.into_iter().map(|value| value - 0.5).collect();
        drawn.insert(name, HostTensor::from_f32(tensor.shape(), &values));
    }
    let step = |precision: semanticist::Precision| {
        let mut model = model.clone();
        let networks = weights::apply(model.parameters().clone(), "", &mut drawn.clone());
        *model.parameters_mut() = precision.train(networks);
        let loss = objective.loss(&model, &batch(&objective), 1, &mut Noise::seeded(1)).total;
        let gradients = Gradients::collect(model.parameters(), &loss.backward());
        (f64::from(loss.into_scalar::<f32>()), gradients)
    };
    let (loss, exact) = step(semanticist::Precision::Float32);
    let (rounded_loss, rounded) = step(semanticist::Precision::Bfloat16);
    assert!(loss != rounded_loss && (rounded_loss / loss - 1.0).abs() < 1e-2, "{rounded_loss} {loss}");
    for (name, _) in weights::collect(model.parameters(), "").iter() {
        let [exact, rounded] = [&exact, &rounded].map(|gradients| gradients.get(name).unwrap().clone());
        let length = |x: Tensor<1>| x.square().sum().sqrt().into_scalar::<f32>();
        let apart = length(exact.clone() - rounded) / length(exact);
        assert!(apart < 5e-2, "{name}: {apart}");
    }
}

#[test]
fn a_lost_class_teaches_the_extra_row_and_a_kept_one_its_own() {
    let rows = |class_dropout: &str| {
        let drop = format!("objective.class_dropout={class_dropout}");
        let (objective, mut model) = objective(&[&drop]).unwrap();
        // A head that answers 0 would teach nothing behind it.
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let mut gradients = Gradients::default();
        for step in 1..=3 {
            let loss = objective.loss(&model, &batch(&objective), step, &mut Noise::seeded(step)).total;
            gradients = Gradients::collect(&model.generator.networks, &loss.backward());
            let norm = gradients.norm();
            let networks = model.generator.networks.clone();
            model.generator.networks = optimizer.step(networks, &gradients, norm, 1e-2);
        }
        let values = gradients.get("transformer.classes").unwrap().clone().into_data();
        let values = values.try_to_vec::<f32>().unwrap();
        [0, 1, 2].map(|row| values[row * 16..][..16].iter().any(|&g| g != 0.0))
    };
    assert_eq!(rows("0"), [true, true, false]);
    assert_eq!(rows("0.999999"), [false, false, true]);
}

#[test]
fn a_class_is_learnt_by_heart_and_drawn() {
    let (objective, mut model) =
        objective(&["objective.dropout=0", "objective.draws=16", "objective.class_dropout=0"]).unwrap();
    let mut optimizer = AdamW::new(AdamWConfig::default());
    for step in 1..=300 {
        let loss = objective.loss(&model, &batch(&objective), step, &mut Noise::seeded(step)).total;
        let gradients = Gradients::collect(&model.generator.networks, &loss.backward());
        let (norm, networks) = (gradients.norm(), model.generator.networks.clone());
        model.generator.networks = optimizer.step(networks, &gradients, norm, 1e-2);
    }
    use burn::module::Module;
    let plain =
        Generator { networks: model.generator.networks.valid(), config: model.generator.config.clone() };
    let drawing = DrawOptions {
        guidance: TokenGuidance::NONE,
        steps: 50,
        sampler: Some(semanticist::diffusion::Sampler::Heun),
        temperature: 1.0,
    };
    let options = GenerateOptions { tokens: 3, drawing };
    let drawn = plain.generate(&[0, 1], &options, 3).unwrap();
    let drawn = drawn.0.into_data().try_to_vec::<f32>().unwrap();
    let expected = [0.5, 1.5, -1.0, 1.0, 0.2, -0.7];
    let expected: Vec<f32> = expected.iter().copied().chain(expected.iter().map(|v| -v)).collect();
    assert!(drawn.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 0.25), "{drawn:?}");
}

#[test]
fn caches_that_do_not_fit_are_refused() {
    for (setting, part) in [
        ("model.tokens=4", "3 tokens of 2 numbers, the configuration asks for 4 of 2"),
        ("model.token_dim=3", "for 3 of 3"),
        ("model.classes=1", "has the label 1"),
        ("objective.draws=0", "at least once"),
        ("objective.dropout=1", "dropout = 1"),
        ("model.heads=3", "3 heads do not divide"),
    ] {
        let error = objective(&[setting]).err().unwrap().to_string();
        assert!(error.contains(part), "{setting}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let config = RunConfig::parse(CONFIG, &[]).unwrap();
    let cache = cache(folder.path(), |image| (image != 4).then_some(0));
    let error = GeneratorObjective::new(&config, [cache.clone(), cache], None).err().unwrap();
    assert!(error.to_string().contains("image 4 of the cache has no label"), "{error}");
}
