//! Before a model is loaded: whether it and its work fit into memory.

use anyhow::{Result, bail};
use semanticist::model::{Memory, Work};

use crate::memory::available;

/// Fails if the machine is known to have less memory than is needed.
pub fn check(memory: &Memory, work: Work) -> Result<()> {
    match available() {
        Some(free) if memory.needed(work) > free => bail!("{}", refusal(memory, work, free)),
        // Where nothing is known of the memory, nothing is refused.
        _ => Ok(()),
    }
}

fn refusal(memory: &Memory, work: Work, free: u64) -> String {
    let needed = memory.needed(work);
    let weights = memory.weights_in(work.precision);
    let rest = needed - weights;
    let images = work.encode.max(work.decode);
    let share = match images {
        0 => String::new(),
        1 => format!(" and {} for an image", gibibytes(rest)),
        _ => format!(" and {} for the images of a batch", gibibytes(rest)),
    };
    let advice = match smaller(memory, work, free) {
        Some(part) if images > 1 => format!("use a --batch of at most 1/{part} of that"),
        _ => "close other programs, or use a smaller model or a machine with more memory".to_string(),
    };
    format!(
        "the model needs about {} of memory, {} for the weights{share}, and {} are free; {advice}, or start all \
         the same with --no-memory-check",
        gibibytes(needed),
        gibibytes(weights),
        gibibytes(free)
    )
}

/// By what power of two the batch must be divided to fit, if it then has an image left.
fn smaller(memory: &Memory, work: Work, free: u64) -> Option<usize> {
    let parts = std::iter::successors(Some(2), |part| Some(part * 2));
    let divided = |part: usize| Work { encode: work.encode / part, decode: work.decode / part, ..work };
    parts
        .take_while(|&part| part <= work.encode.max(work.decode))
        .find(|&part| memory.needed(divided(part)) <= free)
}

/// Bytes as people read them.
pub fn gibibytes(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 1000.0 { format!("{mebibytes:.0} MiB") } else { format!("{:.1} GiB", mebibytes / 1024.0) }
}

#[cfg(test)]
mod tests {
    use semanticist::Precision;

    use super::*;

    const MEMORY: Memory = Memory {
        weights: 1 << 30,
        linear: 1 << 29,
        loading: 1 << 20,
        encode: 1 << 28,
        decode: 0,
        autoencoder: 0,
    };

    #[test]
    fn the_refusal_says_what_would_fit() {
        let work = Work { encode: 32, ..Work::default() };
        let text = refusal(&MEMORY, work, 4 << 30);
        assert!(text.contains("needs about 9.2 GiB of memory, 1.0 GiB for the weights"), "{text}");
        assert!(text.contains("and 8.2 GiB for the images of a batch, and 4.0 GiB are free"), "{text}");
        assert!(text.contains("--batch of at most 1/4 of that"), "{text}");
        let text = refusal(&MEMORY, work, 1 << 30);
        assert!(text.contains("smaller model") && text.contains("--no-memory-check"), "{text}");
        let text = refusal(&MEMORY, Work { precision: Precision::Bfloat16, ..work }, 4 << 30);
        assert!(text.contains("about 8.9 GiB of memory, 768 MiB for the weights"), "{text}");
    }

    #[test]
    fn sizes_are_read_easily() {
        assert_eq!(
            [0, 5 << 20, 1 << 30, 2700 << 20].map(gibibytes),
            ["0 MiB", "5 MiB", "1.0 GiB", "2.6 GiB"]
        );
    }
}
