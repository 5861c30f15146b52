//! Batches of tokens from a cache, in an order that depends on nothing but the seed.

use std::ops::Range;
use std::sync::Arc;

use semanticist::{Purpose, Seed};

use super::cache::TokenCache;
use crate::mixture::{Turns, part_seed};
use crate::{Position, Share, permutation};

/// The tokens of one view of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenExample {
    /// The first tokens, one after the other.
    pub tokens: Vec<f32>,
    /// The class.
    pub label: usize,
}

/// What the batches are made of.
#[derive(Debug, Clone, Copy)]
pub struct TokenBatchOptions {
    /// The seed of order and views.
    pub seed: Seed,
    /// Examples in a batch, those of all ranks together.
    pub batch: usize,
    /// Which of them are wanted here.
    pub share: Share,
    /// Tokens of each example.
    pub tokens: usize,
}

/// Every image once per epoch, each time in a view of its own; where the cache has weights, its parts in proportion to them.
pub struct TokenBatches {
    cache: Arc<TokenCache>,
    options: TokenBatchOptions,
    turns: Turns,
    parts: Vec<Part>,
    next: Position,
}

/// Images that are drawn from together, in an order of their own that goes on from epoch to epoch.
struct Part {
    images: Range<usize>,
    seed: Seed,
    /// Of this pass through the part.
    order: Vec<usize>,
    next: Position,
}

impl Part {
    fn new(images: Range<usize>, seed: Seed, drawn: u64) -> Self {
        let count = images.len() as u64;
        let next = Position { epoch: drawn / count, index: (drawn % count) as usize };
        let order = Self::order(images.len(), seed, next.epoch);
        Self { images, seed, order, next }
    }

    fn order(count: usize, seed: Seed, pass: u64) -> Vec<usize> {
        permutation(count, seed.of(Purpose::Order).at(pass))
    }

    /// The next image of the part.
    fn next(&mut self) -> usize {
        let image = self.images.start + self.order[self.next.index];
        let pass = self.next.epoch;
        self.next = self.next.after(1, self.order.len());
        if self.next.epoch > pass {
            self.order = Self::order(self.images.len(), self.seed, self.next.epoch);
        }
        image
    }
}

impl TokenBatches {
    /// The batches from `start` on. All images must have labels.
    pub fn new(cache: Arc<TokenCache>, options: TokenBatchOptions, start: Position) -> Self {
        let (turns, drawn) = Turns::from(cache.weights(), cache.len(), start);
        let parts = cache.parts();
        let (count, seed) = (parts.len(), options.seed);
        let parts = parts.into_iter().zip(drawn).enumerate();
        let parts =
            parts.map(|(number, (images, drawn))| Part::new(images, part_seed(seed, number, count), drawn));
        Self { parts: parts.collect(), turns, options, next: start, cache }
    }

    /// The share of the next batch, and where to go on after the batch.
    pub fn next_batch(&mut self) -> (Vec<TokenExample>, Position) {
        let TokenBatchOptions { batch, share, .. } = self.options;
        let places = share.places(batch);
        let mut examples = Vec::with_capacity(places.len());
        for place in 0..batch {
            let (at, image) = self.advance();
            if places.contains(&place) {
                examples.push(self.example(at, image));
            }
        }
        (examples, self.next)
    }

    fn example(&self, Position { epoch, index }: Position, image: usize) -> TokenExample {
        let mut noise = self.options.seed.of(Purpose::Augmentation).at(epoch).at(index as u64).noise();
        let view = noise.below(1, self.cache.views(image))[0];
        let label = self.cache.label(image).expect("every image has a label");
        let tokens = self.cache.tokens(image, view, self.options.tokens);
        TokenExample { tokens, label: label as usize }
    }

