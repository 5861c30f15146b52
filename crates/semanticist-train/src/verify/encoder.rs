//! The encoder: images to features and tokens, and that fewer tokens are the first of all.

use semanticist::Result;

use super::OUTPUT;
use super::bench::{Bench, Values};
use super::sizes::EncoderSizes;

pub(super) const FILE: &str = "encoder.safetensors";

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let mut recording = bench.open(FILE)?;
    let sizes = EncoderSizes::of(&recording)?;
    let images = sizes.images(&mut recording, bench.device)?;
    let mut parameters = recording.parameters()?.weights;
    let encoder = sizes.build(&mut parameters, recording.path(), bench.device)?;
    parameters.finish(recording.path())?;

    let all = encoder.forward(&images, sizes.tokens, None);
    bench.compare(&mut recording, "features", all.features.into(), OUTPUT);
    bench.compare(&mut recording, "tokens_raw", all.raw.into(), OUTPUT);
    bench.compare(&mut recording, "tokens", all.tokens.0.clone().into(), OUTPUT);
    bench.close(&recording);

    let (mut expected, mut found) = (Vec::new(), Vec::new());
    for count in 1..=sizes.tokens {
        expected.append(&mut Values::from(all.tokens.prefix(count).0).values);
        found.append(&mut Values::from(encoder.forward(&images, count, None).tokens.0).values);
    }
    bench.record("tokens, first k only", &expected, &found, OUTPUT);
    Ok(())
}
