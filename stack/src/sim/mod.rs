//! A laboratory for TCP/IP: whole hosts and the network between them in virtual time, from one seed.
//!
//! The hosts run the same [`crate::shard::Shard`]s as a real queue; only the device, the clock and the applications are
//! simulated. Everything random comes from the seed, and the loop jumps from one event to the next, so a run of an hour
//! of network time takes milliseconds and repeats to the byte ([`World::digest`]).
//!
//! - [`world`]: virtual time, the switch all hosts hang on, captures;
//! - [`link`] and [`fault`]: delay, rate and queue of each cable, and what it does to frames;
//! - [`host`]: one stack of one or several shards on a simulated device, and its applications;
//! - [`app`]: applications as small state machines; [`traffic`]: the ones that send and check patterns;
//! - [`bottleneck`]: flows that share a slow link, to measure congestion control and recovery;
//! - [`bursts`]: bursts of segments through GRO, forwarding and GSO, which together must change nothing;
//! - [`checker`]: what must hold whatever happens, kept apart from the code under test;
//! - [`scenario`]: a whole experiment drawn from a seed, its run and its verdict.
//!
//! ```
//! use bywash::sim::scenario::Scenario;
//! let outcome = Scenario::from_seed(7).run().expect("no byte lost, nothing stuck, nothing leaked");
//! assert!(outcome.bytes_received > 0);
//! ```

pub mod app;
pub mod bottleneck;
pub mod bursts;
pub mod checker;
pub mod dice;
pub mod fault;
pub mod host;
pub mod link;
pub mod scenario;
pub mod traffic;
pub mod world;

pub use app::{App, Context, Next};
pub use checker::Checker;
pub use dice::Dice;
pub use fault::Faults;
pub use host::{Host, HostConfig};
pub use link::{Link, LinkConfig};
pub use world::{Node, PortId, World};
