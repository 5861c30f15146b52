//! Training as a whole: it learns, it resumes exactly, it stops before harm.

mod ranks;
mod repa;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use semanticist::diffusion::{DecodeOptions, DiffusionConfig, Guidance, Process};
use semanticist::image::{RgbImage, from_pixels, to_pixels};
use semanticist::tokenizer::Networks;
use semanticist::weights::{self, HostTensor, Weights};
use semanticist::{Latents, Noise, Pixels, Precision, Progress, Seed, Tokenizer, Tokens};
use semanticist_data::{Source, Split};
use semanticist_train::autoencoder;
use semanticist_train::changes::OnChange;
use semanticist_train::collective::Alone;
use semanticist_train::config;
use semanticist_train::ema;
use semanticist_train::gradients::Gradients;
use semanticist_train::journal::OF_THE_CLOCK;
use semanticist_train::objective::diffusion::{Draws, loss};
use semanticist_train::objective::repa::Repa;
use semanticist_train::objective::tokenizer::{TokenizerObjective, TokenizerRun, untrained};
use semanticist_train::optimizer::{AdamW, AdamWConfig};
use semanticist_train::trainer::{Ending, Event, RunContext, Trainer};

type RunConfig = config::RunConfig<TokenizerRun>;

const CONFIG: &str = r#"
steps = 6
batch = 6
accumulate = 2
ema = 0.9
[model]
image_size = 16
tokens = 4
token_dim = 4
encoder = { patch_size = 4, drop_path = 0.2, blocks = { width = 32, depth = 2, heads = 2 } }
decoder = { patch_size = 1, blocks = { width = 32, depth = 2, heads = 2 } }
autoencoder = { kind = "linear", patch_size = 4, channels = 8, whitening = 0.25 }
diffusion = { steps = 1000, schedule = "linear", prediction = "velocity" }
[learning_rate]
peak = 1e-3
warmup_steps = 2
decay = "cosine"
[objective.nested_guidance]
from_step = 2
[objective.linear_readout]
weight = 0.5
[log]
every = 1
checkpoint_every = 3
validate_every = 3
[validation]
images = 4
tokens = [1, 4]
samples = 1
"#;

/// A smooth image, different for each seed.
fn picture(seed: u32, side: u32) -> RgbImage {
    RgbImage::from_fn(side, side, |x, y| {
        let wave = |k: u32| {
            let angle = (x * (seed % 5 + 1) + y * (seed % 3 + 1)) as f32 / side as f32 + (k * seed) as f32;
            (127.5 + 127.0 * angle.sin()) as u8
        };
        image::Rgb([wave(1), (x * 255 / side) as u8, wave(3) / 2])
    })
}

fn photos(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for seed in 0..40 {
        picture(seed, 20).save(folder.join(format!("{seed:03}.png"))).unwrap();
    }
}

/// Runs in `out`; `stop_before` interrupts after as many steps.
fn run(data: &Path, out: &Path, settings: &[&str], resume: bool) -> semanticist::Result<Ending> {
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    let mut config = RunConfig::parse(CONFIG, &settings)?;
    let source = Arc::new(Source::open(&[data.to_path_buf()], Split::All)?);
    let (device, interrupted) = (Device::flex(), AtomicBool::new(false));
    if resume {
        config.objective.repa = Repa::of_run(out, config.objective.repa)?;
    }
    let teacher = Repa::load_teacher(&mut config, &device)?;
    let objective = TokenizerObjective::new(&config, source.clone(), &source, teacher, &device)?;
    let context = RunContext { out, device: &device, interrupted: &interrupted, ranks: &Alone };
    let trainer = if resume {
        Trainer::resume(config, objective, context, OnChange::Refuse, &mut |_| ())?
    } else {
        let autoencoder = autoencoder::fit(&config, source, &device, &mut |_| ())?;
        let tokenizer = untrained(&config, autoencoder, &device)?;
        Trainer::start(config, objective, tokenizer, context)?
    };
    trainer.run(&mut |event| {
        if let Event::Saved(path) = event
            && path.ends_with("step-00000003")
            && !resume
        {
            interrupted.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    })
}

/// The journal without what depends on the clock.
fn journal(out: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(out.join("journal.jsonl")).unwrap();
    let strip = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        for name in OF_THE_CLOCK {
            value.as_object_mut().unwrap().remove(name);
        }
        value
    };
    text.lines().map(strip).collect()
}

