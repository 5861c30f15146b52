//! Token files as Parquet: columns `path`, `label`, `tokens`, a list of K × D floats, and `width` and
//! `height` of images that were padded.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray, UInt32Array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use semanticist::{Error, Result};

use super::partial::Partial;
use super::{TokenFileInfo, TokenRecord};

/// What is gathered before it is handed on, in bytes of tokens.
const BATCH_BYTES: usize = 4 << 20;
/// What a row group holds, in bytes of tokens: it is kept in memory until it is complete.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// The columns of a padded image's size; files of earlier versions do not have them.
const SIZE: [&str; 2] = ["width", "height"];

fn schema(info: &TokenFileInfo) -> SchemaRef {
    let mut fields = needed(info).to_vec();
    fields.extend(SIZE.map(|name| Field::new(name, DataType::UInt32, true)));
    // Arrow readers such as pyarrow look for metadata here, others in the entries of the file.
    let metadata: std::collections::HashMap<_, _> =
        info.to_metadata().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

/// What every token file has.
fn needed(info: &TokenFileInfo) -> [Field; 3] {
    [
        Field::new("path", DataType::Utf8, false),
        Field::new("label", DataType::Int64, true),
        Field::new("tokens", DataType::FixedSizeList(element(), info.values() as i32), false),
    ]
}

fn element() -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Float32, false))
}

fn failed(path: &Path, error: &ParquetError) -> Error {
    Error::file(path, format!("cannot be written: {error}"))
}

pub(super) struct Writer {
    writer: ArrowWriter<BufWriter<File>>,
    partial: Partial,
    schema: SchemaRef,
    values: usize,
    paths: Vec<String>,
    labels: Vec<Option<i64>>,
    tokens: Vec<f32>,
    padded: Vec<Option<(u32, u32)>>,
}

impl Writer {
    pub fn create(path: &Path, info: &TokenFileInfo) -> Result<Self> {
        let metadata =
            info.to_metadata().into_iter().map(|(key, value)| KeyValue::new(key.to_owned(), value)).collect();
        let rows = ROW_GROUP_BYTES / (info.values() * size_of::<f32>());
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            // Neither paths nor tokens repeat.
            .set_dictionary_enabled(false)
            .set_max_row_group_row_count(Some(rows.max(1)))
            .set_key_value_metadata(Some(metadata))
            .build();
        let schema = schema(info);
        let (partial, file) = Partial::create(path)?;
        let writer = ArrowWriter::try_new(BufWriter::new(file), schema.clone(), Some(properties))
            .map_err(|error| failed(path, &error))?;
        let (paths, labels, tokens, padded) = Default::default();
        Ok(Self { writer, partial, schema, values: info.values(), paths, labels, tokens, padded })
    }

    pub fn push(&mut self, record: &TokenRecord) -> Result<()> {
        self.paths.push(record.path.clone());
        self.labels.push(record.label);
        self.tokens.extend_from_slice(&record.tokens);
        self.padded.push(record.padded);
        if self.tokens.len() * size_of::<f32>() >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let tokens = Arc::new(Float32Array::from(std::mem::take(&mut self.tokens)));
        let padded = std::mem::take(&mut self.padded);
        let widths: UInt32Array = padded.iter().map(|size| size.map(|(width, _)| width)).collect();
        let heights: UInt32Array = padded.iter().map(|size| size.map(|(_, height)| height)).collect();
        let columns =
            FixedSizeListArray::try_new(element(), self.values as i32, tokens, None).and_then(|tokens| {
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(StringArray::from(std::mem::take(&mut self.paths))),
                    Arc::new(Int64Array::from(std::mem::take(&mut self.labels))),
                    Arc::new(tokens),
                    Arc::new(widths),
                    Arc::new(heights),
                ];
                RecordBatch::try_new(self.schema.clone(), columns)
            });
        let batch = columns.map_err(ParquetError::from);
        let written = batch.and_then(|batch| self.writer.write(&batch));
        written.map_err(|error| failed(self.partial.target(), &error))
    }

    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        let file = self.writer.into_inner().map_err(|error| failed(self.partial.target(), &error))?;
        let file = file.into_inner().map_err(|error| self.partial.failed(error.into_error()))?;
        self.partial.complete(&file)
    }
}

