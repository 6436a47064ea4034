//! Segmentation offload in software: what costs per packet is paid once for many segments of a flow.

pub mod gro;
#[cfg(test)]
pub(crate) mod testing;
