use std::collections::BTreeMap;
use std::path::PathBuf;

use semanticist::weights::{HostTensor, Precision};

use super::*;

/// A narrow network with random weights under the names of `transformers`, recorded by `scripts/record_clip.py`; what it
/// computes is compared in `verify --cases clip`.
pub(crate) fn recording() -> Weights {
    let file = "../semanticist-verify/tests/data/reference/clip.safetensors";
    weights::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap().0
}

fn save(folder: &Path, name: &str, weights: &Weights) -> PathBuf {
    let path = folder.join(name);
    weights::save(&path, weights, &Metadata::new(), Precision::F32).unwrap();
    path
}

/// The network in a file of its own.
pub(crate) fn file(folder: &Path) -> PathBuf {
    save(folder, "clip.safetensors", &recording().split_prefix("weights."))
}

/// The same weights as OpenAI has them: other names, queries, keys and values in one, projections the other way round.
fn of_openai(weights: &Weights) -> Weights {
    let renamed = [
        ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
        ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
        ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
        ("vision_model.pre_layrnorm", "visual.ln_pre"),
        ("vision_model.post_layernorm", "visual.ln_post"),
        ("visual_projection.weight", "visual.proj"),
        ("vision_model.encoder.layers", "visual.transformer.resblocks"),
        ("text_model.embeddings.token_embedding", "token_embedding"),
        ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        ("text_model.final_layer_norm", "ln_final"),
        ("text_projection.weight", "text_projection"),
        ("text_model.encoder.layers", "transformer.resblocks"),
        ("layer_norm", "ln_"),
        ("self_attn.out_proj", "attn.out_proj"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
    ];
    let mut out = Weights::new();
    let mut together: BTreeMap<String, [Vec<f32>; 3]> = BTreeMap::new();
    for (name, tensor) in weights.iter() {
        let new = renamed.iter().fold(name.to_string(), |name, (from, to)| name.replace(from, to));
        let (values, shape) = (tensor.to_f32().unwrap(), tensor.shape());
        let part = ["q_proj", "k_proj", "v_proj"].iter().position(|part| name.contains(part));
        if let Some(part) = part {
            let (block, kind) = (new.split("self_attn").next().unwrap(), new.rsplit('.').next().unwrap());
            together.entry(format!("{block}attn.in_proj_{kind}")).or_default()[part] = values;
        } else if let ("visual.proj" | "text_projection", [rows, columns]) = (new.as_str(), shape) {
            let mut turned = vec![0.0; values.len()];
            for (row, of_row) in values.chunks(*columns).enumerate() {
                of_row.iter().enumerate().for_each(|(column, value)| turned[column * rows + row] = *value);
            }
            out.insert(new, HostTensor::from_f32(&[*columns, *rows], &turned));
        } else {
            out.insert(new, tensor.clone());
        }
    }
    for (name, parts) in together {
        let values = parts.concat();
        let width = parts[0].len();
        let square = width.isqrt();
        let shape = if name.ends_with("bias") { vec![3 * width] } else { vec![3 * square, square] };
        out.insert(name, HostTensor::from_f32(&shape, &values));
    }
    // What OpenAI's archives hold beside weights.
    out.insert("context_length", HostTensor::from_i64(&[40]));
    out
}

/// What a network makes of some images and texts.
fn features(path: &Path) -> (Vec<f32>, Vec<f32>) {
    let device = Device::flex();
    let (network, _) = Clip::load(path, ClipActivation::QuickGelu, &device).unwrap();
    let images = Pixels(Noise::seeded(1).normal([2, 3, 32, 32], &device));
    let values = |tensor: Tensor<2>| tensor.into_data().try_to_vec::<f32>().unwrap();
    let texts = network.text_features(&[vec![530, 4, 5, 531], vec![530, 9, 531]]);
    (values(network.image_features(&images)), values(texts))
}

#[test]
fn the_names_of_openai_openclip_and_transformers_are_one_network() {
    let folder = tempfile::tempdir().unwrap();
    let weights = recording().split_prefix("weights.");
    let expected = features(&save(folder.path(), "transformers.safetensors", &weights));
    let openai = of_openai(&weights);
    assert_eq!(features(&save(folder.path(), "openai.safetensors", &openai)), expected);
    let mut openclip = Weights::new();
    for (name, tensor) in openai.iter() {
        let of_text = !name.starts_with("visual") && !["logit_scale", "context_length"].contains(&name);
        openclip.insert(format!("module.{}{name}", if of_text { "text." } else { "" }), tensor.clone());
    }
    assert_eq!(features(&save(folder.path(), "openclip.safetensors", &openclip)), expected);
}

#[test]
fn sizes_are_those_of_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let (network, hash) = Clip::load(&file(folder.path()), ClipActivation::Gelu, &Device::flex()).unwrap();
    let sizes = (network.width(), network.image_size(), network.vocabulary(), network.context());
    assert_eq!((sizes, hash.len()), ((48, 32, 532, 40), 64));
}

