//! Training images: where they lie ([`Source`]), in which order they come ([`EpochOrder`]), what is
//! done to them ([`transform`], [`Views`]), and the batches that result ([`Batches`]).
//!
//! Encoded bytes are read as late as possible and never a whole shard at once. Everything drawn is a
//! function of (seed, epoch, index), so training resumes exactly from a [`Position`].

mod batches;
mod broken;
pub mod features;
mod feeder;
mod fingerprint;
mod folder;
mod list;
mod listings;
mod mixture;
mod order;
mod parquet;
mod place;
mod ranges;
mod shards;
mod share;
mod source;
#[cfg(feature = "stores")]
mod stores;
#[cfg(not(feature = "stores"))]
#[path = "stores/absent.rs"]
mod stores;
pub mod tokens;
pub mod transform;
mod views;
mod webdataset;

#[cfg(test)]
mod testing;

pub use batches::{Batch, BatchOptions, Batches, Position, Shown};
pub use broken::Broken;
pub use fingerprint::spread;
pub use order::{EpochOrder, Pool, permutation};
pub use share::Share;
pub use source::{Chunk, Record, Records, Source, Split};
pub use transform::{Crop, View};
pub use views::Views;