    /// The place of the next example, and its image.
    fn advance(&mut self) -> (Position, usize) {
        let at = self.next;
        let image = self.parts[self.turns.next()].next();
        self.next = at.after(1, self.cache.len());
        if self.next.epoch > at.epoch {
            self.turns = Turns::new(self.cache.weights());
        }
        (at, image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::{TokenFileInfo, TokenRecord, TokenWriter};

    fn options(batch: usize, tokens: usize) -> TokenBatchOptions {
        TokenBatchOptions { seed: Seed::new(5), batch, share: Share::WHOLE, tokens }
    }

    /// Image i has the tokens i, i + 0.5.
    fn cache(folder: &std::path::Path, images: usize) -> Arc<TokenCache> {
        let path = folder.join("tokens.parquet");
        let info = TokenFileInfo { model_hash: "abc".into(), tokens: 2, token_dim: 1 };
        let mut writer = TokenWriter::create(&path, info).unwrap();
        for image in 0..images {
            let tokens = vec![image as f32, image as f32 + 0.5];
            let (path, label) = (image.to_string(), Some(image as i64 % 3));
            writer.push(&TokenRecord { path, label, tokens, padded: None }).unwrap();
        }
        writer.finish().unwrap();
        Arc::new(TokenCache::open(&[path]).unwrap())
    }

    #[test]
    fn an_epoch_has_every_image_once_with_its_label_in_an_order_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path(), 12);
        let mut batches = TokenBatches::new(cache, options(4, 2), Position::default());
        let mut epoch = || -> Vec<TokenExample> { (0..3).flat_map(|_| batches.next_batch().0).collect() };
        let (first, second) = (epoch(), epoch());
        for epoch in [&first, &second] {
            let mut seen: Vec<usize> = epoch.iter().map(|example| example.tokens[0] as usize).collect();
            assert!(epoch.iter().all(|e| e.label == e.tokens[0] as usize % 3 && e.tokens.len() == 2));
            seen.sort_unstable();
            assert_eq!(seen, (0..12).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
    }

    #[test]
    fn any_position_leads_to_the_same_batches() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path(), 10);
        let mut whole = TokenBatches::new(cache.clone(), options(3, 1), Position::default());
        for _ in 0..8 {
            let (_, position) = whole.next_batch();
            let next = TokenBatches::new(cache.clone(), options(3, 1), position).next_batch();
            let mut same = TokenBatches::new(cache.clone(), options(3, 1), position);
            assert_eq!(same.next_batch(), next);
            let second = TokenBatchOptions { share: Share::of(1, 3), ..options(3, 1) };
            let (share, after) = TokenBatches::new(cache.clone(), second, position).next_batch();
            assert_eq!((&share[..], after), (&next.0[1..2], next.1));
            assert_eq!(whole.next_batch(), next);
        }
    }

    #[test]
    fn caches_are_drawn_from_in_proportion_and_go_on_as_if_uninterrupted() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [("a", 4), ("b", 12)].map(|(name, images)| {
            let inside = folder.path().join(name);
            std::fs::create_dir(&inside).unwrap();
            cache(&inside, images);
            inside.join("tokens.parquet")
        });
        let open = || TokenCache::open(&paths).unwrap();
        let cache = Arc::new(open().weighted(&[1.0, 1.0]).unwrap());
        let mut whole = TokenBatches::new(cache.clone(), options(1, 1), Position::default());
        let mut seen = [vec![0; 4], vec![0; 12]];
        for turn in 0..96 {
            let at = whole.next;
            let part = turn % 2;
            let (example, _) = whole.next_batch();
            seen[part][example[0].tokens[0] as usize] += 1;
            assert_eq!(TokenBatches::new(cache.clone(), options(1, 1), at).next_batch().0, example, "{turn}");
        }
        // Six epochs of 16, half of each from either.
        assert_eq!(seen, [vec![12; 4], vec![4; 12]]);
        for (weights, part) in [(&[1.0][..], "1 weights for 2"), (&[1.0, 0.0], "not above 0")] {
            let error = open().weighted(weights).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
