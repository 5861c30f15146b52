use std::fs;
use std::sync::Arc;

use super::server::{Fault, Server};
use super::*;
use crate::batches::{Batch, BatchOptions, Batches, Position};
use crate::share::Share;
use crate::source::Source;
use crate::testing::{png, shard};
use crate::transform::Crop;
use crate::webdataset::tests::archive;
use semanticist::Seed;

/// The server, and the same shards in a folder: two of each kind, and what is none.
struct Both {
    server: Server,
    folder: tempfile::TempDir,
}

impl Both {
    fn new() -> Self {
        let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
        fs::create_dir_all(folder.path().join("data/deep")).unwrap();
        let path = |name: &str| folder.path().join("data").join(name);
        let images: Vec<_> = (0..40).map(|number| Some(png(number))).collect();
        shard(&path("train-0.parquet"), &images[..13], 5);
        shard(&path("deep/train-1.parquet"), &images[13..20], 4);
        for (name, numbers) in [("train-2.tar", 20..28), ("val-3.tar", 28..40)] {
            let files: Vec<_> = numbers
                .flat_map(|number| {
                    let class = (format!("{number}.cls"), number.to_string().into_bytes());
                    [(format!("{number}.png"), png(number)), class]
                })
                .collect();
            let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
            archive(&path(name), &files);
        }
        for name in ["train-0.parquet", "deep/train-1.parquet", "train-2.tar", "val-3.tar"] {
            server.put(&format!("bucket/data/{name}"), &fs::read(path(name)).unwrap());
        }
        server.put("bucket/data/README.md", b"about");
        server.put("bucket/data/.hidden.tar", b"nothing");
        server.put("bucket/database/train-9.tar", b"another folder");
        Self { server, folder }
    }

