//! Whether this build computes what the published code computes, and how fast.

pub mod bench;
pub mod verify;
