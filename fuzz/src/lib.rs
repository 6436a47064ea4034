//! What the fuzz targets do with their input, in a library, so that the kept corpora run through the very same code on a
//! stable toolchain (`tests/corpus.rs`) and cargo-fuzz only adds the search.
//!
//! Run the search with `cargo +nightly fuzz run --features libfuzzer parse` (or `shard`, `gro`, `gro_gso`) from the project's
//! root.

pub mod frames;
pub mod gro;
pub mod gro_gso;
pub mod parse;
pub mod seeds;
pub mod shard;
