//! Bywash's AF_XDP driver: a queue of a network interface as a packet device of the stack, or several interfaces as one.
//!
//! The order in which things are had, and in which the code reads:
//! 1. [`Nic::open`] looks at the interface (`nic.rs`, `ethtool.rs`);
//! 2. [`Nic::attach`] attaches the steering program, or joins another process's (`program.rs`, `bpf/steer.bpf.c`), and has the
//!    NIC let in the groups of the stack's own addresses (`groups.rs`);
//! 3. [`Steer::queue`] checks the options (`options.rs`), and [`QueueOpener::open`], on the thread that will drive the
//!    queue, allocates the frames (`umem.rs`), binds the socket (`socket.rs`) and starts the steering (`steer.rs`,
//!    `ports.rs`);
//! 4. [`Queue`] is the device (`queue.rs`, `rings.rs`): bursts of packets in and out, and sleep. The rings' memory is behind
//!    `access.rs` and `ring.rs`.
//!
//! For a stack that forwards, [`LinksOpener`] and [`Links`] (`links.rs`) take the place of the last two: several NICs over
//! one packet memory.
//!
//! All `unsafe` is here because the kernel is on the other side: rings and frames it shares, syscalls libc does not
//! wrap. Needs Linux 5.18 or later.

#![cfg(target_os = "linux")]

mod access;
mod bpf;
mod error;
mod ethtool;
mod groups;
mod link;
mod links;
mod maps;
mod nic;
mod options;
mod ports;
mod privileges;
mod program;
mod queue;
mod ring;
#[cfg(feature = "testing")]
mod ring_bed;
mod rings;
mod socket;
mod stats;
mod steer;
#[cfg(feature = "testing")]
pub mod testing;
mod umem;

pub use error::Error;
pub use links::{LinkOptions, Links, LinksOpener};
pub use maps::ADDRESSES_PER_QUEUE;
pub use nic::{
    AttachMode, AttachedProgram, Channels, Driver, Nic, Offloads, Rings, Setting, XdpFeatures, interfaces,
};
pub use options::{
    BusyPoll, FRAMES, HugePages, KernelAddresses, Mode, PortAddresses, QueueOptions, RING_SIZE,
};
pub use privileges::{Capability, Missing};
pub use program::{AttachOptions, Steer, TO_ATTACH};
pub use queue::{Queue, QueueOpener};
pub use socket::{BindMode, ObtainedMode};
pub use stats::{QueueCounters, XdpStatistics};
