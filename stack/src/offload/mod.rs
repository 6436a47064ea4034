//! Software offload: many segments of one flow cross everything that costs per packet as one.

pub mod gso;
