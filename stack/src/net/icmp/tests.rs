use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;
use smoltcp::wire::{EthernetAddress, Icmpv4Packet, Icmpv6Packet, Ipv4Packet, Ipv6Packet};

use super::*;
use crate::device::{Capabilities, Device};
use crate::net::fragment::FragmentIds;
use crate::net::link::Link;
use crate::net::neighbor::Neighbors;
use crate::net::route::Routes;
use crate::packet::{PacketBatch, PacketPool, PoolLayout};

const US: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);

fn policy() -> Policy {
    Policy {
        mac: US,
        addresses: ["192.0.2.1/24", "2001:db8::1/64"].map(|text| text.parse().unwrap()).to_vec(),
        groups: Vec::new(),
        partial_checksums: false,
        dhcp: false,
        forwarding: false,
        hash_keys: (0, 0),
    }
}

/// Collects what is sent.
struct Sink(Capabilities, PacketPool, Vec<Vec<u8>>);

impl Device for Sink {
    fn capabilities(&self) -> &Capabilities {
        &self.0
    }
    fn pool(&self) -> &PacketPool {
        &self.1
    }
    fn receive(&mut self, _: &mut PacketBatch, _: usize) -> usize {
        0
    }
    fn transmit(&mut self, batch: &mut PacketBatch) -> usize {
        let count = batch.len();
        self.2.extend(batch.drain(..).map(|packet| packet.head().to_vec()));
        count
    }
    fn transmit_room(&mut self) -> usize {
        usize::MAX
    }
}

/// What is sent when we complain about `offender` (an IP packet).
fn complaints(complaint: Complaint, offender: &[u8]) -> Vec<Vec<u8>> {
    let pool = PacketPool::heap(PoolLayout { frames: 8, frame_size: 4096, headroom: 0 });
    let ids = FragmentIds::new(&mut ChaCha12Rng::from_seed([0; 32]), 0, 1);
    let link = Link::new(US, 1500, Neighbors::new((0, 0)));
    let mut output = Output::new(vec![link], true, pool.clone(), ids, Instant::ZERO);
    output
        .set_routes(Routes::new(policy().addresses.into_iter().map(|cidr| (cidr, 0)).collect(), Vec::new()));
    for addr in ["192.0.2.2", "2001:db8::2"] {
        let claim = crate::net::neighbor::Claim::Asked;
        let mac = EthernetAddress([2, 0, 0, 0, 0, 2]);
        output.heard(Instant::ZERO, crate::net::Heard { link: 0, addr: addr.parse().unwrap(), mac, claim });
    }
    let about = [&[0; 14], offender].concat();
    complain(Instant::ZERO, complaint, &about, &policy(), &mut output);
    let capabilities = Capabilities { mac: US, mtu: 1500, partial_checksums: false, tx_frames_max: 1 };
    let mut sink = Sink(capabilities, pool, Vec::new());
    output.flush(&mut sink);
    sink.2
}

fn packet(src: &str, dst: &str, number: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 40 + payload.len()];
    let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
    let start = write_header(&mut bytes, src, dst, number, payload.len(), 0, 64);
    bytes.truncate(start);
    bytes.extend_from_slice(payload);
    bytes
}

/// A TCP segment of ours, as a peer's router would quote it.
fn ours(six: bool) -> Vec<u8> {
    let ports_and_seq = [0x12, 0x34, 0, 80, 0, 0, 0, 77];
    if six {
        packet("2001:db8::1", "2001:db8::2", 6, &ports_and_seq)
    } else {
        packet("192.0.2.1", "192.0.2.2", 6, &ports_and_seq)
    }
}

fn error(kind: u8, code: u8, word: u32, quote: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0][..], &word.to_be_bytes(), quote].concat()
}

fn kind_of(six: bool, kind: u8, code: u8, word: u32) -> Option<IcmpErrorKind> {
    match read_error(six, &error(kind, code, word, &ours(six)), &policy()) {
        Received::Tcp(error) => {
            assert_eq!((error.tuple.local.port(), error.tuple.remote.port(), error.seq.0), (0x1234, 80, 77));
            Some(error.kind)
        }
        Received::Ignored => None,
        Received::Udp(_) | Received::Malformed => panic!("not about the segment"),
    }
}

#[test]
fn kinds_of_errors_are_told_apart() {
    // RFC 9293 section 3.9.2.2, MUST-55.
    use IcmpErrorKind::{PacketTooBig, Refused, Unreachable};
    assert_eq!(kind_of(false, 3, 3, 0), Some(Refused));
    assert_eq!(kind_of(false, 3, 2, 0), Some(Refused));
    assert_eq!(kind_of(false, 3, 1, 0), Some(Unreachable));
    assert_eq!(kind_of(false, 11, 0, 0), Some(Unreachable));
    assert_eq!(kind_of(false, 3, 4, 1400), Some(PacketTooBig { mtu: 1400 }));
    assert_eq!(kind_of(false, 5, 0, 0), None, "redirects are not followed");
    assert_eq!(kind_of(false, 4, 0, 0), None, "source quench is history");
    assert_eq!(kind_of(true, 1, 4, 0), Some(Refused));
    assert_eq!(kind_of(true, 1, 0, 0), Some(Unreachable));
    assert_eq!(kind_of(true, 3, 0, 0), Some(Unreachable));
    assert_eq!(kind_of(true, 2, 0, 1400), Some(PacketTooBig { mtu: 1400 }));
    assert_eq!(kind_of(true, 2, 0, 1279), None, "RFC 8201 section 4");
}

