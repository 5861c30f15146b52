//! Images in Parquet files, as Hugging Face lays them out, one row group at a time.

use std::path::Path;

use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::ChunkReader;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int16Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Fields};
use semanticist::{Error, Result};

use super::place::{Opened, Place};
use super::ranges::Pieces;
use super::source::{Record, Records};

/// Rows decoded at a time; bounds the memory that reading takes.
const BATCH_ROWS: usize = 16;

/// A Parquet file whose columns are known to hold images.
#[derive(Debug)]
pub struct Shard {
    place: Place,
    metadata: ArrowReaderMetadata,
    /// The columns to read.
    columns: Vec<&'static str>,
    /// For each row group, the number of its first row in the file.
    first_rows: Vec<usize>,
}

impl Shard {
    /// Reads the metadata and checks the columns.
    pub(crate) fn open(place: Place) -> Result<Self> {
        let path = place.name();
        // The stored Arrow schema could ask for large or dictionary arrays; the plain types suffice.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = match place.open()? {
            Opened::File(file) => ArrowReaderMetadata::load(&file, options),
            Opened::Object(object) => ArrowReaderMetadata::load(&Pieces::tail(object.object())?, options),
        };
        let metadata = metadata.map_err(|error| unreadable(path, "not a readable Parquet file", error))?;
        let columns = columns(metadata.schema().fields()).map_err(|problem| Error::file(path, problem))?;
        let sizes = metadata.metadata().row_groups().iter().map(|group| group.num_rows() as usize);
        let first_rows = sizes.scan(0, |next, rows| Some(std::mem::replace(next, *next + rows))).collect();
        Ok(Self { place, metadata, columns, first_rows })
    }

    /// Where it lies.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The names of the classes in the order of the labels, if the file says them as those of the
    /// Hugging Face hub do.
    pub fn classes(&self) -> Option<Vec<String>> {
        let entries = self.metadata.metadata().file_metadata().key_value_metadata()?;
        let entry = entries.iter().find(|entry| entry.key == "huggingface")?;
        let description: serde_json::Value = serde_json::from_str(entry.value.as_deref()?).ok()?;
        let names = description.pointer("/info/features/label/names")?;
        serde_json::from_value(names.clone()).ok()
    }

    /// How many row groups the file has.
    pub fn groups(&self) -> usize {
        self.first_rows.len()
    }

    /// How many rows a row group has.
    pub fn rows(&self, group: usize) -> usize {
        self.metadata.metadata().row_group(group).num_rows() as usize
    }

    /// How many bytes a row group holds, uncompressed.
    pub fn bytes(&self, group: usize) -> usize {
        self.metadata.metadata().row_group(group).total_byte_size() as usize
    }

    /// The images of a row group in order, read as they are asked for.
    pub fn records(&self, group: usize) -> Records<'_> {
        match self.batches(group) {
            Ok(batches) => {
                let mut next = self.first_rows[group];
                Box::new(batches.flat_map(move |batch| {
                    let first = next;
                    next += batch.as_ref().map_or(0, RecordBatch::num_rows);
                    batch.map_or_else(|error| vec![Err(error)], |batch| self.convert(&batch, first))
                }))
            }
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    fn batches(&self, group: usize) -> Result<impl Iterator<Item = Result<RecordBatch>> + Send + '_> {
        let unreadable =
            move |error| unreadable(self.place.name(), &format!("cannot read row group {group}"), error);
        let columns = ProjectionMask::columns(self.metadata.parquet_schema(), self.columns.iter().copied());
        let reader = match self.place.open()? {
            Opened::File(file) => self.reader(file, group, columns),
            Opened::Object(object) => {
                let group_columns = self.metadata.metadata().row_group(group).columns().iter().enumerate();
                let read = group_columns.filter(|(leaf, _)| columns.leaf_included(*leaf));
                let ranges =
                    read.map(|(_, column)| column.byte_range()).map(|(start, len)| start..start + len);
                self.reader(Pieces::of(object.object(), ranges.collect())?, group, columns)
            }
        };
        let batches = reader.map_err(unreadable)?;
        Ok(batches.map(move |batch| batch.map_err(|error| unreadable(ParquetError::from(error)))))
    }

    fn reader(
        &self,
        content: impl ChunkReader + 'static,
        group: usize,
        columns: ProjectionMask,
    ) -> Result<ParquetRecordBatchReader, ParquetError> {
        ParquetRecordBatchReaderBuilder::new_with_metadata(content, self.metadata.clone())
            .with_row_groups(vec![group])
            .with_projection(columns)
            .with_batch_size(BATCH_ROWS)
            .build()
    }

    /// The records of `batch`, which begins at row `first` of the file.
    fn convert(&self, batch: &RecordBatch, first: usize) -> Vec<Result<Record>> {
        let image = batch.column_by_name("image").expect("the column was checked on opening");
        let (bytes, inner) = match image.as_struct_opt() {
            Some(image) => {
                (image.column_by_name("bytes").expect("checked on opening"), image.column_by_name("path"))
            }
            None => (image, None),
        };
        let labels = batch.column_by_name("label");
        let record = |row: usize| {
            let inner = inner.and_then(|inner| text(inner, row)).filter(|inner| !inner.is_empty());
            let place = format!("{}#{}", self.place.name().display(), first + row);
            let name = inner.map_or(place.clone(), |inner| format!("{place} ({inner})"));
            if image.is_null(row) || bytes.is_null(row) {
                return Err(Error::image(
                    name,
                    "the row holds no bytes; images beside the shard are not read",
                ));
            }
            let label = labels.and_then(|labels| integer(labels, row));
            Ok(Record { name, label, bytes: bytes.as_binary::<i32>().value(row).to_vec() })
        };
        (0..batch.num_rows()).map(record).collect()
    }
}

