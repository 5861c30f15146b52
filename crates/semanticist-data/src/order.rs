//! The order of an epoch: random, yet readable from shards without seeking.

use std::ops::Range;

use semanticist::{Purpose, Seed};

/// A shuffled order of all rows, a function of (chunk sizes, seed, epoch, pool size).
///
/// Chunks are shuffled; neighbours are gathered into pools; rows are shuffled within their pool. A
/// reader holds one pool at a time and resumes anywhere by loading one. Where every chunk is one row
/// (a folder of images) the order is a uniform shuffle of everything.
#[derive(Debug)]
pub struct EpochOrder {
    /// The branch of the epoch.
    seed: Seed,
    rows: usize,
    /// The chunks in shuffled order, with their sizes.
    chunks: Vec<(u32, u32)>,
    pools: Vec<PoolRange>,
}

#[derive(Debug)]
struct PoolRange {
    chunks: Range<usize>,
    start: usize,
}

/// Rows that are shuffled together.
#[derive(Debug, PartialEq, Eq)]
pub struct Pool {
    /// The position in the epoch of the first row.
    pub start: usize,
    /// `(chunk, row within the chunk)` in the order of the epoch.
    pub rows: Vec<(usize, usize)>,
}

impl EpochOrder {
    /// The order of epoch `epoch`, with pools of at least `pool` rows (the last may be smaller).
    ///
    /// # Panics
    /// If there are 2^32 chunks, or rows in one chunk.
    pub fn new(chunk_rows: &[usize], seed: Seed, epoch: u64, pool: usize) -> Self {
        let seed = seed.of(Purpose::Order).at(epoch);
        let small = |count: usize| u32::try_from(count).expect("fewer than 2^32 chunks and rows in each");
        let chunks: Vec<_> = permutation(chunk_rows.len(), seed)
            .into_iter()
            .map(|chunk| (small(chunk), small(chunk_rows[chunk])))
            .collect();

        let mut pools: Vec<PoolRange> = Vec::new();
        let mut rows = 0;
        for (at, &(_, count)) in chunks.iter().enumerate() {
            match pools.last_mut() {
                Some(open) if rows - open.start < pool => open.chunks.end = at + 1,
                _ => pools.push(PoolRange { chunks: at..at + 1, start: rows }),
            }
            rows += count as usize;
        }
        Self { seed, rows, chunks, pools }
    }

    /// How many rows the epoch has.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether the epoch has no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// How many pools the epoch has.
    pub fn pools(&self) -> usize {
        self.pools.len()
    }

    /// The number of the pool that holds row `position` of the epoch.
    ///
    /// # Panics
    /// If the epoch has no row.
    pub fn pool_of(&self, position: usize) -> usize {
        self.pools.partition_point(|pool| pool.start <= position) - 1
    }

    /// The pool of that number.
    ///
    /// # Panics
    /// If there is no such pool.
    pub fn pool(&self, number: usize) -> Pool {
        let PoolRange { chunks, start } = &self.pools[number];
        let rows: Vec<_> = self.chunks[chunks.clone()]
            .iter()
            .flat_map(|&(chunk, count)| (0..count as usize).map(move |row| (chunk as usize, row)))
            .collect();
        let order = permutation(rows.len(), self.seed.at(number as u64));
        Pool { start: *start, rows: order.into_iter().map(|at| rows[at]).collect() }
    }
}

/// A uniform shuffle of `0..count`: sorted by random keys of 48 bits.
pub fn permutation(count: usize, seed: Seed) -> Vec<usize> {
    let draws = seed.noise().uniform(2 * count);
    let (pairs, _) = draws.as_chunks::<2>();
    let scale = f64::from(1 << 24);
    let key =
        |&[high, low]: &[f32; 2]| ((f64::from(high) * scale) as u64) << 24 | (f64::from(low) * scale) as u64;
    let mut keyed: Vec<_> = pairs.iter().map(key).zip(0..count).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, at)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKS: [usize; 7] = [5, 1, 9, 0, 3, 8, 2];

    fn rows(order: &EpochOrder) -> Vec<(usize, usize)> {
        (0..order.pools()).flat_map(|number| order.pool(number).rows).collect()
    }

    #[test]
    fn every_epoch_visits_every_row_once_and_in_its_own_order() {
        let all: Vec<_> = CHUNKS
            .iter()
            .enumerate()
            .flat_map(|(chunk, &count)| (0..count).map(move |row| (chunk, row)))
            .collect();
        let epochs: Vec<_> =
            (0..4).map(|epoch| rows(&EpochOrder::new(&CHUNKS, Seed::new(3), epoch, 6))).collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, all);
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2] && epochs[2] != epochs[3]);
        assert_ne!(
            epochs[0],
            rows(&EpochOrder::new(&CHUNKS, Seed::new(4), 0, 6)),
            "another seed, another order"
        );
    }

    #[test]
    fn any_position_leads_to_the_same_remainder() {
        let whole = rows(&EpochOrder::new(&CHUNKS, Seed::new(1), 5, 6));
        for position in 0..whole.len() {
            let order = EpochOrder::new(&CHUNKS, Seed::new(1), 5, 6);
            let number = order.pool_of(position);
            let pool = order.pool(number);
            let mut rest = pool.rows[position - pool.start..].to_vec();
            rest.extend((number + 1..order.pools()).flat_map(|number| order.pool(number).rows));
            assert_eq!(rest, whole[position..]);
        }
    }

    #[test]
    fn pools_are_large_enough_and_no_larger_than_one_chunk_more() {
        let order = EpochOrder::new(&CHUNKS, Seed::new(9), 2, 6);
        assert_eq!(order.len(), 28);
        for number in 0..order.pools() {
            let count = order.pool(number).rows.len();
            assert!(count < 6 + 9 && (count >= 6 || number == order.pools() - 1), "{count}");
        }
    }

    #[test]
    fn single_images_are_shuffled_over_the_whole_epoch() {
        let order = rows(&EpochOrder::new(&[1; 1000], Seed::new(0), 0, 10));
        // A uniform shuffle moves a row by a third of the length on average.
        let moved: usize = order.iter().enumerate().map(|(at, &(chunk, _))| at.abs_diff(chunk)).sum();
        assert!((300..370).contains(&(moved / 1000)), "{}", moved / 1000);
    }
}
