//! The steering program on packets of every kind, run by `BPF_PROG_TEST_RUN` as if they had come in on a real queue.

mod common;
#[path = "common/packets.rs"]
mod packets;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bywash::config::AddressUse;
use bywash::device::{Device, Protocol, WaitDevice};
use bywash::packet::PacketBatch;
use bywash_afxdp::testing::{TestProgram, VethOptions, XdpAction};
use bywash_afxdp::{
    KernelAddresses, LinkOptions, Links, LinksOpener, PortAddresses, Queue, QueueOptions, require_root,
};
use common::{KERNEL, OWN, PEER, attach, pair, small, statistic};
use packets::*;

const OWN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const KERNEL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The open port, of both protocols, on the queues that are in use.
const OPEN: u16 = 8080;
const CLOSED: u16 = 22;

/// Queue 0: the stack has addresses of its own. Queue 1: it shares the kernel's. Queue 2: so, and ports count at any
/// address. Queue 3: nobody's.
struct Bed {
    program: TestProgram,
    queues: Vec<Queue>,
}

const OWNED: usize = 0;
const SHARED: usize = 1;
const ANY: usize = 2;
const NOBODY: usize = 3;

/// What the program did with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Only the kernel gets it.
    Kernel,
    /// Only the socket gets it.
    Stack,
    /// The kernel gets it, and the stack a copy.
    Both,
}
use Fate::{Both, Kernel, Stack};

impl Bed {
    fn with(test: impl FnOnce(&mut Self) + Send) {
        let pair = pair(VethOptions { queues: 4, ..VethOptions::default() });
        pair.stack_address(&format!("{KERNEL6}/64"));
        pair.stack.run(|| {
            // An attachment each, as of processes that know nothing of each other's ports.
            let own = attach(&pair, AddressUse::Own).unwrap();
            let [shared, other] = [0; 2].map(|_| attach(&pair, AddressUse::Shared).unwrap());
            let any = QueueOptions { port_addresses: PortAddresses::Any, ..small() };
            let open =
                |steer: &bywash_afxdp::Steer, id, options| steer.queue(id, options).unwrap().open().unwrap();
            let mut queues = vec![open(&own, 0, &small()), open(&shared, 1, &small()), open(&other, 2, &any)];
            for queue in &mut queues {
                for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Echo] {
                    queue.steering().open_port(protocol, OPEN).unwrap();
                }
            }
            for addr in [IpAddr::V4(OWN), IpAddr::V6(OWN6)] {
                queues[OWNED].steering().own_address(addr).unwrap();
            }
            let program = TestProgram::of(&own).unwrap();
            test(&mut Self { program, queues });
        });
    }

    fn fate(&mut self, queue: usize, frame: &[u8]) -> Fate {
        let device = self.queues.get_mut(queue).map(|queue| queue as &mut dyn Device);
        fate(&self.program, device, queue as u32, frame)
    }

    #[track_caller]
    fn expect(&mut self, what: &str, frame: &[u8], fates: [(usize, Fate); 3]) {
        for (queue, fate) in fates {
            assert_eq!(self.fate(queue, frame), fate, "{what} on queue {queue}");
        }
        assert_eq!(self.fate(NOBODY, frame), Kernel, "{what} on a queue that nobody has");
    }
}

