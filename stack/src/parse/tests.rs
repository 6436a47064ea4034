use proptest::prelude::*;

use super::*;
use crate::packet::{PacketPool, PoolLayout};

const US: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const THEM: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn policy() -> Policy {
    Policy {
        mac: US,
        addresses: ["192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"]
            .map(|text| text.parse().unwrap())
            .to_vec(),
        groups: vec!["224.0.0.251".parse().unwrap()],
        partial_checksums: false,
        dhcp: false,
        forwarding: false,
        hash_keys: (1, 2),
    }
}

fn pool(frame_size: u32) -> PacketPool {
    PacketPool::heap(PoolLayout { frames: 64, frame_size, headroom: 0 })
}

fn look(frame: &[u8], policy: &Policy) -> Result<Parsed, DropReason> {
    let packet = Packet::copy_from(&pool(4096), frame).unwrap();
    parse(&packet, policy).map_err(|refusal| refusal.reason)
}

/// An Ethernet frame to us with an IP packet of the family of `src` and `dst`.
fn frame(src: &str, dst: &str, number: u8, payload: &[u8]) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let mut bytes = vec![0; 14 + 40 + payload.len()];
    bytes[..6].copy_from_slice(&US.0);
    bytes[6..12].copy_from_slice(&THEM);
    bytes[12..14].copy_from_slice(if src.is_ipv4() { &[8, 0] } else { &[0x86, 0xdd] });
    let len = crate::net::fragment::write_header(&mut bytes[14..], src, dst, number, payload.len(), 0, 64);
    bytes[14 + len..][..payload.len()].copy_from_slice(payload);
    bytes.truncate(14 + len + payload.len());
    if src.is_ipv4() && dst_is_group(dst) {
        bytes[..6].fill(0xff);
    } else if dst.is_multicast() {
        bytes[..2].copy_from_slice(&[0x33, 0x33]);
    }
    bytes
}

fn dst_is_group(dst: IpAddr) -> bool {
    dst.is_multicast() || dst.to_string().ends_with(".255")
}

/// Sets the transport checksum at `at` of the payload.
fn summed(src: &str, dst: &str, number: u8, mut payload: Vec<u8>, at: usize) -> Vec<u8> {
    let mut sum = match number {
        protocol::ICMPV4 => Sum::ZERO,
        _ => Sum::pseudo_header(src.parse().unwrap(), dst.parse().unwrap(), number, payload.len() as u32),
    };
    sum.add(&payload);
    payload[at..at + 2].copy_from_slice(&sum.checksum().to_be_bytes());
    payload
}

fn tcp_segment(src: &str, dst: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x60, 0x10, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1];
    bytes.extend_from_slice(data);
    summed(src, dst, protocol::TCP, bytes, 16)
}

fn udp_datagram(src: &str, dst: &str, ports: [u16; 2], data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&ports[0].to_be_bytes());
    bytes.extend_from_slice(&ports[1].to_be_bytes());
    bytes.extend_from_slice(&(8 + data.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(data);
    summed(src, dst, protocol::UDP, bytes, 6)
}

const V4: (&str, &str) = ("192.0.2.2", "192.0.2.1");
const V6: (&str, &str) = ("2001:db8::2", "2001:db8::1");

fn tcp_frame((src, dst): (&str, &str), data: &[u8]) -> Vec<u8> {
    frame(src, dst, protocol::TCP, &tcp_segment(src, dst, data))
}

fn udp_frame((src, dst): (&str, &str), data: &[u8]) -> Vec<u8> {
    frame(src, dst, protocol::UDP, &udp_datagram(src, dst, [1000, 53], data))
}

fn echo_frame((src, dst): (&str, &str)) -> Vec<u8> {
    let (number, kind) = if src.contains(':') { (protocol::ICMPV6, 128) } else { (protocol::ICMPV4, 8) };
    frame(src, dst, number, &summed(src, dst, number, vec![kind, 0, 0, 0, 1, 2, 3, 4, 5], 2))
}

fn arp_frame() -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend_from_slice(&THEM);
    bytes.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.resize(60, 0);
    bytes
}