#[test]
fn an_interrupted_run_goes_on_as_if_nothing_had_happened() {
    interrupted_and_not(&[]);
}

#[test]
fn so_does_one_in_bfloat16_and_what_it_writes_is_float32() {
    interrupted_and_not(&["precision=bfloat16"]);
}

/// How many numbers have more than the 8 significant bits of bfloat16.
fn finer(values: &[f32]) -> usize {
    values.iter().filter(|value| value.to_bits() & 0xffff != 0).count()
}

fn interrupted_and_not(settings: &[&str]) {
    let temp = tempfile::tempdir().unwrap();
    let (data, whole, parts) =
        (temp.path().join("data"), temp.path().join("whole"), temp.path().join("parts"));
    photos(&data);
    // Steps 1 to 3, then what a kill at step 5 may leave: later lines, a torn one, half a folder.
    assert_eq!(run(&data, &parts, settings, false).unwrap(), Ending::Interrupted);
    let mut torn = std::fs::read_to_string(parts.join("journal.jsonl")).unwrap();
    torn += "{\"step\":4,\"loss\":7.0}\n{\"step\":5,\"lo";
    std::fs::write(parts.join("journal.jsonl"), torn).unwrap();
    let partial = parts.join("checkpoints/.step-00000006.partial");
    std::fs::create_dir_all(&partial).unwrap();
    std::fs::write(partial.join("weights.safetensors"), b"half").unwrap();
    assert_eq!(run(&data, &parts, settings, true).unwrap(), Ending::Complete);

    run(&data, &whole, &[settings, &["log.checkpoint_every=0"]].concat(), false).unwrap();
    assert_eq!(journal(&parts), journal(&whole));
    for file in ["weights", "average", "optimizer"] {
        let name = format!("checkpoints/step-00000006/{file}.safetensors");
        let [a, b] = [&parts, &whole].map(|out| std::fs::read(out.join(&name)).unwrap());
        assert!(a == b, "{name} differs");
    }
    // The readout stays in the checkpoints: loading is strict.
    let model = Tokenizer::open(whole.join("model.safetensors"), &Device::flex()).unwrap();
    assert!(whole.join("samples/step-00000006.png").is_file());
    let published = model.networks.encoder.blocks[1].mlp.up.weight.val().into_data();
    let name = "tokenizer.encoder.blocks.1.mlp.up.weight";
    let weights =
        ["weights", "average"].map(|file| stored(&whole, 6, file).get(name).unwrap().to_f32().unwrap());
    for values in [&weights[0], &weights[1], &published.try_to_vec::<f32>().unwrap()] {
        assert!(finer(values) > values.len() / 2, "{} of {}", finer(values), values.len());
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_before_the_weights_change() {
    let temp = tempfile::tempdir().unwrap();
    let (data, out) = (temp.path().join("data"), temp.path().join("run"));
    photos(&data);
    let settings = ["learning_rate.peak=1e30", "learning_rate.warmup_steps=0", "log.validate_every=0"];
    let error = run(&data, &out, &settings, false).unwrap_err().to_string();
    assert!(error.contains("in a row") && error.contains("learning_rate.peak"), "{error}");
    assert!(!out.join("checkpoints/step-00000006").exists());
}

#[test]
fn a_run_is_not_overwritten_and_not_resumed_as_another() {
    let temp = tempfile::tempdir().unwrap();
    let (data, out) = (temp.path().join("data"), temp.path().join("run"));
    photos(&data);
    run(&data, &out, &["steps=1", "log.validate_every=0"], false).unwrap();
    let again = run(&data, &out, &[], false).unwrap_err().to_string();
    assert!(again.contains("already holds a run"), "{again}");
    let other = run(&data, &out, &["seed=5"], true).unwrap_err().to_string();
    assert!(other.contains("seed: was 0, is 5"), "{other}");
    let none = run(&data, &temp.path().join("nothing"), &[], true).unwrap_err().to_string();
    assert!(none.contains("no checkpoint"), "{none}");
}

/// The tensors of a file of the last checkpoint.
fn stored(out: &Path, step: usize, file: &str) -> Weights {
    let path = out.join(format!("checkpoints/step-{step:08}/{file}.safetensors"));
    weights::load(&path).unwrap().0
}

#[test]
fn a_batch_in_parts_is_the_batch_to_rounding() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    photos(&data);
    let moments = |parts: usize| {
        let out = temp.path().join(format!("in-{parts}"));
        let accumulate = format!("accumulate={parts}");
        let settings = ["steps=1", "batch=8", "log.validate_every=0", "learning_rate.warmup_steps=0"];
        run(
            &data,
            &out,
            &[&settings[..], &[accumulate.as_str(), "learning_rate.decay=constant"]].concat(),
            false,
        )
        .unwrap();
        let moments = stored(&out, 1, "optimizer");
        let first = moments.iter().filter(|(name, _)| name.starts_with("first."));
        first.flat_map(|(_, moment)| moment.to_f32().unwrap()).collect::<Vec<f32>>()
    };
    // The first moments are a tenth of the gradients.
    let (whole, parts) = (moments(1), moments(8));
    let largest = whole.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let apart = whole.iter().zip(&parts).fold(0.0f32, |apart, (a, b)| apart.max((a - b).abs()));
    assert!(largest > 0.0 && apart < 1e-5 * largest, "{apart} of {largest}");
}

#[test]
fn a_resumed_run_is_the_run_or_says_what_changed() {
    let temp = tempfile::tempdir().unwrap();
    let (data, out) = (temp.path().join("data"), temp.path().join("run"));
    photos(&data);
    run(&data, &out, &["log.validate_every=0", "steps=3"], false).unwrap();
    let refused = |settings: &[&str]| run(&data, &out, settings, true).unwrap_err().to_string();
    let error = refused(&["learning_rate.peak=5e-4", "ema=0.5", "log.every=7"]);
    for part in ["learning_rate.peak: was 0.001, is 0.0005", "ema: was 0.9, is 0.5", "steps: was 3, is 6"] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    assert!(!error.contains("log.every"), "{error}");
    let error = refused(&["steps=3", "objective={}"]);
    assert!(error.contains("of another model") && error.contains("objective.linear_readout"), "{error}");
    // Data that lost an image is other data.
    std::fs::remove_file(data.join("007.png")).unwrap();
    let error = refused(&["steps=3"]);
    assert!(error.contains("the data") && error.contains("40:") && error.contains("39:"), "{error}");
}

#[test]
fn a_moment_that_is_missing_is_found_missing() {
    let temp = tempfile::tempdir().unwrap();
    let (data, out) = (temp.path().join("data"), temp.path().join("run"));
    photos(&data);
    run(&data, &out, &["log.validate_every=0", "steps=1"], false).unwrap();
    let mut moments = stored(&out, 1, "optimizer");
    let name = moments.names().find(|name| name.starts_with("second.")).unwrap().to_string();
    moments.remove(&name);
    let path = out.join("checkpoints/step-00000001/optimizer.safetensors");
    let rest = path.with_extension("rest");
    weights::save(&rest, &moments, &Default::default(), weights::Precision::F32).unwrap();
    std::fs::rename(&rest, &path).unwrap();
    // As in checkpoints without checksums, which would have told already.
    let state = path.with_file_name("state.json");
    let mut fields: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    fields.as_object_mut().unwrap().remove("checksums");
    std::fs::write(&state, fields.to_string()).unwrap();
    let error = run(&data, &out, &["steps=1"], true).unwrap_err().to_string();
    assert!(error.contains(&format!("{name} is missing")), "{error}");
}

#[test]
fn what_does_not_learn_is_written_once() {
    let temp = tempfile::tempdir().unwrap();
    let (data, out) = (temp.path().join("data"), temp.path().join("run"));
    photos(&data);
    run(&data, &out, &["log.validate_every=0", "steps=1"], false).unwrap();
    let (frozen, _) = weights::load(&out.join("checkpoints/frozen.safetensors")).unwrap();
    assert!(frozen.names().all(|name| name.starts_with("autoencoder.")) && !frozen.is_empty());
    let learnt = stored(&out, 1, "weights");
    assert!(learnt.names().all(|name| !name.starts_with("autoencoder.")));
}

/// Networks of which every parameter is drawn: new ones hide behind gates of 0 what they compute.
fn drawn_networks(config: &RunConfig) -> Networks {
    let mut noise = Noise::seeded(2);
    let blank = Networks::init(&config.model, &mut noise, &Device::flex().autodiff()).unwrap();
    let mut drawn = Weights::new();
    for (name, tensor) in weights::collect(&blank, "").iter() {
        let values =
            noise.uniform(tensor.shape().iter().product()).into_iter().map(|value| (value - 0.5) * 0.4);
        drawn.insert(name, HostTensor::from_f32(tensor.shape(), &values.collect::<Vec<f32>>()));
    }
    weights::apply(blank, "", &mut drawn)
}

#[test]
fn a_step_in_bfloat16_is_near_one_in_float32_and_moves_weights_that_stay_float32() {
    let config = RunConfig::parse(CONFIG, &[]).unwrap();
    let process = Process::new(&config.model.diffusion).unwrap();
    let device = Device::flex();
    let pixels = Pixels(Tensor::from_inner(to_pixels(&[picture(1, 16), picture(2, 16)], &device).0));
    let step = |precision: Precision| {
        let networks = precision.train(drawn_networks(&config));
        let mut noise = Noise::seeded(4);
        let latents = Latents(Tensor::from_inner(noise.normal([2, 8, 4, 4], &device)));
        let draws = Draws {
            keep: vec![4, 2],
            times: vec![100.0, 700.0],
            noise: Tensor::from_inner(noise.normal([2, 8, 4, 4], &device)),
        };
        let tokens = networks.encoder.forward(&pixels, 4, None).tokens;
        let total = loss(&networks, &process, &tokens, &latents, &draws).total.mean();
        let gradients = Gradients::collect(&networks, &total.backward());
        (f64::from(total.into_scalar::<f32>()), gradients, networks)
    };
    let (exact_loss, exact, plain) = step(Precision::Float32);
    let (loss, rounded, networks) = step(Precision::Bfloat16);
    assert!(loss != exact_loss && (loss / exact_loss - 1.0).abs() < 1e-2, "{loss} {exact_loss}");
    assert!((rounded.norm() / exact.norm() - 1.0).abs() < 2e-2);
    let values = |tensor: &Tensor<1>| tensor.clone().into_data().try_to_vec::<f32>().unwrap();
    let length =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let names: Vec<String> = weights::collect(&plain, "").names().map(String::from).collect();
    for name in &names {
        let [a, b] = [&exact, &rounded].map(|gradients| values(gradients.get(name).unwrap()));
        let apart = length(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / length(&mut a.iter().copied());
        assert!(apart < 5e-2, "{name}: {apart}");
    }

    let before = weights::collect(&networks, "");
    let moved = AdamW::new(AdamWConfig::default()).step(networks, &rounded, rounded.norm(), 1e-5);
    let (after, average) = (weights::collect(&moved, ""), ema::average(moved.valid(), &moved, 0.5));
    assert_eq!(Precision::stored(&moved), Precision::Float32);
    let average = weights::collect(&average, "");
    for name in names.iter().filter(|name| name.ends_with("weight")) {
        let [before, after, average] =
            [&before, &after, &average].map(|all| all.get(name).unwrap().to_f32().unwrap());
        // Steps of 1e-5 are smaller than the distance of neighbours in bfloat16.
        let steps = before.iter().zip(&after).map(|(a, b)| (a - b).abs());
        assert!(steps.fold(0.0f32, f32::max) < 1.1e-5, "{name}");
        assert!(before != after && finer(&after) > after.len() / 2, "{name}");
        assert_eq!(average, after, "{name}: an average of equals");
    }
}

/// The distance in dB between an image and what is decoded of it after training on nothing else.
fn learnt_by_heart(settings: &[&str], options: &DecodeOptions) -> f64 {
    let device = Device::flex();
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    let config = RunConfig::parse(CONFIG, &settings).unwrap().model;
    let picture = picture(3, 16);
    let pixels = to_pixels(std::slice::from_ref(&picture), &device);
    let process = Process::new(&config.diffusion).unwrap();
    let mut networks = Networks::init(&config, &mut Noise::seeded(0), &device.clone().autodiff()).unwrap();
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let batch = 8;
    let lift = |x: &Tensor<4>| Tensor::from_inner(x.clone().repeat_dim(0, batch));
    for step in 0..400 {
        let mut noise = Seed::new(1).at(step).noise();
        let latents = lift(&(pixels.0.clone() * 2.0 - 1.0));
        let draws = Draws {
            keep: vec![4; batch],
            times: process.draw_times(batch, &mut noise),
            noise: Tensor::from_inner(noise.normal(latents.dims(), &device)),
        };
        let tokens = networks.encoder.forward(&Pixels(lift(&pixels.0)), 4, None).tokens;
        let total = loss(&networks, &process, &tokens, &Latents(latents), &draws).total.mean();
        let gradients = Gradients::collect(&networks, &total.backward());
        let norm = gradients.norm();
        networks = optimizer.step(networks, &gradients, norm, 3e-3);
    }
    let autoencoder = semanticist::autoencoder::Autoencoder::Pixel;
    let tokenizer = Tokenizer { config, networks: networks.valid(), autoencoder };
    let tokens = tokenizer.encode(&pixels, 4).unwrap();
    let decoded = tokenizer.decode(&tokens, options, 5).unwrap();
    let error: f64 = from_pixels(&decoded)[0]
        .iter()
        .zip(picture.iter())
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum::<f64>()
        / (3.0 * 256.0);
    10.0 * (255.0f64.powi(2) / error).log10()
}

const PIXELS: [&str; 2] = ["model.autoencoder={kind=\"pixel\"}", "model.decoder.patch_size=2"];

#[test]
fn one_image_can_be_learnt_by_heart() {
    let options = DecodeOptions { steps: 50, sampler: None, guidance: Guidance::NONE };
    let psnr = learnt_by_heart(&PIXELS, &options);
    assert!(psnr > 20.0, "{psnr} dB");
}

#[test]
fn a_flow_learns_as_well_whatever_it_predicts() {
    let options = DecodeOptions { guidance: Guidance::NONE, ..DecodeOptions::default() };
    for flow in [
        r#"model.diffusion={ kind="flow" }"#,
        r#"model.diffusion={ kind="flow", prediction="clean", times={ kind="logit-normal", mean=-0.8, deviation=0.8 } }"#,
    ] {
        let psnr = learnt_by_heart(&[PIXELS[0], PIXELS[1], flow], &options);
        assert!(psnr > 20.0, "{flow}: {psnr} dB");
    }
}

#[test]
fn a_rectified_flow_tokenizer_is_a_configuration() {
    let temp = tempfile::tempdir().unwrap();
    let (data, out) = (temp.path().join("data"), temp.path().join("run"));
    photos(&data);
    let flow = r#"model.diffusion={ kind="flow" }"#;
    run(&data, &out, &[flow, "log.checkpoint_every=0", "steps=3"], false).unwrap();
    assert!(out.join("samples/step-00000003.png").is_file());

    let device = Device::flex();
    let tokenizer = Tokenizer::open(out.join("model.safetensors"), &device).unwrap();
    assert!(matches!(tokenizer.config.diffusion, DiffusionConfig::Flow(_)));
    let [outputs, _] = tokenizer.networks.decoder.output.linear.weight.dims();
    assert_eq!(outputs, 8, "one number per latent channel, as there is no variance");
    let pixels = to_pixels(&[picture(1, 16), picture(2, 16)], &device);
    let paint = |sampler: &str| {
        let options = DecodeOptions { sampler: Some(sampler.parse().unwrap()), ..DecodeOptions::default() };
        tokenizer.decode(&tokenizer.encode(&pixels, 4).unwrap().prefix(2), &options, 0)
    };
    for sampler in ["sde", "euler", "heun"] {
        let decoded = paint(sampler).unwrap().0;
        assert_eq!(decoded.dims(), [2, 3, 16, 16]);
        let decoded = decoded.into_data().try_to_vec::<f32>().unwrap();
        assert!(decoded.iter().all(|value| value.is_finite()), "{sampler}");
    }
    assert!(paint("ddim").unwrap_err().to_string().contains("\"heun\""));
}

#[test]
fn what_does_not_fit_a_tokenizer_is_an_error_and_decoding_can_be_ended() {
    let device = Device::flex();
    let settings = ["model.autoencoder={kind=\"pixel\"}", "model.decoder.patch_size=2"].map(String::from);
    let config = RunConfig::parse(CONFIG, &settings).unwrap();
    let tokenizer =
        untrained(&config, semanticist::autoencoder::Autoencoder::Pixel, &device).unwrap().tokenizer();
    let error = |result: semanticist::Result<Tokens>| result.unwrap_err().to_string();
    let pixels = to_pixels(&[picture(1, 16)], &device);
    assert!(error(tokenizer.encode(&to_pixels(&[picture(1, 20)], &device), 4)).contains("[B, 3, 16, 16]"));
    assert!(error(tokenizer.encode(&pixels, 5)).contains("1 to 4"));
    let tokens = tokenizer.encode(&pixels, 4).unwrap();
    let wide = Tokens::from_vec(vec![0.0; 5], [1, 1, 5], &device).unwrap();
    let options = DecodeOptions { steps: 4, ..DecodeOptions::default() };
    let error = tokenizer.decode(&wide, &options, 0).unwrap_err().to_string();
    assert!(error.contains("tokens of 5 numbers") && error.contains("at most 4 of 4"), "{error}");
    let mut told = Vec::new();
    let mut observe = |progress: Progress| {
        told.push((progress.done, progress.total));
        if progress.done < 2 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let ended = tokenizer.decode_observed(&tokens, &[4], &options, &mut Noise::seeded(0), &mut observe);
    assert!(matches!(ended, Err(semanticist::Error::Cancelled)));
    assert_eq!(told, [(1, 4), (2, 4)]);
}

#[test]
fn blocks_that_are_computed_twice_learn_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    photos(&data);
    for precision in ["float32", "bfloat16"] {
        let journal = |name: &str, settings: &[&str]| {
            let precision = format!("precision={precision}");
            let out = temp.path().join(format!("{name} {precision}"));
            run(&data, &out, &[&[&*precision, "log.checkpoint_every=0"], settings].concat(), false).unwrap();
            journal(&out)
        };
        let (kept, again) = (journal("kept", &[]), journal("again", &["checkpoint_blocks=true"]));
        assert_eq!(kept.len(), again.len());
        for (kept, again) in kept.iter().zip(&again) {
            for name in ["loss", "mse", "readout", "gradient_norm"] {
                let Some(expected) = kept[name].as_f64() else { continue };
                let found = again[name].as_f64().unwrap();
                // Gradients of what several blocks read are added in another order.
                assert!((found - expected).abs() <= 2e-5 * expected.abs(), "{name}: {found} {expected}");
            }
        }
        assert!(kept.iter().any(|line| line["gradient_norm"].is_f64()), "{kept:?}");
    }
}