    fn stores(&self) -> Stores {
        let cache = self.folder.path().join("cache");
        let variables = [
            ("AWS_ENDPOINT_URL", self.server.address.as_str()),
            ("AWS_ACCESS_KEY_ID", "ada"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("GOOGLE_BASE_URL", self.server.address.as_str()),
            ("GOOGLE_SKIP_SIGNATURE", "true"),
            ("AZURE_STORAGE_ACCOUNT_NAME", "ada"),
            ("AZURE_SKIP_SIGNATURE", "true"),
            ("AZURE_STORAGE_ENDPOINT", self.server.address.as_str()),
            ("XDG_CACHE_HOME", cache.to_str().unwrap()),
        ];
        let mut stores = Stores::with(variables.map(|(name, value)| (name.to_string(), value.to_string())));
        stores.manners.pause = Duration::ZERO;
        stores
    }

    fn source(&self, address: &str, split: Split) -> Result<Source> {
        Source::open_with(&[vec![PathBuf::from(address)]], split, Some(self.stores()))
    }

    fn local(&self, split: Split) -> Source {
        Source::open(&[self.folder.path().join("data")], split).unwrap()
    }
}

/// What of records does not depend on where they lie.
fn content(source: &Source) -> Vec<(Option<i64>, Vec<u8>)> {
    source.records().map(|record| record.map(|record| (record.label, record.bytes)).unwrap()).collect()
}

fn batches(source: Source, start: Position) -> Batches {
    let options = BatchOptions {
        size: 8,
        batch: 7,
        share: Share::WHOLE,
        seed: Seed::new(5),
        workers: 2,
        crop: Crop::Largest,
        flip: 0.5,
    };
    Batches::new(Arc::new(source), options, start)
}

fn images(batch: Result<Batch>) -> (Vec<semanticist::image::RgbImage>, Vec<Option<i64>>, Position) {
    let Batch { images, labels, next, .. } = batch.unwrap();
    (images, labels, next)
}

#[test]
fn stores_give_what_files_give_in_the_same_order() {
    let both = Both::new();
    for split in [Split::All, Split::Train, Split::Validation] {
        let local = both.local(split);
        for address in ["s3://bucket/data", "s3://bucket/data/", "gs://bucket/data"] {
            let source = both.source(address, split).unwrap();
            assert_eq!(source.len(), local.len(), "{address}");
            assert!(content(&source) == content(&local), "{address}");
            let [remote, here] =
                [source, both.local(split)].map(|source| batches(source, Position::default()));
            assert!(remote.take(9).map(images).eq(here.take(9).map(images)), "{address}");
        }
    }
    let found = both.source("s3://bucket/data", Split::Train).unwrap();
    assert_eq!(found.skipped(), 2, "README.md and the validation part");
    let name = found.records().next().unwrap().unwrap().name;
    assert_eq!(name, "s3://bucket/data/deep/train-1.parquet#0 (0.png)");
}

#[test]
fn shards_behind_http_are_named() {
    let both = Both::new();
    let address = |name: &str| format!("{}/bucket/data/{name}", both.server.address);
    let local = ["train-2.tar", "val-3.tar"].map(|name| both.folder.path().join("data").join(name));
    let local = content(&Source::open(&local, Split::All).unwrap());
    // Azure lists in a way of its own, and gives files as all do.
    for address in [address("{train-2,val-3}.tar"), "az://bucket/data/{train-2,val-3}.tar".into()] {
        assert!(content(&both.source(&address, Split::All).unwrap()) == local, "{address}");
    }
    let error = both.source(&address(""), Split::All).unwrap_err().to_string();
    assert!(error.contains("name the shards, such as"), "{error}");
    let error = both.source(&address("x.tar"), Split::All).unwrap_err().to_string();
    assert!(error.contains("x.tar: there is nothing of that name"), "{error}");
    let error = both.source("photos://", Split::All).unwrap_err().to_string();
    assert!(error.contains("photos://: there are no stores of this kind"), "{error}");
    let error = both.source("ftp://host/x.tar", Split::All).unwrap_err().to_string();
    assert!(error.contains("expected s3://, gs://, az://, http://"), "{error}");
}

#[test]
fn what_fails_is_tried_again() {
    use Fault::{Cut, Dropped, Short, Unavailable};
    let both = Both::new();
    let expected = content(&both.local(Split::All));
    let source = both.source("s3://bucket/data", Split::All).unwrap();
    for faults in [&[Dropped][..], &[Unavailable], &[Cut], &[Short], &[Dropped, Unavailable, Cut, Short, Cut]]
    {
        both.server.fail(faults);
        assert!(content(&source) == expected, "{faults:?}");
        assert!(both.server.has_failed(), "{faults:?}");
        both.server.fail(faults);
        fs::remove_dir_all(both.folder.path().join("cache")).unwrap();
        assert!(content(&both.source("s3://bucket/data", Split::All).unwrap()) == expected, "{faults:?}");
        assert!(both.server.has_failed(), "{faults:?}");
    }
}

#[test]
fn what_fails_for_good_says_where_and_how_often() {
    let both = Both::new();
    let sources = ["train-0.parquet", "train-2.tar"].map(|name| {
        (
            format!("s3://bucket/data/{name}"),
            both.source(&format!("s3://bucket/data/{name}"), Split::All).unwrap(),
        )
    });
    for (fault, part) in [
        (Fault::Dropped, "tried 8 times"),
        (Fault::Unavailable, "SlowDown"),
        (Fault::Cut, "tried 8 times"),
        (Fault::Short, "bytes came; tried 8 times"),
        (Fault::Forbidden, "the store does not allow it"),
    ] {
        both.server.fail_forever(Some(fault));
        for (address, source) in &sources {
            let error = source.records().find_map(Result::err).unwrap().to_string();
            assert!(error.starts_with(&format!("{address}: ")) && error.contains(part), "{fault:?}: {error}");
        }
        // The same while a shard is opened, whose reader would wrap the error.
        fs::remove_dir_all(both.folder.path().join("cache")).unwrap();
        for (address, _) in &sources {
            let error = both.source(address, Split::All).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{address}: ")) && error.contains(part), "{fault:?}: {error}");
        }
        both.server.fail_forever(None);
        both.source("s3://bucket/data/train-2.tar", Split::All).unwrap();
    }
}

#[test]
fn who_asks_without_a_name_is_told_which_variables_give_one() {
    // Where this machine would be told its role, nobody answers.
    for (address, endpoint, variable) in [
        ("s3://bucket/data/train-0.parquet", "AWS_METADATA_ENDPOINT", "AWS_ACCESS_KEY_ID"),
        ("az://container/data/train-0.parquet", "AZURE_MSI_ENDPOINT", "AZURE_STORAGE_ACCOUNT_KEY"),
    ] {
        let variables = [
            (endpoint, "http://127.0.0.1:1/metadata/identity/oauth2/token"),
            ("AZURE_STORAGE_ACCOUNT_NAME", "ada"),
        ];
        let mut stores = Stores::with(variables.map(|(name, value)| (name.to_string(), value.to_string())));
        stores.manners.pause = Duration::ZERO;
        let error = stores.find(address, Split::All).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{address}: cannot look: no variable says who asks")), "{error}");
        assert!(error.contains(variable) && error.contains("SKIP_SIGNATURE=true"), "{error}");
    }
}

#[test]
fn an_object_that_changes_or_shrinks_is_an_error() {
    let both = Both::new();
    for name in ["train-0.parquet", "train-2.tar"] {
        let address = format!("s3://bucket/data/{name}");
        let content = fs::read(both.folder.path().join("data").join(name)).unwrap();
        let mut other = content.clone();
        *other.last_mut().unwrap() ^= 1;
        for changed in [&other[..], &content[..100]] {
            both.server.put(&format!("bucket/data/{name}"), &content);
            let source = both.source(&address, Split::All).unwrap();
            let before = source.fingerprint().unwrap();
            both.server.put(&format!("bucket/data/{name}"), changed);
            let error = source.records().find_map(Result::err).unwrap().to_string();
            assert!(error.starts_with(&address) && error.contains("changed while it was in use"), "{error}");
            if changed.len() == content.len() && name.ends_with("tar") {
                let now = both.source(&address, Split::All).unwrap().fingerprint().unwrap();
                assert_ne!(now, before, "its ETag tells");
            }
        }
    }
}

#[test]
fn a_tar_file_is_listed_once_and_samples_are_read_alone() {
    let both = Both::new();
    let address = "s3://bucket/data/val-3.tar";
    let first = both.source(address, Split::All).unwrap();
    let whole = both.server.take_served().iter().map(|(_, range)| range.len()).sum::<usize>();
    let again = both.source(address, Split::All).unwrap();
    assert!(both.server.take_served().is_empty() && whole > 10_000, "{whole}");
    assert_eq!(first.fingerprint().unwrap(), again.fingerprint().unwrap());
    assert!(both.server.take_served().is_empty(), "a fingerprint reads nothing");
    let one: Vec<_> = again.spread_records(1).map(|record| record.unwrap().label).collect();
    assert_eq!(one, [Some(28)]);
    let read: usize = both.server.take_served().iter().map(|(_, range)| range.len()).sum();
    assert_eq!(read, png(28).len());
}

#[test]
fn a_run_that_goes_on_within_an_epoch_does_not_read_what_was_seen() {
    let both = Both::new();
    // Row groups of one image, so that each is read by itself.
    let path = both.folder.path().join("large.parquet");
    let images: Vec<_> = (0..12).map(|number| Some(png(number))).collect();
    shard(&path, &images, 1);
    let served = |index: usize| {
        // The thread that reads ahead may still do so when the batches are gone, and then reads of a name of its own.
        let name = format!("bucket/large-{index}.parquet");
        both.server.put(&name, &fs::read(&path).unwrap());
        let source = both.source(&format!("s3://{name}"), Split::All).unwrap();
        both.server.take_served();
        let mut batches = batches(source, Position { epoch: 0, index });
        batches.next().unwrap().unwrap();
        drop(batches);
        let served = both.server.take_served().into_iter().filter(|(path, _)| path.ends_with(&name));
        served.map(|(_, range)| range).collect::<Vec<_>>()
    };
    assert_eq!(served(8)[..4], served(0)[8..12]);
}
