//! Operations of the matrix products and attention of one image, counted from the sizes: a
//! multiplication and an addition are two. Norms, activations and the like are not counted.

use semanticist::generator::{GeneratorConfig, HeadConfig};
use semanticist::nn::BlockSize;
use semanticist::{Result, TokenizerConfig};

fn product(rows: usize, inputs: usize, outputs: usize) -> f64 {
    2.0 * rows as f64 * inputs as f64 * outputs as f64
}

/// The linear layers of a block, on `rows` positions.
fn block(size: &BlockSize, rows: usize) -> f64 {
    let BlockSize { width, mlp_ratio, .. } = *size;
    product(rows, width, 4 * width) + 2.0 * product(rows, width, mlp_ratio * width)
}

/// Scores and weighted sums over `pairs` of a position with one that it sees.
fn attention(size: &BlockSize, pairs: f64) -> f64 {
    4.0 * size.width as f64 * pairs
}

/// The first `tokens` tokens of an image.
pub fn encoder(config: &TokenizerConfig, tokens: usize) -> f64 {
    let blocks = &config.encoder.blocks;
    let patch = config.encoder.patch_size;
    let patches = (config.image_size / patch).pow(2);
    let open = (patches + 1) as f64;
    let k = tokens as f64;
    let pairs = open * open + k * open + k * (k + 1.0) / 2.0;
    let each = block(blocks, patches + 1 + tokens) + attention(blocks, pairs);
    product(patches, 3 * patch * patch, blocks.width)
        + blocks.depth as f64 * each
        + product(tokens, blocks.width, config.token_dim)
}

/// One denoising step of an image.
pub fn decoder(config: &TokenizerConfig) -> Result<f64> {
    let blocks = &config.decoder.blocks;
    let latent = config.latent_shape()?;
    let patch = config.decoder.patch_size;
    let patches = (latent.side / patch).pow(2);
    let packed = latent.channels * patch * patch;
    let width = blocks.width;
    let rows = patches + config.tokens;
    let each = block(blocks, rows) + attention(blocks, (rows * rows) as f64) + product(1, width, 6 * width);
    let time = product(1, 256, width) + product(1, width, width) + product(1, width, 2 * width);
    Ok(product(patches, packed, width)
        + product(config.tokens, config.token_dim, width)
        + time
        + blocks.depth as f64 * each
        + product(patches, width, 2 * packed))
}

/// A training step: forward, and twice as much backward.
pub fn training(config: &TokenizerConfig) -> Result<f64> {
    Ok(3.0 * (encoder(config, config.tokens) + decoder(config)?))
}

/// One token of an image with guidance, in `steps` steps. What all tokens share is not counted.
pub fn head(config: &GeneratorConfig, steps: usize) -> f64 {
    let HeadConfig { width, depth, .. } = config.head;
    let layers =
        product(1, config.token_dim, width) + product(1, width, config.head.outputs() * config.token_dim);
    let once = product(1, config.width, width) + depth as f64 * product(1, width, width);
    2.0 * (once + steps as f64 * (layers + 2.0 * depth as f64 * product(1, width, width)))
}

#[cfg(test)]
mod tests {
    use super::super::Preset;
    use super::*;

    #[test]
    fn the_counts_are_those_of_the_literature() {
        // DiT-L/2 on a 32×32 latent is 80.7 G multiply-adds (Peebles and Xie, 2023, table 4): 256
        // positions instead of 64 patches and 256 tokens, so per position the count must agree.
        let config = Preset::L.tokenizer();
        let per_position = decoder(&config).unwrap() / 2.0 / 320.0;
        assert!((per_position / (80.7e9 / 256.0) - 1.0).abs() < 0.03, "{per_position}");
        // ViT-B/16 on 224×224 pixels, 197 positions, is 17.6 G multiply-adds.
        let config = Preset::B.tokenizer();
        let per_position = encoder(&config, 256) / 2.0 / 513.0;
        assert!((per_position / (17.6e9 / 197.0) - 1.0).abs() < 0.06, "{per_position}");
    }

    #[test]
    fn fewer_tokens_are_less_work() {
        let config = Preset::B.tokenizer();
        assert!(encoder(&config, 32) < 0.57 * encoder(&config, 256));
    }
}
