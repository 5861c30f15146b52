//! The encoder: images to features and tokens, and that fewer tokens are the first of all.

use semanticist::Result;

use super::comparison::{Comparison, Values};
use super::sizes::EncoderSizes;
use super::tolerance::Kind;

pub(super) const FILE: &str = "encoder.safetensors";

pub(super) fn run(comparison: &mut Comparison) -> Result<()> {
    let mut recording = comparison.open(FILE)?;
    let sizes = EncoderSizes::of(&recording)?;
    let images = sizes.images(&mut recording, comparison.device)?;
    let mut parameters = recording.parameters()?.weights;
    let encoder = sizes.build(&mut parameters, recording.path(), comparison.device)?;
    parameters.finish(recording.path())?;
    let encoder = comparison.precision.store(encoder);

    let all = encoder.forward(&images, sizes.tokens, None);
    comparison.compare(&mut recording, "features", all.features.into(), Kind::Output);
    comparison.compare(&mut recording, "tokens_raw", all.raw.into(), Kind::Output);
    comparison.compare(&mut recording, "tokens", all.tokens.0.clone().into(), Kind::Output);
    comparison.close(&recording);

    let (mut expected, mut found) = (Vec::new(), Vec::new());
    for count in 1..=sizes.tokens {
        expected.append(&mut Values::from(all.tokens.prefix(count).0).values);
        found.append(&mut Values::from(encoder.forward(&images, count, None).tokens.0).values);
    }
    comparison.record("tokens, first k only", &expected, &found, Kind::Output);
    Ok(())
}
