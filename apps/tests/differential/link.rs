//! The two links of the router under test and the hosts on them: one Ethernet address a side, whatever IP address they have.
//!
//! ```text
//! 192.168.1.1, .2, .3 ── lan: 192.168.1.254 (router) wan: 192.0.2.254 ── 192.0.2.1 (default route), .2, .3
//! 2001:db8:1::1, ::2  ── lan: ::fe                   wan: ::fe        ── 2001:db8:2::1 (default route), ::2
//! ```

use std::net::IpAddr;

use super::packets::{ICMPV6, checksum, pseudo_header};

pub const ROUTER_LAN: [&str; 2] = ["192.168.1.254/24", "2001:db8:1::fe/64"];
pub const ROUTER_WAN: [&str; 2] = ["192.0.2.254/24", "2001:db8:2::fe/64"];
/// Where everything else is.
pub const GATEWAY4: &str = "192.0.2.1";
pub const GATEWAY6: &str = "2001:db8:2::1";
/// The router's Ethernet addresses, and the hosts'.
pub const ROUTER_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 8], [2, 0, 0, 0, 0, 9]];
pub const HOST_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// Which link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Side {
    Lan = 0,
    Wan = 1,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Lan, Self::Wan];

    pub fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Wan => "wan",
        }
    }

    fn router(self) -> IpAddr {
        let cidr = [ROUTER_LAN[0], ROUTER_WAN[0]][self as usize];
        cidr.split('/').next().and_then(|addr| addr.parse().ok()).expect("an address")
    }
}

fn ethernet(dst: [u8; 6], src: [u8; 6], kind: u16, content: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &kind.to_be_bytes(), content].concat()
}

/// A packet from a host to the router: to its address, or for groups and broadcasts to theirs.
pub fn frame(side: Side, packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    let dst = match packet {
        [0x40..=0x4f, ..] if packet[16..20] == [255; 4] || packet[19] == 255 => [0xff; 6],
        [0x40..=0x4f, ..] if packet[16] >> 4 == 14 => [1, 0, 0x5e, packet[17] & 0x7f, packet[18], packet[19]],
        [0x60..=0x6f, ..] if packet[24] == 0xff => {
            [0x33, 0x33, packet[36], packet[37], packet[38], packet[39]]
        }
        _ => ROUTER_MACS[side as usize],
    };
    ethernet(dst, HOST_MACS[side as usize], kind, packet)
}

/// A question that the router answers behind everything that came before: it asks for the router's own Ethernet address.
pub fn barrier(side: Side) -> Vec<u8> {
    let IpAddr::V4(router) = side.router() else { unreachable!("IPv4 above") };
    let mut host = router.octets();
    host[3] = 1;
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend_from_slice(&HOST_MACS[side as usize]);
    arp.extend_from_slice(&host);
    arp.extend_from_slice(&[0; 6]);
    arp.extend_from_slice(&router.octets());
    ethernet(ROUTER_MACS[side as usize], HOST_MACS[side as usize], 0x0806, &arp)
}

/// Whether it is the answer to [`barrier`].
pub fn is_barrier(frame: &[u8]) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 6] && frame[20..22] == [0, 2]
}

/// What the hosts answer when the router asks for the Ethernet address of one: all of them are there.
pub fn answer(side: Side, frame: &[u8]) -> Option<Vec<u8>> {
    let own = HOST_MACS[side as usize];
    match frame.get(12..14)? {
        [8, 6] if frame.len() >= 42 && frame[20..22] == [0, 1] => {
            let (asker, target) = (&frame[22..32], &frame[38..42]);
            if target == &asker[6..10] {
                return None; // It announces itself.
            }
            let arp = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &own, target, asker].concat();
            Some(ethernet(frame[6..12].try_into().ok()?, own, 0x0806, &arp))
        }
        [0x86, 0xdd] if frame.len() >= 78 && frame[20] == ICMPV6 && frame[54] == 135 => {
            let (asker, target) = (&frame[22..38], &frame[62..78]);
            if asker.iter().all(|byte| *byte == 0) {
                return None; // It looks whether its own address is free.
            }
            let mut message = [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], target, &[2, 1], &own].concat();
            let addr = |bytes: &[u8]| IpAddr::from(<[u8; 16]>::try_from(bytes).expect("16 bytes"));
            let pseudo = pseudo_header(addr(target), addr(asker), ICMPV6, message.len());
            let sum = checksum(&[&pseudo[..], &message].concat());
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let header = [&[0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255][..], target, asker].concat();
            Some(ethernet(frame[6..12].try_into().ok()?, own, 0x86dd, &[header, message].concat()))
        }
        _ => None,
    }
}

/// The IP packet in a frame of the router's, without padding; `None` for what routers say of themselves: ARP, neighbour and
/// router discovery, group membership.
pub fn ip_packet(frame: &[u8]) -> Option<Vec<u8>> {
    let packet = frame.get(14..)?;
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    match frame[12..14] {
        [8, 0] if packet.len() >= 20 && packet[9] != 2 => packet.get(..word(2)).map(<[u8]>::to_vec),
        [0x86, 0xdd] if packet.len() >= 48 => {
            let discovery = packet[6] == ICMPV6 && matches!(packet[40], 130..=137 | 143);
            let membership = packet[6] == 0 && packet[40] == ICMPV6;
            if discovery || membership { None } else { packet.get(..40 + word(4)).map(<[u8]>::to_vec) }
        }
        _ => None,
    }
}