/// What the program does with a packet that comes in on `queue`, which `device` has.
fn fate(program: &TestProgram, mut device: Option<&mut (dyn Device + '_)>, queue: u32, frame: &[u8]) -> Fate {
    let mut copies = || {
        let mut batch = PacketBatch::new();
        if let Some(device) = &mut device {
            device.receive(&mut batch, 64);
        }
        batch
    };
    copies();
    let action = program.run(frame, queue).unwrap();
    let copied = copies();
    match (action, copied.len()) {
        (XdpAction::Pass, 0) => Kernel,
        (XdpAction::Redirect, 0) => Stack,
        (XdpAction::Pass, 1) => {
            assert_eq!(copied[0].head(), frame, "the copy is the packet");
            Both
        }
        other => panic!("{other:?}"),
    }
}

/// Fates on the queue with own addresses, the one with shared ones, and the one with ports at any address.
fn fates(owned: Fate, shared: Fate, any: Fate) -> [(usize, Fate); 3] {
    [(OWNED, owned), (SHARED, shared), (ANY, any)]
}

#[test]
fn own_addresses_get_every_protocol() {
    require_root!();
    Bed::with(|bed| {
        for (protocol, payload) in [
            (TCP, tcp(1, CLOSED)),
            (UDP, udp(1, CLOSED)),
            (ICMP, icmp(8, &[])),
            (GRE, vec![0; 8]),
            (ESP, vec![0; 8]),
        ] {
            let frame = Ipv4::to(OWN, protocol).frame(&payload);
            bed.expect(&format!("IPv4 protocol {protocol}"), &frame, fates(Stack, Kernel, Kernel));
            let frame = ipv6(protocol, OWN6, &payload);
            bed.expect(&format!("IPv6 protocol {protocol}"), &frame, fates(Stack, Kernel, Kernel));
        }
    });
}

#[test]
fn open_ports_count_at_shared_addresses_only() {
    require_root!();
    Bed::with(|bed| {
        for (protocol, segment) in [(TCP, tcp as fn(u16, u16) -> Vec<u8>), (UDP, udp)] {
            for (dst, dst6, port, expected) in [
                (KERNEL, KERNEL6, OPEN, fates(Kernel, Stack, Stack)),
                (KERNEL, KERNEL6, CLOSED, fates(Kernel, Kernel, Kernel)),
                (OTHER, OTHER6, OPEN, fates(Kernel, Kernel, Stack)),
                (OTHER, OTHER6, CLOSED, fates(Kernel, Kernel, Kernel)),
            ] {
                let what = format!("protocol {protocol} to port {port} of {dst}");
                bed.expect(&what, &Ipv4::to(dst, protocol).frame(&segment(9, port)), expected);
                bed.expect(&what, &ipv6(protocol, dst6, &segment(9, port)), expected);
            }
        }
    });
}

#[test]
fn protocols_have_ports_of_their_own() {
    require_root!();
    Bed::with(|bed| {
        bed.queues[SHARED].steering().close_port(Protocol::Udp, OPEN).unwrap();
        assert_eq!(bed.fate(SHARED, &Ipv4::to(KERNEL, TCP).frame(&tcp(1, OPEN))), Stack);
        assert_eq!(bed.fate(SHARED, &Ipv4::to(KERNEL, UDP).frame(&udp(1, OPEN))), Kernel);
        for port in [0, 1, 7, 8, 255, 256, 0x7fff, 0x8000, 0xfff8, 0xffff] {
            let frame = Ipv4::to(KERNEL, UDP).frame(&udp(1, port));
            assert_eq!(bed.fate(SHARED, &frame), Kernel, "{port} before");
            bed.queues[SHARED].steering().open_port(Protocol::Udp, port).unwrap();
            assert_eq!(bed.fate(SHARED, &frame), Stack, "{port} open");
            assert_eq!(bed.fate(ANY, &frame), Kernel, "{port} of another process");
            for neighbor in [port.wrapping_sub(1), port.wrapping_add(1)] {
                let frame = Ipv4::to(KERNEL, UDP).frame(&udp(1, neighbor));
                assert_eq!(bed.fate(SHARED, &frame), Kernel, "{neighbor}, beside {port}");
            }
            bed.queues[SHARED].steering().close_port(Protocol::Udp, port).unwrap();
            assert_eq!(bed.fate(SHARED, &frame), Kernel, "{port} after");
        }
    });
}

#[test]
fn a_port_is_open_on_all_queues_of_a_process_until_the_last_has_closed_it() {
    require_root!();
    let pair = pair(VethOptions { queues: 3, ..VethOptions::default() });
    pair.stack.run(|| {
        let steer = attach(&pair, AddressUse::Shared).unwrap();
        let open = |id| steer.queue(id, &small()).unwrap().open().unwrap();
        let (mut first, mut second) = (open(0), open(1));
        let program = TestProgram::of(&steer).unwrap();
        let frame = Ipv4::to(KERNEL, TCP).frame(&tcp(1, OPEN));
        let fates = || [0, 1, 2].map(|queue| program.run(&frame, queue).unwrap() == XdpAction::Redirect);
        first.steering().open_port(Protocol::Tcp, OPEN).unwrap();
        assert_eq!(fates(), [true, true, false], "a reply may come to any queue of ours");
        second.steering().open_port(Protocol::Tcp, OPEN).unwrap();
        first.steering().close_port(Protocol::Tcp, OPEN).unwrap();
        assert_eq!(fates(), [true, true, false], "the second still needs it");
        let third = open(2);
        assert_eq!(fates(), [true; 3], "a queue opened later has it too");
        drop(third);
        assert_eq!(fates(), [true, true, false]);
        drop(second);
        assert_eq!(fates(), [false; 3], "a queue that ends closes what it opened");
    });
}

#[test]
fn addresses_can_be_disowned() {
    require_root!();
    Bed::with(|bed| {
        let (frame, frame6) = (Ipv4::to(OWN, TCP).frame(&tcp(1, 2)), ipv6(TCP, OWN6, &tcp(1, 2)));
        bed.queues[OWNED].steering().disown_address(IpAddr::V4(OWN)).unwrap();
        assert_eq!((bed.fate(OWNED, &frame), bed.fate(OWNED, &frame6)), (Kernel, Stack));
        bed.queues[OWNED].steering().disown_address(IpAddr::V6(OWN6)).unwrap();
        bed.queues[OWNED].steering().own_address(IpAddr::V4(OWN)).unwrap();
        assert_eq!((bed.fate(OWNED, &frame), bed.fate(OWNED, &frame6)), (Stack, Kernel));
    });
}

#[test]
fn more_addresses_than_a_queue_keeps_are_an_error() {
    require_root!();
    Bed::with(|bed| {
        let address = |i: u32| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + i));
        let steering = bed.queues[OWNED].steering();
        // Two are owned already.
        let owned = (0..100).take_while(|&i| steering.own_address(address(i)).is_ok()).count() as u32;
        assert_eq!(owned, bywash_afxdp::ADDRESSES_PER_QUEUE - 2);
        let error = steering.own_address(address(200)).unwrap_err();
        assert!(error.to_string().contains("10.0.0.200 is one too many"), "{error}");
        steering.own_address(address(0)).expect("owned already");
        steering.disown_address(address(0)).unwrap();
        steering.own_address(address(200)).expect("room again");
    });
}

