//! An endless stream of training batches, prepared ahead on threads, in an order that depends on
//! nothing but the seed.
//!
//! One feeder walks the order, for which shards are read one pool ahead; worker `i` of `n` decodes every `n`-th sample
//! and hands it over through its own short queue. Taking the queues in turn restores the order without
//! a buffer that could grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use semanticist::image::{RgbImage, decode};
use semanticist::{Error, Purpose, Result, Seed};
use serde::{Deserialize, Serialize};

use super::broken::Broken;
use super::feeder::{Content, Feeder, Task};
use super::share::Share;
use super::source::{Record, Source};
use super::transform::{Crop, View};

/// What the batches are made of.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// The side of the square images, in pixels.
    pub size: usize,
    /// Images in a batch, those of all ranks together.
    pub batch: usize,
    /// Which of them are wanted here.
    pub share: Share,
    /// The seed of order, crops and flips.
    pub seed: Seed,
    /// Threads that decode; at least one is used. Does not influence the result.
    pub workers: usize,
    /// Which part of an image is shown.
    pub crop: Crop,
    /// The probability of a horizontal flip.
    pub flip: f32,
}

/// A place in the endless stream of samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Full passes before this one.
    pub epoch: u64,
    /// Samples before this one in the order of the epoch, below the size of the data set.
    pub index: usize,
}

impl Position {
    /// `count` samples later, in a data set of `size`.
    pub(crate) fn after(self, count: usize, size: usize) -> Self {
        let index = self.index + count;
        Self { epoch: self.epoch + (index / size) as u64, index: index % size }
    }
}

/// Which image of the source a training view is of, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// The number of the image among [`Source::records`].
    pub image: usize,
    /// Whether left and right have changed places.
    pub mirrored: bool,
}

/// Images for one step; of a share of the batch, those of its places.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Squares of the same size.
    pub images: Vec<RgbImage>,
    /// What each of them shows.
    pub shown: Vec<Shown>,
    /// The class of each image, if known.
    pub labels: Vec<Option<i64>>,
    /// The name of each image.
    pub names: Vec<String>,
    /// Where to go on after this batch.
    pub next: Position,
}

/// The endless iterator over batches. It ends only after an error.
///
/// A broken image is left out and its place taken by the next one. In a share of the batch, where that would shift the
/// images of the other ranks, an image of the share beside it is there twice instead. More than 1 % of the data set
/// broken is an error. Dropping it ends its threads.
#[derive(Debug)]
pub struct Batches {
    /// Images of a batch that are wanted here.
    wanted: usize,
    share: Share,
    /// One queue per worker; empty once an error was handed out.
    results: Vec<Receiver<Outcome>>,
    turn: usize,
    next: Position,
    broken: Broken,
    reported: usize,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Outcome {
    next: Position,
    sample: Result<Sample>,
}

#[derive(Debug, Clone)]
struct Sample {
    image: RgbImage,
    shown: Shown,
    label: Option<i64>,
    name: String,
}

impl Batches {
    /// Starts at `start`: the default for a new run, [`Batch::next`] to go on.
    ///
    /// # Panics
    /// If size or batch is 0, or the batch has no shares of one size.
    pub fn new(source: Arc<Source>, options: BatchOptions, start: Position) -> Self {
        assert!(options.size > 0 && options.batch > 0, "size and batch must be at least 1: {options:?}");
        let workers = options.workers.max(1);
        // A batch waits decoded, another one encoded.
        let BatchOptions { seed, batch, share, .. } = options;
        let wanted = share.places(batch).len();
        let depth = wanted.div_ceil(workers);
        let stop = Arc::new(AtomicBool::new(false));
        let (mut threads, mut results, mut senders) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..workers {
            let (task_sender, tasks) = sync_channel(depth);
            let (outcomes, result) = sync_channel(depth);
            let (source, options) = (source.clone(), options.clone());
            threads.push(thread::spawn(move || work(&source, &options, &tasks, &outcomes)));
            senders.push(task_sender);
            results.push(result);
        }
        let broken = Broken::new(source.len());
        let feeder = Feeder { source, seed, batch, share, senders, turn: 0, stop: stop.clone() };
        threads.push(thread::spawn(move || feeder.run(start)));
        Self { wanted, share, results, turn: 0, next: start, broken, reported: 0, stop, threads }
    }

    /// The broken images found since the last call, each with its problem; none is told twice.
    pub fn take_warnings(&mut self) -> Vec<(String, String)> {
        let fresh = self.broken.items()[self.reported..].to_vec();
        self.reported += fresh.len();
        fresh
    }

    fn fill(&mut self) -> Result<Batch> {
        let mut samples: Vec<Option<Sample>> = Vec::with_capacity(self.wanted);
        while samples.len() < self.wanted {
            let outcome = self.results[self.turn].recv().map_err(|_| {
                Error::Data("a thread that reads images has panicked; this is a bug, please report it".into())
            })?;
            self.turn = (self.turn + 1) % self.results.len();
            self.next = outcome.next;
            match outcome.sample {
                Ok(sample) => samples.push(Some(sample)),
                Err(Error::Image { name, problem }) => {
                    self.broken.add(name, problem)?;
                    if !self.share.is_whole() {
                        samples.push(None);
                    }
                }
                Err(fatal) => return Err(fatal),
            }
        }
        let (images, shown) = (vec![], vec![]);
        let mut batch = Batch { images, shown, labels: vec![], names: vec![], next: self.next };
        for sample in closed(samples)? {
            batch.images.push(sample.image);
            batch.shown.push(sample.shown);
            batch.labels.push(sample.label);
            batch.names.push(sample.name);
        }
        Ok(batch)
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.results.is_empty() {
            return None;
        }
        let batch = self.fill();
        if batch.is_err() {
            self.results.clear();
        }
        Some(batch)
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Without receivers the workers end, and without workers the feeder.
        self.results.clear();
        for thread in self.threads.drain(..) {
            // A panic was already reported by `fill`, or nobody is left to ask.
            let _ = thread.join();
        }
    }
}

/// The samples, each gap filled with the one before it, or at the beginning with the first there is.
fn closed(samples: Vec<Option<Sample>>) -> Result<Vec<Sample>> {
    let mut last = samples.iter().flatten().next().cloned();
    let filled = samples.into_iter().map(|sample| {
        last = sample.or(last.take());
        last.clone().ok_or_else(|| Error::Data("all images of a rank's share of a batch are broken".into()))
    });
    filled.collect()
}

fn work(source: &Source, options: &BatchOptions, tasks: &Receiver<Task>, outcomes: &SyncSender<Outcome>) {
    for Task { at, next, drawn } in tasks {
        let sample = drawn.and_then(|(image, content)| {
            let record = match content {
                Content::Record(record) => record,
                Content::File(chunk) => {
                    source.chunks()[chunk].records().next().expect("a file is a chunk of one record")
                }
            };
            prepare(record?, image, options, at)
        });
        if outcomes.send(Outcome { next, sample }).is_err() {
            return;
        }
    }
}

/// The view of image `number` at a place of the stream.
fn prepare(record: Record, number: usize, options: &BatchOptions, at: Position) -> Result<Sample> {
    let image = decode(&record.name, &record.bytes)?;
    let mut noise = options.seed.of(Purpose::Augmentation).at(at.epoch).at(at.index as u64).noise();
    let View { image, mirrored } = options.crop.of(&image, options.size, options.flip, &mut noise);
    let shown = Shown { image: number, mirrored };
    Ok(Sample { image, shown, label: record.label, name: record.name })
}

#[cfg(test)]
mod tests;
