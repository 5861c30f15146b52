//! Arrays of floats in NumPy's `.npz` files: ZIP archives of `NAME.npy`, each a header and the numbers
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).
//!
//! Read without trust: an archive may come from anywhere.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use semanticist::files::write_atomically;
use semanticist::{Error, Result};
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// What every array begins with.
const MAGIC: &[u8] = b"\x93NUMPY";

/// The longest header that is read: NumPy's own take about a hundred bytes.
const LONGEST_HEADER: usize = 4096;

/// The most numbers in an array: 8192², 512 MiB.
const MOST: usize = 1 << 26;

/// An array of one or two axes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Array {
    pub shape: Vec<usize>,
    /// Row by row.
    pub values: Vec<f64>,
}

/// An open archive.
pub(crate) struct Archive<'a> {
    zip: ZipArchive<BufReader<File>>,
    path: &'a Path,
}

impl<'a> Archive<'a> {
    pub fn open(path: &'a Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, "read", error))?;
        let zip = ZipArchive::new(BufReader::new(file));
        let zip = zip.map_err(|error| {
            Error::file(path, format!("is no .npz file ({error}); expected what numpy.savez writes"))
        })?;
        Ok(Self { zip, path })
    }

    /// What was written beside the arrays, which NumPy does not read.
    pub fn comment(&self) -> &[u8] {
        self.zip.comment()
    }

    /// The names of all arrays.
    pub fn names(&self) -> Vec<String> {
        let names = self.zip.file_names().flatten();
        names.map(|name| name.strip_suffix(".npy").unwrap_or(&name).to_string()).collect()
    }

    /// An array by its name, if there is one.
    pub fn array(&mut self, name: &str) -> Result<Option<Array>> {
        let mut entry = match self.zip.by_name(&format!("{name}.npy")) {
            Ok(entry) => entry,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(error) => return Err(Error::file(self.path, format!("{name} cannot be read: {error}"))),
        };
        read(&mut entry).map(Some).map_err(|problem| Error::file(self.path, format!("{name} {problem}")))
    }
}

/// Reads an array; what is wrong with it is the end of a sentence that begins with its name.
fn read(from: &mut impl Read) -> Result<Array, String> {
    let cut = |error: io::Error| format!("cannot be read: {error}");
    let mut start = [0; 8];
    from.read_exact(&mut start).map_err(cut)?;
    if start[..6] != *MAGIC {
        return Err("is no array of NumPy: it does not begin with \\x93NUMPY".into());
    }
    let mut length = [0; 4];
    let digits = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(format!("is in version {version} of NumPy's format; expected 1, 2 or 3")),
    };
    from.read_exact(&mut length[..digits]).map_err(cut)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST_HEADER {
        return Err(format!("has a header of {length} bytes; expected at most {LONGEST_HEADER}"));
    }
    let mut header = vec![0; length];
    from.read_exact(&mut header).map_err(cut)?;
    let header = String::from_utf8(header).map_err(|_| "has a header that is no text".to_string())?;
    let Header { double, by_columns, shape } = Header::parse(&header)
        .ok_or_else(|| format!("is {}; expected floats of 32 or 64 bits", header.trim()))?;
    let count = shape.iter().try_fold(1usize, |product, side| product.checked_mul(*side));
    let count = count.filter(|count| *count <= MOST && shape.len() <= 2).ok_or_else(|| {
        format!("has the shape {shape:?}; expected one or two axes and at most {MOST} numbers")
    })?;
    let width = if double { 8 } else { 4 };
    let mut bytes = Vec::new();
    from.take((count * width) as u64).read_to_end(&mut bytes).map_err(cut)?;
    if bytes.len() != count * width {
        return Err(format!("ends after {} of {} bytes", bytes.len(), count * width));
    }
    let stored: Vec<f64> = if double {
        bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
    } else {
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect()
    };
    let values = match shape[..] {
        [rows, columns] if by_columns => {
            (0..count).map(|at| stored[at % columns * rows + at / columns]).collect()
        }
        _ => stored,
    };
    Ok(Array { shape, values })
}

/// What a header says, such as `{'descr': '<f8', 'fortran_order': False, 'shape': (2048, 2048), }`.
#[derive(Debug, PartialEq)]
struct Header {
    double: bool,
    by_columns: bool,
    shape: Vec<usize>,
}