#[test]
fn tagged_frames_are_the_kernels() {
    require_root!();
    Bed::with(|bed| {
        let untagged = Ipv4::to(OWN, TCP).frame(&tcp(1, OPEN));
        let single = tagged(0x8100, &untagged);
        for (what, frame) in [
            ("802.1Q", single.clone()),
            ("802.1ad", tagged(0x88a8, &untagged)),
            ("QinQ", tagged(0x88a8, &single)),
            ("old QinQ", tagged(0x9100, &single)),
        ] {
            bed.expect(what, &frame, fates(Kernel, Kernel, Kernel));
        }
        assert_eq!(statistic(&mut bed.queues[OWNED], "xdp_passed_vlan"), 4);
    });
}

#[test]
fn ipv4_options_are_skipped() {
    require_root!();
    Bed::with(|bed| {
        for len in [4, 8, 40] {
            let options = vec![1; len];
            let ip = |dst, protocol| Ipv4 { options: &options, ..Ipv4::to(dst, protocol) };
            bed.expect("own", &ip(OWN, TCP).frame(&tcp(1, CLOSED)), fates(Stack, Kernel, Kernel));
            bed.expect("open", &ip(KERNEL, UDP).frame(&udp(1, OPEN)), fates(Kernel, Stack, Stack));
            bed.expect("closed", &ip(KERNEL, TCP).frame(&tcp(OPEN, CLOSED)), fates(Kernel, Kernel, Kernel));
        }
    });
}

#[test]
fn ipv6_extension_headers_are_walked() {
    require_root!();
    Bed::with(|bed| {
        let segment = |port| tcp(1, port);
        for kind in [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS] {
            for units in [1, 2, 9] {
                let open = extension(TCP, units, &segment(OPEN));
                bed.expect("open", &ipv6(kind, KERNEL6, &open), fates(Kernel, Stack, Stack));
                let closed = extension(TCP, units, &segment(CLOSED));
                bed.expect("closed", &ipv6(kind, KERNEL6, &closed), fates(Kernel, Kernel, Kernel));
                bed.expect("own", &ipv6(kind, OWN6, &closed), fates(Stack, Kernel, Kernel));
            }
        }
        let chain = extension(UDP, 2, &udp(1, OPEN));
        let chain = extension(DESTINATION_OPTIONS, 1, &chain);
        let chain = extension(ROUTING, 3, &chain);
        bed.expect("a chain", &ipv6(HOP_BY_HOP, KERNEL6, &chain), fates(Kernel, Stack, Stack));
    });
}

#[test]
fn too_many_extension_headers_are_the_kernels() {
    require_root!();
    Bed::with(|bed| {
        let chain = |length: usize| {
            let mut payload = tcp(1, OPEN);
            for i in 0..length {
                let next = if i == 0 { TCP } else { DESTINATION_OPTIONS };
                payload = extension(next, 1, &payload);
            }
            ipv6(DESTINATION_OPTIONS, KERNEL6, &payload)
        };
        assert_eq!(bed.fate(SHARED, &chain(8)), Stack);
        assert_eq!(bed.fate(SHARED, &chain(9)), Kernel);
        assert_eq!(bed.fate(SHARED, &chain(40)), Kernel);
    });
}

#[test]
fn fragments_go_to_the_stack_at_own_addresses_only() {
    require_root!();
    Bed::with(|bed| {
        for (what, fragment) in [("first", 0x2000), ("middle", 0x2010), ("last", 0x0010)] {
            let ip = |dst| Ipv4 { fragment, ..Ipv4::to(dst, UDP) };
            bed.expect(what, &ip(OWN).frame(&udp(1, OPEN)), fates(Stack, Kernel, Kernel));
            bed.expect(what, &ip(KERNEL).frame(&udp(1, OPEN)), fates(Kernel, Kernel, Kernel));
        }
        for (what, offset, more) in [("first", 0, true), ("middle", 2, true), ("last", 2, false)] {
            let payload = fragment(UDP, offset, more, &udp(1, OPEN));
            bed.expect(what, &ipv6(FRAGMENT, OWN6, &payload), fates(Stack, Kernel, Kernel));
            bed.expect(what, &ipv6(FRAGMENT, KERNEL6, &payload), fates(Kernel, Kernel, Kernel));
        }
        assert_eq!(statistic(&mut bed.queues[SHARED], "xdp_passed_fragment"), 6);
        let atomic = fragment(UDP, 0, false, &udp(1, OPEN));
        bed.expect("atomic", &ipv6(FRAGMENT, KERNEL6, &atomic), fates(Kernel, Stack, Stack));
    });
}

