//! Packet memory: the pool of frames, packets in them, bursts of packets, and the Internet checksum.
//!
//! This is one of the two places in the project with `unsafe`: the pool hands out slices of a region it does not own by
//! Rust's rules (a UMEM shared with the kernel), and its book of places is what makes that sound.

mod chain;
pub mod checksum;
mod huge;
#[allow(clippy::module_inception)]
mod packet;
mod pool;
mod prefetch;
mod writer;

pub(crate) use huge::advise_huge_pages;
pub use packet::{Packet, PacketSlice};
pub use pool::{Frame, FrameRef, PacketPool, PoolLayout, PoolUse, Region, Ring};
pub(crate) use prefetch::{prefetch, prefetch_front, prefetch_part};
pub(crate) use writer::Writer;

/// A burst of packets between a driver and the shard; never longer than [`crate::limits::BURST_PACKETS`].
pub type PacketBatch = std::collections::VecDeque<Packet>;
