//! What the fuzz targets do with their input, in a library, so that the kept corpora run through the very same code on a
//! stable toolchain (`tests/corpus.rs`) and cargo-fuzz only adds the search.
//!
//! Run the search with `cargo +nightly fuzz run --features libfuzzer parse` (or another name from `fuzz_targets/`) from the project's root.

pub mod conntrack;
pub mod frames;
pub mod gro;
pub mod gro_gso;
pub mod nat_icmp;
pub mod parse;
pub mod rules;
pub mod seeds;
pub mod shard;