#[test]
fn truncated_packets_are_the_kernels_at_every_length() {
    require_root!();
    Bed::with(|bed| {
        let extended = extension(DESTINATION_OPTIONS, 2, &extension(TCP, 1, &tcp(1, OPEN)));
        let quoted = Ipv4::to(PEER, TCP).header(&tcp(OPEN, 9));
        let quoted6 = ipv6_header(UDP, PEER6, &udp(OPEN, 9));
        let target = [icmp(135, &OWN6.octets())].concat();
        // A packet, the queue it comes in on, and the bytes it takes to know that it is the stack's.
        for (what, queue, frame, needed) in [
            ("own IPv4", OWNED, Ipv4::to(OWN, TCP).frame(&tcp(1, OPEN)), 34),
            ("own IPv6", OWNED, ipv6(TCP, OWN6, &tcp(1, OPEN)), 54),
            ("open IPv4", SHARED, Ipv4::to(KERNEL, TCP).frame(&tcp(1, OPEN)), 38),
            ("options", SHARED, Ipv4 { options: &[1; 8], ..Ipv4::to(KERNEL, UDP) }.frame(&udp(1, OPEN)), 46),
            ("open IPv6", SHARED, ipv6(UDP, KERNEL6, &udp(1, OPEN)), 58),
            ("extensions", SHARED, ipv6(HOP_BY_HOP, KERNEL6, &extended), 54 + 16 + 8 + 4),
            ("ICMP error", SHARED, Ipv4::to(KERNEL, ICMP).frame(&icmp(3, &quoted)), 34 + 8 + 20 + 4),
            ("ICMPv6 error", SHARED, ipv6(ICMPV6, KERNEL6, &icmp(2, &quoted6)), 54 + 8 + 40 + 4),
            ("ARP", OWNED, arp(1, PEER, OWN), 42),
            ("neighbour solicitation", OWNED, ipv6(ICMPV6, ALL_NODES, &target), 54 + 24),
        ] {
            for len in 14..frame.len() {
                let expected = if len < needed { Kernel } else { Stack };
                assert_eq!(bed.fate(queue, &frame[..len]), expected, "{what} cut to {len} bytes");
            }
            assert_eq!(bed.fate(queue, &frame), Stack, "{what}");
        }
        assert!(statistic(&mut bed.queues[OWNED], "xdp_passed_truncated") > 60);
    });
}

#[test]
fn malformed_headers_are_the_kernels() {
    require_root!();
    Bed::with(|bed| {
        let good = Ipv4::to(OWN, TCP).frame(&tcp(1, OPEN));
        for first in [0x44, 0x40, 0x55, 0x65, 0x05] {
            let mut bad = good.clone();
            bad[14] = first;
            bed.expect("version or header length", &bad, fates(Kernel, Kernel, Kernel));
        }
        let mut long = good.clone();
        long.truncate(38);
        long[14] = 0x4f;
        bed.expect("a header longer than the packet", &long, fates(Kernel, Kernel, Kernel));
        let mut bad = ipv6(TCP, OWN6, &tcp(1, OPEN));
        bad[14] = 0x40;
        bed.expect("IPv6 of version 4", &bad, fates(Kernel, Kernel, Kernel));
        for (byte, value) in [(14, 1), (15, 6), (16, 9), (17, 1), (18, 8), (19, 16)] {
            let mut bad = arp(1, PEER, OWN);
            bad[byte] = value;
            bed.expect("ARP for something else", &bad, fates(Kernel, Kernel, Kernel));
        }
        bed.expect("LLDP", &ethernet(MULTICAST_MAC, 0x88cc, &[0; 50]), fates(Kernel, Kernel, Kernel));
    });
}

#[test]
fn arp_about_own_addresses_is_the_stacks_and_shared_ones_both() {
    require_root!();
    Bed::with(|bed| {
        for operation in [1, 2] {
            bed.expect("for the own address", &arp(operation, PEER, OWN), fates(Stack, Both, Both));
            bed.expect("for the kernel's", &arp(operation, PEER, KERNEL), fates(Kernel, Both, Both));
            bed.expect("for another's", &arp(operation, PEER, OTHER), fates(Kernel, Both, Both));
            bed.expect("an announcement", &arp(operation, PEER, PEER), fates(Both, Both, Both));
        }
        assert_eq!(statistic(&mut bed.queues[OWNED], "xdp_arp"), 2);
        assert_eq!(statistic(&mut bed.queues[OWNED], "xdp_copied"), 2);
        assert_eq!(statistic(&mut bed.queues[SHARED], "xdp_copied"), 8);
    });
}