/// An IPv6 packet with `headers` between the IPv6 header, which names `first`, and a UDP datagram.
fn extended(first: u8, headers: &[u8]) -> Vec<u8> {
    let udp = udp_datagram(V6.0, V6.1, [1000, 53], b"data");
    frame(V6.0, V6.1, first, &[headers, &udp[..]].concat())
}

/// Every kind of packet that is accepted.
fn valid_frames() -> Vec<Vec<u8>> {
    let mut options = tcp_frame(V4, b"x");
    options.splice(34..34, [1, 1, 1, 0]);
    options[14] = 0x46;
    let len = (options.len() - 14) as u16;
    options[16..18].copy_from_slice(&len.to_be_bytes());
    crate::net::fragment::fill_ipv4_checksum(&mut options[14..]);
    vec![
        tcp_frame(V4, b"data"),
        tcp_frame(V6, b"data"),
        udp_frame(V4, b""),
        udp_frame(V6, b"data"),
        echo_frame(V4),
        echo_frame(V6),
        frame(V4.0, V4.1, 47, b"tunnel"),
        extended(protocol::HOP_BY_HOP, &[protocol::UDP, 0, 5, 2, 0, 0, 1, 0]),
        extended(protocol::DESTINATION_OPTIONS, &[protocol::UDP, 0, 1, 4, 0, 0, 0, 0]),
        extended(protocol::ROUTING, &[protocol::UDP, 0, 4, 0, 0, 0, 0, 0]),
        extended(protocol::FRAGMENT, &[protocol::UDP, 0, 0, 1, 0, 0, 0, 9]),
        extended(protocol::FRAGMENT, &[protocol::UDP, 0, 0, 0, 0, 0, 0, 9]),
        options,
        arp_frame(),
    ]
}

#[test]
fn offsets_ports_and_kinds_are_found() {
    let parsed = look(&tcp_frame(V4, b"data"), &policy()).unwrap();
    assert_eq!((parsed.kind, parsed.l3, parsed.l4, parsed.payload, parsed.end), (Kind::Tcp, 14, 34, 58, 62));
    assert_eq!((parsed.flow.src_port, parsed.flow.dst_port, parsed.hop_limit), (0x3039, 80, 64));
    let parsed = look(&udp_frame(V6, b"data"), &policy()).unwrap();
    assert_eq!((parsed.kind, parsed.l3, parsed.l4, parsed.payload, parsed.end), (Kind::Udp, 14, 54, 62, 66));
    let kinds: Vec<Kind> = valid_frames().iter().map(|frame| look(frame, &policy()).unwrap().kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::Tcp,
            Kind::Tcp,
            Kind::Udp,
            Kind::Udp,
            Kind::Icmpv4,
            Kind::Icmpv6,
            Kind::Other,
            Kind::Udp,
            Kind::Udp,
            Kind::Udp,
            Kind::Fragment,
            Kind::Udp,
            Kind::Tcp,
            Kind::Arp
        ],
        "the last fragment but one is a packet of its own (RFC 6946)"
    );
}

#[test]
fn ethernet_padding_is_not_part_of_the_packet() {
    let mut padded = udp_frame(V4, b"x");
    let end = padded.len() as u32;
    padded.resize(60, 0xaa);
    assert_eq!(look(&padded, &policy()).unwrap().end, end);
}

#[test]
fn a_packet_cut_anywhere_is_refused_without_panic() {
    for whole in valid_frames() {
        // ARP comes padded to Ethernet's minimum.
        let needed = if whole[12..14] == [8, 6] { 42 } else { whole.len() };
        for len in 0..needed {
            assert!(look(&whole[..len], &policy()).is_err(), "{len} of {whole:x?}");
        }
    }
}

