//! The last neighbour asked for on the way to a destination, with what the frames that go there begin with: a burst of segments
//! mostly has few destinations, and a segment that fits one frame is written in one pass.
//!
//! What is remembered are addresses, nothing that a segment or socket chooses: Diffserv and ECN bits, hop limit, ports and all of
//! TCP are the segment's own. [`super::egress`] forgets a hop when routes change, and does not believe it when neighbours did.

use core::net::IpAddr;

use smoltcp::wire::EthernetAddress;

use super::egress::{ETHERNET_HEADER, IPV4_HEADER, TCP_HEADER};
use super::fragment::write_ipv4;
use crate::packet::checksum::Sum;
use crate::packet::{Packet, PacketPool};
use crate::parse::protocol;
use crate::tcp::SegmentOut;
use crate::time::Instant;

/// The headers that are remembered.
const LOWER_HEADERS: usize = ETHERNET_HEADER + IPV4_HEADER;
const HEADERS: usize = LOWER_HEADERS + TCP_HEADER;

/// A neighbour on the way from `src` to `dst`.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastHop {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) link: usize,
    pub(super) mac: EthernetAddress,
    /// [`super::neighbor::Neighbors::generation`].
    pub(super) generation: u64,
    pub(super) until: Instant,
    /// Of IPv4 alone.
    template: Option<Template>,
}

/// What all TCP packets to a destination share.
#[derive(Clone, Copy, Debug)]
struct Template {
    /// Ethernet's and IPv4's header, the latter with neither length nor type of service, time to live and checksum.
    lower: [u8; LOWER_HEADERS],
    /// Sum of the words of the IPv4 header above.
    lower_sum: u32,
    /// The pseudo-header's, without the length.
    pseudo: Sum,
}

impl LastHop {
    /// `ours`: the link's Ethernet address.
    pub(super) fn new(
        (src, dst): (IpAddr, IpAddr),
        (link, ours): (usize, EthernetAddress),
        mac: EthernetAddress,
        (generation, until): (u64, Instant),
    ) -> Self {
        let template = Template::new(src, dst, ours, mac);
        Self { src, dst, link, mac, generation, until, template }
    }

    /// A segment whose payload is one piece or none and is not to be cut, in a frame; `None`: no frame is free, it does not fit
    /// one, or this is not for it.
    #[inline]
    pub(super) fn write(&self, pool: &PacketPool, segment: &SegmentOut<'_>) -> Option<Packet> {
        let template = self.template.as_ref()?;
        let payload = match segment.payload {
            [] => &[],
            [piece] => *piece,
            _ => return None,
        };
        let mut packet = Packet::alloc(pool)?;
        template.write(packet.append(HEADERS + segment.options.len() + payload.len())?, segment, payload)?;
        Some(packet)
    }
}

impl Template {
    fn new(src: IpAddr, dst: IpAddr, ours: EthernetAddress, mac: EthernetAddress) -> Option<Self> {
        let (IpAddr::V4(src_v4), IpAddr::V4(dst_v4)) = (src, dst) else { return None };
        let mut lower = [0; LOWER_HEADERS];
        lower[..6].copy_from_slice(&mac.0);
        lower[6..12].copy_from_slice(&ours.0);
        lower[12..ETHERNET_HEADER].copy_from_slice(&[0x08, 0x00]);
        let ip = &mut lower[ETHERNET_HEADER..];
        write_ipv4(ip, src_v4, dst_v4, protocol::TCP, 0, 0, 0);
        ip[2..4].fill(0);
        ip[10..12].fill(0);
        let words = ip.as_chunks::<2>().0.iter();
        let lower_sum = words.map(|word| u32::from(u16::from_be_bytes(*word))).sum();
        Some(Self { lower, lower_sum, pseudo: Sum::pseudo_header(src, dst, protocol::TCP, 0) })
    }

    /// Writes the whole frame, which has exactly the length of it, and sums on the way; `None`: it has not.
    /// RFC 9293 section 3.1, MUST-2.
    #[inline]
    fn write(&self, frame: &mut [u8], segment: &SegmentOut<'_>, payload: &[u8]) -> Option<()> {
        let ip_len = frame.len() - ETHERNET_HEADER;
        let (headers, rest) = frame.split_first_chunk_mut::<HEADERS>()?;
        let (lower, tcp) = headers.split_first_chunk_mut::<LOWER_HEADERS>()?;
        let tcp = tcp.first_chunk_mut::<TCP_HEADER>()?;
        *lower = self.lower;
        let (tos, hop_limit) = (segment.ip.traffic_class(segment.ecn), segment.ip.hop_limit);
        // RFC 791's checksum: at most 20 bits, and carries.
        let sum = self.lower_sum + u32::from(tos) + ip_len as u32 + (u32::from(hop_limit) << 8);
        let sum = (sum & 0xffff) + (sum >> 16);
        let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
        lower[15] = tos;
        lower[16..18].copy_from_slice(&(ip_len as u16).to_be_bytes());
        lower[22] = hop_limit;
        lower[24..26].copy_from_slice(&checksum.to_be_bytes());

        let (options, room) = rest.split_at_mut_checked(segment.options.len())?;
        options.copy_from_slice(segment.options);
        let offset = ((TCP_HEADER + segment.options.len()) / 4) as u32;
        let words = [
            u32::from(segment.src.port()) << 16 | u32::from(segment.dst.port()),
            segment.seq.0,
            segment.ack.0,
            offset << 28 | u32::from(segment.flags & 0x0fff) << 16 | u32::from(segment.window),
            u32::from(segment.urgent),
        ];
        let mut sum = self.pseudo;
        sum.add_long((ip_len - IPV4_HEADER) as u32);
        for (place, word) in tcp.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *place = word.to_be_bytes();
            sum.add_long(word);
        }
        for word in segment.options.as_chunks::<4>().0 {
            sum.add_long(u32::from_be_bytes(*word));
        }
        if room.len() != payload.len() {
            return None;
        }
        sum.copy_and_add(room, payload);
        tcp[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
        Some(())
    }
}