/// What went wrong on the way from a store says it all; the rest is about the file.
fn unreadable(path: &Path, what: &str, error: ParquetError) -> Error {
    let text = error.to_string();
    let own = match error {
        ParquetError::External(source) => source.downcast::<Error>().ok(),
        _ => None,
    };
    own.map_or_else(|| Error::file(path, format!("{what}: {text}")), |error| *error)
}

/// The columns to read, if the file has them with the right types.
fn columns(fields: &Fields) -> Result<Vec<&'static str>, String> {
    let mut columns = match fields.find("image").map(|(_, field)| field.data_type()) {
        Some(DataType::Binary) => vec!["image"],
        Some(DataType::Struct(inner)) if has_type(inner, "bytes", &DataType::Binary) => {
            let path = has_type(inner, "path", &DataType::Utf8).then_some("image.path");
            ["image.bytes"].into_iter().chain(path).collect()
        }
        _ => return Err(wrong_columns(fields)),
    };
    match fields.find("label").map(|(_, field)| field.data_type()) {
        None => {}
        Some(DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64) => columns.push("label"),
        Some(_) => return Err(wrong_columns(fields)),
    }
    Ok(columns)
}

fn has_type(fields: &Fields, name: &str, expected: &DataType) -> bool {
    fields.find(name).is_some_and(|(_, field)| field.data_type() == expected)
}

fn wrong_columns(fields: &Fields) -> String {
    let found: Vec<_> =
        fields.iter().map(|field| format!("{}: {}", field.name(), field.data_type())).collect();
    format!(
        "found the columns [{}]; expected image: Binary or Struct(bytes: Binary, path: Utf8), and \
         optionally label: a signed integer",
        found.join(", ")
    )
}

fn text(array: &ArrayRef, row: usize) -> Option<&str> {
    array.is_valid(row).then(|| array.as_string::<i32>().value(row))
}

fn integer(array: &ArrayRef, row: usize) -> Option<i64> {
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        _ => array.as_primitive::<Int64Type>().value(row),
    })
}
