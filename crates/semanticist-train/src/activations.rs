//! What the backward pass needs of an example, counted from sizes: what each operator keeps of its input and answer.

use semanticist::decoder::{LatentShape, RefinementConfig, RepaConfig};
use semanticist::generator::GeneratorConfig;
use semanticist::nn::{Activations, BlockSize};
use semanticist::{ClassifierConfig, Precision, Result, TokenizerConfig};

use crate::objective::generator::GeneratorLoss;

const FLOAT: usize = size_of::<f32>();

/// What the memory of a step depends on beside sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HowComputed {
    /// What products read, and so what is kept for them.
    pub precision: Precision,
    /// What becomes of the values within transformer blocks.
    pub activations: Activations,
}

/// Numbers that are kept of something.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// Sums, norms and residuals, in 32 bits.
    sums: usize,
    /// What a product reads, and what it gives if only another product reads that.
    factors: usize,
}

/// Blocks of one shape, one after the other.
#[derive(Debug, Clone, Copy)]
struct Stack {
    /// Of a position in a block.
    kept: Kept,
    width: usize,
    depth: usize,
    positions: usize,
}

impl Stack {
    /// Of vision transformers: before each half its input and the norm of that; queries, keys and values and the answer of
    /// attention; both layers of the MLP.
    fn encoder(size: &BlockSize, positions: usize) -> Self {
        let BlockSize { width, depth, mlp_ratio, .. } = *size;
        let kept = Kept { sums: 2 * width, factors: (1 + 3 + 1 + 1 + 2 * mlp_ratio) * width };
        Self { kept, width, depth, positions }
    }

    /// The same, and what each half adds, which a gate multiplies.
    fn decoder(size: &BlockSize, positions: usize) -> Self {
        let mut stack = Self::encoder(size, positions);
        stack.kept.sums += 2 * size.width;
        stack
    }

    /// Of a generator: as the first, but the second norm is rounded for two layers, the MLP has three, and what each half
    /// adds is multiplied by what dropout keeps.
    fn layers(config: &GeneratorConfig, dropout: f64) -> Self {
        let GeneratorConfig { width, depth, tokens, .. } = *config;
        let multiplied = if dropout > 0.0 { 2 } else { 0 };
        let kept =
            Kept { sums: (3 + multiplied) * width, factors: (1 + 3 + 1) * width + 3 * config.hidden() };
        Self { kept, width, depth, positions: tokens }
    }
}

impl HowComputed {
    /// Bytes per image of a tokenizer's run.
    ///
    /// # Errors
    /// If the configuration is impossible.
    pub fn tokenizer(self, config: &TokenizerConfig) -> Result<u64> {
        let latent = config.latent_shape()?;
        let patches = (latent.side / config.decoder.patch_size).pow(2);
        let encoded = (config.image_size / config.encoder.patch_size).pow(2) + 1 + config.tokens;
        let encoder = Stack::encoder(&config.encoder.blocks, encoded);
        let decoder = Stack::decoder(&config.decoder.blocks, patches + config.tokens);
        let projector = config.decoder.repa.map_or(0, |repa| self.projector(&repa, patches));
        let refinement = config.decoder.refinement.map_or(0, |it| Self::refinement(it, latent));
        Ok(self.all(&[encoder, decoder]) + projector + refinement)
    }

    /// Bytes per image of a classifier's run.
    pub fn classifier(self, config: &ClassifierConfig) -> u64 {
        let patches = (config.image_size / config.patch_size).pow(2);
        self.all(&[Stack::encoder(&config.blocks, patches)])
    }

    /// Bytes per image of a generator's run: every token goes through the transformer once and through the head as often as
    /// its loss is drawn. Blocks of the head are never recomputed.
    pub fn generator(self, config: &GeneratorConfig, loss: &GeneratorLoss) -> u64 {
        let rows = config.tokens * loss.draws;
        // Its input, norm and scale, the modulation, both layers and the activation between them, and what is added; what
        // depends on time and condition is kept once for all.
        let block = Kept { sums: 8, factors: 2 };
        let head = rows * config.head.depth * config.head.width * self.bytes(block);
        let times = rows * self.bytes(Kept { sums: 0, factors: config.head.width });
        let known = Kept { sums: 0, factors: config.width + config.head.width };
        let answers = config.tokens * self.bytes(known);
        self.all(&[Stack::layers(config, loss.dropout)]) + (head + times + answers) as u64
    }

    /// The backward pass comes to one block at a time, and holds gradients of about what that has kept.
    fn all(self, stacks: &[Stack]) -> u64 {
        let block = |stack: &Stack| stack.positions * self.bytes(stack.kept);
        let kept = |stack: &Stack| match self.activations {
            Activations::Kept => stack.depth * block(stack),
            Activations::Recomputed => stack.depth * stack.positions * stack.width * FLOAT,
        };
        let largest = stacks.iter().map(block).max().unwrap_or(0);
        let at_hand = match self.activations {
            Activations::Kept => largest,
            Activations::Recomputed => 2 * largest,
        };
        (stacks.iter().map(kept).sum::<usize>() + at_hand) as u64
    }

    /// Three layers on every patch, and what the cosine of their answer is made of.
    fn projector(self, repa: &RepaConfig, patches: usize) -> u64 {
        let kept = Kept { sums: 5 * repa.teacher_width, factors: 4 * repa.hidden };
        (patches * self.bytes(kept)) as u64
    }

