//! Images in tar files as WebDataset lays them out: files that share a name up to its first dot are one sample, of which one
//! is the image and `cls` its class.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use semanticist::image::EXTENSIONS;
use semanticist::{Error, Result};
use serde::{Deserialize, Serialize};

use super::listings;
use super::place::{Opened, Place};
use super::ranges::Pieces;
use super::source::{Record, Records};

/// Samples of a chunk: so many are shuffled together at least.
const CHUNK: usize = 256;

/// Digits of a class, at most.
const DIGITS: usize = 20;

/// A tar file whose table of contents is known; images are read where they lie.
#[derive(Debug)]
pub struct Archive {
    place: Place,
    samples: Vec<Sample>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Sample {
    /// Name of the image within the file.
    name: String,
    label: Option<i64>,
    offset: u64,
    size: usize,
}

/// The files of one sample while they are listed.
#[derive(Default)]
struct Parts {
    key: String,
    image: Option<(String, u64, usize)>,
    label: Option<i64>,
}

impl Archive {
    /// Lists the samples; a sample without an image is left out.
    ///
    /// # Errors
    /// If the file is no tar file, ends too early, or has a class that is no whole number.
    pub(crate) fn open(place: Place) -> Result<Self> {
        if let Some(samples) = listings::recall(&place) {
            return Ok(Self { place, samples });
        }
        let mut opened = place.open()?;
        let samples = match list(&place, &mut opened) {
            Ok(samples) => samples,
            Err(error) => return Err(opened.failure().unwrap_or(error)),
        };
        listings::keep(&place, &samples);
        Ok(Self { place, samples })
    }

    /// Where it lies.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// How many chunks of neighbours.
    pub fn chunks(&self) -> usize {
        self.samples.len().div_ceil(CHUNK)
    }

    /// How many samples a chunk has.
    pub fn rows(&self, chunk: usize) -> usize {
        self.of(chunk).len()
    }

    /// How many bytes a chunk's images have.
    pub fn bytes(&self, chunk: usize) -> usize {
        self.of(chunk).iter().map(|sample| sample.size).sum()
    }

    fn of(&self, chunk: usize) -> &[Sample] {
        let first = chunk * CHUNK;
        &self.samples[first..self.samples.len().min(first + CHUNK)]
    }

    /// The images of a chunk in order, read as they are asked for.
    pub fn records(&self, chunk: usize) -> Records<'_> {
        self.read(self.of(chunk).iter().collect())
    }

    /// The images of these rows of a chunk in order; the others are not read.
    pub fn some_records(&self, chunk: usize, rows: impl IntoIterator<Item = usize>) -> Records<'_> {
        let samples = self.of(chunk);
        self.read(rows.into_iter().map(|row| &samples[row]).collect())
    }

    fn read<'a>(&'a self, samples: Vec<&'a Sample>) -> Records<'a> {
        let opened = self.place.open().and_then(|opened| {
            Ok(match opened {
                Opened::File(file) => (Some(file), None),
                Opened::Object(object) => {
                    let ranges = samples.iter().map(|sample| sample.range()).collect();
                    (None, Some(Pieces::of(object.object(), ranges)?))
                }
            })
        });
        let (mut file, pieces) = match opened {
            Ok(opened) => opened,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        Box::new(samples.into_iter().map(move |sample| {
            let bytes = match (&mut file, &pieces) {
                (Some(file), _) => {
                    let mut bytes = vec![0; sample.size];
                    file.seek(SeekFrom::Start(sample.offset))
                        .and_then(|_| file.read_exact(&mut bytes))
                        .map_err(|error| Error::io(self.place.name(), "read", error))?;
                    bytes
                }
                (None, Some(pieces)) => pieces.get(sample.range())?.to_vec(),
                (None, None) => unreachable!("opened as one of both"),
            };
            let name = format!("{}#{}", self.place.name().display(), sample.name);
            Ok(Record { name, label: sample.label, bytes })
        }))
    }
}

impl Sample {
    fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.size as u64
    }
}