#[test]
fn neighbor_discovery_is_told_apart() {
    require_root!();
    Bed::with(|bed| {
        let group = |addr: Ipv6Addr| {
            let o = addr.octets();
            let last = u16::from_be_bytes([o[14], o[15]]);
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(o[13]), last)
        };
        let about = |kind, dst, target: Ipv6Addr| ipv6(ICMPV6, dst, &icmp(kind, &target.octets()));
        let (ns, na) = (135, 136);
        bed.expect("NS for the own", &about(ns, group(OWN6), OWN6), fates(Stack, Both, Both));
        bed.expect("NS for the own, unicast", &about(ns, OWN6, OWN6), fates(Stack, Both, Both));
        bed.expect("NS for the kernel's", &about(ns, group(KERNEL6), KERNEL6), fates(Kernel, Both, Both));
        bed.expect("NA to the own", &about(na, OWN6, PEER6), fates(Stack, Both, Both));
        bed.expect("NA to all nodes", &about(na, ALL_NODES, PEER6), fates(Both, Both, Both));
        let ra = icmp(134, &[0; 40]);
        bed.expect("RA to all nodes", &ipv6(ICMPV6, ALL_NODES, &ra), fates(Both, Both, Both));
        bed.expect("RA to the own", &ipv6(ICMPV6, OWN6, &ra), fates(Stack, Both, Both));
        bed.expect("RS", &ipv6(ICMPV6, ALL_NODES, &icmp(133, &[])), fates(Kernel, Kernel, Kernel));
        let redirect = icmp(137, &[0; 32]);
        bed.expect("redirect", &ipv6(ICMPV6, KERNEL6, &redirect), fates(Kernel, Both, Both));
        bed.expect("redirect to the own", &ipv6(ICMPV6, OWN6, &redirect), fates(Stack, Both, Both));
        let query = extension(ICMPV6, 1, &icmp(130, &[0; 20]));
        bed.expect("MLD query", &ipv6(HOP_BY_HOP, ALL_NODES, &query), fates(Both, Both, Both));
        let report = extension(ICMPV6, 1, &icmp(143, &[0; 20]));
        bed.expect("MLD report", &ipv6(HOP_BY_HOP, ALL_NODES, &report), fates(Kernel, Kernel, Kernel));
    });
}

#[test]
fn pings_of_shared_addresses_are_the_kernels_but_replies_follow_their_identifier() {
    require_root!();
    Bed::with(|bed| {
        for (ident, expected) in
            [(OPEN, fates(Kernel, Stack, Stack)), (CLOSED, fates(Kernel, Kernel, Kernel))]
        {
            let with_ident = |kind| {
                let mut message = icmp(kind, &[0; 56]);
                message[4..6].copy_from_slice(&ident.to_be_bytes());
                message
            };
            bed.expect("reply", &Ipv4::to(KERNEL, ICMP).frame(&with_ident(0)), expected);
            bed.expect("reply", &ipv6(ICMPV6, KERNEL6, &with_ident(129)), expected);
            bed.expect(
                "request",
                &Ipv4::to(KERNEL, ICMP).frame(&with_ident(8)),
                fates(Kernel, Kernel, Kernel),
            );
            let request = ipv6(ICMPV6, KERNEL6, &with_ident(128));
            bed.expect("request", &request, fates(Kernel, Kernel, Kernel));
        }
        for kind in [0, 8] {
            let frame = Ipv4::to(KERNEL, ICMP).frame(&icmp(kind, &[0; 56]));
            bed.expect("echo", &frame, fates(Kernel, Kernel, Kernel));
        }
        for kind in [128, 129] {
            bed.expect("echo", &ipv6(ICMPV6, KERNEL6, &icmp(kind, &[0; 56])), fates(Kernel, Kernel, Kernel));
        }
    });
}

#[test]
fn icmp_errors_follow_the_packet_they_quote() {
    require_root!();
    Bed::with(|bed| {
        for (protocol, segment) in [(TCP, tcp as fn(u16, u16) -> Vec<u8>), (UDP, udp)] {
            for (port, expected) in
                [(OPEN, fates(Kernel, Stack, Stack)), (CLOSED, fates(Kernel, Kernel, Kernel))]
            {
                let quoted =
                    Ipv4 { options: &[1; 4], ..Ipv4::to(PEER, protocol) }.header(&segment(port, OPEN));
                for kind in [3, 11, 12] {
                    let frame = Ipv4::to(KERNEL, ICMP).frame(&icmp(kind, &quoted));
                    bed.expect(&format!("error {kind} about port {port}"), &frame, expected);
                }
                let quoted = ipv6_header(protocol, PEER6, &segment(port, OPEN));
                for kind in [1, 2, 3, 4] {
                    let frame = ipv6(ICMPV6, KERNEL6, &icmp(kind, &quoted));
                    bed.expect(&format!("error {kind} about port {port}"), &frame, expected);
                }
            }
        }
        let later = Ipv4 { fragment: 0x0010, ..Ipv4::to(PEER, TCP) }.header(&tcp(OPEN, 1));
        let frame = Ipv4::to(KERNEL, ICMP).frame(&icmp(3, &later));
        bed.expect("about a later fragment", &frame, fates(Kernel, Kernel, Kernel));
    });
}