#[test]
fn a_text_is_what_it_is_among_others_and_nothing_behind_its_end_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (network, _) = Clip::load(&file(folder.path()), ClipActivation::QuickGelu, &Device::flex()).unwrap();
    let short = vec![530, 7, 531];
    let alone = network.text_features(std::slice::from_ref(&short));
    let longer = network.text_features(&[vec![530, 1, 2, 3, 531], short, vec![530, 7, 531, 8, 9]]);
    for row in [1, 2] {
        let apart: f32 = (longer.clone().narrow(0, row, 1) - alone.clone()).abs().max().into_scalar();
        assert!(apart < 1e-5, "{row}: {apart}");
    }
    let other: f32 = (longer.narrow(0, 0, 1) - alone).abs().max().into_scalar();
    assert!(other > 1e-2, "{other}");
}

#[test]
fn class_embeddings_are_directions_and_differ() {
    let folder = tempfile::tempdir().unwrap();
    let (network, _) = Clip::load(&file(folder.path()), ClipActivation::QuickGelu, &Device::flex()).unwrap();
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/clip/tokenizer.json");
    let tokenizer = ClipTokenizer::open(&tokenizer).unwrap();
    tokenizer.check(&network).unwrap();
    let [cat, dog] = ["cat", "dog"].map(|name| class_embedding(&network, &tokenizer, name).unwrap());
    // The mean of 80 directions by hand, in double precision.
    let mut expected = vec![0.0f64; 48];
    for template in TEMPLATES.lines() {
        let pieces = tokenizer.pieces(&template.replace("{}", "cat"), 40).unwrap();
        let found: Vec<f64> = network.text_features(&[pieces]).into_data().iter().collect();
        let length = found.iter().map(|value| value * value).sum::<f64>().sqrt();
        expected.iter_mut().zip(found).for_each(|(sum, value)| *sum += value / length);
    }
    let length = expected.iter().map(|value| value * value).sum::<f64>().sqrt();
    let found: Vec<f64> = cat.clone().into_data().iter().collect();
    assert!(found.iter().zip(&expected).all(|(found, sum)| (found - sum / length).abs() < 1e-5));
    let cosine: f32 = (cat * dog).sum().into_scalar();
    assert!(cosine < 0.9999, "{cosine}");
    let error = class_embedding(
        &network,
        &tokenizer,
        "a very long name of so many, many words that none remember it",
    )
    .unwrap_err();
    assert!(error.to_string().contains("CLIP reads 40"), "{error}");
}

#[test]
fn the_middle_is_rounded_to_even_as_in_python() {
    assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(middle), [0, 0, 1, 2, 2, 2, 3, 4]);
}

#[test]
fn what_is_no_such_network_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |weights: &Weights| {
        let path = save(folder.path(), "other.safetensors", weights);
        Clip::load(&path, ClipActivation::QuickGelu, &Device::flex()).unwrap_err().to_string()
    };
    let whole = || recording().split_prefix("weights.");
    for (name, part) in [
        ("vision_model.post_layernorm.weight", "image.tower.norm.weight"),
        ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
        ("vision_model.encoder.layers.0.layer_norm1.weight", "first block"),
    ] {
        let mut weights = whole();
        weights.remove(name).unwrap();
        assert!(refusal(&weights).contains(part), "{name}: {}", refusal(&weights));
    }
    let mut weights = whole();
    weights.insert("visual.layer1.0.conv1.weight", HostTensor::from_f32(&[1], &[0.0]));
    let error = refusal(&weights);
    assert!(
        error.contains("visual.layer1.0.conv1.weight") && error.contains("vision transformer"),
        "{error}"
    );
    for shape in [&[0, 0][..], &[18, 128], &[17], &[17, 64]] {
        let mut weights = whole();
        let count = shape.iter().product();
        let positions = HostTensor::from_f32(shape, &vec![0.0; count]);
        weights.insert("vision_model.embeddings.position_embedding.weight", positions);
        assert!(refusal(&weights).contains("positions of images"), "{shape:?}");
    }
}

#[test]
fn a_torchscript_archive_is_refused_with_what_to_do() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ViT-B-32.pt");
    let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
    for name in ["archive/data.pkl", "archive/constants.pkl", "archive/code/__torch__.py"] {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(b"x").unwrap();
    }
    archive.finish().unwrap();
    let error = Clip::load(&path, ClipActivation::QuickGelu, &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("TorchScript") && error.contains("torch.jit.load"), "{error}");
}
