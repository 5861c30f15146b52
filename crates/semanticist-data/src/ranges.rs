//! Reading an object in parts: some of it at once, or from its beginning with whole blocks ahead.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::{Buf, Bytes};
use semanticist::{Error, Result};

use super::stores::Object;

/// What is asked for at once, in bytes: large enough that the way there and back does not count, and small enough to ask
/// for again.
const PART: u64 = 8 << 20;

/// Parts under way at once.
const TOGETHER: usize = 4;

/// What lies between two ranges is read with them if it is no more than this, in bytes.
const GAP: u64 = 256 << 10;

/// What is read of the end of a Parquet file in the hope that it is all of its metadata, in bytes.
const TAIL: u64 = 256 << 10;

/// Parts of an object in memory; what lies outside of them is fetched when it is asked for.
#[derive(Debug)]
pub(crate) struct Pieces {
    object: Object,
    /// Ascending, by where they begin.
    pieces: Vec<(u64, Bytes)>,
}

impl Pieces {
    /// Fetches these ranges, several parts of them at once.
    pub fn of(object: &Object, mut ranges: Vec<Range<u64>>) -> Result<Self> {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end + GAP => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        let parts: Vec<Range<u64>> = joined.iter().cloned().flat_map(parts).collect();
        let mut contents = fetch(object, &parts)?.into_iter();
        let whole = |range: &Range<u64>| {
            let count = parts_of(range);
            if count == 1 {
                return contents.next().expect("each part was fetched");
            }
            let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
            contents.by_ref().take(count).for_each(|part| bytes.extend_from_slice(&part));
            bytes.into()
        };
        let pieces = joined.iter().map(|range| range.start).zip(joined.iter().map(whole).collect::<Vec<_>>());
        Ok(Self { object: object.clone(), pieces: pieces.collect() })
    }

    /// The end of an object, where Parquet has its metadata.
    pub fn tail(object: &Object) -> Result<Self> {
        let bytes = object.bytes();
        #[expect(clippy::single_range_in_vec_init, reason = "one range is meant")]
        Self::of(object, vec![bytes.saturating_sub(TAIL)..bytes])
    }

    /// The bytes of this range.
    pub fn get(&self, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        match self.holding(range.start) {
            Some((start, bytes)) if range.end <= start + bytes.len() as u64 => {
                Ok(bytes.slice((range.start - start) as usize..(range.end - start) as usize))
            }
            _ => self.object.read(range),
        }
    }

    /// The piece that holds the byte at `place`.
    fn holding(&self, place: u64) -> Option<(u64, &Bytes)> {
        let number = self.pieces.partition_point(|(start, _)| *start <= place).checked_sub(1)?;
        let (start, bytes) = &self.pieces[number];
        (place < start + bytes.len() as u64).then_some((*start, bytes))
    }
}

fn parts(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range.step_by(PART as usize).map(move |start| start..end.min(start + PART))
}

fn parts_of(range: &Range<u64>) -> usize {
    (range.end - range.start).div_ceil(PART) as usize
}

/// The contents of ranges, in their order, with [`TOGETHER`] of them under way at once.
fn fetch(object: &Object, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
    in_parallel(ranges, TOGETHER, |range| object.read(range.clone()))
}

/// What `work` makes of each item, in their order, on up to `threads` threads; the first error ends it.
pub(crate) fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    if items.len() <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let run = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { return };
            let result = work(item);
            if result.is_err() {
                next.store(items.len(), Ordering::Relaxed);
            }
            done.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
        }
    };
    thread::scope(|scope| (0..threads.min(items.len())).for_each(|_| drop(scope.spawn(run))));
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

impl Length for Pieces {
    fn len(&self) -> u64 {
        self.object.bytes()
    }
}

impl ChunkReader for Pieces {
    type T = bytes::buf::Reader<Bytes>;

    /// As far as the piece at `start` reaches: what is read of it is the head of a page, and all pages were fetched.
    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let end = self
            .holding(start)
            .map_or(self.len().min(start + TAIL), |(begin, bytes)| begin + bytes.len() as u64);
        self.get_bytes(start, end.saturating_sub(start) as usize).map(Buf::reader)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.get(start..start + length as u64).map_err(|error| ParquetError::External(Box::new(error)))
    }
}

/// An object from its beginning, with a block in memory.
#[derive(Debug)]
pub(crate) struct Reader {
    object: Object,
    position: u64,
    start: u64,
    block: Bytes,
    failure: Option<Error>,
}

impl Reader {
    pub fn of(object: Object) -> Self {
        Self { object, position: 0, start: 0, block: Bytes::new(), failure: None }
    }

    /// The object itself.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// The error that ended reading; it passes as text only through what reads from here.
    pub fn failure(&mut self) -> Option<Error> {
        self.failure.take()
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = self.object.bytes();
        if self.position >= end || buffer.is_empty() {
            return Ok(0);
        }
        if !(self.start..self.start + self.block.len() as u64).contains(&self.position) {
            let block = self.object.read(self.position..end.min(self.position + PART)).map_err(|error| {
                let text = error.to_string();
                self.failure = Some(error);
                io::Error::other(text)
            })?;
            (self.start, self.block) = (self.position, block);
        }
        let here = &self.block[(self.position - self.start) as usize..];
        let read = here.len().min(buffer.len());
        buffer[..read].copy_from_slice(&here[..read]);
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Reader {
    fn seek(&mut self, place: SeekFrom) -> io::Result<u64> {
        let (from, by) = match place {
            SeekFrom::Start(place) => (place, 0),
            SeekFrom::Current(by) => (self.position, by),
            SeekFrom::End(by) => (self.object.bytes(), by),
        };
        let before = || io::Error::new(io::ErrorKind::InvalidInput, "a place before the beginning");
        self.position = from.checked_add_signed(by).ok_or_else(before)?;
        Ok(self.position)
    }
}