#[test]
fn packets_over_several_frames_parse_as_in_one() {
    let data: Vec<u8> = (0..3000u32).map(|at| at as u8).collect();
    for whole in [tcp_frame(V4, &data), udp_frame(V6, &data)] {
        let packet = Packet::copy_from(&pool(257), &whole).unwrap();
        assert!(packet.frames() > 10);
        assert_eq!(parse(&packet, &policy()).unwrap(), look(&whole, &policy()).unwrap());
        let mut broken = whole;
        *broken.last_mut().unwrap() ^= 1;
        assert!(parse(&Packet::copy_from(&pool(257), &broken).unwrap(), &policy()).is_err());
    }
}

#[test]
fn frames_for_others_are_refused() {
    // RFC 9293 section 3.9.2.3, MUST-57.
    let mut other = tcp_frame(V4, b"");
    other[5] = 9;
    assert_eq!(look(&other, &policy()), Err(DropReason::NotForUs));
    assert_eq!(look(&tcp_frame((V4.0, "192.0.2.3"), b""), &policy()), Err(DropReason::NotForUs));
    assert_eq!(look(&tcp_frame((V6.0, "2001:db8::3"), b""), &policy()), Err(DropReason::NotForUs));
    let mut broadcast = tcp_frame(V4, b"");
    broadcast[..6].fill(0xff);
    assert_eq!(look(&broadcast, &policy()), Err(DropReason::NotForUs), "RFC 1122 section 3.3.6");
    for group in ["192.0.2.255", "224.0.0.1"] {
        assert_eq!(
            look(&tcp_frame((V4.0, group), b""), &policy()),
            Err(DropReason::NotForUs),
            "TCP to {group}"
        );
    }
}

#[test]
fn groups_we_are_in_are_ours() {
    for dst in ["192.0.2.255", "255.255.255.255", "224.0.0.1", "224.0.0.251"] {
        assert_eq!(
            look(&udp_frame((V4.0, dst), b""), &policy()).map(|parsed| parsed.kind),
            Ok(Kind::Udp),
            "{dst}"
        );
    }
    for dst in ["ff02::1", "ff02::1:ff00:1"] {
        assert_eq!(
            look(&udp_frame((V6.0, dst), b""), &policy()).map(|parsed| parsed.kind),
            Ok(Kind::Udp),
            "{dst}"
        );
    }
    for (src, dst) in [(V4.0, "224.0.0.5"), (V6.0, "ff02::1:ff00:2"), (V6.0, "ff02::2")] {
        assert_eq!(look(&udp_frame((src, dst), b""), &policy()), Err(DropReason::NotForUs), "{dst}");
    }
}

#[test]
fn sources_that_must_not_be_on_the_wire_are_refused() {
    for src in ["127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.255"]
    {
        assert_eq!(look(&udp_frame((src, V4.1), b""), &policy()), Err(DropReason::Martian), "{src}");
    }
    for src in ["::1", "::", "ff02::1", "::ffff:192.0.2.2"] {
        assert_eq!(look(&udp_frame((src, V6.1), b""), &policy()), Err(DropReason::Martian), "{src}");
    }
    for (src, dst) in [(V4.0, "127.0.0.1"), (V4.0, "0.0.0.0"), (V6.0, "::1"), (V6.0, "::")] {
        assert_eq!(look(&udp_frame((src, dst), b""), &policy()), Err(DropReason::Martian), "{dst}");
    }
    let mut group = udp_frame(V4, b"");
    group[6] |= 1;
    assert_eq!(look(&group, &policy()), Err(DropReason::Martian));
    for own in [("192.0.2.1", V4.1), ("2001:db8::1", V6.1)] {
        assert_eq!(look(&udp_frame(own, b""), &policy()), Err(DropReason::SpoofedSelf));
    }
}

#[test]
fn a_host_without_address_may_broadcast() {
    assert!(look(&udp_frame(("0.0.0.0", "255.255.255.255"), b""), &policy()).is_ok());
}

#[test]
fn dhcp_answers_are_taken_whatever_their_destination() {
    let offered = ("192.0.2.254", "192.0.2.77");
    let answer =
        frame(offered.0, offered.1, protocol::UDP, &udp_datagram(offered.0, offered.1, [67, 68], b"offer"));
    assert_eq!(look(&answer, &policy()), Err(DropReason::NotForUs));
    let dhcp = Policy { dhcp: true, ..policy() };
    assert_eq!(look(&answer, &dhcp).unwrap().kind, Kind::Udp);
    let other =
        frame(offered.0, offered.1, protocol::UDP, &udp_datagram(offered.0, offered.1, [67, 69], b"x"));
    assert_eq!(look(&other, &dhcp), Err(DropReason::NotForUs));
}