impl Header {
    fn parse(text: &str) -> Option<Self> {
        let after = |key: &str| Some(text.split_once(&format!("'{key}':"))?.1.trim_start());
        let kind = after("descr")?;
        let double = kind.starts_with("'<f8'");
        if !double && !kind.starts_with("'<f4'") {
            return None;
        }
        let order = after("fortran_order")?;
        let by_columns = order.starts_with("True");
        if !by_columns && !order.starts_with("False") {
            return None;
        }
        let (shape, _) = after("shape")?.strip_prefix('(')?.split_once(')')?;
        let sides = shape.split(',').map(str::trim).filter(|side| !side.is_empty());
        let shape = sides.map(|side| side.parse().ok()).collect::<Option<_>>()?;
        Some(Self { double, by_columns, shape })
    }
}

/// Writes arrays of 64-bit floats as `numpy.savez` does, with a comment that NumPy does not read.
///
/// # Panics
/// If a shape is not that of its values.
pub(crate) fn write(path: &Path, arrays: &[(&str, Vec<usize>, &[f64])], comment: &str) -> Result<()> {
    write_atomically(path, |file| {
        let mut zip = ZipWriter::new(file);
        zip.set_comment(comment)?;
        // Not compressed, as numpy.savez has it: digits of measurements do not shrink.
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for (name, shape, values) in arrays {
            assert_eq!(shape.iter().product::<usize>(), values.len(), "numbers of {name}");
            zip.start_file(format!("{name}.npy"), options)?;
            zip.write_all(&header(shape))?;
            for values in values.chunks(1 << 16) {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                zip.write_all(&bytes)?;
            }
        }
        zip.finish()?;
        Ok(())
    })
}

/// What stands before the numbers, filled with spaces to a multiple of 64 bytes.
fn header(shape: &[usize]) -> Vec<u8> {
    let sides: String = shape.iter().map(|side| format!("{side}, ")).collect();
    let mut text = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({}), }}", sides.trim_end());
    let before = MAGIC.len() + 4;
    while !(before + text.len() + 1).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    let length = u16::try_from(text.len()).expect("a shape takes few bytes");
    [MAGIC, &[1, 0], &length.to_le_bytes(), text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(header: &str, numbers: &[u8]) -> Vec<u8> {
        [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), numbers].concat()
    }

    #[test]
    fn headers_are_read_in_any_order_of_keys_and_others_refused() {
        let read = |text: &str| Header::parse(text);
        let expected = Header { double: true, by_columns: false, shape: vec![3, 2] };
        let text = "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }";
        assert_eq!(read(text), Some(expected));
        let expected = Header { double: false, by_columns: true, shape: vec![7] };
        assert_eq!(read("{'shape': (7,), 'fortran_order': True, 'descr': '<f4'}"), Some(expected));
        for text in
            ["", "{'descr': '|u1', 'fortran_order': False, 'shape': (3,)}", "{'descr': '<f8', 'shape': (3,)}"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn arrays_are_read_by_rows_and_by_columns() {
        let numbers: Vec<u8> =
            [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|it| it.to_le_bytes()).collect();
        let of = |order: &str| {
            let header = format!("{{'descr': '<f4', 'fortran_order': {order}, 'shape': (2, 3), }}");
            super::read(&mut &array(&header, &numbers)[..]).unwrap()
        };
        assert_eq!(of("False").values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!((of("True").values, of("True").shape), (vec![1.0, 3.0, 5.0, 2.0, 4.0, 6.0], vec![2, 3]));
    }

    #[test]
    fn what_is_no_array_is_said() {
        let refused = |bytes: &[u8]| super::read(&mut &bytes[..]).unwrap_err();
        let header = |kind: &str, shape: &str| {
            format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}")
        };
        assert!(refused(b"hello, world").contains("\\x93NUMPY"));
        assert!(refused(b"").contains("cannot be read"));
        let objects = refused(&array(&header("|O", "(3,)"), b""));
        assert!(objects.contains("'|O'") && objects.contains("expected floats"), "{objects}");
        assert!(refused(&array(&header("<f8", "(3,)"), &[0; 23])).contains("ends after 23 of 24 bytes"));
        for shape in ["(4294967296, 4294967296)", "(1, 1, 1)", "(100000, 100000)"] {
            assert!(
                refused(&array(&header("<f8", shape), b"")).contains("expected one or two axes"),
                "{shape}"
            );
        }
        let mut newer = array(&header("<f8", "(1,)"), &[0; 8]);
        newer[6] = 9;
        assert!(refused(&newer).contains("version 9"));
    }
}
