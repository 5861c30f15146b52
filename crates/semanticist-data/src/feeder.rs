//! The images of a run in their order, read ahead: each part of the data has a thread that reads shards one pool ahead of
//! what is drawn, and the feeder hands the images on, each to the worker whose turn it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use semanticist::{Error, Result, Seed};

use super::batches::Position;
use super::mixture::{Turns, part_seed};
use super::order::EpochOrder;
use super::share::Share;
use super::source::{Chunk, Record, Source};

/// A sample for a worker.
#[derive(Debug)]
pub(crate) struct Task {
    pub at: Position,
    pub next: Position,
    /// The number of the image in the source, and what is to be read; or what nothing comes after.
    pub drawn: Result<(usize, Content)>,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// The number of a chunk that is one file; the worker reads it.
    File(usize),
    Record(Result<Record>),
}

/// Walks through the epochs and hands each sample of a share of the batches to the worker whose turn it is.
pub(crate) struct Feeder {
    pub source: Arc<Source>,
    pub seed: Seed,
    pub batch: usize,
    pub share: Share,
    pub senders: Vec<SyncSender<Task>>,
    pub turn: usize,
    pub stop: Arc<AtomicBool>,
}

/// The batches were dropped: there is nothing more to do, and nobody to tell.
struct Stopped;

impl Feeder {
    /// Feeds from `start` on, until the workers are gone or the data cannot be read.
    pub fn run(mut self, start: Position) {
        let rows = self.source.len();
        if start.index >= rows {
            let found = start.index;
            let problem = format!(
                "cannot go on at image {found} of the epoch: the data set has {rows}; use the data set \
                 with which the run was started"
            );
            let _ = self.send(start, start, Err(Error::Data(problem)));
            return;
        }
        let (mut turns, places) = Turns::from(self.source.weights(), rows, start);
        let mut parts: Vec<Part> = (self.source.parts().iter().cloned().enumerate())
            .zip(places)
            .map(|((number, chunks), place)| self.part(number, chunks, place))
            .collect();
        let first: Vec<usize> = (self.source.chunks().iter())
            .scan(0, |rows, chunk| Some(std::mem::replace(rows, *rows + chunk.rows())))
            .collect();
        let places = self.share.places(self.batch);
        let (mut at, mut place) = (start, 0);
        loop {
            while at.index < rows {
                let drawn = parts[turns.next()].next();
                let drawn = drawn.map(|((chunk, row), content)| (first[chunk] + row, content));
                let failed = match &drawn {
                    Ok((_, Content::Record(Err(error)))) => !matches!(error, Error::Image { .. }),
                    drawn => drawn.is_err(),
                };
                // A share ends with the batch, whose later places are of others.
                let ahead = if self.share.is_whole() { 1 } else { self.batch - place };
                let wanted = places.contains(&place) || failed;
                if wanted && self.send(at, at.after(ahead, rows), drawn).is_err() || failed {
                    return;
                }
                at.index += 1;
                place = (place + 1) % self.batch;
            }
            at = Position { epoch: at.epoch + 1, index: 0 };
            turns = Turns::new(self.source.weights());
        }
    }

    /// Part `number` of the data from row `place` of its own endless order on.
    fn part(&self, number: usize, chunks: Range<usize>, place: u64) -> Part {
        let seed = part_seed(self.seed, number, self.source.parts().len());
        let loader = Loader { source: self.source.clone(), chunks, seed, stop: self.stop.clone() };
        // Nothing waits in the queue: a pool is drawn from, and the next one is held by whoever read it.
        let (sender, pools) = sync_channel(0);
        thread::spawn(move || loader.run(place, &sender));
        Part { pools, rows: Vec::new().into_iter(), loaded: Loaded::new() }
    }

    fn send(&mut self, at: Position, next: Position, drawn: Result<(usize, Content)>) -> Result<(), Stopped> {
        self.senders[self.turn].send(Task { at, next, drawn }).map_err(|_| Stopped)?;
        self.turn = (self.turn + 1) % self.senders.len();
        Ok(())
    }
}