#[test]
fn wrong_versions_and_types_are_told_apart() {
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = tcp_frame(V4, b"");
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        look(&frame, &policy())
    };
    assert_eq!(with(12, &[0x81, 0]), Err(DropReason::VlanTagged));
    assert_eq!(with(12, &[0x88, 0xcc]), Err(DropReason::UnknownEtherType));
    assert_eq!(with(14, &[0x55]), Err(DropReason::BadIpVersion));
    assert_eq!(with(14, &[0x44]), Err(DropReason::BadIpVersion));
    assert_eq!(with(22, &[63]), Err(DropReason::BadIpChecksum));
    let mut six = tcp_frame(V6, b"");
    six[14] = 0x40;
    assert_eq!(look(&six, &policy()), Err(DropReason::BadIpVersion));
}

#[test]
fn source_routes_are_refused() {
    // RFC 9293 section 3.9.2.1, MUST-50.
    for option in [131, 137] {
        let mut frame = tcp_frame(V4, b"");
        frame.splice(34..34, [option, 3, 4, 0]);
        frame[14] = 0x46;
        let len = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        crate::net::fragment::fill_ipv4_checksum(&mut frame[14..]);
        assert_eq!(look(&frame, &policy()), Err(DropReason::SourceRoute));
    }
    for header in [[protocol::UDP, 0, 0, 0, 0, 0, 0, 0], [protocol::UDP, 0, 4, 1, 0, 0, 0, 0]] {
        assert_eq!(look(&extended(protocol::ROUTING, &header), &policy()), Err(DropReason::SourceRoute));
    }
}

#[test]
fn broken_ipv4_options_are_answered_with_their_place() {
    let answer = |options: &[u8]| {
        let mut frame = tcp_frame(V4, b"");
        frame.splice(34..34, options.iter().copied());
        frame[14] = 0x45 + (options.len() / 4) as u8;
        let len = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        crate::net::fragment::fill_ipv4_checksum(&mut frame[14..]);
        let packet = Packet::copy_from(&pool(4096), &frame).unwrap();
        let refused = parse(&packet, &policy()).map(|parsed| parsed.kind);
        refused.map_err(|refusal| (refusal.reason, refusal.answer.map(|answer| answer.pointer)))
    };
    let bad = |pointer| Err((DropReason::BadIpOption, Some(pointer)));
    assert_eq!(answer(&[0x9e, 12, 0, 0]), bad(20), "longer than the header");
    assert_eq!(answer(&[1, 1, 1, 7]), bad(23), "cut off");
    assert_eq!(answer(&[7, 7, 3, 0, 0, 0, 0, 0]), bad(22), "a pointer into the head");
    assert_eq!(answer(&[7, 7, 5, 0, 0, 0, 0, 0]), bad(22), "no room for an address");
    assert_eq!(answer(&[68, 4, 5, 0xf0]), bad(23), "the count overflows");
    assert_eq!(answer(&[7, 7, 8, 0, 0, 0, 0, 0]), Ok(Kind::Tcp), "full");
    assert_eq!(answer(&[68, 4, 5, 0xe0]), Ok(Kind::Tcp));
}

#[test]
fn a_router_leaves_a_broken_transport_to_the_destination() {
    let router = Policy { forwarding: true, addresses: Vec::new(), ..policy() };
    let kind = |frame: &[u8]| look(frame, &router).map(|parsed| parsed.kind);
    let mut segment = tcp_frame(V4, b"data");
    assert_eq!(kind(&segment), Ok(Kind::Tcp));
    segment[61] = b'A';
    assert_eq!(kind(&segment), Ok(Kind::Broken));
    let mut datagram = udp_frame(V6, b"data");
    datagram[60..62].fill(0);
    assert_eq!(kind(&datagram), Ok(Kind::Udp), "without a checksum");
    assert_eq!(look(&datagram, &policy()), Err(DropReason::BadUdpChecksum));
}

