//! What the fuzzer runs for hours, in seconds: every file of its corpus and of the other tests, whole, cut short
//! and with wrong bytes, the same ones every time. CONTRIBUTING.md has the commands of the fuzzer itself.

#[path = "../../../fuzz/src/lib.rs"]
mod fuzz;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Wrong versions of every file, beside those that are cut short.
const WRONG: usize = 150;
/// Lengths that every file is cut to.
const CUTS: usize = 40;
/// More memory at once, in bytes, than any file of the corpus needs.
const LARGE: usize = 64 << 20;

/// Remembers the largest piece of memory that was asked for.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);
/// The allocator is one for all tests, so they go one after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

// SAFETY: passes everything on to the system's allocator.
#[expect(unsafe_code, reason = "an allocator is")]
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as of this function.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: as of this function.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as of this function.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// The same numbers every time (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    /// One to four bytes changed, a stretch repeated, or a stretch left out.
    fn wrong(&mut self, file: &[u8]) -> Vec<u8> {
        let mut file = file.to_vec();
        let (start, length) = (self.below(file.len()), 1 + self.below(16));
        let end = (start + length).min(file.len());
        match self.below(8) {
            0 => {
                let stretch = file[start..end].to_vec();
                file.splice(start..start, stretch);
            }
            1 => drop(file.drain(start..end)),
            _ => {
                for _ in 0..1 + self.below(4) {
                    let place = self.below(file.len());
                    let usual = [0x00, 0xff, 0x7f, 0x80, file[place].wrapping_add(1), self.below(256) as u8];
                    file[place] = usual[self.below(usual.len())];
                }
            }
        }
        file
    }
}

/// The files of some folders, in the order of their names.
fn files(folders: &[&str], wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let entries = folders.iter().flat_map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| wanted(&path.to_string_lossy())).collect();
    files.sort();
    assert!(!files.is_empty(), "no files in {folders:?}");
    files
}

fn run(read: fn(&[u8]), files: &[PathBuf], largest: usize) {
    let _alone = ONE_AT_A_TIME.lock();
    let mut wrong = Vec::new();
    for path in files {
        let whole = fs::read(path).unwrap();
        let mut random = Random(0x5eed ^ (whole.len() as u64) << 16);
        let cuts = (0..CUTS).map(|i| whole[..whole.len() * i / CUTS].to_vec());
        let mut variants: Vec<Vec<u8>> = std::iter::once(whole.clone()).chain(cuts).collect();
        variants.extend((0..WRONG).map(|_| random.wrong(&whole)));
        for (number, variant) in variants.iter().enumerate() {
            LARGEST.store(0, Ordering::Relaxed);
            let panicked = catch_unwind(|| read(variant)).is_err();
            let taken = LARGEST.load(Ordering::Relaxed);
            if panicked || taken > largest {
                let copy = std::env::temp_dir().join(format!("semanticist-hostile-{number}"));
                fs::write(&copy, variant).unwrap();
                let how = if panicked { "panics".into() } else { format!("takes {taken} bytes at once") };
                wrong.push(format!("{} variant {number} {how}; see {}", path.display(), copy.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn safetensors_files() {
    let seeds = files(&["fuzz/corpus/safetensors", "crates/semanticist/tests/data"], |path| {
        path.contains("corpus") || path.ends_with("diffusion_tables.safetensors")
    });
    run(fuzz::safetensors, &seeds, LARGE);
}

#[test]
fn checkpoints_of_pytorch() {
    let seeds = files(&["fuzz/corpus/pickle", "crates/semanticist/tests/data/weights"], |path| {
        path.contains("corpus") || path.ends_with(".pkl")
    });
    run(fuzz::pickle, &seeds, LARGE);
}

#[test]
fn images() {
    let seeds = files(&["fuzz/corpus/image", "crates/semanticist/tests/data/formats"], |path| {
        !path.contains(".pillow.") && !path.contains(".meant.")
    });
    // A few wrong bytes can make the promise of a large image, which is believed up to this limit.
    run(fuzz::image, &seeds, semanticist::image::MAX_DECODED_BYTES as usize);
}

#[test]
fn token_files() {
    run(fuzz::tokens, &files(&["fuzz/corpus/tokens"], |_| true), LARGE);
}

#[test]
fn configurations() {
    run(fuzz::configuration, &files(&["fuzz/corpus/configuration", "configs"], |_| true), LARGE);
}
