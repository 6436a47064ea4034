//! The last neighbour asked for on the way to a destination, with what the frames that go there begin with: a burst of segments
//! mostly has few destinations, and a segment that fits one frame is written in one pass.
//!
//! What is remembered are addresses, nothing that a segment or socket chooses: Diffserv and ECN bits, hop limit, ports and all of
//! TCP are the segment's own. [`super::egress`] forgets a hop when routes change, and does not believe it when neighbours did.

use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::EthernetAddress;

use super::egress::{ETHERNET_HEADER, IPV4_HEADER, TCP_HEADER};
use super::fragment::write_ipv4;
use crate::packet::Packet;
use crate::packet::checksum::Sum;
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
    src: Ipv4Addr,
    dst: Ipv4Addr,
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

    /// Whether it is on the way between these.
    #[inline]
    pub(super) fn is_between(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        self.template.as_ref().is_some_and(|template| template.src == src && template.dst == dst)
    }

    /// Writes a segment with these ports and all of its payload, not to be cut, into an empty packet; `None`: it does not fit the
    /// frame, or is IPv6's.
    #[inline]
    pub(super) fn write(
        &self,
        packet: &mut Packet,
        segment: &SegmentOut<'_>,
        ports: (u16, u16),
        payload: &[u8],
    ) -> Option<()> {
        let template = self.template.as_ref()?;
        let frame = packet.append(HEADERS + segment.options.len() + payload.len())?;
        template.write(frame, segment, ports, payload)
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
        let pseudo = Sum::pseudo_header(src, dst, protocol::TCP, 0);
        Some(Self { src: src_v4, dst: dst_v4, lower, lower_sum, pseudo })
    }

    /// Writes the whole frame, which has exactly the length of it, and sums on the way; `None`: it has not.
    /// RFC 9293 section 3.1, MUST-2.
    #[inline]
    fn write(
        &self,
        frame: &mut [u8],
        segment: &SegmentOut<'_>,
        (src_port, dst_port): (u16, u16),
        payload: &[u8],
    ) -> Option<()> {
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
            u32::from(src_port) << 16 | u32::from(dst_port),
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

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::super::egress::write_ipv4_segment;
    use super::*;
    use crate::packet::{PacketPool, PoolLayout};
    use crate::tcp::IpFields;
    use crate::tcp::seq::SeqNumber;

    fn addr() -> impl Strategy<Value = SocketAddr> {
        (any::<Ipv4Addr>(), any::<u16>()).prop_map(|(ip, port)| (ip, port).into())
    }

    fn segment<'a>(src: SocketAddr, dst: SocketAddr, payload: &'a [&'a [u8]]) -> SegmentOut<'a> {
        SegmentOut {
            src,
            dst,
            seq: SeqNumber(1),
            ack: SeqNumber(2),
            flags: 16,
            first_flags: 0,
            window: 3,
            urgent: 0,
            options: &[],
            payload,
            mss: 1460,
            ecn: 0,
            ip: IpFields::default(),
        }
    }

    proptest! {
        /// Whatever a segment and its socket choose, the frame is the one that is written field by field.
        #[test]
        fn a_frame_from_the_template_is_the_general_one(
            (src, dst, macs) in (addr(), addr(), any::<([u8; 6], [u8; 6])>()),
            (seq, ack, flags, window, urgent) in any::<(u32, u32, u16, u16, u16)>(),
            (tos, hop_limit, ecn) in (any::<u8>(), any::<u8>(), 0u8..4),
            options in prop::collection::vec(any::<[u8; 4]>(), 0..=10),
            payload in prop::collection::vec(any::<u8>(), 0..1500),
        ) {
            let pool = PacketPool::heap(PoolLayout { frames: 2, frame_size: 2048, headroom: 128 });
            let (ours, theirs) = (EthernetAddress(macs.0), EthernetAddress(macs.1));
            let (options, pieces) = (options.concat(), [&payload[..]]);
            let segment = SegmentOut {
                src,
                dst,
                seq: SeqNumber(seq),
                ack: SeqNumber(ack),
                flags,
                first_flags: 0,
                window,
                urgent,
                options: &options,
                payload: if payload.is_empty() { &[] } else { &pieces },
                mss: 1460,
                ecn,
                ip: IpFields { tos, hop_limit },
            };
            let (IpAddr::V4(from), IpAddr::V4(to)) = (src.ip(), dst.ip()) else { unreachable!("as made above") };
            let hop = LastHop::new((from.into(), to.into()), (0, ours), theirs, (0, Instant::ZERO));
            let ports = (src.port(), dst.port());
            let mut short = Packet::alloc(&pool).expect("a frame is free");
            hop.write(&mut short, &segment, ports, &payload).expect("it fits a frame");
            let mut general = Packet::alloc(&pool).expect("a frame is free");
            let frame = general.append(HEADERS + options.len() + payload.len()).expect("it fits a frame");
            write_ipv4_segment(frame, &segment, (from, to), (ours, theirs)).expect("it has its length");
            prop_assert_eq!(short.head(), general.head());
        }
    }

    #[test]
    fn what_is_not_one_ipv4_frame_is_left_to_the_general_way() {
        let pool = PacketPool::heap(PoolLayout { frames: 1, frame_size: 512, headroom: 128 });
        let mac = EthernetAddress([2; 6]);
        let write = |[src, dst]: [SocketAddr; 2], payload: &[u8]| {
            let pieces = [payload];
            let segment = segment(src, dst, &pieces);
            let hop = LastHop::new((src.ip(), dst.ip()), (0, mac), mac, (0, Instant::ZERO));
            let mut packet = Packet::alloc(&pool).expect("a frame is free");
            hop.write(&mut packet, &segment, (src.port(), dst.port()), payload).is_some()
        };
        let v4 = ["10.0.0.1:1", "10.0.0.2:2"].map(|text| text.parse().expect("an address"));
        let v6 = ["[fd00::1]:1", "[fd00::2]:2"].map(|text| text.parse().expect("an address"));
        assert!(write(v4, b"one"));
        assert!(!write(v4, &[0; 400]), "too long");
        assert!(!write(v6, b"one"));
    }

    #[test]
    fn every_carry_of_the_ip_header_s_sum_is_folded() {
        let mac = EthernetAddress([2; 6]);
        let dst = Ipv4Addr::new(255, 255, 255, 254);
        for low in 0..=u16::MAX {
            let src = Ipv4Addr::from_bits(0xffff_0000 | u32::from(low));
            let segment = segment((src, 1).into(), (dst, 2).into(), &[]);
            let template = Template::new(src.into(), dst.into(), mac, mac).expect("IPv4");
            let (mut short, mut general) = ([0; HEADERS], [0; HEADERS]);
            template.write(&mut short, &segment, (1, 2), &[]).expect("it has its length");
            write_ipv4_segment(&mut general, &segment, (src, dst), (mac, mac)).expect("it has its length");
            assert_eq!(short, general, "{src}");
        }
    }

    #[test]
    fn a_hop_is_between_its_two_addresses_in_their_order() {
        let (one, other) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 1, 1));
        let mac = EthernetAddress([2; 6]);
        let hop = LastHop::new((one.into(), other.into()), (0, mac), mac, (0, Instant::ZERO));
        assert!(hop.is_between(one, other));
        assert!(!hop.is_between(other, one) && !hop.is_between(one, one) && !hop.is_between(other, other));
    }
}