#[test]
fn extension_headers_are_bounded_and_in_order() {
    let chain = |count: usize| {
        let mut headers = Vec::new();
        for at in 0..count {
            let next = if at + 1 == count { protocol::UDP } else { protocol::DESTINATION_OPTIONS };
            headers.extend_from_slice(&[next, 0, 1, 4, 0, 0, 0, 0]);
        }
        look(&extended(protocol::DESTINATION_OPTIONS, &headers), &policy()).map(|parsed| parsed.kind)
    };
    assert_eq!(chain(limits::IPV6_EXTENSION_HEADERS), Ok(Kind::Udp));
    assert_eq!(chain(limits::IPV6_EXTENSION_HEADERS + 1), Err(DropReason::BadExtensionHeader));
    let late = [protocol::HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0, protocol::UDP, 0, 1, 4, 0, 0, 0, 0];
    let packet = Packet::copy_from(&pool(4096), &extended(protocol::DESTINATION_OPTIONS, &late)).unwrap();
    let answer = parse(&packet, &policy()).unwrap_err().answer.unwrap();
    assert_eq!((answer.code, answer.pointer), (1, 40), "hop-by-hop options come first");
}

#[test]
fn unknown_options_are_treated_as_their_type_says() {
    let with = |kind: u8| {
        let frame = extended(protocol::DESTINATION_OPTIONS, &[protocol::UDP, 0, kind, 4, 0, 0, 0, 0]);
        let packet = Packet::copy_from(&pool(4096), &frame).unwrap();
        parse(&packet, &policy()).map(|parsed| parsed.kind).map_err(|refusal| refusal.answer)
    };
    let problem = |to_multicast_too| Some(ParameterProblem { code: 2, pointer: 42, to_multicast_too });
    assert_eq!(with(0x1e), Ok(Kind::Udp));
    assert_eq!(with(0x5e), Err(None));
    assert_eq!(with(0x9e), Err(problem(true)));
    assert_eq!(with(0xde), Err(problem(false)));
    let mut beyond = extended(protocol::DESTINATION_OPTIONS, &[protocol::UDP, 0, 1, 5, 0, 0, 0, 0]);
    assert_eq!(look(&beyond, &policy()), Err(DropReason::BadExtensionHeader));
    beyond[57] = 4;
    assert!(look(&beyond, &policy()).is_ok());
}

#[test]
fn transport_headers_are_checked() {
    let change = |mut frame: Vec<u8>, at: usize, byte: u8| {
        frame[at] = byte;
        look(&frame, &policy())
    };
    let (tcp, udp) = (tcp_frame(V4, b"data"), udp_frame(V4, b"data"));
    assert_eq!(change(tcp.clone(), 46, 0x40), Err(DropReason::BadTcpHeader), "offset below 5");
    assert_eq!(change(tcp.clone(), 46, 0xf0), Err(DropReason::BadTcpHeader), "offset behind the end");
    assert_eq!(change(tcp.clone(), 37, 0), Err(DropReason::BadTcpHeader), "port 0");
    assert_eq!(change(tcp, 61, b'A'), Err(DropReason::BadTcpChecksum));
    assert_eq!(change(udp.clone(), 39, 7), Err(DropReason::BadUdpHeader), "shorter than its header");
    assert_eq!(change(udp.clone(), 39, 13), Err(DropReason::BadUdpHeader), "longer than the packet");
    assert_eq!(change(udp.clone(), 37, 0), Err(DropReason::BadUdpHeader), "port 0");
    assert_eq!(change(udp, 45, b'A'), Err(DropReason::BadUdpChecksum));
    assert_eq!(change(echo_frame(V4), 42, 9), Err(DropReason::BadIcmp));
    assert_eq!(change(echo_frame(V6), 62, 9), Err(DropReason::BadIcmp));
}