#[test]
fn dhcp_answers_reach_an_open_client_port_however_addressed() {
    require_root!();
    Bed::with(|bed| {
        let broadcast = Ipv4 { dst_mac: BROADCAST_MAC, ..Ipv4::to(Ipv4Addr::BROADCAST, UDP) };
        let offered = Ipv4::to(Ipv4Addr::new(192, 0, 2, 77), UDP);
        for ip in [&broadcast, &offered] {
            bed.expect("before", &ip.frame(&udp(67, 68)), fates(Kernel, Kernel, Kernel));
        }
        for queue in &mut bed.queues {
            queue.steering().open_port(Protocol::Udp, 68).unwrap();
        }
        for ip in [broadcast, offered] {
            bed.expect("after", &ip.frame(&udp(67, 68)), fates(Stack, Stack, Stack));
            bed.expect(
                "TCP",
                &Ipv4 { protocol: TCP, ..ip }.frame(&tcp(67, 68)),
                fates(Kernel, Kernel, Kernel),
            );
        }
    });
}

#[test]
fn broadcasts_and_multicasts_are_the_kernels() {
    require_root!();
    Bed::with(|bed| {
        for dst in [Ipv4Addr::BROADCAST, Ipv4Addr::new(192, 0, 2, 255), Ipv4Addr::new(224, 0, 0, 251)] {
            let ip = Ipv4 { dst_mac: BROADCAST_MAC, ..Ipv4::to(dst, UDP) };
            bed.expect(&dst.to_string(), &ip.frame(&udp(1, OPEN)), fates(Kernel, Kernel, Kernel));
        }
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
        bed.expect("IPv6", &ipv6(UDP, group, &udp(1, OPEN)), fates(Kernel, Kernel, Kernel));
        let all_systems = Ipv4 { dst_mac: MULTICAST_MAC, ..Ipv4::to(Ipv4Addr::new(224, 0, 0, 1), IGMP) };
        bed.expect("IGMP query", &all_systems.frame(&icmp(0x11, &[])), fates(Both, Both, Both));
        bed.expect("IGMP report", &all_systems.frame(&icmp(0x22, &[])), fates(Kernel, Kernel, Kernel));
    });
}

#[test]
fn an_owned_group_is_the_stacks() {
    require_root!();
    Bed::with(|bed| {
        let group = Ipv4Addr::new(224, 0, 0, 251);
        bed.queues[OWNED].steering().own_address(IpAddr::V4(group)).unwrap();
        let ip = Ipv4 { dst_mac: MULTICAST_MAC, ..Ipv4::to(group, UDP) };
        bed.expect("a group", &ip.frame(&udp(1, 5353)), fates(Stack, Kernel, Kernel));
    });
}

#[test]
fn what_is_too_long_to_copy_only_goes_to_the_kernel() {
    require_root!();
    Bed::with(|bed| {
        let advertisement = |len: usize| ipv6(ICMPV6, ALL_NODES, &icmp(134, &vec![0; len - 54 - 8]));
        assert_eq!(bed.fate(OWNED, &advertisement(512)), Both);
        assert_eq!(bed.fate(OWNED, &advertisement(513)), Kernel);
        assert_eq!(statistic(&mut bed.queues[OWNED], "xdp_copy_failed"), 1);
    });
}

#[test]
fn a_full_ring_of_copies_is_counted_and_recovered_from() {
    require_root!();
    Bed::with(|bed| {
        let frame = arp(1, PEER, KERNEL);
        for _ in 0..300 {
            assert_eq!(bed.program.run(&frame, SHARED as u32).unwrap(), XdpAction::Pass);
        }
        let failed = statistic(&mut bed.queues[SHARED], "xdp_copy_failed");
        assert!(failed > 0 && failed < 300, "{failed}");
        let (mut batch, mut copies) = (PacketBatch::new(), 0);
        while bed.queues[SHARED].receive(&mut batch, 64) > 0 {
            assert!(batch.iter().all(|packet| packet.head() == frame));
            copies += batch.len() as u64;
            batch.clear();
        }
        assert_eq!(copies + failed, 300);
        assert_eq!(bed.fate(SHARED, &frame), Both);
    });
}

