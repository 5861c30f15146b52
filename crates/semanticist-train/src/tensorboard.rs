//! Event files that TensorBoard reads: scalars by step, one file per start of a run.
//!
//! A file is a sequence of TFRecords, each an `Event` of TensorFlow's `event.proto`. Only a few fields of that are
//! needed; the crates that write them bring a generator of protocol buffers along.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use semanticist::{Error, Result};

/// The numbers of fields in `event.proto` and `summary.proto`.
mod field {
    pub const WALL_TIME: u64 = 1;
    pub const STEP: u64 = 2;
    pub const FILE_VERSION: u64 = 3;
    pub const SUMMARY: u64 = 5;
    pub const SESSION_LOG: u64 = 7;
    pub const SUMMARY_VALUE: u64 = 1;
    pub const TAG: u64 = 1;
    pub const SIMPLE_VALUE: u64 = 2;
    pub const SESSION_STATUS: u64 = 1;
}

/// `SessionLog.START`: what was told of this step and later ones is void.
const SESSION_START: u64 = 1;

/// An event file that grows.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a new file in the folder of a run at `step`.
    pub fn create(folder: &Path, step: u64) -> Result<Self> {
        let nanoseconds = since_1970().as_nanos();
        let path = folder.join(format!("events.out.tfevents.{nanoseconds}.semanticist"));
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = file.map_err(|error| Error::io(&path, "write", error))?;
        let mut events = Self { path, file };
        let mut version = Message::default();
        version.double(field::WALL_TIME, since_1970().as_secs_f64());
        version.bytes(field::FILE_VERSION, b"brain.Event:2");
        events.append(&version)?;
        let mut start = Message::default();
        start.number(field::SESSION_STATUS, SESSION_START);
        events.event(step + 1, field::SESSION_LOG, &start)?;
        Ok(events)
    }

    /// Writes the values of a step, each under its tag.
    pub fn scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<()> {
        let mut summary = Message::default();
        for (tag, number) in scalars {
            let mut value = Message::default();
            value.bytes(field::TAG, tag.as_bytes());
            value.float(field::SIMPLE_VALUE, *number as f32);
            summary.bytes(field::SUMMARY_VALUE, &value.0);
        }
        self.event(step, field::SUMMARY, &summary)
    }

    fn event(&mut self, step: u64, what: u64, content: &Message) -> Result<()> {
        let mut event = Message::default();
        event.double(field::WALL_TIME, since_1970().as_secs_f64());
        event.number(field::STEP, step);
        event.bytes(what, &content.0);
        self.append(&event)
    }

    fn append(&mut self, event: &Message) -> Result<()> {
        self.file.write_all(&record(&event.0)).map_err(|error| Error::io(&self.path, "write", error))
    }
}

fn since_1970() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A TFRecord: length, its checksum, data, their checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let parts: [&[u8]; 4] =
        [&length, &masked_checksum(&length).to_le_bytes(), data, &masked_checksum(data).to_le_bytes()];
    parts.concat()
}

/// `tensorflow/core/lib/hash/crc32c.h`: rotated and shifted, so that checksums of checksums are not weak.
fn masked_checksum(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protocol buffer.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_as_tensorflow_writes_it() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        // The first record of every event file of TensorFlow begins so: 24 bytes, and the checksum of that.
        let mut version = Message::default();
        version.double(field::WALL_TIME, 1.0);
        version.bytes(field::FILE_VERSION, b"brain.Event:2");
        let record = record(&version.0);
        assert_eq!(record[..12], [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
        assert_eq!(record[12..21], [0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(&record[21..36], b"\x1a\x0dbrain.Event:2");
        assert_eq!(record.len(), 8 + 4 + 24 + 4);
    }

    #[test]
    fn numbers_of_any_size_are_encoded() {
        let mut message = Message::default();
        message.number(field::STEP, 300);
        assert_eq!(message.0, [0x10, 0xac, 0x02]);
    }
}
