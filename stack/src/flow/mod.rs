//! Flows: connection tracking, and what is built on it (filter, NAT). A packet comes here parsed, on its way from the burst
//! to local delivery or forwarding, or from a local socket to the wire.
//!
//! [`view`] reads what the rest must know of a packet, once; [`conntrack`] says which flow it belongs to and whether it fits;
//! [`filter`] has the rules, which only a flow's first packet walks; [`nat`] says what its packets become; [`gate`] leads a packet
//! through all of it in netfilter's order. [`listed`] is what a flow looks like to who asks from outside, and [`flow_filter`] which
//! flows are meant.

pub mod conntrack;
pub mod filter;
pub mod flow_filter;
pub mod gate;
pub mod listed;
pub mod nat;
#[cfg(test)]
pub(crate) mod testing;
mod tuple;
pub mod view;

pub use flow_filter::FlowFilter;
pub use tuple::FlowTuple;