#[test]
fn a_closed_queue_gives_everything_back_to_the_kernel() {
    require_root!();
    Bed::with(|bed| {
        let frame = Ipv4::to(OWN, TCP).frame(&tcp(1, OPEN));
        assert_eq!(bed.program.run(&frame, OWNED as u32).unwrap(), XdpAction::Redirect);
        drop(bed.queues.remove(OWNED));
        assert_eq!(bed.program.run(&frame, OWNED as u32).unwrap(), XdpAction::Pass);
        let other = Ipv4::to(KERNEL, TCP).frame(&tcp(1, OPEN));
        assert_eq!(bed.program.run(&other, SHARED as u32).unwrap(), XdpAction::Redirect);
    });
}

/// Links that are the stack's as a whole, one a queue of one interface. Queue 0: but for the interface's addresses. Queue
/// 1: but for addresses that are listed. Queue 2: entirely.
struct WholeBed {
    program: TestProgram,
    links: Vec<Links>,
}

/// An address that is listed as the kernel's, of each version.
const LISTED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const LISTED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 5);

impl WholeBed {
    fn with(test: impl FnOnce(&mut Self) + Send) {
        let pair = pair(VethOptions { queues: 3, ..VethOptions::default() });
        pair.stack_address(&format!("{KERNEL6}/64"));
        pair.stack.run(|| {
            let steer = attach(&pair, AddressUse::Own).unwrap();
            let listed = KernelAddresses::Listed(vec![LISTED.into(), LISTED6.into()]);
            let kept = [KernelAddresses::Interface, listed, KernelAddresses::None];
            let open = |(queue, kernel_addresses)| {
                let link = LinkOptions { queues: vec![queue], kernel_addresses };
                LinksOpener::new(&[(&steer, link)], &small()).unwrap().open().unwrap()
            };
            let links = (0..).zip(kept).map(open).collect();
            test(&mut Self { program: TestProgram::of(&steer).unwrap(), links });
        });
    }

    /// Fates where the interface's addresses are kept, where others are, and where none are.
    #[track_caller]
    fn expect(&mut self, what: &str, frame: &[u8], fates: [Fate; 3]) {
        for (queue, expected) in fates.into_iter().enumerate() {
            let found = fate(&self.program, Some(&mut self.links[queue]), queue as u32, frame);
            assert_eq!(found, expected, "{what} on queue {queue}");
        }
    }
}

#[test]
fn a_whole_link_gets_every_packet_but_those_to_the_kernels_addresses() {
    require_root!();
    WholeBed::with(|bed| {
        for protocol in [TCP, UDP, ICMP, IGMP, GRE, ESP] {
            let payload = tcp(1, CLOSED);
            for (dst, dst6, fates) in [
                (OTHER, OTHER6, [Stack; 3]),
                (KERNEL, KERNEL6, [Kernel, Stack, Stack]),
                (LISTED, LISTED6, [Stack, Kernel, Stack]),
                (Ipv4Addr::BROADCAST, ALL_NODES, [Stack; 3]),
            ] {
                let what = format!("protocol {protocol} to {dst}");
                bed.expect(&what, &Ipv4::to(dst, protocol).frame(&payload), fates);
                bed.expect(&what, &ipv6(protocol, dst6, &payload), fates);
                for part in [0x2000, 0x2010, 0x0010] {
                    let ip = Ipv4 { fragment: part, ..Ipv4::to(dst, protocol) };
                    bed.expect(&format!("fragment of {what}"), &ip.frame(&payload), fates);
                }
                let first = fragment(protocol, 0, true, &payload);
                bed.expect(&format!("fragment of {what}"), &ipv6(FRAGMENT, dst6, &first), fates);
            }
        }
        let mut chain = tcp(1, OPEN);
        for i in 0..40 {
            chain = extension(if i == 0 { TCP } else { DESTINATION_OPTIONS }, 1, &chain);
        }
        let frame = |dst| ipv6(DESTINATION_OPTIONS, dst, &chain);
        bed.expect("extension headers", &frame(OTHER6), [Stack; 3]);
        bed.expect("extension headers", &frame(KERNEL6), [Kernel, Stack, Stack]);
        bed.expect("an unknown EtherType", &ethernet(UNICAST_MAC, 0x88b5, &[0; 46]), [Stack; 3]);
    });
}

#[test]
fn what_is_tagged_or_cut_short_is_the_kernels_on_a_whole_link_too() {
    require_root!();
    WholeBed::with(|bed| {
        let frame = Ipv4::to(OTHER, TCP).frame(&tcp(1, OPEN));
        for kind in [0x8100, 0x88a8, 0x9100] {
            bed.expect("tagged", &tagged(kind, &frame), [Kernel; 3]);
        }
        // 14 bytes of Ethernet and 20, 40, 28 of what follows.
        for (frame, whole) in [(frame, 34), (ipv6(TCP, OTHER6, &[]), 54), (arp(1, PEER, OTHER), 42)] {
            bed.expect("whole", &frame[..whole], [Stack; 3]);
            for len in 14..whole {
                bed.expect("cut short", &frame[..len], [Kernel; 3]);
            }
        }
    });
}

