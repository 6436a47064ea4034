//! Packets as tests of flows, rules and translation see them.

use crate::flow::FlowTuple;
use crate::flow::view::{PacketView, TcpView, Transport};
use crate::parse::protocol;
use crate::tcp::header::Flags;
use crate::tcp::seq::SeqNumber;

/// A datagram of 60 bytes.
pub(crate) fn udp(src: &str, dst: &str) -> PacketView {
    let tuple = FlowTuple::new(src.parse().unwrap(), dst.parse().unwrap(), protocol::UDP);
    PacketView { tuple, len: 60, packets: 1, hash: 0, transport: Transport::Ports }
}

/// A SYN of 40 bytes.
pub(crate) fn syn(src: &str, dst: &str) -> PacketView {
    let tuple = FlowTuple::new(src.parse().unwrap(), dst.parse().unwrap(), protocol::TCP);
    let transport = Transport::Tcp(segment(Flags::SYN, 1, 0));
    PacketView { tuple, len: 40, packets: 1, hash: 0, transport }
}

/// A segment without payload or options.
pub(crate) fn segment(flags: Flags, seq: u32, ack: u32) -> TcpView {
    TcpView {
        seq: SeqNumber(seq),
        ack: SeqNumber(ack),
        flags,
        window: 1000,
        payload_len: 0,
        window_scale: None,
        sack_permitted: false,
        sack_edge: None,
    }
}
