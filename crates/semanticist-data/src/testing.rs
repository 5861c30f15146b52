//! Small data sets for the tests of this folder.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field};
use semanticist::image::RgbImage;

/// PNG of 9 x 8 pixels; the first pixel tells `number` (below 256).
pub(super) fn png(number: usize) -> Vec<u8> {
    let image = RgbImage::from_fn(9, 8, |x, y| image::Rgb([number as u8, x as u8 * 20, y as u8 * 30]));
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Writes a file and the folders above it.
pub(super) fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A shard as Hugging Face writes it, with `group` rows in a row group.
pub(super) fn shard(path: &Path, images: &[Option<Vec<u8>>], group: usize) {
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter(images.iter().map(|image| image.as_deref())));
    let paths = (0..images.len()).map(|row| (row % 2 == 0).then(|| format!("{row}.png")));
    let paths: ArrayRef = Arc::new(StringArray::from_iter(paths));
    let image: ArrayRef = Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), bytes),
        (Arc::new(Field::new("path", DataType::Utf8, true)), paths),
    ]));
    let labels: ArrayRef = Arc::new(Int64Array::from_iter_values(0..images.len() as i64));
    let other: ArrayRef = Arc::new(StringArray::from_iter_values(images.iter().map(|_| "unused")));
    write(path, &[("caption", other), ("image", image), ("label", labels)], group);
}

/// Writes any columns.
pub(super) fn write(path: &Path, columns: &[(&str, ArrayRef)], group: usize) {
    write_described(path, columns, group, None);
}

/// Writes any columns, with what the Hugging Face hub says of them.
pub(super) fn write_described(
    path: &Path,
    columns: &[(&str, ArrayRef)],
    group: usize,
    description: Option<&str>,
) {
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.iter().map(|(name, column)| (*name, column.clone(), true)),
    )
    .unwrap();
    let entry = |text: &str| vec![KeyValue::new("huggingface".into(), text.to_string())];
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group))
        .set_key_value_metadata(description.map(entry))
        .build();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}