    /// Of every latent pixel, in 32 bits: what is seen; the inputs of each block, of its norm, both convolutions and the
    /// activation between them; those of the last convolution.
    fn refinement(config: RefinementConfig, latent: LatentShape) -> u64 {
        let LatentShape { channels, side, outputs_per_channel, .. } = latent;
        let RefinementConfig { width, depth } = config;
        let seen = channels * (1 + outputs_per_channel);
        (side.pow(2) * (seen + (4 * depth + 1) * width) * FLOAT) as u64
    }

    fn bytes(self, kept: Kept) -> usize {
        let factor = match self.precision {
            Precision::Float32 => FLOAT,
            Precision::Bfloat16 => FLOAT / 2,
        };
        kept.sums * FLOAT + kept.factors * factor
    }
}

#[cfg(test)]
mod tests {
    use semanticist::presets;

    use super::*;

    const PLAIN: HowComputed = HowComputed { precision: Precision::Float32, activations: Activations::Kept };
    const ROUNDED: HowComputed = HowComputed { precision: Precision::Bfloat16, ..PLAIN };

    fn of(how: HowComputed, name: &str) -> u64 {
        let mut config = presets::tokenizer(name).unwrap();
        config.decoder.repa = None;
        how.tokenizer(&config).unwrap()
    }

    #[test]
    fn a_tokenizer_keeps_what_its_operators_keep() {
        // The encoder sees 256 patches, a class token and 256 tokens, the decoder 64 patches and the tokens. Each block
        // keeps 16 and 18 widths of a position, or 2 and 4 in 32 bits and 14 in 16 of them.
        let [encoder, decoder] = [12 * 768 * 513, 12 * 768 * 320];
        assert_eq!(of(PLAIN, "b-256x16"), 4 * (16 * encoder + 18 * decoder + 16 * 768 * 513));
        assert_eq!(
            of(ROUNDED, "b-256x16"),
            (4 * 2 + 2 * 14) * encoder + (4 * 4 + 2 * 14) * decoder + (4 * 2 + 2 * 14) * 768 * 513
        );
        let repa = presets::tokenizer("b-256x16").unwrap();
        let aligned = PLAIN.tokenizer(&repa).unwrap() - of(PLAIN, "b-256x16");
        assert_eq!(
            aligned,
            repa.decoder
                .repa
                .map_or(0, |repa| { 64 * 4 * (5 * repa.teacher_width + 4 * repa.hidden) as u64 })
        );
    }

    #[test]
    fn a_refinement_keeps_what_its_convolutions_see_of_every_latent_pixel() {
        let mut config = presets::tokenizer("b-256x16").unwrap();
        config.decoder.repa = None;
        config.decoder.refinement = Some(RefinementConfig { width: 32, depth: 2 });
        // 16×16 latents of 16 channels, of which the decoder predicts noise and variance.
        let numbers = 256 * (3 * 16 + 9 * 32);
        for how in [PLAIN, ROUNDED] {
            assert_eq!(how.tokenizer(&config).unwrap() - of(how, "b-256x16"), 4 * numbers);
        }
    }

    #[test]
    fn what_is_recomputed_waits_as_the_inputs_of_blocks() {
        let recomputed = HowComputed { activations: Activations::Recomputed, ..PLAIN };
        let inputs = 4 * 12 * 768 * (513 + 320);
        assert_eq!(of(recomputed, "b-256x16"), inputs + 2 * 4 * 16 * 768 * 513);
        assert!(of(recomputed, "b-256x16") * 5 < of(PLAIN, "b-256x16"));
    }

    #[test]
    fn a_classifier_is_an_encoder_of_patches() {
        let blocks = BlockSize { width: 16, depth: 3, heads: 2, mlp_ratio: 2 };
        let config = ClassifierConfig { image_size: 8, classes: 2, patch_size: 4, blocks, drop_path: 0.0 };
        assert_eq!(PLAIN.classifier(&config), 4 * (3 + 1) * 12 * 16 * 4);
        assert_eq!(ROUNDED.classifier(&config), 4 * (3 + 1) * (2 * 4 + 10 * 2) * 16);
    }

    #[test]
    fn a_generator_keeps_more_the_more_often_its_loss_is_drawn() {
        let config = presets::generator("gpt-l").unwrap();
        let loss = |draws, dropout| GeneratorLoss { draws, dropout, ..GeneratorLoss::default() };
        let of = |how: HowComputed, draws, dropout| how.generator(&config, &loss(draws, dropout));
        let (k, width, head) = (config.tokens as u64, config.width as u64, config.head);
        let row = |factor: u64| (head.depth as u64 * (8 * 4 + 2 * factor) + factor) * head.width as u64;
        assert_eq!(of(PLAIN, 3, 0.1) - of(PLAIN, 2, 0.1), k * row(4));
        assert_eq!(of(ROUNDED, 3, 0.1) - of(ROUNDED, 2, 0.1), k * row(2));
        // Of every layer and of the one at hand, two widths that dropout multiplies.
        let layers = config.depth as u64 + 1;
        assert_eq!(of(PLAIN, 1, 0.1) - of(PLAIN, 1, 0.0), 2 * 4 * k * width * layers);
    }
}
