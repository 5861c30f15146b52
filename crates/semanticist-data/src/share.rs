//! Which part of every batch is prepared here, where several ranks make a batch together.

use std::ops::Range;

/// One of `ranks` equal parts of every batch, which lie one after the other in the order of ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    rank: usize,
    ranks: usize,
}

impl Share {
    /// All of every batch.
    pub const WHOLE: Self = Self { rank: 0, ranks: 1 };

    /// That of rank `rank`, counted from 0.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn of(rank: usize, ranks: usize) -> Self {
        assert!(rank < ranks, "rank {rank} of {ranks}");
        Self { rank, ranks }
    }

    /// Whether nobody else prepares a part.
    pub fn is_whole(self) -> bool {
        self.ranks == 1
    }

    /// The places of a batch that are of this part.
    ///
    /// # Panics
    /// If the batch has no parts of one size.
    pub fn places(self, batch: usize) -> Range<usize> {
        let Self { rank, ranks } = self;
        assert!(batch.is_multiple_of(ranks), "a batch of {batch} in {ranks} parts");
        let size = batch / ranks;
        rank * size..(rank + 1) * size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_the_batch() {
        let parts: Vec<usize> = (0..3).flat_map(|rank| Share::of(rank, 3).places(12)).collect();
        assert_eq!(parts, (0..12).collect::<Vec<_>>());
        assert_eq!(Share::WHOLE.places(5), 0..5);
        assert!(Share::WHOLE.is_whole() && !Share::of(1, 2).is_whole());
    }
}