#[test]
fn udp_without_checksum_is_for_ipv4_only() {
    let mut four = udp_frame(V4, b"data");
    four[40..42].fill(0);
    assert!(look(&four, &policy()).is_ok());
    let mut six = udp_frame(V6, b"data");
    six[60..62].fill(0);
    assert_eq!(look(&six, &policy()), Err(DropReason::BadUdpChecksum));
}

#[test]
fn partial_checksums_are_accepted_by_policy_only() {
    let accept = Policy { partial_checksums: true, ..policy() };
    for (mut frame, l4, at) in
        [(tcp_frame(V4, b"data"), 34, 50), (tcp_frame(V6, b"data"), 54, 70), (udp_frame(V4, b"x"), 34, 40)]
    {
        assert!(!look(&frame, &accept).unwrap().partial_checksum);
        let whole = look(&frame, &policy()).unwrap();
        let len = frame.len() - l4;
        let sum = Sum::pseudo_header(whole.flow.src, whole.flow.dst, whole.flow.protocol, len as u32);
        frame[at..at + 2].copy_from_slice(&sum.folded().to_be_bytes());
        assert_eq!(look(&frame, &policy()), Err(DropReason::PartialChecksum));
        assert!(look(&frame, &accept).unwrap().partial_checksum);
        frame[at] ^= 1;
        let wrong = look(&frame, &accept);
        assert!(matches!(wrong, Err(DropReason::BadTcpChecksum | DropReason::BadUdpChecksum)), "{wrong:?}");
        assert_eq!(look(&frame, &policy()), wrong);
    }
}

#[test]
fn a_flow_has_one_hash_and_the_key_matters() {
    let one = look(&tcp_frame(V4, b"one"), &policy()).unwrap().hash;
    assert_eq!(one, look(&tcp_frame(V4, b"other data"), &policy()).unwrap().hash);
    assert_ne!(one, look(&udp_frame(V4, b""), &policy()).unwrap().hash);
    let other_key = Policy { hash_keys: (3, 4), ..policy() };
    assert_ne!(one, look(&tcp_frame(V4, b"one"), &other_key).unwrap().hash);
}