/// The rows of row groups, by the number of the chunk and of the row, until they are sent.
type Loaded = HashMap<usize, BTreeMap<usize, Result<Record>>>;

/// A pool, or what is left of it, with what had to be read for it.
struct Ready {
    rows: Vec<(usize, usize)>,
    loaded: Loaded,
}

/// A part of the data as it is drawn from.
struct Part {
    pools: Receiver<Result<Ready>>,
    rows: std::vec::IntoIter<(usize, usize)>,
    loaded: Loaded,
}

impl Part {
    /// The number of a chunk and of a row in it, and what is there.
    fn next(&mut self) -> Result<((usize, usize), Content)> {
        loop {
            if let Some((chunk, row)) = self.rows.next() {
                let content = match self.loaded.get_mut(&chunk) {
                    Some(records) => {
                        Content::Record(records.remove(&row).expect("an order names each row once"))
                    }
                    None => Content::File(chunk),
                };
                return Ok(((chunk, row), content));
            }
            let ready = self.pools.recv().unwrap_or_else(|_| {
                let problem = "a thread that reads shards has panicked; this is a bug, please report it";
                Err(Error::Data(problem.into()))
            });
            let Ready { rows, loaded } = ready?;
            (self.rows, self.loaded) = (rows.into_iter(), loaded);
        }
    }
}

/// Reads the pools of a part in their order.
struct Loader {
    source: Arc<Source>,
    chunks: Range<usize>,
    seed: Seed,
    stop: Arc<AtomicBool>,
}

impl Loader {
    /// Hands over what is read from row `place` of the endless order on.
    fn run(&self, place: u64, pools: &SyncSender<Result<Ready>>) {
        let sizes: Vec<_> = self.source.chunks()[self.chunks.clone()].iter().map(Chunk::rows).collect();
        let rows = sizes.iter().sum::<usize>() as u64;
        let (mut epoch, mut index) = (place / rows, (place % rows) as usize);
        loop {
            let order = EpochOrder::new(&sizes, self.seed, epoch, self.source.pool_rows());
            for number in order.pool_of(index)..order.pools() {
                let pool = order.pool(number);
                let rest = &pool.rows[index - pool.start..];
                let rest: Vec<_> =
                    rest.iter().map(|&(chunk, row)| (self.chunks.start + chunk, row)).collect();
                index += rest.len();
                let Some(loaded) = self.load(&rest).transpose() else { return };
                let failed = loaded.is_err();
                if pools.send(loaded.map(|loaded| Ready { rows: rest, loaded })).is_err() || failed {
                    return;
                }
            }
            (epoch, index) = (epoch + 1, 0);
        }
    }

    /// Reads the row groups among the chunks of `rows`, and of archives just these rows; files are left to the workers.
    /// None if nobody waits any more.
    fn load(&self, rows: &[(usize, usize)]) -> Result<Option<Loaded>> {
        let mut wanted: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        let mut order = Vec::new();
        for &(chunk, row) in rows {
            if !matches!(self.source.chunks()[chunk], Chunk::File { .. }) {
                let rows = wanted.entry(chunk).or_insert_with(|| {
                    order.push(chunk);
                    BTreeSet::new()
                });
                rows.insert(row);
            }
        }
        let mut loaded = Loaded::new();
        for chunk in order {
            let (group, rows) = (&self.source.chunks()[chunk], &wanted[&chunk]);
            let mut records = Vec::with_capacity(rows.len());
            for record in group.some_records(rows.clone()) {
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                match record {
                    Err(Error::Image { .. }) | Ok(_) => records.push(record),
                    Err(fatal) => return Err(fatal),
                }
            }
            if records.len() != rows.len() {
                let (found, expected) = (records.len(), rows.len());
                return Err(Error::Data(format!(
                    "of {expected} rows of a row group {found} came; its metadata says that it has {}: {group:?}",
                    group.rows()
                )));
            }
            loaded.insert(chunk, rows.iter().copied().zip(records).collect());
        }
        Ok(Some(loaded))
    }
}
