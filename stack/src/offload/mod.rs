//! Segmentation offload in software: what costs per packet is paid once for many segments of a flow. Segments received are
//! merged ([`gro`]), what is sent is cut into segments where frames are filled ([`gso`]).

pub mod gro;
pub mod gso;
#[cfg(test)]
pub(crate) mod testing;