/// The samples of a tar file.
fn list(place: &Place, opened: &mut Opened) -> Result<Vec<Sample>> {
    let (path, bytes) = (place.name(), place.bytes());
    let damaged = |error: std::io::Error| Error::file(path, format!("not a readable tar file: {error}"));
    let mut archive = tar::Archive::new(opened);
    let (mut samples, mut parts) = (Vec::new(), Parts::default());
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(damaged)?.to_string_lossy().into_owned();
        let (key, extension) = split(&name);
        if key != parts.key {
            samples.extend(std::mem::take(&mut parts).finish());
            parts.key = key.to_string();
        }
        let (offset, size) = (entry.raw_file_position(), entry.size());
        if offset + size > bytes {
            let problem =
                format!("ends within {name}: it has {bytes} bytes, and {} are needed", offset + size);
            return Err(Error::file(path, problem));
        }
        if extension == "cls" {
            let mut text = String::new();
            entry.by_ref().take(DIGITS as u64 + 2).read_to_string(&mut text).map_err(damaged)?;
            let label = text.trim().parse().map_err(|_| {
                Error::file(path, format!("{name} holds {text:?}; expected the number of a class"))
            })?;
            parts.label = Some(label);
        } else if parts.image.is_none() && is_image(&extension) {
            parts.image = Some((name, offset, size as usize));
        }
    }
    samples.extend(parts.finish());
    Ok(samples)
}

impl Parts {
    fn finish(self) -> Option<Sample> {
        let (name, offset, size) = self.image?;
        Some(Sample { name, label: self.label, offset, size })
    }
}

/// The name of a sample, folders included, and what stands behind the first dot of the file's name, in small letters.
fn split(name: &str) -> (&str, String) {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].find('.') {
        Some(dot) => (&name[..file + dot], name[file + dot + 1..].to_ascii_lowercase()),
        None => (name, String::new()),
    }
}

fn is_image(extension: &str) -> bool {
    // `0001.input.jpg` is an image too.
    let last = extension.rsplit('.').next().unwrap_or_default();
    EXTENSIONS.contains(&last)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::super::testing::png;
    use super::*;

    fn open(path: &Path) -> Result<Archive> {
        Archive::open(Place::file(path)?)
    }

    pub(crate) fn archive(path: &Path, files: &[(&str, &[u8])]) {
        let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.finish().unwrap();
    }

    #[test]
    fn files_of_one_name_are_a_sample() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train-000.tar");
        let [a, b, c] = [0, 1, 2].map(png);
        archive(
            &path,
            &[
                ("n01/0001.PNG", &a),
                ("n01/0001.cls", b"7\n"),
                ("n01/0001.json", b"{}"),
                ("n02/0001.cls", b"3"),
                ("n02/0001.input.png", &b),
                ("readme.txt", b"no image"),
                ("0003.png", &c),
            ],
        );
        let found = open(&path).unwrap();
        assert_eq!((found.chunks(), found.rows(0)), (1, 3));
        let records: Vec<Record> = found.records(0).map(Result::unwrap).collect();
        let labels: Vec<_> = records.iter().map(|record| record.label).collect();
        assert_eq!(labels, [Some(7), Some(3), None]);
        assert!(records[0].bytes == a && records[1].bytes == b && records[2].bytes == c);
        assert!(records[1].name.ends_with("train-000.tar#n02/0001.input.png"), "{}", records[1].name);
        assert_eq!(found.bytes(0), a.len() + b.len() + c.len());
    }

    #[test]
    fn damaged_and_changed_files_are_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        archive(&path, &[("0.png", &png(0)), ("1.cls", b"cat"), ("1.png", &png(1))]);
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("1.cls") && error.contains("number of a class"), "{error}");
        archive(&path, &[("0.png", &png(0))]);
        let whole = std::fs::read(&path).unwrap();
        let found = open(&path).unwrap();
        std::fs::write(&path, [&whole[..], &[0; 512]].concat()).unwrap();
        let error = found.records(0).next().unwrap().unwrap_err().to_string();
        assert!(error.contains("changed while it was in use"), "{error}");
        std::fs::write(&path, &whole[..512 + 20]).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("ends within 0.png"));
        std::fs::write(&path, b"not a tar file, whatever it is called").unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("not a readable tar file"));
    }
}
