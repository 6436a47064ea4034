//! What the benchmarks share: [`results`] (samples, medians, ratios, JSON), shown by [`table`] and [`chart`]; and what the
//! micro-benchmarks share: two stacks joined by a wire in memory ([`ours`] and [`theirs`], smoltcp's), and the [`report`] of
//! criterion's medians. `cargo bench -p bywash-benches` runs the latter and prints it.

pub mod chart;
pub mod idle;
pub mod machine;
pub mod ours;
pub mod report;
pub mod results;
pub mod table;
pub mod theirs;

/// Bytes of one bulk transfer.
pub const BULK_BYTES: usize = 4 << 20;
/// Bytes of each socket's receive and send buffer: the same on both sides of a comparison, and below 64 KiB because
/// smoltcp's peers in it then need no window scaling either.
pub const BUFFER_BYTES: usize = 60_000;
/// Bytes offered or asked for in one call.
pub const CALL_BYTES: usize = 16 << 10;
/// Bytes of a request and of its response.
pub const REQUEST_BYTES: usize = 64;
/// Virtual time between two rounds of polling, in microseconds.
pub const ROUND_MICROS: u64 = 20;