#[test]
fn a_packet_parses_alike_whatever_came_before() {
    let policy = policy();
    let packets: Vec<_> =
        valid_frames().iter().map(|frame| Packet::copy_from(&pool(4096), frame).unwrap()).collect();
    for packet in &packets {
        let alone = parse(packet, &policy);
        for before in &packets {
            let mut last = Last::default();
            let _ = parse_after(before, &policy, &mut last);
            assert_eq!(parse_after(packet, &policy, &mut last).copied(), alone, "after {before:?}");
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = look(&bytes, &policy());
    }

    /// Bytes changed in valid packets reach the deeper steps.
    #[test]
    fn damaged_packets_never_panic_and_offsets_stay_inside(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        mend in any::<bool>(),
    ) {
        let frames = valid_frames();
        let mut frame = frames[which.index(frames.len())].clone();
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        if mend && frame[12..14] == [8, 0] {
            let header = usize::from(frame[14] & 0xf) * 4;
            if frame.len() >= 14 + header.max(20) {
                crate::net::fragment::fill_ipv4_checksum(&mut frame[14..]);
            }
        }
        let accept = Policy { partial_checksums: true, dhcp: true, ..policy() };
        if let Ok(parsed) = look(&frame, &accept) {
            prop_assert!(parsed.l3 <= parsed.l4 && parsed.l4 <= parsed.payload);
            prop_assert!(u32::from(parsed.payload) <= parsed.end);
            prop_assert!(parsed.end as usize <= frame.len());
        }
    }

    /// What was parsed before spares work and changes nothing: neither what is found nor what is refused.
    #[test]
    fn a_burst_parses_as_its_packets_do_one_by_one(
        frames in prop::collection::vec(
            (
                any::<prop::sample::Index>(),
                prop::option::of((0usize..80, any::<u8>())),
                any::<bool>(),
                prop::option::of((0usize..90, any::<u8>())),
            ),
            2..12,
        ),
        forwarding in any::<bool>(),
        dhcp in any::<bool>(),
        partial_checksums in any::<bool>(),
    ) {
        let policy = Policy { forwarding, dhcp, partial_checksums, ..policy() };
        let (all, pool, mut last) = (valid_frames(), pool(4096), Last::default());
        for (which, change, mend, damage) in frames {
            let mut frame = all[which.index(all.len())].clone();
            let change_byte = |change: Option<(usize, u8)>, frame: &mut Vec<u8>| {
                if let Some((at, byte)) = change.filter(|(at, _)| *at < frame.len()) {
                    frame[at] = byte;
                }
            };
            change_byte(change, &mut frame);
            if mend && frame[12..14] == [8, 0] && frame[14] == 0x45 && frame.len() >= 34 {
                crate::net::fragment::fill_ipv4_checksum(&mut frame[14..]);
            }
            change_byte(damage, &mut frame);
            let packet = Packet::copy_from(&pool, &frame).unwrap();
            prop_assert_eq!(parse_after(&packet, &policy, &mut last).copied(), parse(&packet, &policy));
        }
    }

    /// The same of datagrams that follow each other, each in its own way right or wrong.
    #[test]
    fn a_burst_of_datagrams_parses_as_they_do_one_by_one(
        six in any::<bool>(),
        datagrams in prop::collection::vec((0usize..10, 0usize..5, 1u16..3, 0i32..3), 2..10),
        transit in any::<bool>(),
        partial_checksums in any::<bool>(),
    ) {
        let policy = Policy { forwarding: transit, partial_checksums, ..policy() };
        let (src, dst) = match (six, transit) {
            (false, false) => V4,
            (false, true) => (V4.0, "203.0.113.9"),
            (true, false) => V6,
            (true, true) => (V6.0, "2001:db8:9::9"),
        };
        let (pool, mut last) = (pool(4096), Last::default());
        for (fault, len, port, off) in datagrams {
            let dst_port = if fault == 1 { 0 } else { 53 + port };
            let mut udp = udp_datagram(src, dst, [1000 * port, dst_port], &[7; 9][..len]);
            let stated = match fault {
                2 => len as i32 + 7 + off,
                3 => 6 + off,
                _ => len as i32 + 8,
            };
            udp[4..6].copy_from_slice(&(stated as u16).to_be_bytes());
            udp[6..8].fill(0);
            let summed_len = (stated as usize).min(udp.len());
            let mut sum = Sum::pseudo_header(src.parse().unwrap(), dst.parse().unwrap(), protocol::UDP, stated as u32);
            let pseudo_header = sum.folded();
            sum.add(&udp[..summed_len]);
            let field = match fault {
                4 => 0,
                5 => sum.checksum() ^ 0x100,
                6 => pseudo_header,
                _ => sum.checksum(),
            };
            udp[6..8].copy_from_slice(&field.to_be_bytes());
            let mut frame = frame(src, dst, protocol::UDP, &udp);
            match fault {
                7 => frame.resize(frame.len() + 5, 0),
                8 => frame.truncate(frame.len() - 1 - len),
                _ => {}
            }
            let packet = Packet::copy_from(&pool, &frame).unwrap();
            prop_assert_eq!(parse_after(&packet, &policy, &mut last).copied(), parse(&packet, &policy), "{}", fault);
        }
    }

    /// One flipped bit anywhere behind the Ethernet header of a TCP packet is noticed, unless it is in a field that no
    /// checksum covers (IPv6's traffic class, flow label and hop limit).
    #[test]
    fn one_flipped_bit_is_noticed(six in any::<bool>(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        // RFC 9293 section 3.1, MUST-3.
        let mut frame = tcp_frame(if six { V6 } else { V4 }, b"some payload");
        let at = 14 + at.index(frame.len() - 14);
        frame[at] ^= 1 << bit;
        let uncovered = six && (matches!(at, 15..=17 | 21) || at == 14 && bit < 4);
        prop_assert_eq!(look(&frame, &policy()).is_ok_and(|parsed| parsed.kind == Kind::Tcp), uncovered);
    }
}