#[test]
fn a_router_that_does_not_say_its_mtu_is_guessed() {
    let mut quote = ours(false);
    quote[2..4].copy_from_slice(&1500u16.to_be_bytes());
    let Received::Tcp(error) = read_error(false, &error(3, 4, 0, &quote), &policy()) else { panic!() };
    assert_eq!(error.kind, IcmpErrorKind::PacketTooBig { mtu: 1492 });
}

#[test]
fn only_hard_errors_about_datagrams_are_passed_on() {
    let udp = packet("192.0.2.1", "192.0.2.2", 17, &[0x12, 0x34, 0, 53, 0, 8, 0, 0]);
    let Received::Udp(fault) = read_error(false, &error(3, 3, 0, &udp), &policy()) else { panic!() };
    let (local, remote) = ("192.0.2.1:4660".parse().unwrap(), "192.0.2.2:53".parse().unwrap());
    assert_eq!(fault, UdpFault { local, remote, what: UdpTrouble::Error(NetError::ConnectionRefused) });
    assert!(matches!(read_error(false, &error(3, 1, 0, &udp), &policy()), Received::Ignored));
    // Over IPv4 routers cut datagrams to size.
    assert!(matches!(read_error(false, &error(3, 4, 1300, &udp), &policy()), Received::Ignored));
}

#[test]
fn errors_that_quote_nothing_of_ours_are_malformed() {
    let stranger = packet("192.0.2.9", "192.0.2.2", 6, &[0; 8]);
    assert!(matches!(read_error(false, &error(3, 3, 0, &stranger), &policy()), Received::Malformed));
    let short = &ours(false)[..27];
    assert!(matches!(read_error(false, &error(3, 3, 0, short), &policy()), Received::Malformed));
    let echo = packet("192.0.2.1", "192.0.2.2", 1, &[8, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(read_error(false, &error(3, 3, 0, &echo), &policy()), Received::Ignored));
    let mut later = ours(false);
    later[7] = 1;
    assert!(matches!(read_error(false, &error(3, 3, 0, &later), &policy()), Received::Malformed));
}

#[test]
fn a_complaint_quotes_the_packet_with_good_checksums() {
    let offender = packet("192.0.2.2", "192.0.2.1", 17, &[7; 1000]);
    let sent = complaints(Complaint::PortUnreachable, &offender);
    let ip = Ipv4Packet::new_checked(&sent[0][14..]).unwrap();
    assert!(ip.verify_checksum() && ip.total_len() == 576);
    assert_eq!(
        (ip.src_addr().to_string(), ip.dst_addr().to_string()),
        ("192.0.2.1".into(), "192.0.2.2".into())
    );
    let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
    assert!(icmp.verify_checksum());
    assert_eq!((ip.payload()[0], ip.payload()[1], &ip.payload()[8..]), (3, 3, &offender[..548]));

    let offender = packet("2001:db8::2", "2001:db8::1", 17, &[7; 2000]);
    let sent = complaints(Complaint::PortUnreachable, &offender);
    let ip = Ipv6Packet::new_checked(&sent[0][14..]).unwrap();
    assert_eq!(ip.total_len(), 1280);
    let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
    assert!(icmp.verify_checksum(&ip.src_addr(), &ip.dst_addr()));
    assert_eq!((ip.payload()[0], ip.payload()[1], &ip.payload()[8..]), (1, 4, &offender[..1232]));
}

#[test]
fn what_must_not_be_answered_is_not() {
    let silent = |src: &str, dst: &str, number: u8, payload: &[u8]| {
        assert!(
            complaints(Complaint::PortUnreachable, &packet(src, dst, number, payload)).is_empty(),
            "{src} {dst}"
        );
    };
    silent("192.0.2.2", "192.0.2.255", 17, &[0; 8]);
    silent("192.0.2.2", "224.0.0.1", 17, &[0; 8]);
    silent("0.0.0.0", "192.0.2.1", 17, &[0; 8]);
    silent("192.0.2.255", "192.0.2.1", 17, &[0; 8]);
    silent("192.0.2.2", "192.0.2.1", 1, &[3, 3, 0, 0, 0, 0, 0, 0]);
    silent("::", "2001:db8::1", 17, &[0; 8]);
    silent("2001:db8::2", "ff02::1", 17, &[0; 8]);
    silent("2001:db8::2", "2001:db8::1", 58, &[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        complaints(Complaint::PortUnreachable, &packet("192.0.2.2", "192.0.2.1", 1, &[8; 8])).len(),
        1
    );
}

#[test]
fn some_problems_are_reported_even_about_multicasts() {
    let offender = packet("2001:db8::2", "ff02::1", 60, &[17, 0, 0x9e, 4, 0, 0, 0, 0]);
    let about = |to_multicast_too| {
        let problem = ParameterProblem { code: 2, pointer: 42, to_multicast_too };
        complaints(Complaint::Parameter(problem), &offender)
    };
    assert!(about(false).is_empty());
    let sent = about(true);
    assert_eq!(sent[0][54..62], [4, 2, sent[0][56], sent[0][57], 0, 0, 0, 42]);
}

proptest! {
    #[test]
    fn arbitrary_errors_never_panic(six in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..100), start in any::<bool>()) {
        let mut message = bytes;
        if start && message.len() > 8 {
            message[8] = if six { 0x60 } else { 0x45 };
        }
        let _ = read_error(six, &message, &policy());
        let _ = sender_of(&message);
        let _ = complaints(Complaint::PortUnreachable, &message);
    }
}
