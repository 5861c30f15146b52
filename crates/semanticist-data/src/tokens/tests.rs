use std::fs;
use std::path::PathBuf;

use semanticist::weights::{self, HostTensor, Metadata, Precision, Weights};

use super::*;

fn info() -> TokenFileInfo {
    TokenFileInfo { model_hash: "abc".into(), tokens: 3, token_dim: 2 }
}

fn record(i: usize) -> TokenRecord {
    TokenRecord {
        path: format!("photos/\"a\\ü\" {i}.jpg"),
        label: (!i.is_multiple_of(3)).then_some(i as i64 - 4),
        tokens: (0..6).map(|j| (i * 6 + j) as f32 / 7.0).collect(),
        padded: i.is_multiple_of(2).then_some((i as u32 + 1, 3)),
    }
}

fn written(folder: &Path, name: &str, count: usize) -> PathBuf {
    let path = folder.join(name);
    let mut writer = TokenWriter::create(&path, info()).unwrap();
    (0..count).map(record).for_each(|record| writer.push(&record).unwrap());
    writer.finish().unwrap();
    path
}

fn problem(path: &Path) -> String {
    TokenReader::open(path).err().expect("the file is refused").to_string()
}

#[test]
fn both_forms_give_back_every_row() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["t.parquet", "t.safetensors"] {
        for count in [0, 1, 500] {
            let path = written(folder.path(), name, count);
            let mut reader = TokenReader::open(&path).unwrap();
            assert_eq!((reader.info(), reader.len()), (&info(), count));
            let records: Vec<TokenRecord> = reader.by_ref().map(Result::unwrap).collect();
            assert!(reader.next().is_none(), "{name} starts over after its end");
            assert_eq!(records, (0..count).map(record).collect::<Vec<_>>(), "{name}");
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "temporary files are left");
}

#[test]
fn rows_that_fill_several_batches_and_row_groups_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let info = TokenFileInfo { model_hash: String::new(), tokens: 1024, token_dim: 1024 };
    let row = |i: usize| vec![i as f32; 1024 * 1024];
    let record = |i| TokenRecord { path: "p".into(), label: None, tokens: row(i), padded: None };
    let mut writer = TokenWriter::create(&path, info).unwrap();
    (0..18).for_each(|i| writer.push(&record(i)).unwrap());
    writer.finish().unwrap();
    let reader = TokenReader::open(&path).unwrap();
    assert!(reader.enumerate().all(|(i, record)| record.unwrap().tokens == row(i)));
}

#[test]
fn what_is_not_finished_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["t.parquet", "t.safetensors"] {
        let mut writer = TokenWriter::create(&folder.path().join(name), info()).unwrap();
        writer.push(&record(0)).unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{name}");
    }
}

#[test]
fn names_and_sizes_are_checked_first() {
    let refusal = |path: &str, info| TokenWriter::create(Path::new(path), info).err().unwrap().to_string();
    assert!(refusal("t.csv", info()).contains("expected .parquet or .safetensors"));
    let nothing = TokenFileInfo { tokens: 0, ..info() };
    assert!(refusal("t.parquet", nothing).contains("0 tokens of width 2"));
    assert!(refusal("no such folder/t.parquet", info()).contains("cannot create"));
    assert!(problem(Path::new("t")).contains("expected .parquet or .safetensors"));
    assert!(problem(Path::new("absent.parquet")).contains("cannot read"));
}

#[test]
fn other_safetensors_files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    let mut metadata = Metadata::new();
    let mut weights = Weights::new();
    weights.insert("a", HostTensor::from_f32(&[1], &[0.0]));
    let mut message = |weights: &Weights, key: &str, value: &str| {
        let _ = metadata.insert(key.into(), value.into());
        weights::save(&path, weights, &metadata, Precision::F32).unwrap();
        problem(&path)
    };
    assert!(message(&weights, "x", "").contains("no metadata entry semanticist.model"));
    message(&weights, "semanticist.model", "abc");
    assert!(
        message(&weights, "semanticist.tokens", "many").contains(r#"is "many"; expected a whole number"#)
    );
    message(&weights, "semanticist.tokens", "3");
    assert!(message(&weights, "semanticist.token_dim", "2").contains("no tensor tokens, only [a]"));
    weights.insert("tokens", HostTensor::from_f32(&[1, 3, 2], &[0.0; 6]));
    assert!(message(&weights, "paths", "7").contains("paths is not a JSON list"));
    message(&weights, "labels", "[1, null]");
    assert!(message(&weights, "paths", r#"["p", "q"]"#).contains("2 paths ask for F32 [2, 3, 2]"));
}

#[test]
fn other_parquet_files_are_told_apart() {
    use std::sync::Arc;

    use ::parquet::arrow::ArrowWriter;
    use ::parquet::file::metadata::KeyValue;
    use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let message = |columns: &[&str], info: Option<TokenFileInfo>| {
        let column = |name: &&str| -> (String, ArrayRef) {
            let array: ArrayRef = if *name == "path" {
                Arc::new(StringArray::from(vec!["p"]))
            } else {
                Arc::new(Int64Array::from(vec![1]))
            };
            (name.to_string(), array)
        };
        let batch = RecordBatch::try_from_iter(columns.iter().map(column)).unwrap();
        let mut writer =
            ArrowWriter::try_new(fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
        for (key, value) in info.iter().flat_map(TokenFileInfo::to_metadata) {
            writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        problem(&path)
    };
    assert!(message(&["path"], None).contains("no metadata entry semanticist.model"));
    assert!(message(&["path", "label"], Some(info())).contains("no column tokens, only [path, label]"));
    let wrong = message(&["path", "label", "tokens"], Some(info()));
    assert!(wrong.contains("column tokens is Int64; its metadata asks for FixedSizeList"), "{wrong}");

    let whole = fs::read(written(folder.path(), "t.parquet", 3)).unwrap();
    for length in [0, 3, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(problem(&path).contains("is not a readable Parquet file"), "{length} bytes");
    }
}