#[test]
fn arp_about_the_kernels_addresses_is_the_kernels_with_copies() {
    require_root!();
    WholeBed::with(|bed| {
        for operation in [1, 2] {
            let about = |target| arp(operation, PEER, target);
            bed.expect("the interface's", &about(KERNEL), [Both, Stack, Stack]);
            bed.expect("a listed one", &about(LISTED), [Stack, Both, Stack]);
            bed.expect("another", &about(OTHER), [Stack; 3]);
            // Whoever knows the sender renews its entry (RFC 5227 section 3).
            bed.expect("an announcement", &arp(operation, PEER, PEER), [Both, Both, Stack]);
        }
    });
}

#[test]
fn neighbor_discovery_reaches_both_where_it_concerns_both() {
    require_root!();
    WholeBed::with(|bed| {
        let solicited: Ipv6Addr = "ff02::1:ff00:1".parse().unwrap();
        for dst in [solicited, ALL_NODES, KERNEL6] {
            // To the kernel's own address it is not the stack's whatever it asks for.
            let first = if dst == KERNEL6 { Kernel } else { Stack };
            let about = |target: Ipv6Addr| ipv6(ICMPV6, dst, &icmp(135, &target.octets()));
            bed.expect("for the interface's", &about(KERNEL6), [Both, Stack, Stack]);
            bed.expect("for a listed one", &about(LISTED6), [first, Both, Stack]);
            bed.expect("for another", &about(OTHER6), [first, Stack, Stack]);
        }
        let hop_by_hop = |message: &[u8]| extension(ICMPV6, 1, message);
        for (what, kind) in [("query", 130), ("router advertisement", 134), ("advertisement", 136)] {
            let message = icmp(kind, &PEER6.octets());
            bed.expect(what, &ipv6(ICMPV6, ALL_NODES, &message), [Both, Both, Stack]);
            bed.expect(what, &ipv6(HOP_BY_HOP, ALL_NODES, &hop_by_hop(&message)), [Both, Both, Stack]);
            bed.expect(what, &ipv6(ICMPV6, KERNEL6, &message), [Both, Stack, Stack]);
            bed.expect(what, &ipv6(ICMPV6, OTHER6, &message), [Stack; 3]);
        }
        for (what, kind) in [("unreachable", 1), ("echo request", 128), ("reply", 129), ("redirect", 137)] {
            let message = icmp(kind, &[0; 40]);
            bed.expect(what, &ipv6(ICMPV6, ALL_NODES, &message), [Stack; 3]);
            bed.expect(what, &ipv6(ICMPV6, KERNEL6, &message), [Kernel, Stack, Stack]);
            bed.expect(what, &ipv6(ICMPV6, OTHER6, &message), [Stack; 3]);
        }
    });
}

#[test]
fn multicast_queries_reach_both_on_a_whole_link() {
    require_root!();
    WholeBed::with(|bed| {
        let all_hosts = Ipv4 { dst_mac: MULTICAST_MAC, ..Ipv4::to(Ipv4Addr::new(224, 0, 0, 1), IGMP) };
        bed.expect("query", &all_hosts.frame(&icmp(0x11, &[])), [Both, Both, Stack]);
        bed.expect("report", &all_hosts.frame(&icmp(0x22, &[])), [Stack; 3]);
    });
}

#[test]
fn what_the_stack_owns_is_not_the_kernels_as_long_as_it_does() {
    require_root!();
    WholeBed::with(|bed| {
        let packet = Ipv4::to(KERNEL, TCP).frame(&tcp(1, CLOSED));
        let solicitation = ipv6(ICMPV6, ALL_NODES, &icmp(135, &KERNEL6.octets()));
        for addr in [IpAddr::V4(KERNEL), IpAddr::V6(KERNEL6), IpAddr::V4(OTHER)] {
            bed.links[0].steering().own_address(addr).unwrap();
        }
        bed.expect("owned", &packet, [Stack; 3]);
        bed.expect("owned", &arp(1, PEER, KERNEL), [Stack; 3]);
        bed.expect("owned", &solicitation, [Stack; 3]);
        for addr in [IpAddr::V4(KERNEL), IpAddr::V6(KERNEL6), IpAddr::V4(OTHER)] {
            bed.links[0].steering().disown_address(addr).unwrap();
        }
        bed.expect("the kernel's again", &packet, [Kernel, Stack, Stack]);
        bed.expect("the kernel's again", &solicitation, [Both, Stack, Stack]);
        bed.expect("another", &Ipv4::to(OTHER, TCP).frame(&tcp(1, CLOSED)), [Stack; 3]);
    });
}
