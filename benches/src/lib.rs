//! What the benchmarks share: [`results`] (samples, medians, ratios, JSON), shown by [`table`] and [`chart`]; and the stacks in
//! memory. [`loads`] drives one stack through frames whose other end is played by [`peer`]: [`ours`], smoltcp's TCP
//! ([`smoltcp_tcp`]) and lwIP ([`lwip`], with the feature `lwip`) alike; [`timers`] are the operations of the timer wheel.
//!
//! `cargo run --release -p bywash-benches --bin stack` compares the stacks in one run, `cargo bench -p bywash-benches` times
//! loads and pieces with criterion and counts instructions with callgrind.

pub mod chart;
pub mod frames;
pub mod idle;
pub mod loads;
#[cfg(feature = "lwip")]
pub mod lwip;
pub mod machine;
pub mod ours;
pub mod peer;
pub mod results;
pub mod smoltcp_tcp;
pub mod stack;
pub mod table;
pub mod timers;

/// Bytes of a request and of its response.
pub const REQUEST_BYTES: usize = 64;
/// Segments, requests or connections of one burst.
pub const BURST: usize = 32;
/// Bytes that the servers read or write in one call.
pub const CALL_BYTES: usize = 16 << 10;
/// Bytes of each buffer of smoltcp's sockets; lwIP's, as Debian builds it, are as large.
pub const RIVAL_BUFFER_BYTES: usize = 65_535;
/// Operations whose instructions are counted, after the warm-up.
pub const COUNTED_OPERATIONS: u64 = 4096;
