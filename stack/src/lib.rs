//! Bywash: a userspace TCP/IP stack and kernel-bypass socket library. The modules, in the order a packet meets them:
//! [`device`] hands bursts of [`packet`]s to a [`shard`], [`parse`] looks at each once, [`offload`] merges TCP segments and cuts them, `net` or
//! [`tcp`] takes it.

pub mod config;
pub mod counters;
pub mod device;
pub mod flow;
pub mod limits;
pub mod listing;
mod net;
pub mod offload;
pub mod packet;
pub mod parse;
pub mod pcap;
pub mod runtime;
pub mod shard;
#[cfg(feature = "sim")]
pub mod sim;
mod spares;
pub mod tcp;
pub mod time;
pub mod timer_wheel;