pub(super) struct Reader {
    path: PathBuf,
    batches: ParquetRecordBatchReader,
    /// The batch being read, and its next row.
    rows: Option<Rows>,
    next: usize,
}

impl Reader {
    pub fn open(path: &Path) -> Result<(TokenFileInfo, usize, Self)> {
        let file = File::open(path).map_err(|error| Error::io(path, "read", error))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)
            .map_err(|error| Error::file(path, format!("is not a readable Parquet file ({error})")))?;
        let metadata = builder.metadata().file_metadata();
        let entries = metadata.key_value_metadata().cloned().unwrap_or_default();
        let info = TokenFileInfo::from_metadata(path, |key| {
            entries.iter().find(|entry| entry.key == key).and_then(|entry| entry.value.clone())
        })?;
        check_columns(path, builder.schema(), &info)?;
        let len = usize::try_from(metadata.num_rows()).unwrap_or(0);
        let batch = (BATCH_BYTES / (info.values() * size_of::<f32>())).max(1);
        let batches = builder
            .with_batch_size(batch.min(len.max(1)))
            .build()
            .map_err(|error| Error::file(path, format!("cannot be read: {error}")))?;
        Ok((info, len, Self { path: path.to_path_buf(), batches, rows: None, next: 0 }))
    }

    pub fn next_record(&mut self) -> Option<Result<TokenRecord>> {
        loop {
            if let Some(rows) = &self.rows
                && self.next < rows.paths.len()
            {
                self.next += 1;
                return Some(Ok(rows.record(self.next - 1)));
            }
            // Nothing may be left to start over with, should this have been the last batch.
            (self.rows, self.next) = (None, 0);
            self.rows = match self.batches.next()? {
                Ok(batch) => Rows::of(&batch),
                Err(error) => return Some(Err(Error::file(&self.path, format!("cannot be read: {error}")))),
            };
            if self.rows.is_none() {
                return Some(Err(Error::file(&self.path, "has rows of another type than its columns")));
            }
        }
    }
}

/// Every column that is needed must be there with its type; others may be there too.
fn check_columns(path: &Path, found: &Schema, info: &TokenFileInfo) -> Result<()> {
    for expected in needed(info) {
        let name = expected.name();
        let column = found.field_with_name(name).map_err(|_| {
            let names: Vec<&str> = found.fields().iter().map(|field| field.name().as_str()).collect();
            Error::file(
                path,
                format!("has no column {name}, only [{}]; expected a token file", names.join(", ")),
            )
        })?;
        if !column.data_type().equals_datatype(expected.data_type()) {
            let (found, expected) = (column.data_type(), expected.data_type());
            return Err(Error::file(
                path,
                format!("column {name} is {found}; its metadata asks for {expected}"),
            ));
        }
    }
    Ok(())
}

struct Rows {
    paths: StringArray,
    labels: Int64Array,
    tokens: FixedSizeListArray,
    size: Option<[UInt32Array; 2]>,
}

impl Rows {
    fn of(batch: &RecordBatch) -> Option<Self> {
        let column = |name: &str| batch.column_by_name(name).map(|column| column.as_any());
        let number = |name: &str| column(name)?.downcast_ref::<UInt32Array>().cloned();
        Some(Self {
            size: number(SIZE[0]).zip(number(SIZE[1])).map(<[_; 2]>::from),
            paths: column("path")?.downcast_ref::<StringArray>()?.clone(),
            labels: column("label")?.downcast_ref::<Int64Array>()?.clone(),
            tokens: column("tokens")?.downcast_ref::<FixedSizeListArray>()?.clone(),
        })
    }

    fn record(&self, row: usize) -> TokenRecord {
        let values = self.tokens.value(row);
        let values =
            values.as_any().downcast_ref::<Float32Array>().expect("the type of the column was checked");
        TokenRecord {
            path: self.paths.value(row).to_owned(),
            label: (!self.labels.is_null(row)).then(|| self.labels.value(row)),
            tokens: values.values().to_vec(),
            padded: self.size.as_ref().and_then(|[widths, heights]| {
                let known = !widths.is_null(row) && !heights.is_null(row);
                known.then(|| (widths.value(row), heights.value(row)))
            }),
        }
    }
}
