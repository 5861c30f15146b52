//! TiTok and LlamaGen's VQ-16: images to codes, and codes to images.

use semanticist::{Pixels, Result, Tokens};
use semanticist_eval::quantised::{Decomposition, QuantisedKind, QuantisedTokenizer};

use super::comparison::{Comparison, Values};
use super::tolerance::Kind;

pub(super) const TITOK: &str = "titok.safetensors";
pub(super) const VQ: &str = "vq.safetensors";

pub(super) fn run_titok(comparison: &mut Comparison) -> Result<()> {
    run(comparison, TITOK, QuantisedKind::TiTok)
}

pub(super) fn run_vq(comparison: &mut Comparison) -> Result<()> {
    run(comparison, VQ, QuantisedKind::Vq)
}

fn run(comparison: &mut Comparison, file: &str, kind: QuantisedKind) -> Result<()> {
    let mut recording = comparison.open(file)?;
    let weights = recording.raw_parameters()?;
    let device = comparison.device;
    let tokenizer = QuantisedTokenizer::from_weights(kind, &weights, recording.path(), device)?;
    let [batch, ..] = recording.dims::<4>("images")?;
    let side = tokenizer.image_size();
    let images = recording.tensor("images", [batch, 3, side, side], device)?;
    let found = tokenizer.encode(&Pixels(images));
    comparison.compare(&mut recording, "latents", found.latents.into(), Kind::Unrounded);
    let [_, count] = found.codes.dims();
    let codes = recording.integers("codes", &[batch, count], tokenizer.codebook_size() - 1)?;
    let codes: Vec<f64> = codes.into_iter().map(|code| code as f64).collect();
    let found_codes: Vec<f64> = found.codes.into_data().iter().collect();
    comparison.record("codes", &codes, &found_codes, Kind::Exact);
    let vectors = recording.tensor("vectors", [batch, count, tokenizer.token_dim()], device)?;
    let [recorded, found]: [Values; 2] = [vectors.clone().into(), found.vectors.0.into()];
    comparison.record("vectors", &recorded.values, &found.values, Kind::Unrounded);
    // From what was recorded: a wrong code is one failure, not all.
    if let Some(logits) = tokenizer.pixel_logits(&vectors) {
        let logits: Values = logits.permute([0, 3, 1, 2]).into();
        comparison.compare(&mut recording, "logits", logits, Kind::Unrounded);
    }
    let pictures = tokenizer.decode(&vectors);
    comparison.compare(&mut recording, "pictures", pictures.0.into(), Kind::Unrounded);
    if recording.has("pictures_of_two") {
        let two = Decomposition::FirstK.kept(&Tokens(vectors), &vec![2.min(count); batch]);
        let pictures = tokenizer.decode(&two);
        comparison.compare(&mut recording, "pictures_of_two", pictures.0.into(), Kind::Unrounded);
    }
    comparison.close(&recording);
    Ok(())
}
