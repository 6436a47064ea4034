//! What a rule asks first, in 28 bytes: most rules are passed over without looking at their conditions one by one.
//!
//! A head holds whenever all conditions of its rule do; not the other way round. Only conditions that iptables asks first,
//! whatever their place (`-s`, `-d`, `-p`), and destination ports in front of everything that counts are in it, so that
//! limits see the packets they would see without.

use core::net::IpAddr;

use super::rule::{Condition, Family, Match, Rule};
use crate::config::Cidr;
use crate::flow::view::{PacketView, Transport};

const IPV4: u8 = 1;
const IPV6: u8 = 2;
/// No protocol's number.
const ANY_PROTOCOL: u16 = 256;

/// A packet as heads see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    family: u8,
    protocol: u16,
    /// IPv4 only, else 0.
    src: u32,
    dst: u32,
    /// 0 where there is none.
    dst_port: u16,
}

impl Key {
    pub(super) fn of(view: &PacketView) -> Self {
        let tuple = &view.tuple;
        let bits = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => addr.into(),
            IpAddr::V6(_) => 0,
        };
        let has_ports = matches!(view.transport, Transport::Tcp(_) | Transport::Ports);
        Self {
            family: if tuple.is_ipv4() { IPV4 } else { IPV6 },
            protocol: tuple.protocol.into(),
            src: bits(tuple.src()),
            dst: bits(tuple.dst()),
            dst_port: if has_ports { tuple.dst_port } else { 0 },
        }
    }
}

/// A rule's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    families: u8,
    protocol: u16,
    src: u32,
    src_mask: u32,
    dst: u32,
    dst_mask: u32,
    dst_ports: (u16, u16),
}

impl Head {
    pub(super) fn of(rule: &Rule) -> Self {
        let mut head = Self {
            families: match rule.family {
                Family::Ipv4 => IPV4,
                Family::Ipv6 => IPV6,
                Family::Any => IPV4 | IPV6,
            },
            protocol: ANY_PROTOCOL,
            src: 0,
            src_mask: 0,
            dst: 0,
            dst_mask: 0,
            dst_ports: (0, u16::MAX),
        };
        let mut counted = false;
        for Condition { inverted, test, .. } in &rule.conditions {
            counted |= matches!(test, Match::Limit(_) | Match::HashLimit(_) | Match::ConnLimit(_));
            if *inverted {
                continue;
            }
            match test {
                Match::Protocol(number) => head.protocol = u16::from(*number),
                Match::Source(network) => {
                    (head.src, head.src_mask) = head.only(*network).unwrap_or((head.src, head.src_mask));
                }
                Match::Destination(network) => {
                    (head.dst, head.dst_mask) = head.only(*network).unwrap_or((head.dst, head.dst_mask));
                }
                Match::DestinationPorts(ports) if !counted => {
                    if let [range] = ports.ranges.as_slice() {
                        head.dst_ports = (*range.start(), *range.end());
                    }
                }
                _ => {}
            }
        }
        head
    }

    /// The network and its mask, if it is one of IPv4; of IPv6, only that.
    fn only(&mut self, Cidr { addr, prefix_len }: Cidr) -> Option<(u32, u32)> {
        match addr {
            IpAddr::V4(addr) => {
                self.families &= IPV4;
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0);
                Some((u32::from(addr) & mask, mask))
            }
            IpAddr::V6(_) => {
                self.families &= IPV6;
                None
            }
        }
    }

    /// Whether its rule may match.
    pub(super) fn may_match(&self, key: &Key) -> bool {
        let Self { families, protocol, src, src_mask, dst, dst_mask, dst_ports } = *self;
        // Without branches in between: rules that fail do so at different places.
        (families & key.family != 0)
            & (key.src & src_mask == src)
            & (key.dst & dst_mask == dst)
            & (protocol == ANY_PROTOCOL || protocol == key.protocol)
            & (dst_ports.0 <= key.dst_port)
            & (key.dst_port <= dst_ports.1)
    }
}
