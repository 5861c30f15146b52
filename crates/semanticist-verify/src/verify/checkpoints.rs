//! A published checkpoint: it holds the weights of the recorded networks, and they work the same.

use std::collections::BTreeSet;
use std::path::Path;

use semanticist::Result;
use semanticist::weights::published::{self, PublishedWeights};
use semanticist::weights::{HostTensor, Weights};

use super::comparison::{Comparison, Values};
use super::decoder::{self, Question, compare_positions};
use super::encoder;
use super::sizes::{DecoderSizes, EncoderSizes};
use super::tolerance::Kind;

pub(super) const FILE: &str = "checkpoints/tokenizer_ema.pkl";

/// A checkpoint can leave this out, because only training needs it.
const PROJECTOR: &str = "decoder.projector.";

pub(super) fn run(comparison: &mut Comparison) -> Result<()> {
    let path = comparison.folder.join(FILE);
    let PublishedWeights { mut weights, positions, .. } = published::load(&path)?;
    let (encoder_sizes, mut recorded) = EncoderSizes::read(comparison.folder)?;
    let (mut decoder_sizes, decoder_weights) = DecoderSizes::read(comparison.folder)?;
    recorded.extend(decoder_weights);
    if !weights.names().any(|name| name.starts_with(PROJECTOR)) {
        recorded.split_prefix(PROJECTOR);
        decoder_sizes = decoder_sizes.without_projector();
    }
    compare_stored(comparison, &recorded, &weights);
    compare_tokens(comparison, &encoder_sizes, &mut weights, &path)?;

    let mut recording = comparison.open(decoder::FILE)?;
    let question = Question::read(&decoder_sizes, &mut recording, comparison.device)?;
    let network = decoder_sizes.build(&mut weights, &path, comparison.device)?;
    weights.finish(&path)?;
    let network = comparison.precision.store(network);
    comparison.compare(
        &mut recording,
        "out_kept",
        question.ask(&network, &question.keep).into(),
        Kind::Output,
    );
    if let Some(positions) = positions {
        compare_positions(comparison, &network, &positions);
    }
    Ok(())
}

fn compare_tokens(
    comparison: &mut Comparison,
    sizes: &EncoderSizes,
    weights: &mut Weights,
    path: &Path,
) -> Result<()> {
    let mut recording = comparison.open(encoder::FILE)?;
    let images = sizes.images(&mut recording, comparison.device)?;
    let network = sizes.build(weights, path, comparison.device)?;
    let network = comparison.precision.store(network);
    let tokens = network.forward(&images, sizes.tokens, None).tokens;
    comparison.compare(&mut recording, "tokens", tokens.0.into(), Kind::Output);
    Ok(())
}

/// Compares all weights at once: the same names, shapes, types and bits.
pub(super) fn compare_stored(comparison: &mut Comparison, recorded: &Weights, found: &Weights) {
    const QUANTITY: &str = "stored weights";
    let names: BTreeSet<&str> = recorded.names().chain(found.names()).collect();
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for name in names {
        let (recorded, found) = (recorded.get(name), found.get(name));
        let layout = |tensor: Option<&HostTensor>| match tensor {
            Some(tensor) => format!("{} {:?}", tensor.dtype(), tensor.shape()),
            None => "nothing".to_string(),
        };
        let values = |tensor: Option<&HostTensor>| Some(Values::from_host(tensor?)?.values);
        if layout(recorded) != layout(found) {
            let (recorded, found) = (layout(recorded), layout(found));
            let reason = format!("{name} is {found} in the checkpoint, {recorded} in the recordings");
            return comparison.unreadable(QUANTITY, reason);
        }
        let (Some(recorded), Some(found)) = (values(recorded), values(found)) else {
            return comparison.unreadable(QUANTITY, format!("{name} does not hold floats"));
        };
        theirs.extend(recorded);
        ours.extend(found);
    }
    comparison.record(QUANTITY, &theirs, &ours, Kind::Exact);
}
